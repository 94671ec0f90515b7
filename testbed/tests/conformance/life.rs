//! runtime.md: the life of a container.

use std::fs;
use std::process::Child;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;
use crate::world::until_within;

section!("life", "The life of a container (runtime.md)";
    [] "create": create_does_not_start_the_program, create_with_an_id_that_is_taken_is_refused_and_harms_nothing,
        two_containers_live_side_by_side, an_id_with_a_slash_is_refused, an_id_that_is_dots_is_refused,
        create_without_a_specification_is_refused, a_create_that_fails_leaves_nothing_running,
        a_change_of_the_specification_after_create_has_no_effect, of_several_creates_with_one_id_one_wins,
        a_create_that_was_killed_leaves_its_id_free_after_delete_by_force;
    [] "create --bundle": the_bundle_is_where_the_option_says;
    [] "create --pid-file": the_pid_file_of_create_holds_the_pid;
    [] "start": start_runs_the_program, start_of_what_runs_is_refused, start_of_what_has_stopped_is_refused,
        start_of_what_is_unknown_is_refused, a_program_that_is_missing_fails_create_or_start;
    [] "state": the_state_has_its_fields, the_status_is_created_then_running_then_stopped,
        the_pid_is_that_of_the_process, the_annotations_are_in_the_state, the_bundle_is_absolute,
        the_state_of_what_is_unknown_is_refused, the_state_of_what_was_deleted_is_refused,
        the_state_is_nothing_but_json;
    [] "kill": the_signal_arrives, a_signal_has_a_name_with_or_without_sig_or_a_number, the_default_signal_is_term,
        what_was_created_can_be_killed, kill_of_what_has_stopped_is_refused, kill_of_what_is_unknown_is_refused,
        a_signal_that_does_not_exist_is_refused;
    [] "delete": delete_of_what_runs_is_refused_and_harms_nothing, delete_of_what_has_stopped_takes_its_state,
        delete_of_what_is_unknown_is_refused, after_delete_the_id_is_free, what_was_created_can_be_deleted_by_force;
    [] "delete --force": delete_by_force_ends_what_runs, delete_by_force_of_what_is_unknown_succeeds;
    [] "run": run_returns_the_code_of_the_program, run_tells_death_by_a_signal, run_leaves_nothing,
        all_processes_of_the_container_end_with_the_first, run_with_an_id_that_is_taken_is_refused;
    [] "run --detach": run_returns_and_the_container_runs;
    [] "run --pid-file": the_pid_file_of_run_holds_the_pid;
    [] "ociVersion": versions_one_are_taken, a_version_two_is_refused, a_missing_version_is_refused,
        a_version_that_is_none_is_refused;
    [] "annotations": an_annotation_that_is_no_text_is_refused;
    [] "extensibility": unknown_properties_are_ignored;
);

fn create_does_not_start_the_program(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("touch /started").create();
    assert_eq!(world.status(), "created");
    assert!(!world.rootfs("started").exists());
    world.start().stopped();
    assert!(world.rootfs("started").exists());
    world.end();
}

fn create_with_an_id_that_is_taken_is_refused_and_harms_nothing(runtime: Runtime) {
    let mut world = World::user(runtime);
    let pid = world.sleeper();
    let (code, error) = world.try_create(&[]);
    assert_ne!(code, 0);
    assert!(!error.is_empty());
    assert_eq!((world.status().as_str(), world.pid()), ("running", pid));
    world.end();
}

fn two_containers_live_side_by_side(runtime: Runtime) {
    let mut world = World::user(runtime);
    let first = world.sleeper();
    let old = world.id.clone();
    world.id = world.another("two");
    let second = world.sleeper();
    assert_ne!(first, second);
    world.end();
    world.id = old;
    assert_eq!(world.status(), "running");
    world.end();
}

#[track_caller]
fn id_is_refused(runtime: Runtime, id: &str) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).write_spec();
    assert_ne!(world.call(&["run", id]).code(), 0, "{id}");
    assert!(world.path("state").exists() && world.path("bundle").exists());
}

fn an_id_with_a_slash_is_refused(runtime: Runtime) {
    id_is_refused(runtime, "a/b");
    id_is_refused(runtime, "../b");
}

fn an_id_that_is_dots_is_refused(runtime: Runtime) {
    id_is_refused(runtime, ".");
    id_is_refused(runtime, "..");
}

fn create_without_a_specification_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    let output = world.call(&["create", &world.id]);
    assert_ne!(output.code(), 0);
    assert!(output.stderr.contains("config.json"), "{}", output.report());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn a_create_that_fails_leaves_nothing_running(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.bind("/no/such/source", "/mnt", &[]);
    let (code, _) = world.try_create(&[]);
    assert_ne!(code, 0);
    assert_eq!(world.ids_left(), Vec::<String>::new());
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn a_change_of_the_specification_after_create_has_no_effect(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo before; hostname").create();
    world.shell("echo after").set("/hostname", json!("after"));
    world.write_spec();
    world.start().stopped();
    assert_eq!(world.read("out"), "before\nconformance\n");
    world.end();
}

fn of_several_creates_with_one_id_one_wins(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).write_spec();
    let children: Vec<Child> = (0..4)
        .map(|_| {
            let mut command = world.verb(["create", world.id.as_str()]);
            command.stdin(Stdio::null()).stdout(world.append("out")).stderr(world.append("err"));
            command.spawn().expect("a runtime")
        })
        .collect();
    let ended = children.into_iter().map(|mut child| process::wait(&mut child, process::LIMIT).expect("it ends").0);
    assert_eq!(ended.filter(|status| status.success()).count(), 1, "{}", world.read("err"));
    assert_eq!(world.status(), "created");
    world.start().stopped().end();
}

fn a_create_that_was_killed_leaves_its_id_free_after_delete_by_force(runtime: Runtime) {
    let mut world = World::user(runtime);
    for step in 0..12 {
        world.args(&["/bin/sleep", "1000"]).write_spec();
        let mut command = world.verb(["create", world.id.as_str()]);
        command.stdin(Stdio::null()).stdout(world.append("out")).stderr(world.append("err"));
        let mut child = command.spawn().expect("a runtime");
        std::thread::sleep(Duration::from_micros(1500 * step));
        let _ = child.kill();
        let _ = process::wait(&mut child, process::LIMIT);
        world.call(&["delete", "--force", &world.id]).ok();
        until_within(Duration::from_secs(3), "all is gone", || {
            process::descendants(std::process::id() as i32).is_empty()
        });
        assert_eq!(world.says("echo here"), "here", "killed after {} microseconds", 1500 * step);
    }
}

fn the_bundle_is_where_the_option_says(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here").write_spec();
    let bundle = world.path("bundle");
    let mut command = world.verb(["create", "-b"]);
    command.arg(&bundle).arg(&world.id).current_dir("/");
    assert_eq!(world.detached(&mut command), 0, "{}", world.read("err"));
    assert_eq!(world.state()["bundle"], json!(bundle));
    world.end();
}

fn the_pid_file_of_create_holds_the_pid(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("run/pid").display().to_string();
    world.args(&["/bin/true"]).create_with(&["--pid-file", &file]);
    assert_eq!(world.read("run/pid").trim(), world.pid().to_string());
    world.end();
}

fn start_runs_the_program(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo it runs").create().start().stopped();
    assert_eq!(world.read("out"), "it runs\n");
    world.end();
}

fn start_of_what_runs_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.sleeper();
    assert_ne!(world.call(&["start", &world.id]).code(), 0);
    assert_eq!(world.status(), "running");
    world.end();
}

fn start_of_what_has_stopped_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    assert_ne!(world.call(&["start", &world.id]).code(), 0);
    world.end();
}

fn start_of_what_is_unknown_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    assert_ne!(world.call(&["start", "unknown"]).code(), 0);
}

fn a_program_that_is_missing_fails_create_or_start(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/no/such/program"]);
    let (code, error) = world.try_create(&[]);
    if code == 0 {
        let output = world.call(&["start", &world.id]);
        assert_ne!(output.code(), 0);
        assert!(output.stderr.contains("/no/such/program"), "{}", output.report());
        world.end();
    } else {
        assert!(error.contains("/no/such/program"), "{error}");
    }
}

fn the_state_has_its_fields(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    let state = world.state();
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    assert_eq!(state["id"], json!(world.id));
    assert_eq!(state["status"], "created");
    assert!(state["pid"].as_i64().is_some_and(|pid| pid > 0), "{state}");
    assert_eq!(state["bundle"], json!(world.path("bundle")));
    world.end();
}

fn the_status_is_created_then_running_then_stopped(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/sleep", "1000"]).create();
    assert_eq!(world.status(), "created");
    world.start();
    assert_eq!(world.status(), "running");
    world.call(&["kill", &world.id, "KILL"]).ok();
    world.stopped();
    assert_eq!(world.status(), "stopped");
    world.end();
}

fn the_pid_is_that_of_the_process(runtime: Runtime) {
    let mut world = World::user(runtime);
    let pid = world.sleeper();
    assert_eq!(process::name(pid), "/bin/sleep 1000");
    world.end();
}

fn the_annotations_are_in_the_state(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/annotations", json!({"org.example.key": "value", "empty": ""}));
    world.args(&["/bin/true"]).create();
    let annotations = world.state()["annotations"].clone();
    assert_eq!((&annotations["org.example.key"], &annotations["empty"]), (&json!("value"), &json!("")));
    world.end();
}

fn the_bundle_is_absolute(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create_with(&["--bundle", "."]);
    assert_eq!(world.state()["bundle"], json!(world.path("bundle")));
    world.end();
}

fn the_state_of_what_is_unknown_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    let output = world.call(&["state", "unknown"]);
    assert_ne!(output.code(), 0);
    assert!(!output.stderr.is_empty());
}

fn the_state_of_what_was_deleted_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    world.call(&["delete", &world.id]).ok();
    assert_ne!(world.call(&["state", &world.id]).code(), 0);
}

fn the_state_is_nothing_but_json(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    let mut command = world.verb_with(&["--debug"], ["state", world.id.as_str()]);
    let output = process::run(&mut command);
    let text = output.ok();
    assert!(serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()), "{text}");
    world.end();
}

/// A container that tells of the signals that it gets, and goes on.
const HEARS: &str =
    "for s in HUP INT TERM USR1 USR2; do trap \"echo $s\" $s; done; echo ready; while true; do sleep 0.02; done";

fn the_signal_arrives(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell(HEARS).create().start().wrote("ready");
    world.call(&["kill", &world.id, "USR1"]).ok();
    world.wrote("USR1");
    assert_eq!(world.status(), "running");
    world.end();
}

fn a_signal_has_a_name_with_or_without_sig_or_a_number(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell(HEARS).create().start().wrote("ready");
    for (given, heard) in [("SIGHUP", "HUP"), ("USR2", "USR2"), ("2", "INT")] {
        world.call(&["kill", &world.id, given]).ok();
        world.wrote(heard);
    }
    world.end();
}

fn the_default_signal_is_term(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell(HEARS).create().start().wrote("ready");
    world.call(&["kill", &world.id]).ok();
    world.wrote("TERM");
    world.end();
}

fn what_was_created_can_be_killed(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("touch /started").create();
    world.call(&["kill", &world.id, "KILL"]).ok();
    world.stopped();
    assert!(!world.rootfs("started").exists());
    world.end();
}

fn kill_of_what_has_stopped_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    assert_ne!(world.call(&["kill", &world.id, "TERM"]).code(), 0);
    world.end();
}

fn kill_of_what_is_unknown_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    assert_ne!(world.call(&["kill", "unknown", "TERM"]).code(), 0);
}

fn a_signal_that_does_not_exist_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.sleeper();
    for signal in ["NOSUCH", "SIG", "99", "-5"] {
        assert_ne!(world.call(&["kill", &world.id, signal]).code(), 0, "{signal}");
    }
    assert_eq!(world.status(), "running");
    world.end();
}

fn delete_of_what_runs_is_refused_and_harms_nothing(runtime: Runtime) {
    let mut world = World::user(runtime);
    let pid = world.sleeper();
    assert_ne!(world.call(&["delete", &world.id]).code(), 0);
    assert_eq!((world.status().as_str(), world.pid()), ("running", pid));
    world.end();
}

fn delete_of_what_has_stopped_takes_its_state(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    world.call(&["delete", &world.id]).ok();
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn delete_of_what_is_unknown_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    assert_ne!(world.call(&["delete", "unknown"]).code(), 0);
}

fn after_delete_the_id_is_free(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    world.call(&["delete", &world.id]).ok();
    assert_eq!(world.says("echo again"), "again");
}

fn what_was_created_can_be_deleted_by_force(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    world.call(&["delete", "--force", &world.id]).ok();
    assert_eq!(world.ids_left(), Vec::<String>::new());
    until("it is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn delete_by_force_ends_what_runs(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.sleeper();
    world.call(&["delete", "--force", &world.id]).ok();
    assert_eq!(world.ids_left(), Vec::<String>::new());
    until("it is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn delete_by_force_of_what_is_unknown_succeeds(runtime: Runtime) {
    let world = World::user(runtime);
    world.call(&["delete", "--force", "unknown"]).ok();
}

fn run_returns_the_code_of_the_program(runtime: Runtime) {
    let mut world = World::user(runtime);
    for code in [0, 1, 42, 255] {
        assert_eq!(world.shell(&format!("exit {code}")).run().code(), code);
    }
}

fn run_tells_death_by_a_signal(runtime: Runtime) {
    // The first process of a container is not killed by its own signals: another container's parent does it.
    let mut world = World::user(runtime);
    world.keep_namespace("pid");
    world.set("/mounts/0", json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]}));
    assert_eq!(world.shell("kill -TERM $$").run().code(), 128 + 15);
}

fn run_leaves_nothing(runtime: Runtime) {
    let mut world = World::user(runtime);
    let before = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells");
    assert_eq!(world.says("echo done"), "done");
    assert_eq!(world.ids_left(), Vec::<String>::new());
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells"), before);
    assert!(process::descendants(std::process::id() as i32).is_empty());
}

fn all_processes_of_the_container_end_with_the_first(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("sleep 1000 & sleep 1000 & echo ready").create().start().wrote("ready");
    world.stopped();
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
    world.end();
}

fn run_with_an_id_that_is_taken_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    let pid = world.sleeper();
    assert_ne!(world.run().code(), 0);
    assert_eq!((world.status().as_str(), world.pid()), ("running", pid));
    world.end();
}

fn run_returns_and_the_container_runs(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/sleep", "1000"]).write_spec();
    let code = world.detached(&mut world.verb(["run", "--detach", world.id.as_str()]));
    assert_eq!(code, 0, "{}", world.read("err"));
    assert_eq!(world.status(), "running");
    world.end();
}

fn the_pid_file_of_run_holds_the_pid(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/sleep", "1000"]).write_spec();
    let code = world.detached(&mut world.verb(["run", "-d", "--pid-file", "../run/pid", world.id.as_str()]));
    assert_eq!(code, 0, "{}", world.read("err"));
    assert_eq!(world.read("run/pid").trim(), world.pid().to_string());
    world.end();
}

fn versions_one_are_taken(runtime: Runtime) {
    let mut world = World::user(runtime);
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0", "1.2.1+build"] {
        world.set("/ociVersion", json!(version));
        assert_eq!(world.says("echo here"), "here", "{version}");
    }
}

fn a_version_two_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/ociVersion", json!("2.0.0"));
    let error = world.refused();
    assert!(error.contains("2.0.0") || error.to_lowercase().contains("version"), "{error}");
}

fn a_missing_version_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.remove("/ociVersion");
    world.refused();
}

fn a_version_that_is_none_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/ociVersion", json!("newest"));
    world.refused();
}

fn an_annotation_that_is_no_text_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/annotations", json!({"key": {"a": 1}}));
    world.refused();
}

fn unknown_properties_are_ignored(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/newThing", json!({"a": [1, 2]})).set("/process/newThing", json!(1)).set("/linux/newThing", json!("x"));
    assert_eq!(world.says("echo here"), "here");
}
