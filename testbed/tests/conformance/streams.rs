//! runtime.md and runtime-linux.md: standard streams, descriptors, signals.

#![allow(unsafe_code)] // dup2 between fork and exec.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use testbed::process;
use testbed::process::Guard;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;
use crate::world::until_within;

section!("streams", "Streams, descriptors and signals (runtime.md, runtime-linux.md)";
    [] "standard streams": the_input_arrives, output_and_errors_are_apart, much_output_arrives_whole,
        a_closed_input_is_no_error, the_streams_of_create_are_those_of_the_program, start_waits_for_nobody;
    [] "descriptors": no_descriptor_leaks_into_the_container, a_descriptor_of_the_caller_is_not_passed;
    [] "--preserve-fds": a_descriptor_is_preserved, no_more_than_asked_for_is_preserved,
        descriptors_are_preserved_over_create;
    [] "LISTEN_FDS": sockets_of_the_caller_are_passed;
    [] "run signals": run_passes_signals_on, run_ends_with_the_code_after_a_signal,
        what_run_started_ends_when_run_is_killed;
    [] "environment": nothing_of_the_callers_environment_arrives;
    [] "keyring": the_container_has_a_keyring_of_its_own_or_is_told_not_to;
);

fn the_input_arrives(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/tr", "a-z", "A-Z"]).write_spec();
    let output = process::run_with(&mut world.verb(["run", world.id.as_str()]), b"some words\n", process::LIMIT);
    assert_eq!(output.ok(), "SOME WORDS\n");
}

fn output_and_errors_are_apart(runtime: Runtime) {
    let mut world = World::user(runtime);
    let output = world.shell("echo out; echo err >&2").run();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
}

fn much_output_arrives_whole(runtime: Runtime) {
    let mut world = World::user(runtime);
    let output = world.shell("head -c 3000000 /dev/zero | tr '\\0' x").run();
    assert_eq!(output.ok().len(), 3_000_000);
}

fn a_closed_input_is_no_error(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("cat; echo end").write_spec();
    let mut command = world.verb(["run", world.id.as_str()]);
    command.stdin(Stdio::null());
    let output = command.output().expect("a runtime");
    assert_eq!(output.stdout, b"end\n");
}

fn the_streams_of_create_are_those_of_the_program(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo out; echo err >&2").create().start().stopped();
    assert_eq!((world.read("out").as_str(), world.read("err").as_str()), ("out\n", "err\n"));
    world.end();
}

fn start_waits_for_nobody(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("sleep 1000").create();
    // run() reads to the end of what start holds open: it would wait for the program if that had start's streams.
    world.call(&["start", &world.id]).ok();
    assert_eq!(world.status(), "running");
    world.end();
}

/// Gives the command one descriptor more.
pub fn with_descriptor(command: &mut Command, file: &std::fs::File, number: i32) {
    // A number that none of those is that it is to get in the child. It lives as long as the test.
    // SAFETY: fcntl with these arguments takes numbers only.
    let own = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
    // SAFETY: dup2 takes numbers only, and is safe to call between fork and exec.
    unsafe {
        command
            .pre_exec(move || if libc::dup2(own, number) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
}

/// Runs a container that sleeps, with these options and descriptors of the caller, and lists what it has.
#[track_caller]
fn descriptors(runtime: Runtime, options: &[&str], given: &[i32]) -> Vec<String> {
    let mut world = World::user(runtime);
    world.write("host/file", "of the host");
    let file = std::fs::File::open(world.path("host/file")).expect("a file");
    world.args(&["/bin/sleep", "1000"]).write_spec();
    let mut command = world.verb([&["run", "--detach"], options, &[world.id.as_str()]].concat());
    for number in given {
        with_descriptor(&mut command, &file, *number);
    }
    assert_eq!(world.detached(&mut command), 0, "{}", world.read("err"));
    let pid = world.pid();
    until("it sleeps", || process::name(pid) == "/bin/sleep 1000");
    let list = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the kernel tells");
    let mut names: Vec<String> = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    world.end();
    names
}

fn no_descriptor_leaks_into_the_container(runtime: Runtime) {
    assert_eq!(descriptors(runtime, &[], &[]), ["0", "1", "2"]);
}

fn a_descriptor_of_the_caller_is_not_passed(runtime: Runtime) {
    assert_eq!(descriptors(runtime, &[], &[3, 9]), ["0", "1", "2"]);
}

fn a_descriptor_is_preserved(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("host/file", "preserved");
    let file = std::fs::File::open(world.path("host/file")).expect("a file");
    world.shell("cat <&3").write_spec();
    let mut command = world.verb(["run", "--preserve-fds", "1", world.id.as_str()]);
    with_descriptor(&mut command, &file, 3);
    assert_eq!(process::run(&mut command).ok(), "preserved");
}

fn no_more_than_asked_for_is_preserved(runtime: Runtime) {
    assert_eq!(descriptors(runtime, &["--preserve-fds", "2"], &[3, 4, 5]), ["0", "1", "2", "3", "4"]);
}

fn descriptors_are_preserved_over_create(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("host/a", "first ");
    world.write("host/b", "second");
    let files = ["a", "b"].map(|name| std::fs::File::open(world.path(&format!("host/{name}"))).expect("a file"));
    world.shell("cat <&3; cat <&4").write_spec();
    let mut command = world.verb(["create", "--preserve-fds=2", world.id.as_str()]);
    with_descriptor(&mut command, &files[0], 3);
    with_descriptor(&mut command, &files[1], 4);
    assert_eq!(world.detached(&mut command), 0, "{}", world.read("err"));
    world.start().stopped();
    assert_eq!(world.read("out"), "first second");
    world.end();
}

fn sockets_of_the_caller_are_passed(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("host/file", "a socket");
    let file = std::fs::File::open(world.path("host/file")).expect("a file");
    world.shell("echo $LISTEN_FDS; cat <&3").write_spec();
    // LISTEN_PID must be the runtime's own: a shell in between knows it.
    let line = process::line(&world.verb(["run", world.id.as_str()]));
    let mut shell = world.user.command("/bin/sh");
    shell.args(["-c", &format!("LISTEN_FDS=1 LISTEN_PID=$$ exec {line}")]).current_dir(world.path("bundle"));
    shell.env("XDG_RUNTIME_DIR", world.path("run"));
    with_descriptor(&mut shell, &file, 3);
    assert_eq!(process::run(&mut shell).ok(), "1\na socket");
}

/// Runs the container in the foreground, with its output in the file `out`.
fn foreground(world: &World) -> Guard {
    world.write_spec();
    let mut command = world.verb(["run", world.id.as_str()]);
    command.stdin(Stdio::null()).stdout(world.append("out")).stderr(world.append("err"));
    Guard(command.spawn().expect("a runtime"))
}

fn run_passes_signals_on(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell(
        "for s in HUP INT USR1 USR2 TERM; do trap \"echo $s\" $s; done; echo ready; while true; do sleep 0.02; done",
    );
    let mut run = foreground(&world);
    world.wrote("ready");
    let signals = [("HUP", libc::SIGHUP), ("INT", libc::SIGINT), ("USR1", libc::SIGUSR1), ("USR2", libc::SIGUSR2)];
    for (name, signal) in signals.into_iter().chain([("TERM", libc::SIGTERM)]) {
        process::kill(run.0.id() as i32, signal);
        world.wrote(name);
    }
    // It removes the container itself.
    world.call(&["kill", &world.id, "KILL"]).ok();
    process::wait(&mut run.0, process::LIMIT).expect("it ends");
}

fn run_ends_with_the_code_after_a_signal(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("trap 'exit 5' TERM; echo ready; while true; do sleep 0.02; done");
    let mut run = foreground(&world);
    world.wrote("ready");
    process::kill(run.0.id() as i32, libc::SIGTERM);
    let (status, _) = process::wait(&mut run.0, process::LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(5));
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn what_run_started_ends_when_run_is_killed(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo ready; sleep 1000");
    let mut run = foreground(&world);
    world.wrote("ready");
    process::kill(run.0.id() as i32, libc::SIGKILL);
    process::wait(&mut run.0, process::LIMIT).expect("it ends");
    until_within(Duration::from_secs(3), "all is gone", || process::descendants(std::process::id() as i32).is_empty());
    assert_eq!(world.says("echo the id is free"), "the id is free");
}

fn nothing_of_the_callers_environment_arrives(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/env"]).write_spec();
    let mut command = world.verb(["run", world.id.as_str()]);
    command.env("OF_THE_CALLER", "secret");
    let text = process::run(&mut command).ok();
    assert!(!text.contains("OF_THE_CALLER"), "{text}");
}

fn the_container_has_a_keyring_of_its_own_or_is_told_not_to(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here").write_spec();
    for options in [&[][..], &["--no-new-keyring"]] {
        let words = [&["run"], options, &[world.id.as_str()]].concat();
        assert_eq!(world.call(&words).ok(), "here\n");
    }
}
