//! Containers, started as an ordinary user. If the superuser runs the tests, they become one.

mod support;

use std::os::unix::process::ExitStatusExt;

use berth_container::Upper;
use berth_container::oci::{Hook, Mount, NamespaceKind, Rlimit};
use rustix::process::Signal;
use support::{World, words};

#[test]
fn every_exit_code_is_the_commands_own() {
    let world = World::new();
    for code in 0..=255 {
        assert_eq!(world.shell(&format!("exit {code}")).output().code(), code);
    }
    for code in [0, 1, 125, 255] {
        assert_eq!(world.shell(&format!("exit {code}")).set("supervise", true).output().code(), code);
    }
}

#[test]
fn a_deadly_signal_is_the_commands_own_or_a_code_above_128() {
    let world = World::new();
    for signal in [1, 2, 9, 15] {
        let script = format!("kill -{signal} $$");
        assert_eq!(world.shell(&script).output().signal(), Some(signal));
        assert_eq!(world.shell(&script).set("supervise", true).output().code(), 128 + signal);
    }
}

#[test]
fn layers_lie_over_each_other_with_whiteouts_and_opaque_directories() {
    let world = World::new();
    let seen = world.shell("cat replaced; test -e removed || echo; ls opaque").output().ok();
    assert_eq!(seen, "third\nnew");
}

#[test]
fn changes_vanish_and_the_layers_stay_as_they_are() {
    let world = World::new();
    let script = "echo changed > replaced; rm -r opaque; mkdir opaque; touch new; cat replaced; ls opaque";
    assert_eq!(world.shell(script).output().ok(), "changed");
    assert_eq!(std::fs::read_to_string(world.path("l2/replaced")).unwrap(), "third");
    assert!(world.path("l1/opaque/new").exists());
    assert_eq!(world.shell("cat replaced; test -e new || echo; ls opaque").output().ok(), "third\nnew");
}

#[test]
fn a_size_limit_of_the_changes_holds() {
    let world = World::new();
    let finished = world.shell("yes > big").upper(Upper::Tmpfs { size: Some(1 << 20) }).output();
    assert!(finished.stdout().is_empty() && finished.stderr().contains("No space left"), "{finished:?}");
}

#[test]
fn read_only_means_that_nothing_can_be_written_although_mount_points_are_made() {
    let world = World::new();
    std::fs::write(world.path("outside/file"), "x").unwrap();
    for run in [
        world
            .shell("cat new/mount/point/file; touch file; touch /etc/file; touch bin/file; echo a > replaced")
            .upper(Upper::None),
        {
            let mut run =
                world.shell("cat new/mount/point/file; touch file; touch /etc/file; touch bin/file; echo a > replaced");
            run.spec().root.as_mut().unwrap().readonly = true;
            run
        },
    ] {
        let finished = run.bind("outside", "/new/mount/point", &[]).output();
        assert_eq!(finished.stdout(), "x");
        assert_eq!(finished.stderr().matches("Read-only file system").count(), 4, "{finished:?}");
    }
}

#[test]
fn generated_files_lie_over_the_images_and_under_the_containers() {
    let world = World::new();
    let finished = world
        .shell("cat etc/passwd; echo b >> etc/passwd; cat etc/passwd; stat -c %a etc/passwd")
        .generate("/etc/passwd", "a\n");
    assert_eq!(finished.output().ok(), "a\na\nb\n644");
    assert_eq!(world.shell("cat made/for/this/file").generate("/made/for/this/file", "a").output().ok(), "a");
}

#[test]
fn symbolic_links_of_the_image_do_not_lead_mounts_or_mount_points_outside() {
    let world = World::new();
    std::fs::create_dir(world.path("source")).unwrap();
    std::fs::write(world.path("source/file"), "x").unwrap();
    world.give(&world.path("source"));
    let inside = world.path("outside");
    for link in ["/absolute", "/dotted"] {
        let script = format!("cat {link}/deep/file; cat {}/deep/file", inside.display());
        // Inside, the path that the link names is another directory, which exists.
        let run = world.shell(&script).generate(inside.join("keep").to_str().unwrap(), "");
        assert_eq!(run.bind("source", &format!("{link}/deep"), &[]).output().ok(), "xx");
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0, "{link}");
    }
    let said = world.shell("true").bind("source", "/dangling", &[]).output().fails(125);
    assert!(said.contains("symbolic link that leads nowhere"), "{said}");
    let said = world.shell("true").bind("source", "/proc/self/fd/0/x", &[]).output().fails(125);
    assert!(said.contains("cannot mount"), "{said}");
}

#[test]
fn binds_show_the_host_and_obey_their_options() {
    let world = World::new();
    std::fs::write(world.path("outside/file"), "x").unwrap();
    world.give(&world.path("outside"));
    let seen = world.shell("cat data/file; echo y > data/new; touch ro/new; cat one").bind("outside", "/data", &[]);
    let seen = seen
        .bind("outside", "/ro", &["ro", "nosuid", "nodev", "noexec"])
        .bind("outside/file", "/one", &["ro"])
        .output();
    assert_eq!(seen.stdout(), "xx");
    assert!(seen.stderr().contains("ro/new: Read-only file system"), "{seen:?}");
    assert_eq!(std::fs::read_to_string(world.path("outside/new")).unwrap(), "y\n");
    let options =
        world.shell("grep ' /ro ' /proc/self/mounts").bind("outside", "/ro", &["ro", "nosuid", "nodev", "noexec"]);
    assert!(options.output().ok().contains("ro,nosuid,nodev,noexec"));
}

#[test]
fn mistakes_in_mounts_are_named() {
    let world = World::new();
    let said = world.shell("true").bind("nowhere", "/data", &[]).output().fails(125);
    assert!(said.contains("nowhere on /data: no such file"), "{said}");
    let said = world.shell("true").bind("outside", "/data", &["size=1"]).output().fails(125);
    assert!(said.contains("`size=1` is no option of a bind mount"), "{said}");
    let said = world.shell("true").bind("l2/replaced", "/data", &[]).output().fails(125);
    assert!(said.contains("one is a directory and the other is a file"), "{said}");
}

#[test]
fn commands_that_cannot_run_say_why_and_have_their_codes() {
    let world = World::new();
    for (command, code, words) in [
        ("nosuch", 127, "executable file not found in $PATH (/bin)"),
        ("/no/such", 127, "command not found in the container: /no/such: no such file or directory"),
        ("/script", 127, "interpreter /no/such/interpreter does not exist"),
        ("/plain", 126, "exec format error"),
        ("/locked", 126, "permission denied"),
        ("/etc", 126, "permission denied (it is a directory)"),
    ] {
        for supervise in [false, true] {
            let said = world.command(&[command]).set("supervise", supervise).output().fails(code);
            assert!(said.contains(words), "{command}: {said}");
        }
    }
}

#[test]
fn the_command_gets_its_directory_environment_limits_and_mask() {
    let world = World::new();
    let mut run = world.shell("pwd; echo $A; ulimit -c; ulimit -n; umask; cat /proc/self/oom_score_adj; id -u; id -g");
    let process = run.process();
    process.cwd = "/made/here".into();
    process.env.push("A=b c".to_owned());
    process.user.umask = Some(0o27);
    process.oom_score_adj = Some(700);
    process.rlimits = vec![
        Rlimit { kind: "RLIMIT_CORE".to_owned(), soft: 0, hard: 0 },
        Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 99, hard: 100 },
    ];
    let id = format!("{}\n{}", world.uid, world.gid);
    assert_eq!(run.output().ok(), format!("/made/here\nb c\n0\n99\n0027\n700\n{id}"));
}

#[test]
fn signals_act_as_by_default_and_no_file_is_inherited_unless_asked() {
    let world = World::new();
    #[allow(unsafe_code)]
    let leak = || {
        for number in [3, 4] {
            // SAFETY: dup2(2) takes integers only. Whatever had the number in the forked child is not needed any more.
            if unsafe { libc::dup2(0, number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    let script = "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/$$/fd; true";
    for supervise in [false, true] {
        let seen = world.shell(script).set("supervise", supervise).before(leak).output().ok();
        // What the caller ignores stays ignored (nohup), but for SIGPIPE, which every Rust program ignores.
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(own.trim(), 16).unwrap() & !(1 << (libc::SIGPIPE - 1));
        let expected = format!("SigIgn: {ignored:016x} SigBlk: 0000000000000000 0 1 2");
        assert_eq!(words(&seen), words(&expected), "{seen}");
        let seen = world
            .shell("ls /proc/$$/fd; true")
            .set("preserve_fds", 1)
            .set("supervise", supervise)
            .before(leak)
            .output()
            .ok();
        assert_eq!(words(&seen), words("0 1 2 3"));
    }
}

#[test]
fn root_inside_is_the_user_outside_with_power_over_the_container_only() {
    let world = World::new();
    let run =
        world.shell("id -u; echo x > data/file; mount -t tmpfs none tmp && echo mounted; hostname mine").root_inside();
    let seen = run.bind("outside", "/data", &[]).output();
    assert!(seen.stdout().contains("0\nmounted"), "{seen:?}");
    assert!(!seen.stderr().is_empty(), "the host's name can't be set");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(world.path("outside/file")).unwrap());
    assert_eq!(owner, world.uid);
    let other = world.shell("grep CapEff /proc/self/status").output().ok();
    assert!(other.ends_with("0000000000000000"), "{other}");
}

#[test]
fn in_a_pid_namespace_the_command_is_the_first_or_has_an_init() {
    let world = World::new();
    let pid = [NamespaceKind::Pid];
    assert_eq!(world.shell("echo $$; exit 3").unshare(&pid).output().stdout(), "1\n");
    assert_eq!(world.shell("exit 3").unshare(&pid).output().code(), 3);
    // An orphan that ends is reaped by init: the command sees it vanish, not turn into a zombie.
    let script = "echo $$; pid=$(sh -c 'true & echo $!'); while test -e /proc/$pid; do :; done; kill -9 $$";
    let finished = world.shell(script).unshare(&pid).set("init", true).output();
    assert_eq!((finished.code(), finished.stdout().as_str()), (137, "2\n"));
    assert_eq!(world.shell("exit 4").set("init", true).output().code(), 4);
}

#[test]
fn private_namespaces_have_their_own_host_name_and_network() {
    let world = World::new();
    let mut run = world.shell("hostname; ls /sys/class/net; cat /sys/class/net/lo/flags").unshare(&[
        NamespaceKind::Uts,
        NamespaceKind::Network,
        NamespaceKind::Ipc,
    ]);
    run.spec().hostname = Some("inside".to_owned());
    run.spec().mounts.push(Mount::of_type("sysfs", "/sys", &["ro"]));
    assert_eq!(run.output().ok(), "inside\nlo\n0x9");
}

#[test]
fn a_private_dev_has_the_usual_devices_and_no_others() {
    let world = World::new();
    let mut run = world.shell(
        "ls /dev; echo x > /dev/null; head -c 2 /dev/zero | wc -c; readlink /dev/fd; touch /dev/shm/x; ls /dev/pts",
    );
    run.spec().mounts[1] = Mount::of_type("tmpfs", "/dev", &["nosuid", "mode=755"]);
    let run = run.mount(Mount::of_type("devpts", "/dev/pts", &["newinstance", "ptmxmode=0666"]));
    let seen = run.mount(Mount::of_type("tmpfs", "/dev/shm", &["mode=1777"])).output().ok();
    let expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero 2 /proc/self/fd ptmx";
    assert_eq!(words(&seen), words(expected));
}

#[test]
fn masked_paths_are_empty_and_read_only_paths_cannot_be_written() {
    let world = World::new();
    let mut run = world.shell("cat etc/passwd; ls opaque; touch data/x").unshare(&[NamespaceKind::Pid]);
    run.linux().masked_paths = vec!["/etc/passwd".into(), "/opaque".into(), "/not/there".into()];
    run.linux().readonly_paths = vec!["/data".into(), "/not/there".into()];
    let finished = run.output();
    assert_eq!(finished.stdout(), "");
    assert!(finished.stderr().contains("data/x: Read-only file system"), "{finished:?}");
}

#[test]
fn the_supervisor_passes_signals_on() {
    let world = World::new();
    for init in [false, true] {
        let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
        let running = world.shell(script).set("supervise", true).set("init", init).start();
        running.signal(Signal::TERM);
        let (rest, status) = running.finish();
        assert_eq!((rest.as_str(), status.code()), ("got\n", Some(9)));
    }
}

#[test]
fn a_stopped_command_stops_its_supervisor_and_goes_on_with_it() {
    let world = World::new();
    let running = world.shell("echo ready; kill -STOP $$; echo on; exit 5").set("supervise", true).start();
    let pid = rustix::process::Pid::from_raw(running.pid() as i32);
    let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped());
    running.signal(Signal::CONT);
    let (rest, status) = running.finish();
    assert_eq!((rest.as_str(), status.code()), ("on\n", Some(5)));
}

#[test]
fn killing_the_supervisor_kills_the_container() {
    let world = World::new();
    // With process ids of its own, everything in it; the pipe closes when the last process is gone.
    let running = world.shell("sleep 1000 & echo ready; sleep 1000").unshare(&[NamespaceKind::Pid]).start();
    running.signal(Signal::KILL);
    let (_, status) = running.finish();
    assert_eq!(status.signal(), Some(9));
    let running = world.command(&["sh", "-c", "echo ready; exec sleep 1000"]).set("supervise", true).start();
    running.signal(Signal::KILL);
    assert_eq!(running.finish().1.signal(), Some(9));
}

#[test]
fn a_terminal_of_its_own_is_one_inside() {
    let world = World::new();
    let mut run = world.shell("test -t 0 && test -t 1 && test -t 2 && echo terminal; exit 6");
    run.process().terminal = true;
    let finished = run.output();
    assert_eq!((finished.code(), finished.stdout().as_str()), (6, "terminal\r\n"));
}

#[test]
fn nothing_stays_mounted() {
    let world = World::new();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(world.shell("true").output().ok(), "");
    let _ = world.command(&["nosuch"]).unshare(&[NamespaceKind::Pid]).output().fails(127);
    let name = world.dir.path().to_str().unwrap();
    let mine = |text: &str| text.lines().filter(|line| line.contains(name) || line.contains("berth")).count();
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mine(&after), mine(&before));
}

#[test]
fn a_named_container_keeps_its_changes_and_is_removed_with_them() {
    let world = World::new();
    let script = "echo kept > file; rm removed 2>/dev/null; rm -r opaque; mkdir -p locked/in; touch locked/in/x; chmod 0 locked/in locked";
    // `locked` is a file of the image.
    let script = format!("rm locked; {script}");
    assert_eq!(world.shell(&script).named("one").output().ok(), "");
    assert_eq!(world.shell("cat file; test -e opaque || echo gone").named("one").output().ok(), "kept\ngone");
    assert_eq!(world.shell("true").named("one").set("remove", true).output().ok(), "");
    assert_eq!(std::fs::read_dir(world.path("state")).unwrap().count(), 0);
    let said = world.shell("true").named("one").set("remove", true).output().fails(125);
    assert!(said.contains("no container named `one`"), "{said}");
}

#[test]
fn a_running_named_container_is_joined_and_cannot_be_removed() {
    let world = World::new();
    for pid in [false, true] {
        let name = if pid { "with-pids" } else { "without" };
        let kinds = if pid { vec![NamespaceKind::Pid] } else { Vec::new() };
        let mut running = world
            .shell("echo first > tmp/file; echo ready; while ! test -e tmp/go; do sleep 0.01; done; echo saw; exit 3")
            .named(name)
            .unshare(&kinds)
            .start();
        let joined = world.shell("cat tmp/file; pwd; echo $$; touch tmp/go").named(name).output().ok();
        assert!(joined.starts_with("first\n/\n"), "{joined}");
        assert_eq!(running.line(), "saw");
        assert_eq!(running.finish().1.code(), Some(3));
    }
    let running = world.shell("echo ready; exec sleep 1000").named("two").start();
    let said = world.shell("true").named("two").set("remove", true).output().fails(125);
    assert!(said.contains("`two` is running (process"), "{said}");
    running.signal(Signal::KILL);
    let _ = running.finish();
    assert_eq!(world.shell("true").named("two").set("remove", true).output().ok(), "");
}

#[test]
fn a_container_runs_while_a_process_that_was_left_behind_runs() {
    let world = World::new();
    let mut running = world.shell("sh -c 'echo $$; exec sleep 1000' &").named("three").start();
    let left: i32 = running.first.trim().parse().unwrap();
    running.child.wait().unwrap();
    let said = world.shell("true").named("three").set("remove", true).output().fails(125);
    assert!(said.contains(&format!("process {left}")), "{said}");
    rustix::process::kill_process(rustix::process::Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_process_id_is_enough_to_join() {
    let world = World::new();
    let mut running = world.shell("echo x > tmp/file; echo ready; while ! test -e tmp/go; do sleep 0.01; done").start();
    let joined = world.shell("cat tmp/file; id -u; touch tmp/go").set("join", running.pid()).output().ok();
    assert_eq!(joined, format!("x\n{}", world.uid));
    assert!(running.child.wait().unwrap().success());
    let said = world.shell("true").set("join", std::process::id()).output().fails(125);
    assert!(said.contains("belongs to somebody else") || said.contains("runs in no container"), "{said}");
}

#[test]
fn hooks_find_the_container_before_it_starts_and_their_failure_is_named() {
    let world = World::new();
    let script = "grep -q '\"status\":\"creating\"' && root=$(grep -o '\"path\":\"/[a-z]*/root\"' /*/config.json | cut -d'\"' -f4) && echo made > $root/hooked && mount -t tmpfs none $root/data && echo in > $root/data/file";
    let hook = |script: &str, timeout| Hook {
        path: "/bin/busybox".into(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin:/usr/bin:/usr/sbin:/sbin".to_owned()],
        timeout,
    };
    let mut run = world.shell("cat hooked data/file; grep CapEff /proc/self/status");
    run.spec().hooks.create_container = vec![hook(script, Some(60))];
    assert_eq!(words(&run.output().ok()), words("made in CapEff: 0000000000000000"));
    for (script, timeout, reason) in
        [("exit 3", None, "exit status: 3"), ("sleep 1000", Some(0), "longer than 0 seconds")]
    {
        let mut run = world.shell("true");
        run.spec().hooks.create_container = vec![hook(script, timeout)];
        let said = run.output().fails(125);
        assert!(said.contains("createContainer hook /bin/busybox failed") && said.contains(reason), "{said}");
    }
}

#[test]
fn layers_of_another_user_get_the_mount_points_that_they_lack() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root");
        eprintln!("SKIPPED: giving files to another user takes root");
        return;
    }
    let world = World::new();
    std::fs::write(world.path("outside/file"), "x").unwrap();
    std::fs::create_dir_all(world.path("l0/home")).unwrap();
    std::os::unix::fs::symlink("data", world.path("l0/link")).unwrap();
    for layer in ["l0", "l1", "l2"] {
        let changed = std::process::Command::new("chown").args(["-hR", "0:0"]).arg(world.path(layer)).status().unwrap();
        assert!(changed.success());
    }
    let script = "cat home/user/deep/file link/new/file opaque/file single && test ! -e removed && ls -d /data/new";
    let run = world.shell(script).bind("outside", "/home/user/deep", &[]).bind("outside", "/link/new", &[]);
    let run = run.bind("outside", "/opaque", &[]).bind("outside/file", "/single", &[]);
    assert_eq!(run.output().ok(), "xxxx/data/new");
    assert!(!world.path("l0/home/user").exists() && !world.path("l0/data/new").exists());
}
