//! Named containers, and what joins them.

mod common;

use std::io::Read as _;
use std::process::{Child, Stdio};

use common::{Person, Session, spawn};

/// A container of this name that sleeps until it is ended; its command has begun when this returns.
fn sleeper(person: &Person, options: &str) -> Child {
    let mut command = person.script_command(options, "echo begun; exec sleep 1000");
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut begun = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    child
}

fn exec(person: &Person, options: &str, container: &str, script: &str) -> Session {
    let mut words = vec!["exec"];
    words.extend(options.split_whitespace());
    words.extend([container, "sh", "-c", script]);
    person.finish(person.command(&words))
}

#[test]
fn a_named_container_keeps_its_changes_until_it_is_removed() {
    let person = Person::new();
    person.script("--name one", "echo kept > /kept").prints("");
    person.script("--name one", "cat /kept").prints("kept\n");
    person.script("", "test -e /kept || echo gone").prints("gone\n");
    person.berth("rm one").prints("one\n");
    person.script("--name one", "test -e /kept || echo gone").prints("gone\n");
}

#[test]
fn named_containers_are_kept_where_the_variable_says() {
    let person = Person::new();
    for script in ["echo kept > /kept", "cat /kept"] {
        let mut command = person.script_command("--name one", script);
        command.env("BERTH_CONTAINERS", "here");
        let session = person.finish(command);
        assert_eq!((session.code, session.stderr.as_str()), (0, ""), "{session:?}");
    }
    assert!(person.path("work/here/one/upper/kept").exists(), "a relative place starts at the current directory");
}

#[test]
fn with_rm_nothing_is_left() {
    let person = Person::new();
    person.script("--name one --rm", "touch /f; exit 4").is(4, "", "");
    person.berth("ps --quiet").prints("");
}

#[test]
fn a_running_container_is_joined_by_exec_by_run_and_by_process_id() {
    let person = Person::new();
    let child = sleeper(&person, "--name one -e A=1");
    exec(&person, "", "one", "touch /joined; echo $A; pwd").prints("1\n$DIR/work\n");
    exec(&person, "-e A=2 -w /bin", "one", "echo $A; pwd").prints("2\n/bin\n");
    exec(&person, "", &child.id().to_string(), "test -e /joined && pwd").prints("$DIR/work\n");
    person.script("--name one", "test -e /joined && echo joined").prints("joined\n");
    exec(&person, "", "one", "exit 9").is(9, "", "");
    let session = person.berth("exec one no-such-program");
    assert_eq!(session.code, 127, "{session:?}");
    person.berth("stop one").prints("one\n");
    assert_eq!(person.session(child).code, 143);
    let session = exec(&person, "", "one", "true");
    assert_eq!(session.code, 125);
    assert!(session.stderr.starts_with("berth: container `one` is not running\n"), "{session:?}");
}

#[test]
fn what_runs_is_shown_and_is_not_removed_unless_forced() {
    let person = Person::new();
    let child = sleeper(&person, "--name one");
    let rows: serde_json::Value = serde_json::from_str(&person.berth("ps --json").stdout).unwrap();
    assert_eq!(rows[0]["name"], "one");
    assert_eq!(rows[0]["running"], true);
    assert_eq!(rows[0]["pids"], serde_json::json!([child.id()]));
    let session = person.berth("rm one");
    assert!(session.code == 125 && session.stderr.contains("is running"), "{session:?}");
    person.berth("rm --force one").prints("one\n");
    assert_eq!(person.session(child).code, 137);
    person.berth("ps --quiet").prints("");
}

#[test]
fn signals_reach_the_command() {
    let person = Person::new();
    for (signal, code) in [("INT", 130), ("SIGUSR1", 138), ("9", 137)] {
        let child = sleeper(&person, "--name one");
        person.berth(&format!("kill --signal {signal} one")).prints("one\n");
        assert_eq!(person.session(child).code, code, "{signal}");
    }
    person.berth("kill one").fails(125, "container `one` is not running", "");
    let session = person.berth("kill -s NONSENSE one");
    session.fails(125, "`NONSENSE` is no signal: write a name such as TERM, or a number", "");
}

#[test]
fn a_command_that_ignores_the_polite_signal_is_ended_all_the_same() {
    let person = Person::new();
    let mut command = person.script_command("--name one", "trap '' TERM; echo begun; while :; do sleep 1000; done");
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    person.berth("stop --time 0 one").prints("one\n");
    assert_eq!(person.session(child).code, 137);
}

#[test]
fn a_container_stays_with_its_image() {
    let person = Person::new();
    person.script("--name one", "true").prints("");
    let other = person.path("other");
    std::fs::create_dir_all(other.join("bin")).unwrap();
    let session = person.berth(&format!("run --name one dir:{} true", other.display()));
    session.fails(
        125,
        "container `one` was made from dir:$DIR/root, not from dir:$DIR/other",
        "choose another name, or give it up with `berth rm one`",
    );
}

#[test]
fn names_that_are_none_are_refused_before_anything_is_made() {
    let person = Person::new();
    let session = person.script("--name ../one", "true");
    assert!(session.code == 125 && session.stderr.starts_with("berth: invalid container name `../one`"), "{session:?}");
    person.berth("ps -q").prints("");
}

#[test]
fn unknown_containers_are_told() {
    let person = Person::new();
    for line in ["rm one", "stop one", "kill one", "exec one true"] {
        let session = person.berth(line);
        assert_eq!(session.code, 125);
        assert!(session.stderr.starts_with("berth: no container named `one`\nhint: "), "{line}: {session:?}");
    }
    person.berth("rm --force one").prints("");
}
