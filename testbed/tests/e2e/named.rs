//! Containers with a name keep their changes, and others join them.

use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process;
use testbed::process::Guard;

chapter!("named",
    [REGISTRY, Need::Namespaces]:
        a_named_container_keeps_its_changes,
        a_temporary_name_goes_with_the_container,
        exec_joins_a_running_container,
        a_second_run_of_a_name_joins_the_first,
        running_containers_are_listed,
        stop_and_kill_end_a_container,
        a_removed_container_is_gone,
        a_running_container_is_removed_only_by_force;
);

fn with_small() -> (Fixture, String) {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    fixture.berth(&["pull", &image]).ok();
    (fixture, image)
}

/// Starts a container in the background and waits until a file that it makes is there.
fn start(fixture: &Fixture, options: &[&str], image: &str) -> Guard {
    let mark = fixture.path("work").join("started");
    let _ = std::fs::remove_file(&mark);
    let script = "echo inside > /state; touch started; exec sleep 300";
    let line = [&["run"], options, &[image, "sh", "-c", script]].concat();
    let mut command = fixture.berth_command(&line);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a started container");
    let guard = Guard(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !mark.exists() {
        assert!(Instant::now() < deadline, "the container did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    guard
}

fn ends(mut guard: Guard) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let (status, _) = process::wait(&mut guard.0, Duration::from_secs(30)).expect("an end");
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn a_named_container_keeps_its_changes() {
    let (fixture, image) = with_small();
    fixture.berth(&["run", "--name", "box", &image, "sh", "-c", "echo kept > /new; rm /etc/group"]).ok();
    let script = "cat /new; test -e /etc/group || echo gone";
    assert_eq!(fixture.berth(&["run", "--name", "box", &image, "sh", "-c", script]).ok(), "kept\ngone\n");
    // Another name begins with the image as it is.
    fixture.berth(&["run", "--name", "other", &image, "sh", "-c", "! test -e /new && test -e /etc/group"]).ok();
}

fn a_temporary_name_goes_with_the_container() {
    let (fixture, image) = with_small();
    fixture.berth(&["run", "--rm", "--name", "brief", &image, "sh", "-c", "echo x > /new"]).ok();
    let listed = fixture.berth(&["ps"]).ok();
    assert!(!listed.contains("brief"), "{listed}");
    fixture.berth(&["run", "--rm", "--name", "brief", &image, "sh", "-c", "! test -e /new"]).ok();
}

fn exec_joins_a_running_container() {
    let (fixture, image) = with_small();
    let container = start(&fixture, &["--name", "box"], &image);
    assert_eq!(fixture.berth(&["exec", "box", "cat", "/state"]).ok(), "inside\n");
    let told = fixture.berth(&["exec", "-e", "A=b", "-w", "/etc", "box", "sh", "-c", "echo $A; pwd"]).ok();
    assert_eq!(told, "b\n/etc\n");
    assert_eq!(fixture.berth(&["exec", "box", "sh", "-c", "exit 17"]).code(), 17);
    fixture.berth(&["exec", "box", "no-such-command"]).fails(127);
    let pid = container.0.id().to_string();
    assert_eq!(fixture.berth(&["exec", &pid, "cat", "/state"]).ok(), "inside\n");
    fixture.berth(&["exec", "nobody-has-this-name", "true"]).fails(125);
    drop(container);
}

fn a_second_run_of_a_name_joins_the_first() {
    let (fixture, image) = with_small();
    let container = start(&fixture, &["--name", "box"], &image);
    assert_eq!(fixture.berth(&["run", "--name", "box", &image, "cat", "/state"]).ok(), "inside\n");
    drop(container);
}

fn running_containers_are_listed() {
    let (fixture, image) = with_small();
    let container = start(&fixture, &["--name", "box"], &image);
    let listed = fixture.berth(&["ps"]).ok();
    assert!(listed.lines().any(|line| line.contains("box")), "{listed}");
    let json: serde_json::Value = serde_json::from_str(&fixture.berth(&["--json", "ps"]).ok()).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{json}");
    drop(container);
}

fn stop_and_kill_end_a_container() {
    let (fixture, image) = with_small();
    let container = start(&fixture, &["--name", "box"], &image);
    fixture.berth(&["stop", "-t", "5", "box"]).ok();
    assert_eq!(ends(container), 128 + libc::SIGTERM);
    let container = start(&fixture, &["--name", "box"], &image);
    fixture.berth(&["kill", "-s", "USR1", "box"]).ok();
    assert_eq!(ends(container), 128 + libc::SIGUSR1);
    // The first process of a pid namespace gets only the signals that it handles: stop goes on to SIGKILL.
    let container = start(&fixture, &["--name", "box", "--pid"], &image);
    fixture.berth(&["stop", "-t", "1", "box"]).ok();
    assert_eq!(ends(container), 128 + libc::SIGKILL);
}

fn a_removed_container_is_gone() {
    let (fixture, image) = with_small();
    let script = "echo kept > /new; mkdir /closed; touch /closed/file; chmod 000 /closed";
    fixture.berth(&["run", "--name", "box", &image, "sh", "-c", script]).ok();
    fixture.berth(&["rm", "box"]).ok();
    fixture.berth(&["run", "--name", "box", &image, "sh", "-c", "! test -e /new"]).ok();
    fixture.berth(&["rm", "never-was"]).fails(125);
}

fn a_running_container_is_removed_only_by_force() {
    let (fixture, image) = with_small();
    let container = start(&fixture, &["--name", "box"], &image);
    let told = fixture.berth(&["rm", "box"]).fails(125);
    assert!(told.contains("box"), "{told}");
    fixture.berth(&["rm", "-f", "box"]).ok();
    assert_eq!(ends(container), 128 + libc::SIGKILL);
    assert!(!fixture.berth(&["ps"]).ok().contains("box"));
}
