//! Properties of the OCI runtime specification that concern the launch itself, with a directory as root file system too.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use berth_container::Rootfs;
use berth_container::oci::{Capabilities, Device, IdMap, Mount, Namespace, NamespaceKind, TimeOffset};
use support::{World, superuser, words};

fn device(kind: &str, path: &str, number: Option<(i64, i64)>) -> Device {
    let (major, minor) = (number.map(|n| n.0), number.map(|n| n.1));
    Device { kind: kind.to_owned(), path: path.into(), major, minor, file_mode: None, uid: None, gid: None }
}

#[test]
fn a_directory_is_a_root_and_keeps_what_is_changed() {
    let world = World::new();
    let run = world.shell("echo kept > data/file; cat new/mount/point/file").directory();
    fs::write(world.path("outside/file"), "x").unwrap();
    assert_eq!(run.bind("outside", "/new/mount/point", &[]).output().ok(), "x");
    assert_eq!(fs::read_to_string(world.path("l0/data/file")).unwrap(), "kept\n");
    let mut run = world.shell("touch data/file 2>&1; touch tmp/x && echo fine").directory();
    run.spec().root.as_mut().unwrap().readonly = true;
    let seen = run.mount(Mount::of_type("tmpfs", "/tmp", &[])).output().ok();
    assert!(seen.contains("Read-only file system") && seen.ends_with("fine"), "{seen}");
}

#[test]
fn the_machines_own_root_is_no_root_for_a_container() {
    let world = World::new();
    symlink("/", world.path("outside/root")).unwrap();
    for path in ["/", "/usr/..", world.path("outside/root").to_str().unwrap()] {
        let mut run = world.shell("true");
        run.bundle.rootfs = Rootfs::Dir(path.into());
        let said = run.output().fails(125);
        assert!(said.contains("that of this machine"), "{said}");
    }
}

#[test]
fn the_superuser_gets_device_nodes_as_asked() {
    if !superuser() {
        return;
    }
    let world = World::new();
    let mut run = world.shell("stat -c '%n %t:%T %a %u:%g' dev/null dev/mine dev/urandom data/other data/pipe");
    let mine = Device { file_mode: Some(0o642), uid: Some(7), gid: Some(8), ..device("c", "/dev/mine", Some((1, 5))) };
    run.linux().devices = vec![mine, device("u", "/data/other", Some((1, 7))), device("p", "/data/pipe", None)];
    let umask = || {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o77));
        Ok(())
    };
    let expected = "dev/null 1:3 666 0:0\ndev/mine 1:5 642 7:8\ndev/urandom 1:9 666 0:0\n\
                    data/other 1:7 666 0:0\ndata/pipe 0:0 666 0:0";
    assert_eq!(run.superuser().directory().before(umask).output().ok(), expected);
    // What is there already and is the same is fine; something else is not.
    let run = |number| {
        let mut run = world.shell("true");
        run.linux().devices = vec![device("c", "/data/other", Some(number))];
        run.superuser().directory().output()
    };
    assert_eq!(run((1, 7)).ok(), "");
    assert!(run((1, 5)).fails(125).contains("something else"), "");
}

#[test]
fn a_user_gets_the_hosts_devices_and_only_those_that_were_meant() {
    let world = World::new();
    let mut run = world.shell("stat -c %t:%T dev/null dev/fuse").private_dev();
    run.linux().devices = vec![device("c", "/dev/fuse", Some((10, 229)))];
    if Path::new("/dev/fuse").exists() {
        assert_eq!(run.output().ok(), "1:3\na:e5");
    }
    let mut run = world.shell("true").private_dev();
    run.linux().devices = vec![device("c", "/dev/zero", Some((1, 9)))];
    let said = run.output().fails(125);
    assert!(said.contains("another device"), "{said}");
}

#[test]
fn a_tmpfs_may_start_with_what_the_image_has() {
    let world = World::new();
    let from = world.path("l0/data");
    fs::create_dir(from.join("deep")).unwrap();
    fs::write(from.join("deep/file"), "copied").unwrap();
    fs::set_permissions(from.join("deep/file"), fs::Permissions::from_mode(0o751)).unwrap();
    symlink("/nowhere", from.join("link")).unwrap();
    world.give(&from);
    let script =
        "cat data/deep/file; stat -c ' %a' data/deep/file; readlink data/link; touch data/x 2>&1; touch data/deep/y";
    for directory in [false, true] {
        let run = world.shell(script).mount(Mount::of_type("tmpfs", "/data", &["tmpcopyup"]));
        let run = if directory { run.directory() } else { run };
        assert_eq!(run.output().ok(), "copied 751\n/nowhere");
        assert!(!from.join("x").exists());
    }
    let run = world.shell("touch data/x 2>&1; cat data/deep/file");
    let seen = run.mount(Mount::of_type("tmpfs", "/data", &["tmpcopyup", "ro"])).output().ok();
    assert!(seen.contains("Read-only") && seen.ends_with("copied"), "{seen}");
}

#[test]
fn options_of_binds_ask_for_no_more_than_the_kernel_gives() {
    let world = World::new();
    // Whatever the host's mount forbids stays forbidden to a user; asking is no error.
    for words in [&["rw", "suid", "dev", "exec", "atime"][..], &["rrw", "rsuid", "rdev", "rexec"], &["relatime"]] {
        assert_eq!(world.shell("true").bind("outside", "/data", words).output().ok(), "");
    }
    let grep = || world.shell("grep ' /data ' /proc/self/mounts");
    let seen = grep().bind("outside", "/data", &["noatime", "rro", "private"]).output().ok();
    assert!(seen.contains(" ro,"), "{seen}");
    if superuser() {
        let words = ["noatime", "nosuid", "nodev", "rw", "suid"];
        let seen = grep().superuser().bind("outside", "/data", &words).output().ok();
        assert!(seen.contains(" rw,nodev,noatime"), "{seen}");
    }
}

#[test]
fn what_cannot_be_given_is_left_out_of_the_capabilities() {
    let world = World::new();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let mut run = world.shell("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status");
    let all = names(&["CAP_CHOWN", "CAP_KILL", "CAP_FROM_THE_FUTURE"]);
    run.process().capabilities = Some(Capabilities {
        bounding: all.clone(),
        effective: all.clone(),
        permitted: all,
        inheritable: names(&["CAP_CHOWN"]),
        ambient: names(&["CAP_CHOWN", "CAP_KILL"]),
    });
    // Not root inside: what is ambient is what is left after execve(2).
    let seen = run.output().ok();
    let expected = "CapInh: 0000000000000001 CapPrm: 0000000000000001 CapEff: 0000000000000001 \
                    CapBnd: 0000000000000021 CapAmb: 0000000000000001";
    assert_eq!(words(&seen), words(expected), "{seen}");
}

#[test]
fn ids_scores_and_flags_that_mean_nothing_are_refused() {
    let world = World::new();
    let mut run = world.shell("true");
    run.process().user.uid = u32::MAX;
    assert!(run.output().fails(125).contains("process.user"));
    let mut run = world.shell("true");
    run.process().oom_score_adj = Some(1001);
    assert!(run.output().fails(125).contains("oomScoreAdj"));
    let mut run = world.shell("true");
    run.process().oom_score_adj = Some(-1000);
    assert_eq!(run.output().ok(), "", "a score that may not be lowered is left");
    let mut run = world.shell("true");
    run.linux().rootfs_propagation = Some("sideways".to_owned());
    assert!(run.output().fails(125).contains("rootfsPropagation"));
}

#[test]
fn home_comes_from_the_containers_own_database() {
    let world = World::new();
    let line = format!("me:x:{}:{}::/home/me:/bin/sh\n", world.uid, world.gid);
    let run = || world.shell("echo $HOME").generate("/etc/passwd", &line);
    assert_eq!(run().set("home", true).output().ok(), "/home/me");
    assert_eq!(run().output().ok(), "");
    let mut given = run().set("home", true);
    given.process().env.push("HOME=/given".to_owned());
    assert_eq!(given.output().ok(), "/given");
    assert_eq!(world.shell("echo $HOME").set("home", true).output().ok(), "/");
    // Neither a link out of the container nor something that never ends is read.
    for target in ["/proc/self/root/etc/passwd", "/dev/zero"] {
        let _ = fs::remove_file(world.path("l0/etc/passwd"));
        symlink(target, world.path("l0/etc/passwd")).unwrap();
        assert_eq!(world.shell("echo $HOME").set("home", true).output().ok(), "/");
    }
}

#[test]
fn clocks_of_a_time_namespace_have_their_offsets() {
    let world = World::new();
    let mut run = world.shell("cat /proc/uptime").unshare(&[NamespaceKind::Time]);
    run.linux().time_offsets.insert("boottime".to_owned(), TimeOffset { secs: 1_000_000_000, nanosecs: 0 });
    let seen = run.output().ok();
    assert!(seen.split('.').next().unwrap().parse::<u64>().unwrap() > 1_000_000_000, "{seen}");
    let mut run = world.shell("true");
    run.linux().time_offsets.insert("boottime".to_owned(), TimeOffset { secs: 1, nanosecs: 0 });
    assert!(run.output().fails(125).contains("timeOffsets"));
}

#[test]
fn namespaces_are_joined_by_their_files_and_by_nothing_else() {
    let world = World::new();
    let running = world.shell("echo ready; exec sleep 1000").unshare(&[NamespaceKind::Uts]).start();
    let file = |name: &str| format!("/proc/{}/ns/{name}", running.pid());
    let join = |kinds: &[(NamespaceKind, String)]| {
        let mut run = world.shell("readlink /proc/self/ns/uts; id -u");
        run.linux()
            .namespaces
            .retain(|n| n.kind == NamespaceKind::Mount || !kinds.iter().any(|(kind, _)| n.kind == *kind));
        for (kind, path) in kinds {
            run.linux().namespaces.push(Namespace { kind: *kind, path: Some(path.into()) });
        }
        run.output()
    };
    let theirs = fs::read_link(file("uts")).unwrap();
    let seen = join(&[(NamespaceKind::User, file("user")), (NamespaceKind::Uts, file("uts"))]).ok();
    assert_eq!(seen, format!("{}\n{}", theirs.display(), world.uid));
    let said = join(&[(NamespaceKind::Uts, file("ipc"))]).fails(125);
    assert!(said.contains("it is a ipc namespace, not a uts one"), "{said}");
    let said = join(&[(NamespaceKind::Uts, "/proc/self/status".to_owned())]).fails(125);
    assert!(said.contains("it is no namespace"), "{said}");
}

#[test]
fn propagation_of_the_root_is_as_asked() {
    let world = World::new();
    for (word, expected) in
        [("shared", "shared:"), ("rshared", "shared:"), ("unbindable", "unbindable"), ("private", "")]
    {
        for as_superuser in [false, true] {
            if as_superuser && !superuser() {
                continue;
            }
            let mut run = world.shell("grep ' / / ' /proc/self/mountinfo || grep -E ' /[^ ]* / ' /proc/self/mountinfo");
            run.linux().rootfs_propagation = Some(word.to_owned());
            let run = if as_superuser { run.superuser() } else { run };
            let seen = run.directory().output().ok();
            let fields = seen.split(" - ").next().unwrap();
            assert!(fields.contains(expected), "{word}: {seen}");
            assert!(!expected.is_empty() || !fields.contains("shared:"), "{word}: {seen}");
        }
    }
    let name = world.dir.path().to_str().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(name), "something reached the host");
}

#[test]
fn a_root_may_be_made_without_pivoting() {
    let world = World::new();
    for directory in [false, true] {
        let run = world.shell("ls -d /bin /data; pwd; cat /proc/self/mounts | wc -l").unshare(&[NamespaceKind::Pid]);
        let run = if directory { run.directory() } else { run };
        let seen = run.set("no_pivot", true).output().ok();
        assert!(seen.starts_with("/bin\n/data\n/\n"), "{seen}");
    }
}

#[test]
fn mounts_of_the_superuser_may_be_id_mapped() {
    if !superuser() {
        return;
    }
    let world = World::new();
    fs::write(world.path("outside/file"), "x").unwrap();
    fs::write(world.path("outside/another"), "x").unwrap();
    world.give(&world.path("outside"));
    std::os::unix::fs::chown(world.path("outside/another"), Some(0), Some(0)).unwrap();
    let mut mount = Mount::rbind(world.path("outside"), "/data");
    mount.options.push("idmap".to_owned());
    let map = |host_id, container_id| vec![IdMap { container_id, host_id, size: 1 }];
    // As the file system has them, and as they are shown.
    mount.uid_mappings = map(5, world.uid);
    mount.gid_mappings = map(5, world.gid);
    let run = world.shell("stat -c %u:%g data/file data/another").superuser().mount(mount.clone()).output();
    let said = format!("{}{}", run.stdout(), run.stderr());
    assert!(said.contains("5:5\n65534:65534") || said.contains("cannot be id-mapped"), "{said}");
    let said = world.shell("true").mount(mount).output().fails(125);
    assert!(said.contains("take the superuser"), "{said}");
    assert_eq!(fs::metadata(world.path("outside/file")).unwrap().uid(), world.uid);
}

#[test]
fn control_groups_are_shown_and_cannot_be_changed_where_that_was_said() {
    let world = World::new();
    for own in [false, true] {
        for as_superuser in [false, true] {
            if as_superuser && !superuser() {
                continue;
            }
            let run = world.shell("ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/made");
            let run = if own { run.unshare(&[NamespaceKind::Cgroup]) } else { run };
            let run = run.mount(Mount::of_type("tmpfs", "/sys", &[]));
            let run = run.mount(Mount::of_type("cgroup", "/sys/fs/cgroup", &["nosuid", "nodev", "noexec", "ro"]));
            let run = if as_superuser { run.superuser() } else { run };
            let seen = run.output();
            let host = fs::read_dir("/sys/fs/cgroup").unwrap().count();
            assert!(seen.stdout().lines().count() > 0 || host == 0, "{seen:?}");
            assert!(host == 0 || seen.stderr().contains("Read-only file system"), "{seen:?}");
        }
    }
}
