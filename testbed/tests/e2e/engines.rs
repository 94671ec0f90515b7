//! What people do with containers, shown on every engine that has berth as its runtime: the same list for each.

use std::fs;
use std::time::Duration;

use testbed::engine::Engine;
use testbed::engine::IMAGE;
use testbed::process;
use testbed::terminal::SIZE;

/// Shows a behaviour on an engine, and that nothing of it stays.
#[track_caller]
pub fn shown_on(engine: impl Engine, behaviour: impl FnOnce(&dyn Engine)) {
    behaviour(&engine);
    (&engine as &dyn Engine).nothing_is_left();
}

/// Makes the chapter of an engine from the behaviours of this file and its own.
macro_rules! engine_chapter {
    ($chapter:literal, $needs:tt, $start:expr; $($own:ident),+ $(,)?) => {
        $crate::engines::with_shared!($chapter, $needs, $start; $($own),+);
    };
}

/// Adds the list of what is shared.
macro_rules! with_shared {
    ($chapter:literal, $needs:tt, $start:expr; $($own:ident),+) => {
        $crate::engines::both!($chapter, $needs, $start;
            output_and_exit_codes_come_back,
            a_command_that_cannot_run_has_its_own_exit_code,
            a_terminal_has_its_size_and_its_keys,
            a_command_runs_in_the_background,
            commands_are_executed_in_a_running_container,
            stop_gives_the_program_time_for_its_own_end,
            stop_and_kill_end_a_program_that_resists,
            signals_reach_the_program,
            a_frozen_container_stands_still,
            an_init_reaps_and_passes_signals_on,
            the_user_and_the_groups_are_those_asked_for,
            folders_and_files_of_the_host_are_there,
            a_read_only_root_is_written_nowhere,
            capabilities_are_dropped_and_added,
            filters_and_no_new_privileges_hold,
            limits_of_the_process_are_set,
            limits_of_control_groups_hold,
            what_is_written_to_the_input_arrives,
            ten_megabytes_come_through_unchanged,
            many_containers_run_at_once,
            the_engine_sees_what_runs,
            containers_share_namespaces,
            names_directories_and_variables_are_set,
            devices_and_kernel_parameters_are_set,
            a_container_is_stopped_started_and_attached_to,
            files_are_copied_in_and_out,
            an_image_is_built_by_run_steps,
            without_a_pid_namespace_all_processes_end;
            $($own),+);
    };
}

/// One function for each behaviour on this engine, and the list of all.
macro_rules! both {
    ($chapter:literal, $needs:tt, $start:expr; $($shared:ident),+; $($own:ident),+) => {
        $(fn $shared() {
            $crate::engines::shown_on($start, $crate::engines::$shared);
        })+
        testbed::chapter!($chapter, $needs: $($shared),+, $($own),+);
    };
}

pub(crate) use both;
pub(crate) use engine_chapter;
pub(crate) use with_shared;

pub fn output_and_exit_codes_come_back(engine: &dyn Engine) {
    let done = engine.shell(&[], "echo out; echo err >&2; exit 7");
    assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"), "{}", done.report());
    for code in ["0", "1", "125", "126", "127", "128", "255"] {
        assert_eq!(engine.shell(&[], &format!("exit {code}")).code().to_string(), code);
    }
    // Process 1 is killed by no signal of its own; a process below it is.
    assert_eq!(engine.shell(&[], "sh -c 'kill -9 $$; :'; exit $?").code(), 137);
}

pub fn a_command_that_cannot_run_has_its_own_exit_code(engine: &dyn Engine) {
    for (command, code) in [("no-such-command", 127), ("/no/such/command", 127), ("/etc", 126), ("/etc/passwd", 126)] {
        let done = engine.run(&[], &[command]);
        assert_eq!(done.code(), code, "{}", done.report());
        assert!(done.stderr.contains(command), "{}", done.report());
    }
    let id = engine.ready(&[], "echo ready; exec sleep 300");
    for (command, code) in [("no-such-command", 127), ("/etc/passwd", 126)] {
        let done = engine.call(&["exec", &id, command]);
        // Older clients of docker tell the same of both.
        assert!([code, 126].contains(&done.code()), "{}", done.report());
        assert!((done.stdout.clone() + &done.stderr).contains(command), "{}", done.report());
    }
    engine.remove(&id);
}

pub fn a_terminal_has_its_size_and_its_keys(engine: &dyn Engine) {
    // The engine sets the size when the container runs already.
    let script = format!(
        "tty; until test \"$(stty size)\" = '{} {}'; do usleep 10000; done; echo sized; \
         trap 'echo interrupted; exit 9' INT; read line; echo \"got $line\"; \
         until test \"$(stty size)\" = '20 60'; do usleep 10000; done; echo resized; while :; do usleep 10000; done",
        SIZE.0, SIZE.1
    );
    let words = engine.words(&["run", "--rm", "-it"], &[], &["sh", "-c", &script]);
    let mut terminal = engine.on_terminal(&words.iter().map(String::as_str).collect::<Vec<_>>());
    terminal.wait_for("sized\n");
    assert!(terminal.shown().contains("/dev/pts/0\n"), "{}", terminal.shown());
    terminal.keys("a line\n");
    terminal.wait_for("got a line\n");
    terminal.resize((20, 60));
    terminal.wait_for("resized\n");
    terminal.keys("\x03");
    let (code, shown) = terminal.end();
    assert!(code == 9 && shown.contains("interrupted"), "{code}: {shown}");
}

pub fn a_command_runs_in_the_background(engine: &dyn Engine) {
    let id = engine.start(&["--name", "job"], &["sh", "-c", "echo one; echo two >&2; exit 5"]);
    assert_eq!(engine.exit_code("job"), "5");
    assert_eq!(engine.call(&["logs", "job"]).ok(), "one\n");
    engine.eventually("the end, noticed", || engine.about(&id, "{{.State.Status}} {{.State.ExitCode}}") == "exited 5");
    engine.call(&["rm", "job"]).ok();
    // One that goes by itself.
    let id = engine.start(&["--rm"], &["true"]);
    engine.eventually("a container that removes itself", || !engine.call(&["inspect", &id]).status.success());
}

pub fn commands_are_executed_in_a_running_container(engine: &dyn Engine) {
    let id = engine.ready(&["-e", "FROM=run"], "echo ready; exec sleep 300");
    let exec = |options: &[&str], command: &[&str]| {
        let words = [&["exec"], options, &[id.as_str()], command].concat();
        engine.call(&words)
    };
    assert_eq!(exec(&[], &["sh", "-c", "echo $FROM; cat /proc/1/comm"]).ok(), "run\nsleep\n");
    assert_eq!(exec(&[], &["sh", "-c", "exit 66"]).code(), 66);
    let done = exec(&[], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    let script = "id -un; id -g; pwd; echo $HERE";
    let asked = exec(&["-u", "nobody", "-w", "/tmp", "-e", "HERE=set"], &["sh", "-c", script]);
    assert_eq!(asked.ok(), "nobody\n65534\n/tmp\nset\n");
    let mut command = engine.command(&["exec", "-i", &id, "md5sum"]);
    let summed = process::run_with(&mut command, b"to be summed\n", process::LIMIT).ok();
    assert_eq!(summed, "f336ec9da7d23b50873d4261319ccdff  -\n");
    let mut terminal =
        engine.on_terminal(&["exec", "-it", "-u", "nobody", &id, "sh", "-c", "tty; id -un; read x; exit $x"]);
    terminal.wait_for("nobody\n");
    terminal.keys("11\n");
    let (code, shown) = terminal.end();
    assert!(code == 11 && shown.contains("/dev/pts/"), "{code}: {shown}");
    exec(&["-d"], &["sh", "-c", "echo left > /left"]).ok();
    engine.eventually("what runs in the background", || exec(&[], &["cat", "/left"]).stdout == "left\n");
    engine.remove(&id);
}

/// Says that it is ready, and ends in its own way when it is told to.
const WITH_HANDLER: &str = "trap 'echo bye; exit 3' TERM; echo ready; while :; do usleep 20000; done";

/// Hears nothing but what nobody can ignore.
const DEAF: &str = "trap '' TERM; echo ready; while :; do usleep 20000; done";

pub fn stop_gives_the_program_time_for_its_own_end(engine: &dyn Engine) {
    let id = engine.ready(&[], WITH_HANDLER);
    engine.call(&["stop", "-t", "60", &id]).ok();
    assert_eq!(engine.about(&id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3");
    assert!(engine.logs(&id).contains("bye"));
    engine.remove(&id);
    let script = WITH_HANDLER.replace("TERM", "INT");
    let id = engine.ready(&["--stop-signal", "INT"], &script);
    engine.call(&["stop", "-t", "60", &id]).ok();
    assert_eq!(engine.about(&id, "{{.State.ExitCode}}"), "3");
    engine.remove(&id);
}

pub fn stop_and_kill_end_a_program_that_resists(engine: &dyn Engine) {
    let id = engine.ready(&[], DEAF);
    engine.call(&["stop", "-t", "1", &id]).ok();
    assert_eq!(engine.about(&id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
    engine.remove(&id);
    let id = engine.ready(&[], DEAF);
    engine.call(&["kill", &id]).ok();
    assert_eq!(engine.exit_code(&id), "137");
    // What runs no more is not killed, and not taken for running.
    assert!(!engine.call(&["kill", &id]).status.success());
    engine.call(&["rm", &id]).ok();
    let id = engine.ready(&[], DEAF);
    assert!(!engine.call(&["rm", &id]).status.success(), "a running container is not removed unasked");
    engine.remove(&id);
}

pub fn signals_reach_the_program(engine: &dyn Engine) {
    let script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo winch' WINCH; echo ready; \
        while :; do usleep 20000; done";
    let id = engine.ready(&[], script);
    for (signal, word) in [("USR1", "usr1"), ("SIGHUP", "hup"), ("28", "winch")] {
        engine.call(&["kill", "-s", signal, &id]).ok();
        engine.eventually(word, || engine.logs(&id).contains(word));
    }
    engine.remove(&id);
    // A client that stays in front passes on what it gets.
    let mut command = engine.container(&["--name", "front"], &["sh", "-c", WITH_HANDLER]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("a start");
    engine.eventually("a container that is ready", || engine.call(&["logs", "front"]).stdout.contains("ready"));
    process::kill(child.id() as i32, libc::SIGTERM);
    let (status, _) = process::wait(&mut child, Duration::from_secs(20)).expect("an end");
    assert_eq!(status.code(), Some(3));
}

pub fn a_frozen_container_stands_still(engine: &dyn Engine) {
    let id = engine.ready(&[], "echo ready; while :; do echo x; usleep 10000; done");
    if !engine.has_control_groups() {
        assert!(!engine.call(&["pause", &id]).status.success(), "nothing can be frozen here, so it must be told");
        engine.remove(&id);
        return;
    }
    engine.call(&["pause", &id]).ok();
    assert_eq!(engine.about(&id, "{{.State.Status}}"), "paused");
    let size = engine.logs(&id).len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(engine.logs(&id).len(), size, "it wrote while it was frozen");
    engine.call(&["unpause", &id]).ok();
    engine.eventually("it goes on", || engine.logs(&id).len() > size);
    // One that is frozen is removed all the same.
    engine.call(&["pause", &id]).ok();
    engine.remove(&id);
}

pub fn an_init_reaps_and_passes_signals_on(engine: &dyn Engine) {
    // An orphan that ends: process 1 must wait for it.
    let script = "cat /proc/1/comm; (sleep 0.1 & echo $! > /tmp/orphan); until test -s /tmp/orphan && \
        ! test -e /proc/$(cat /tmp/orphan); do usleep 10000; done; echo reaped; exit 4";
    let done = engine.shell(&["--init"], script);
    assert!(done.code() == 4 && done.stdout.ends_with("init\nreaped\n"), "{}", done.report());
    let id = engine.ready(&["--init"], "echo ready; exec sleep 300");
    engine.call(&["stop", "-t", "60", &id]).ok();
    assert_eq!(engine.about(&id, "{{.State.ExitCode}}"), "143", "sleep has no handler, and is not process 1");
    engine.remove(&id);
}

pub fn the_user_and_the_groups_are_those_asked_for(engine: &dyn Engine) {
    let script = "id -u; id -g; grep Groups /proc/self/status | tr -s '\\t ' ' '";
    for (user, told) in [("nobody", "65534\n65534\n"), ("1234:4321", "1234\n4321\n"), ("0:5", "0\n5\n")] {
        let ids = engine.shell(&["--user", user], script).ok();
        assert!(ids.starts_with(told), "{user}: {ids}");
    }
    let ids = engine.shell(&["--user", "1234:4321", "--group-add", "77"], script).ok();
    assert!(ids.contains("77"), "{ids}");
    let capabilities = engine.shell(&["--user", "1234"], "grep -E 'Cap(Eff|Prm|Amb)' /proc/self/status").ok();
    assert_eq!(capabilities.matches("0000000000000000").count(), 3, "{capabilities}");
}

pub fn folders_and_files_of_the_host_are_there(engine: &dyn Engine) {
    let fixture = engine.fixture();
    let data = fixture.make_dir("data", 0o755);
    fixture.write("data/file", "from the host\n");
    let file = fixture.write("single", "one file\n");
    let bind = |options: &str| format!("{}:/mnt/data{options}", data.display());
    let single = format!("{}:/etc/single:ro", file.display());
    let script = "cat /mnt/data/file /etc/single; echo x > /mnt/data/written && echo written";
    let done = engine.shell(&["-v", &bind(""), "-v", &single], script);
    assert_eq!(done.ok(), "from the host\none file\nwritten\n");
    assert_eq!(fs::read_to_string(data.join("written")).expect("a file of the container"), "x\n");
    let done = engine.shell(&["-v", &bind(":ro,z")], "cat /mnt/data/file; echo x > /mnt/data/more");
    assert!(!done.status.success() && done.stderr.contains("Read-only"), "{}", done.report());
    let mount = format!("type=bind,source={},target=/deep/er/still,readonly", data.display());
    assert_eq!(engine.shell(&["--mount", &mount], "cat /deep/er/still/file").ok(), "from the host\n");
    // A volume of the engine's own is kept from one container to the next.
    engine.shell(&["-v", "kept:/kept"], "echo kept > /kept/file").ok();
    assert_eq!(engine.shell(&["-v", "kept:/kept"], "cat /kept/file").ok(), "kept\n");
    engine.call(&["volume", "rm", "kept"]).ok();
}

pub fn a_read_only_root_is_written_nowhere(engine: &dyn Engine) {
    let script = "for place in / /etc /root /home; do echo x > $place/file 2>/dev/null && echo wrote $place; done; \
        echo x > /scratch/file && echo scratch; dd if=/dev/zero of=/scratch/big bs=64k count=32 2>/dev/null || echo full; \
        stat -c %a /scratch";
    let done = engine.shell(&["--read-only", "--tmpfs", "/scratch:size=1m,mode=1750"], script);
    assert_eq!(done.ok(), "scratch\nfull\n1750\n");
    assert_eq!(engine.shell(&[], "echo x > /etc/file && echo wrote").ok(), "wrote\n");
}

/// The bit of a capability in a set as the kernel tells it.
fn has(set: &str, bit: u32) -> bool {
    u64::from_str_radix(set.trim(), 16).unwrap_or_else(|error| panic!("{set}: {error}")) >> bit & 1 == 1
}

pub fn capabilities_are_dropped_and_added(engine: &dyn Engine) {
    let (chown, net_admin, sys_admin, mknod) = (0, 12, 21, 27);
    let script = "grep CapEff /proc/self/status | cut -f2; grep CapBnd /proc/self/status | cut -f2";
    let sets = |options: &[&str]| engine.shell(options, script).ok();
    let usual = sets(&[]);
    for set in usual.lines() {
        assert!(has(set, chown) && !has(set, net_admin) && !has(set, sys_admin), "{usual}");
    }
    let none = sets(&["--cap-drop", "all"]);
    assert_eq!(none, "0000000000000000\n0000000000000000\n");
    let added = sets(&["--cap-drop", "chown", "--cap-add", "net_admin", "--cap-add", "mknod"]);
    for set in added.lines() {
        assert!(!has(set, chown) && has(set, net_admin) && has(set, mknod), "{added}");
    }
    let chown = engine.shell(&["--cap-drop", "chown"], "chown 5:5 /etc/passwd");
    assert!(!chown.status.success() && chown.stderr.contains("not permitted"), "{}", chown.report());
}

pub fn filters_and_no_new_privileges_hold(engine: &dyn Engine) {
    let script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'";
    assert_eq!(engine.shell(&[], script).ok(), "NoNewPrivs:0\nSeccomp:2\n");
    let options = ["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"];
    assert_eq!(engine.shell(&options, script).ok(), "NoNewPrivs:1\nSeccomp:0\n");
    // A filter of the user's own.
    let filter = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let filter = engine.fixture().write("filter.json", filter);
    let option = format!("seccomp={}", filter.display());
    let done = engine.shell(&["--security-opt", &option], "echo x > /file; mkdir /dir");
    assert!(done.stderr.contains("No space left"), "{}", done.report());
}

pub fn limits_of_the_process_are_set(engine: &dyn Engine) {
    let options = ["--ulimit", "nofile=100:200", "--ulimit", "nproc=3000:3000", "--ulimit", "core=0"];
    assert_eq!(engine.shell(&options, "ulimit -n; ulimit -Hn; ulimit -c").ok(), "100\n200\n0\n");
    let id = engine.ready(&options, "echo ready; exec sleep 300");
    assert_eq!(engine.call(&["exec", &id, "sh", "-c", "ulimit -n"]).ok(), "100\n", "a command that joins has them too");
    engine.remove(&id);
    let score = engine.shell(&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj").ok();
    assert_eq!(score, "500\n");
}

pub fn limits_of_control_groups_hold(engine: &dyn Engine) {
    if !engine.has_control_groups() {
        // They are not there, and containers run without them.
        engine.run(&[], &["true"]).ok();
        return;
    }
    let script = "echo ready; i=0; while test $i -lt 40; do sleep 5 & i=$((i+1)); done 2>&1; wait";
    let done = engine.shell(&["--pids-limit", "20"], script);
    assert!((done.stdout.clone() + &done.stderr).contains("fork"), "{}", done.report());
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
        echo ready; exec sleep 300";
    let id = engine.ready(&["--memory", "50m", "--memory-swap", "100m"], script);
    assert!(engine.logs(&id).starts_with("52428800\n"), "{}", engine.logs(&id));
    engine.remove(&id);
    // More than it may have: the kernel ends it.
    let script = "x=$(dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\\0' x); echo ${#x}";
    let id = engine.start(&["--memory", "20m", "--memory-swap", "20m"], &["sh", "-c", script]);
    assert_eq!(engine.exit_code(&id), "137");
    engine.remove(&id);
}

pub fn what_is_written_to_the_input_arrives(engine: &dyn Engine) {
    let input: Vec<u8> = (0..1_000_000u32).map(|number| b'a' + (number % 23) as u8).collect();
    let mut command = engine.container(&["-i"], &["sh", "-c", "cat; echo; echo end"]);
    let done = process::run_with(&mut command, &input, process::LIMIT).ok();
    assert_eq!(done.len(), input.len() + "\nend\n".len());
    assert!(done.as_bytes().starts_with(&input));
    // Without -i nothing arrives, and nobody waits.
    let mut command = engine.container(&[], &["cat"]);
    assert_eq!(process::run_with(&mut command, b"lost", process::LIMIT).ok(), "");
}

pub fn ten_megabytes_come_through_unchanged(engine: &dyn Engine) {
    let script = "yes 0123456789abcde | head -c 10485760";
    let done = engine.shell(&[], script).ok();
    assert!(done == "0123456789abcde\n".repeat(655_360), "{} bytes, or others", done.len());
}

pub fn many_containers_run_at_once(engine: &dyn Engine) {
    let children: Vec<_> = (0..10)
        .map(|number| {
            let script = format!("test $(cat /proc/1/comm) = sh && exit {number}");
            let mut command = engine.container(&[], &["sh", "-c", &script]);
            command.stdin(std::process::Stdio::null()).spawn().expect("a start")
        })
        .collect();
    for (number, mut child) in children.into_iter().enumerate() {
        let (status, _) = process::wait(&mut child, process::LIMIT).expect("an end");
        assert_eq!(status.code(), Some(number as i32));
    }
}

pub fn the_engine_sees_what_runs(engine: &dyn Engine) {
    let id = engine.ready(&["--name", "seen"], "sleep 301 & echo ready; exec sleep 302");
    let top = engine.call(&["top", "seen"]).ok();
    assert!(top.contains("sleep 301") && top.contains("sleep 302"), "{top}");
    let listed = engine.call(&["ps", "--format", "{{.Names}} {{.Status}}"]).ok();
    assert!(listed.contains("seen Up"), "{listed}");
    let pid: i32 = engine.about(&id, "{{.State.Pid}}").parse().expect("a number");
    assert_eq!(process::name(pid), "sleep 302");
    // Killed behind the engine's back: it notices.
    process::kill(pid, libc::SIGKILL);
    assert_eq!(engine.exit_code("seen"), "137");
    engine.call(&["rm", "seen"]).ok();
}

pub fn containers_share_namespaces(engine: &dyn Engine) {
    let id = engine.ready(&["--name", "first", "--ipc=shareable"], "echo ready; exec sleep 303");
    let mut words = vec!["run".to_owned(), "--rm".to_owned()];
    words.extend(engine.options().into_iter().filter(|option| !option.starts_with("--network")));
    let script = "cat /proc/1/comm; for name in net ipc pid; do readlink /proc/self/ns/$name; done";
    let shared =
        ["--network=container:first", "--pid=container:first", "--ipc=container:first", IMAGE, "sh", "-c", script];
    words.extend(shared.map(str::to_owned));
    let theirs = engine.call(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    let ours = engine.call(&["exec", &id, "sh", "-c", script]).ok();
    assert!(ours.starts_with("sleep\n"), "{ours}");
    assert_eq!(theirs, ours);
    engine.remove("first");
    // Those of the host; podman binds this folder for those of the third kind.
    let ipc = std::path::Path::new("/dev/mqueue").exists().then_some(("--ipc=host", "ipc"));
    for (option, name) in [("--uts=host", "uts"), ("--pid=host", "pid")].into_iter().chain(ipc) {
        let inside = engine.run(&[option], &["readlink", &format!("/proc/self/ns/{name}")]).ok();
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).expect("a link");
        assert_eq!(inside.trim_end(), outside.to_string_lossy(), "{option}");
    }
    let without = engine.options().into_iter().filter(|option| !option.starts_with("--network"));
    let words: Vec<String> = ["run".to_owned(), "--rm".to_owned(), "--network=host".to_owned()]
        .into_iter()
        .chain(without)
        .chain([IMAGE, "readlink", "/proc/self/ns/net"].map(str::to_owned))
        .collect();
    let inside = engine.call(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    assert_eq!(inside.trim_end(), fs::read_link("/proc/self/ns/net").expect("a link").to_string_lossy());
}

pub fn names_directories_and_variables_are_set(engine: &dyn Engine) {
    let options = ["--hostname", "there", "-w", "/var", "-e", "GIVEN=a b", "--entrypoint", "/bin/sh"];
    let done = engine.run(&options, &["-c", "hostname; pwd; echo \"$GIVEN\"; echo $(cat /etc/hostname); echo $HOME"]);
    assert_eq!(done.ok(), "there\n/var\na b\nthere\n/root\n");
}

pub fn devices_and_kernel_parameters_are_set(engine: &dyn Engine) {
    let script = "for name in null zero full random urandom tty; do test -c /dev/$name || echo no $name; done; \
        test -L /dev/fd && test -L /dev/stdin && test -e /dev/ptmx && echo links; \
        echo x > /dev/given && echo given; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; \
        cat /proc/sys/net/ipv4/ip_forward; echo x > /proc/sys/kernel/hostname || echo closed";
    let options = ["--device", "/dev/null:/dev/given", "--shm-size", "3m", "--sysctl", "net.ipv4.ip_forward=1"];
    let done = engine.shell(&options, script);
    assert_eq!(done.stdout, "links\ngiven\n3072\n1\nclosed\n", "{}", done.report());
    // What the engine hides is hidden.
    let script =
        "cat /proc/kcore /proc/timer_list 2>/dev/null | head -c 1 | wc -c; ls /proc/scsi /sys/firmware 2>/dev/null";
    let hidden = engine.shell(&[], script);
    assert!(hidden.stdout.starts_with("0\n") && hidden.stdout.matches('\n').count() <= 4, "{}", hidden.report());
}

pub fn a_container_is_stopped_started_and_attached_to(engine: &dyn Engine) {
    let words =
        engine.words(&["create", "-i"], &["--name", "again"], &["sh", "-c", "read x; echo \"got $x\"; exit $x"]);
    engine.call(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    assert_eq!(engine.about("again", "{{.State.Status}}"), "created");
    for code in [21, 22] {
        let mut command = engine.command(&["start", "-a", "-i", "again"]);
        let done = process::run_with(&mut command, format!("{code}\n").as_bytes(), process::LIMIT);
        assert_eq!((done.code(), done.stdout.as_str()), (code, format!("got {code}\n").as_str()), "{}", done.report());
    }
    engine.remove("again");
    let id = engine.ready(&[], WITH_HANDLER);
    let before = engine.about(&id, "{{.State.Pid}}");
    engine.call(&["restart", "-t", "60", &id]).ok();
    assert_ne!(engine.about(&id, "{{.State.Pid}}"), before);
    assert_eq!(engine.about(&id, "{{.State.Status}}"), "running");
    // Somebody looks on from the moment of attaching, and sees the end.
    let mut command = engine.command(&["attach", "--no-stdin", &id]);
    let child =
        command.stdout(std::process::Stdio::piped()).stdin(std::process::Stdio::null()).spawn().expect("a start");
    engine.eventually("a second start", || engine.logs(&id).matches("ready").count() == 2);
    std::thread::sleep(Duration::from_millis(300));
    engine.call(&["stop", "-t", "60", &id]).ok();
    let done = child.wait_with_output().expect("an end");
    assert!(String::from_utf8_lossy(&done.stdout).contains("bye"));
    engine.remove(&id);
}

pub fn files_are_copied_in_and_out(engine: &dyn Engine) {
    let id = engine.ready(&[], "echo ready; exec sleep 300");
    let file = engine.fixture().write("going-in", "copied\n");
    engine.call(&["cp", &file.display().to_string(), &format!("{id}:/tmp/there")]).ok();
    assert_eq!(engine.call(&["exec", &id, "cat", "/tmp/there"]).ok(), "copied\n");
    let back = engine.fixture().path("work/back");
    engine.call(&["cp", &format!("{id}:/tmp/there"), &back.display().to_string()]).ok();
    assert_eq!(fs::read_to_string(back).expect("a copy"), "copied\n");
    engine.remove(&id);
}

/// What `build` of each engine takes here.
fn build(engine: &dyn Engine, file: &str) -> process::Output {
    let dir = engine.fixture().make_dir("context", 0o755);
    engine.fixture().write("context/Dockerfile", file);
    engine.fixture().write("context/added", "added\n");
    engine.call(&["build", "--network=none", "-t", "built", &dir.display().to_string()])
}

pub fn an_image_is_built_by_run_steps(engine: &dyn Engine) {
    let file = "FROM small\nCOPY added /added\nENV STEP=one\nRUN echo $STEP > /one && id -u >> /one\n\
        RUN [\"/bin/sh\", \"-c\", \"cat /added >> /one\"]\nWORKDIR /tmp\nUSER nobody\nRUN id -un > /tmp/two; pwd >> /tmp/two\n\
        CMD cat /one /tmp/two\n";
    build(engine, file).ok();
    let mut words = engine.options();
    words.insert(0, "run".to_owned());
    words.extend(["--rm", "built"].map(str::to_owned));
    let done = engine.call(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok();
    assert_eq!(done, "one\n0\nadded\nnobody\n/tmp\n");
    let failed = build(engine, "FROM small\nRUN echo said >&2; exit 9\n");
    assert!(!failed.status.success(), "{}", failed.report());
    let told = failed.stdout.clone() + &failed.stderr;
    assert!(told.contains("said") && told.contains('9'), "{}", failed.report());
}

pub fn without_a_pid_namespace_all_processes_end(engine: &dyn Engine) {
    if !engine.has_control_groups() {
        // Only a control group knows them all: an ordinary user gets a namespace of their own.
        return;
    }
    let id = engine.ready(&["--pid=host"], "sleep 304 & sleep 305 & echo ready; exec sleep 306");
    engine.call(&["stop", "-t", "1", &id]).ok();
    // The runner and the list of what is left see those that still run.
    engine.remove(&id);
    let id = engine.ready(&["--pid=host"], "sleep 304 & echo ready; sleep 0.2; exit 8");
    assert_eq!(engine.exit_code(&id), "8");
    engine.remove(&id);
}
