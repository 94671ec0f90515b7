//! Signals, terminals and ends, as with podman.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::recipes::Recipe;

use crate::peers::Podman;

const SCRIPT: Need = Need::Program("script", "bsdutils");

chapter!("signals",
    [REGISTRY, Need::Namespaces]:
        each_deadly_signal_is_told_by_the_exit_code,
        a_signal_is_passed_on_to_a_command_that_handles_it,
        a_killed_container_leaves_no_process,
        an_interrupted_pull_ends_at_once_and_leaves_nothing;
    [REGISTRY, Need::Namespaces, SCRIPT]:
        a_terminal_is_there_with_pty_and_without,
        a_contained_commands_terminal_has_a_name_inside,
        ctrl_c_on_a_terminal_ends_the_command;
    [REGISTRY, Need::Namespaces, Need::ControlGroups, PODMAN, SCRIPT]:
        ends_are_the_same_as_with_podman,
        a_terminal_is_the_same_as_with_podman;
);

fn with_small() -> (Fixture, String) {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    fixture.berth(&["pull", &image]).ok();
    (fixture, image)
}

/// Starts a command and waits until it says that it is ready.
fn ready(command: &mut std::process::Command) -> Child {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a started command");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    output.read_line(&mut line).expect("a line");
    assert_eq!(line.trim(), "ready");
    child.stdout = Some(output.into_inner());
    child
}

fn end(mut child: Child, signal: i32) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    process::kill(child.id() as i32, signal);
    match process::wait(&mut child, Duration::from_secs(10)) {
        Ok((status, _)) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        // Still there: no exit code is this.
        Err(_) => -1,
    }
}

const WAITING: &str = "echo ready; exec sleep 300";

fn each_deadly_signal_is_told_by_the_exit_code() {
    let (fixture, image) = with_small();
    for options in [&[][..], &["--init"], &["--pid", "--init"], &["--remap-root"]] {
        // Not SIGQUIT: busybox's shell, here or outside, loses one that comes while it executes another program.
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGKILL, libc::SIGUSR1] {
            let line = [&["run"], options, &[&image, "sh", "-c", WAITING]].concat();
            let child = ready(&mut fixture.berth_command(&line));
            assert_eq!(end(child, signal), 128 + signal, "{options:?}, signal {signal}");
        }
    }
}

fn a_signal_is_passed_on_to_a_command_that_handles_it() {
    let (fixture, image) = with_small();
    let script = "trap 'exit 42' TERM; trap 'exit 43' USR1; echo ready; while :; do sleep 1 & wait $!; done";
    for options in [&[][..], &["--pid"], &["--init"], &["--pid", "--init"]] {
        for (signal, code) in [(libc::SIGTERM, 42), (libc::SIGUSR1, 43)] {
            let line = [&["run"], options, &[&image, "sh", "-c", script]].concat();
            let child = ready(&mut fixture.berth_command(&line));
            assert_eq!(end(child, signal), code, "{options:?}, signal {signal}");
            process::end_all(&process::descendants(std::process::id() as i32));
        }
    }
}

fn a_killed_container_leaves_no_process() {
    let (fixture, image) = with_small();
    for options in [&["--pid"][..], &["--pid", "--init"]] {
        let line = [&["run"], options, &[&image, "sh", "-c", "sleep 300 & echo ready; sleep 300"]].concat();
        let child = ready(&mut fixture.berth_command(&line));
        assert_eq!(end(child, libc::SIGKILL), 128 + libc::SIGKILL);
        // The runner fails the test where anything is still there after a moment.
    }
}

fn an_interrupted_pull_ends_at_once_and_leaves_nothing() {
    use testbed::fault::Fault;
    use testbed::fault::FaultyRegistry;
    use testbed::fault::Rule;
    let fixture = Fixture::new();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let stall = Rule { target: "/blobs/".to_owned(), times: 99, fault: Fault::Stall(100_000) };
        let registry = FaultyRegistry::start(&fixture.images(), None, vec![stall]).expect("a server");
        let image = registry.reference("small");
        let mut child = fixture.berth_command(&["pull", &image]).stdin(Stdio::null()).spawn().expect("a start");
        while registry.gets("/blobs/").is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        process::kill(child.id() as i32, signal);
        let (status, _) = process::wait(&mut child, Duration::from_secs(10)).expect("an end at once");
        assert!(!status.success());
    }
    assert_eq!(fixture.image_names(), Vec::<String>::new());
    let registry = fixture.registry();
    assert_eq!(fixture.berth(&["run", &registry.reference("small"), "echo", "fine"]).ok(), "fine\n");
    fixture.berth(&["verify"]).ok();
}

/// Runs a command on a terminal of its own, where nobody types; gives what the terminal showed.
fn on_terminal(fixture: &Fixture, line: &str) -> (i32, String) {
    on_terminal_after(fixture, line, "\0 is shown by nobody", 0)
}

const ABOUT_TERMINAL: &str = "test -t 0 && test -t 1 && test -t 2 && echo terminal || echo none";

fn a_contained_commands_terminal_has_a_name_inside() {
    let (fixture, image) = with_small();
    let name = fixture.berth(&["run", "--contained", "--pty", &image, "tty"]).ok();
    assert_eq!(name.trim(), "/dev/pts/0");
}

fn a_terminal_is_there_with_pty_and_without() {
    let (fixture, image) = with_small();
    let outside = fixture.berth(&["run", &image, "sh", "-c", ABOUT_TERMINAL]).ok();
    assert_eq!(outside, "none\n");
    // Asked for where berth itself has none.
    let asked = fixture.berth(&["run", "--pty", &image, "sh", "-c", ABOUT_TERMINAL]).ok();
    assert_eq!(asked.replace('\r', ""), "terminal\n");
    // berth's own, passed through or made anew.
    for option in ["", "--pty"] {
        let line = process::line(&fixture.berth_command(&["run"]));
        let (code, shown) = on_terminal(&fixture, &format!("{line} {option} {image} sh -c '{ABOUT_TERMINAL}; exit 9'"));
        assert!(shown.contains("terminal"), "{option}: {shown}");
        assert_eq!(code, 9, "{option}: {shown}");
    }
}

fn ctrl_c_on_a_terminal_ends_the_command() {
    let (fixture, image) = with_small();
    let line = process::line(&fixture.berth_command(&["run"]));
    for option in ["", "--pty", "--pid", "--pid --init --pty"] {
        // `exec`, as a shell between would tell of its own interrupt.
        let command = format!(
            "exec {line} {option} {image} sh -c 'trap \"echo interrupted; exit 5\" INT; echo x; while :; do sleep 1; done'"
        );
        // A loop, as a shell tells nothing of a signal that comes while it starts one long command.
        let (code, shown) = on_terminal_after(&fixture, &command, "x", 3);
        assert_eq!(code, 5, "{option}: {shown}");
        assert!(shown.contains("interrupted"), "{option}: {shown}");
    }
}

/// Runs a command on a terminal and types one key when it has shown `mark`. The keyboard stays there to the end: some
/// programs end with it.
fn on_terminal_after(fixture: &Fixture, line: &str, mark: &str, key: u8) -> (i32, String) {
    use std::io::Read;
    use std::io::Write;
    let mut command = fixture.command("script", &["-qefc", line, "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a started script");
    let mut keyboard = child.stdin.take().expect("a pipe");
    let mut screen = child.stdout.take().expect("a pipe");
    let mark = mark.to_owned();
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        let mut typed = false;
        let mut buffer = [0u8; 1024];
        while let Ok(length @ 1..) = screen.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..length]);
            if !typed && String::from_utf8_lossy(&shown).contains(&mark) {
                let _ = keyboard.write_all(&[key]);
                let _ = keyboard.flush();
                typed = true;
            }
        }
        String::from_utf8_lossy(&shown).replace('\r', "")
    });
    // One that does not end has no code of its own: what it showed says more.
    let code = process::wait(&mut child, Duration::from_secs(20)).ok().and_then(|(status, _)| status.code());
    (code.unwrap_or(-1), reader.join().expect("the reader does not panic"))
}

fn ends_are_the_same_as_with_podman() {
    let (fixture, image) = with_small();
    let podman = Podman::new(&fixture);
    let id = podman.pull(Recipe::Small);
    for words in [
        &["true"][..],
        &["false"],
        &["sh", "-c", "exit 255"],
        &["sh", "-c", "kill -9 $$"],
        &["sh", "-c", "kill -15 $$; sleep 9"],
        &["no-such-command"],
        &["/etc/passwd"],
        &["sh", "-c", "echo out; echo err >&2; exit 3"],
    ] {
        // podman's command is process 1, which no signal of its own kills: so is ours with a pid namespace.
        let theirs = process::run(&mut podman.container(&[&[id.as_str()], words].concat()));
        let ours = fixture.berth(&[&["run", "--pid", &image], words].concat());
        assert_eq!(ours.code(), theirs.code(), "{words:?}\nours: {}\ntheirs: {}", ours.stderr, theirs.stderr);
        assert_eq!(ours.stdout, theirs.stdout, "{words:?}");
    }
}

fn a_terminal_is_the_same_as_with_podman() {
    let (fixture, image) = with_small();
    let podman = Podman::new(&fixture);
    let id = podman.pull(Recipe::Small);
    let script = "stty -a | tail -n +2; test -c $(tty) && echo named; echo done; exit 4";
    let ours = process::line(&fixture.berth_command(&["run", "--pty", &image]));
    let theirs = process::line(&podman.container(&["-it", &id]));
    let ours = on_terminal(&fixture, &format!("{ours} sh -c '{script}'"));
    let theirs = on_terminal(&fixture, &format!("{theirs} sh -c '{script}'"));
    // What podman's own helpers say of the pipe that `script` reads is no part of the session.
    let session = |(code, shown): (i32, String)| {
        let lines = shown.lines().filter(|line| !line.contains("Inappropriate ioctl"));
        (code, lines.map(|line| line.trim_start_matches("^@").to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(session(ours), session(theirs));
}
