//! Containers are started, watched, spoken to, joined, stopped and built.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use testbed::engine::Engine;
use testbed::process;
use testbed::terminal::SIZE;

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
    let mut terminal = engine.on_terminal(&words);
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
    let mut child = command.stdout(Stdio::null()).spawn().expect("a start");
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
            command.stdin(Stdio::null()).spawn().expect("a start")
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

pub fn a_container_is_stopped_started_and_attached_to(engine: &dyn Engine) {
    let words =
        engine.words(&["create", "-i"], &["--name", "again"], &["sh", "-c", "read x; echo \"got $x\"; exit $x"]);
    engine.call(&words).ok();
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
    engine.remove(&id);
    // Somebody looks on from the moment of attaching, and sees the end.
    let id = engine.ready(&[], "trap 'echo bye; exit 3' TERM; echo ready; while :; do echo x; usleep 20000; done");
    let mut command = engine.command(&["attach", "--no-stdin", &id]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("a start");
    let mut screen = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut shown = String::new();
    screen.read_line(&mut shown).expect("a line");
    engine.call(&["stop", "-t", "60", &id]).ok();
    screen.read_to_string(&mut shown).expect("the rest");
    assert!(shown.trim_end().ends_with("bye"), "{shown}");
    process::wait(&mut child, Duration::from_secs(20)).expect("an end");
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
    let done = engine.call(&words).ok();
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
