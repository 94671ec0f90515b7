//! Roots and configurations that try to get out, by the ways that are known.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_container::oci::{Mount, NamespaceKind};
use rustix::fs::{CWD, FileType, Mode};
use support::{World, superuser};

/// CVE-2019-19921, CVE-2023-27561: what is mounted on `/proc` through a link lies elsewhere, and the masks with it.
#[test]
fn proc_and_sys_are_not_mounted_through_links() {
    let world = World::new();
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        fs::remove_dir(world.path("l0").join(name)).unwrap();
        symlink("data", world.path("l0").join(name)).unwrap();
        for directory in [false, true] {
            let mut run = world.shell("true").unshare(&[NamespaceKind::Pid, NamespaceKind::Network]);
            run.spec().mounts.retain(|mount| mount.destination != Path::new("/proc"));
            run.spec().mounts.push(Mount::of_type(kind, format!("/{name}"), &[]));
            let run = if directory { run.directory() } else { run };
            let said = run.output().fails(125);
            assert!(said.contains("symbolic link"), "{said}");
        }
        let mut run = world.shell("true");
        run.spec().mounts[0].destination = format!("/{name}").into();
        if name == "proc" {
            let said = run.output().fails(125);
            assert!(said.contains("symbolic link"), "{said}");
        }
        fs::remove_file(world.path("l0").join(name)).unwrap();
        fs::create_dir(world.path("l0").join(name)).unwrap();
    }
}

/// CVE-2019-16884: a file over `/proc/self/attr/exec` makes security labels vanish.
#[test]
fn nothing_is_mounted_on_or_in_proc_but_what_belongs_there() {
    let world = World::new();
    fs::write(world.path("outside/file"), "mine").unwrap();
    symlink("/proc/self", world.path("l0/link")).unwrap();
    for (source, target) in [
        ("outside", "/proc"),
        ("outside", "/proc/self/attr"),
        ("outside", "/proc/sys"),
        ("outside/file", "/proc/self/attr/exec"),
        ("outside/file", "/proc/version"),
        ("outside", "/link/attr"),
    ] {
        let said = world.shell("true").bind(source, target, &[]).output().fails(125);
        assert!(said.contains("proc"), "{target}: {said}");
    }
    let said = world.shell("true").mount(Mount::of_type("tmpfs", "/proc", &[])).output().fails(125);
    assert!(said.contains("must be a proc file system"), "{said}");
    let said = world.shell("true").mount(Mount::of_type("tmpfs", "/proc/self", &[])).output().fails(125);
    assert!(said.contains("inside /proc"), "{said}");
    assert_eq!(world.shell("cat /proc/uptime").bind("outside/file", "/proc/uptime", &[]).output().ok(), "mine");
}

/// CVE-2024-21626: a descriptor of the host that is still open when the directory and the command are looked up.
#[test]
fn leaked_descriptors_lead_neither_the_directory_nor_the_command_out() {
    let world = World::new();
    #[allow(unsafe_code)]
    let leak = || {
        let root = rustix::fs::open("/", rustix::fs::OFlags::RDONLY, Mode::empty())?;
        for number in 3..12 {
            // SAFETY: dup2(2) takes integers only. Whatever had the number in the forked child is not needed any more.
            if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&root), number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        std::mem::forget(root);
        Ok(())
    };
    for supervise in [false, true] {
        for number in 3..16 {
            let mut run = world.shell("pwd; ls").set("supervise", supervise).before(leak);
            run.process().cwd = format!("/proc/self/fd/{number}").into();
            let said = run.output().fails(125);
            assert!(said.contains("cannot") && said.contains("directory"), "{said}");
            let command = format!("/proc/self/fd/{number}/bin/true");
            let run = world.command(&[&command]).set("supervise", supervise).before(leak);
            let said = run.output().fails(127);
            assert!(said.contains("no such file or directory"), "{said}");
        }
    }
    // A way that stays open: the host's processes, where it shares their ids.
    let mut run = world.shell("true");
    run.process().cwd = format!("/proc/{}/root", std::process::id()).into();
    assert_ne!(run.output().code(), 0);
}

/// CVE-2021-30465: a target that is a directory when it is looked at, and a link when it is mounted on.
#[test]
fn a_target_that_is_swapped_for_a_link_never_leads_outside() {
    let world = World::new();
    let root = world.path("l0");
    fs::create_dir(root.join("swap")).unwrap();
    symlink(world.path("outside"), root.join("other")).unwrap();
    world.give(&root);
    fs::create_dir(world.path("source")).unwrap();
    fs::write(world.path("source/file"), "x").unwrap();
    world.give(&world.path("source"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, root.join("swap"), CWD, root.join("other"), flags).unwrap();
            }
        });
        for _ in 0..60 {
            let run = world.shell("true").directory().bind("source", "/swap/deep/er", &[]);
            let finished = run.bind("source/file", "/swap/file", &[]).output();
            assert!(matches!(finished.code(), 0 | 125), "{finished:?}");
            assert_eq!(fs::read_dir(world.path("outside")).unwrap().count(), 0, "something was made outside");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// CVE-2025-31133: a `/dev/null` of the image's in place of the mask.
#[test]
fn masks_are_the_real_null_device_whatever_the_image_has() {
    let world = World::new();
    fs::write(world.path("l0/secret"), "secret").unwrap();
    fs::write(world.path("l0/decoy"), "decoy").unwrap();
    symlink("/decoy", world.path("l0/dev/null")).unwrap();
    world.give(&world.path("l0"));
    for directory in [false, true] {
        let mut run = world.shell("cat secret; echo x > secret; stat -c %t:%T secret; ls opaque tmp");
        run.spec().mounts.remove(1);
        run.linux().masked_paths = vec!["/secret".into(), "/opaque".into(), "/tmp".into()];
        let run = if directory { run.directory() } else { run };
        assert_eq!(run.output().ok(), "1:3\nopaque:\n\ntmp:");
        assert_eq!(fs::read_to_string(world.path("l0/decoy")).unwrap(), "decoy");
        assert_eq!(fs::read_to_string(world.path("l0/secret")).unwrap(), "secret");
        let _ = fs::remove_file(world.path("l0/dev/null"));
        symlink("/decoy", world.path("l0/dev/null")).unwrap();
    }
}

/// CVE-2025-52881: what is written as a kernel parameter lands in the real `/proc/sys`, whatever the image has there.
#[test]
fn kernel_parameters_are_written_to_the_kernel() {
    let world = World::new();
    fs::create_dir_all(world.path("l0/proc/sys/net/ipv4")).unwrap();
    symlink("/data/caught", world.path("l0/proc/sys/net/ipv4/ip_default_ttl")).unwrap();
    let kinds = [NamespaceKind::Network, NamespaceKind::Pid];
    for name in ["net.ipv4.ip_default_ttl", "net/ipv4/ip_default_ttl"] {
        let mut run = world.shell("cat /proc/sys/net/ipv4/ip_default_ttl; test ! -e /data/caught").unshare(&kinds);
        run.linux().sysctl.insert(name.to_owned(), "77".to_owned());
        assert_eq!(run.output().ok(), "77");
    }
    for name in ["kernel.core_pattern", "net/../kernel/core_pattern", "kernel.hostname"] {
        let mut run = world.shell("true").unshare(&kinds);
        run.linux().sysctl.insert(name.to_owned(), "x".to_owned());
        assert!(run.output().fails(125).contains("linux.sysctl"), "{name}");
    }
}

/// CVE-2019-5736: the command is the program that starts it, which the container then writes.
#[test]
fn the_program_that_starts_containers_cannot_be_written_from_inside() {
    for by_superuser in [false, true] {
        if by_superuser && !superuser() {
            continue;
        }
        let world = World::new();
        let before = fs::read(world.launcher()).unwrap();
        let fifo = world.path("outside/fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        world.give(&world.path("outside"));
        fs::write(world.path("l0/attack"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(world.path("l0/attack"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        symlink("/proc/self/exe", world.path("l0/link")).unwrap();
        for command in [&["/proc/self/exe", "/data/fifo"][..], &["/link", "/data/fifo"]] {
            let mut run = world.command(command).set("seal", true);
            if by_superuser {
                run = run.superuser();
            }
            for path in ["/lib", "/lib64", "/usr"].into_iter().filter(|path| Path::new(path).exists()) {
                run = run.mount(Mount::rbind(path, path));
            }
            run = run.bind("outside", "/data", &[]).bind("l0", "/l0", &[]);
            let mut child = run.spawn(Stdio::null());
            // Who opens the pipe for writing waits for its reader: the program, inside.
            let mut pipe = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
            let program = fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(format!("/proc/{}/exe", child.id()))
                .unwrap();
            pipe.write_all(b"{}").unwrap();
            drop(pipe);
            child.wait().unwrap();
            // Nobody executes it any more: only now could it be written at all.
            let attacker = format!("echo hacked > /proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&program));
            let mut attack = Command::new("sh");
            attack.args(["-c", &attacker]).stderr(Stdio::null());
            rustix::io::fcntl_setfd(&program, rustix::io::FdFlags::empty()).unwrap();
            if rustix::process::geteuid().is_root() && !by_superuser {
                std::os::unix::process::CommandExt::uid(&mut attack, world.uid);
            }
            assert!(!attack.status().unwrap().success());
            assert_eq!(fs::read(world.launcher()).unwrap(), before);
        }
        // By a script, the program gets the script as its argument, and says that it is no configuration.
        let mut run = world.command(&["/attack"]).set("seal", true);
        if by_superuser {
            run = run.superuser();
        }
        let finished = run.output();
        assert_ne!(finished.code(), 0);
        assert_eq!(fs::read(world.launcher()).unwrap(), before);
    }
}

/// CVE-2025-52565: a `/dev/console` or `/dev/pts` of the image's.
#[test]
fn links_for_devices_stay_inside() {
    let world = World::new();
    symlink(world.path("outside/made"), world.path("l0/dev/zero")).unwrap();
    symlink(world.path("outside"), world.path("l0/dev/pts")).unwrap();
    world.give(&world.path("l0"));
    let mut run = world.shell("true").directory();
    run.spec().mounts.remove(1);
    let run = run.mount(Mount::of_type("devpts", "/dev/pts", &["newinstance", "gid=5"]));
    let _ = run.output();
    assert_eq!(fs::read_dir(world.path("outside")).unwrap().count(), 0);
}
