//! config.md: hooks of all kinds.

use std::fs;

use serde_json::Value;
use serde_json::json;
use testbed::harness::Need;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("hooks", "Hooks (config.md)";
    [] "hooks": hooks_run_in_the_order_of_the_life, hooks_of_one_kind_run_in_the_order_of_the_list,
        hooks_run_with_run_too;
    [] "hooks.prestart": prestart_gets_the_state;
    [] "hooks.createRuntime": create_runtime_gets_the_state, create_runtime_runs_in_the_namespaces_of_the_runtime,
        a_failing_create_runtime_fails_create_and_leaves_nothing;
    [] "hooks.createContainer": create_container_gets_the_state, create_container_runs_in_the_namespaces_of_the_container,
        create_container_runs_before_the_root_is_changed, a_failing_create_container_fails_create_and_leaves_nothing;
    [] "hooks.startContainer": start_container_gets_the_state, start_container_runs_inside_of_the_container,
        a_failing_start_container_keeps_the_program_from_starting;
    [] "hooks.poststart": poststart_gets_the_state, a_failing_poststart_is_told_and_nothing_more_or_ends_the_container;
    [] "hooks.poststop": poststop_gets_the_state, poststop_runs_once_at_delete, a_failing_poststop_is_told_and_nothing_more;
    [] "hooks[].path": a_relative_path_is_refused, a_missing_hook_fails_create;
    [] "hooks[].args": args_are_given_with_the_first_as_its_name;
    [] "hooks[].env": env_is_what_is_listed;
    [] "hooks[].timeout": a_hook_that_takes_too_long_is_ended_and_fails, a_timeout_of_zero_is_refused_or_none,
        a_hook_in_time_is_no_error;
    [] "hooks state": the_state_has_id_bundle_pid_and_annotations, a_hook_that_does_not_read_its_state_does_no_harm;
    [Need::Root] "hooks": hooks_of_root_run_as_root;
);

/// Adds a hook: a script of the host's shell, which finds its state on its standard input.
fn hook(world: &mut World, kind: &str, name: &str, lines: &str) {
    let path = world.script(name, &format!("{lines}\ncat > /dev/null"));
    world.push(&format!("/hooks/{kind}"), json!({"path": path, "args": [name], "env": ["PATH=/usr/bin:/bin"]}));
}

/// Adds a hook that keeps its state in the file of its kind.
fn keeps_state(world: &mut World, kind: &str) {
    let file = world.path(&format!("host/{kind}"));
    hook(world, kind, &format!("hook-{kind}"), &format!("cat > {0}.new; mv {0}.new {0}", file.display()));
}

#[track_caller]
fn kept(world: &World, kind: &str) -> Value {
    let text = world.read(&format!("host/{kind}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind}: {error}: {text}"))
}

/// A hook inside of the container: a script of its shell, on its own files.
fn inner_hook(world: &mut World, kind: &str, lines: &str) {
    world
        .push(&format!("/hooks/{kind}"), json!({"path": "/bin/sh", "args": ["sh", "-c", lines], "env": ["PATH=/bin"]}));
}

/// Calls a command, and gives what it wrote to its log and to standard error.
#[track_caller]
fn logged(world: &World, verb: &str) -> (process::Output, String) {
    let log = world.path("run/log").display().to_string();
    let output = process::run(&mut world.verb_with(&["--log", &log], [verb, world.id.as_str()]));
    let text = world.read("run/log") + &output.stderr;
    (output, text)
}

fn hooks_run_in_the_order_of_the_life(runtime: Runtime) {
    let mut world = World::user(runtime);
    let log = world.path("host/log").display().to_string();
    for kind in ["poststop", "poststart", "createContainer", "createRuntime", "prestart"] {
        hook(&mut world, kind, kind, &format!("echo {kind} >> {log}"));
    }
    let host = world.path("host");
    world.bind(host, "/host", &[]);
    inner_hook(&mut world, "startContainer", "echo startContainer >> /host/log");
    world.shell("echo program >> /host/log; sleep 1000").create();
    assert_eq!(world.read("host/log"), "prestart\ncreateRuntime\ncreateContainer\n");
    world.start();
    until("program and poststart have run", || world.read("host/log").lines().count() == 6);
    let text = world.read("host/log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[3], "startContainer");
    assert!(lines.contains(&"program") && lines.contains(&"poststart"), "{lines:?}");
    world.call(&["kill", &world.id, "KILL"]).ok();
    world.stopped();
    assert_eq!(world.read("host/log").lines().count(), 6);
    world.call(&["delete", &world.id]).ok();
    assert_eq!(world.read("host/log").lines().last(), Some("poststop"));
}

fn hooks_of_one_kind_run_in_the_order_of_the_list(runtime: Runtime) {
    let mut world = World::user(runtime);
    let log = world.path("host/log").display().to_string();
    for number in 1..=3 {
        hook(&mut world, "createRuntime", &format!("hook-{number}"), &format!("echo {number} >> {log}"));
    }
    world.args(&["/bin/true"]).create().end();
    assert_eq!(world.read("host/log"), "1\n2\n3\n");
}

fn hooks_run_with_run_too(runtime: Runtime) {
    let mut world = World::user(runtime);
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        keeps_state(&mut world, kind);
    }
    assert_eq!(world.says("sleep 0.1; echo here"), "here");
    for kind in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        kept(&world, kind);
    }
}

/// The state that a hook of this kind gets has one of these statuses, and the pid of the container's process.
#[track_caller]
fn gets_the_state(runtime: Runtime, kind: &str, statuses: &[&str]) {
    let mut world = World::user(runtime);
    keeps_state(&mut world, kind);
    let pid = world.sleeper();
    if kind == "poststop" {
        world.call(&["kill", &world.id, "KILL"]).ok();
        world.stopped();
        world.call(&["delete", &world.id]).ok();
    }
    until("the hook has run", || world.path(&format!("host/{kind}")).exists());
    let state = kept(&world, kind);
    assert_eq!(state["id"], json!(world.id));
    let status = state["status"].as_str().unwrap_or_default();
    assert!(statuses.contains(&status), "{kind}: {state}");
    if kind != "poststop" {
        assert_eq!(state["pid"], json!(pid), "{state}");
        world.end();
    }
}

fn prestart_gets_the_state(runtime: Runtime) {
    // The specification: prestart, createRuntime and createContainer see "creating".
    gets_the_state(runtime, "prestart", &["creating", "created"]);
}

fn create_runtime_gets_the_state(runtime: Runtime) {
    gets_the_state(runtime, "createRuntime", &["creating", "created"]);
}

fn create_container_gets_the_state(runtime: Runtime) {
    let mut world = World::user(runtime);
    keeps_state(&mut world, "createContainer");
    world.args(&["/bin/true"]).create();
    let state = kept(&world, "createContainer");
    assert_eq!(state["id"], json!(world.id));
    assert!(["creating", "created"].contains(&state["status"].as_str().unwrap_or_default()), "{state}");
    world.end();
}

fn start_container_gets_the_state(runtime: Runtime) {
    let mut world = World::user(runtime);
    inner_hook(&mut world, "startContainer", "cat > /mnt/state");
    world.args(&["/bin/true"]).create().start().stopped();
    let state: Value = serde_json::from_str(&world.read("bundle/rootfs/mnt/state")).expect("the state");
    assert_eq!(state["id"], json!(world.id));
    assert!(["created", "starting"].contains(&state["status"].as_str().unwrap_or_default()), "{state}");
    world.end();
}

fn poststart_gets_the_state(runtime: Runtime) {
    gets_the_state(runtime, "poststart", &["running"]);
}

fn poststop_gets_the_state(runtime: Runtime) {
    gets_the_state(runtime, "poststop", &["stopped"]);
}

fn create_runtime_runs_in_the_namespaces_of_the_runtime(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("host/names").display().to_string();
    hook(&mut world, "createRuntime", "hook", &format!("readlink /proc/self/ns/mnt /proc/self/ns/uts > {file}"));
    world.args(&["/bin/true"]).create().end();
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("the kernel has it").display().to_string();
    assert_eq!(world.read("host/names"), format!("{}\n{}\n", own("mnt"), own("uts")));
}

fn create_container_runs_in_the_namespaces_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("host/names").display().to_string();
    hook(&mut world, "createContainer", "hook", &format!("readlink /proc/self/ns/mnt /proc/self/ns/uts > {file}"));
    let pid = world.sleeper();
    let of =
        |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the kernel has it").display().to_string();
    assert_eq!(world.read("host/names"), format!("{}\n{}\n", of("mnt"), of("uts")));
    world.end();
}

fn create_container_runs_before_the_root_is_changed(runtime: Runtime) {
    // The hook sees the host's files and the mounts of the container below the root's path on the host.
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["size=1m"]);
    let (file, place) = (world.path("host/df").display().to_string(), world.rootfs("mnt").display().to_string());
    hook(&mut world, "createContainer", "hook", &format!("grep ' {place} ' /proc/self/mountinfo > {file}"));
    world.args(&["/bin/true"]).create().end();
    assert!(world.read("host/df").contains("tmpfs"), "{}", world.read("host/df"));
}

fn start_container_runs_inside_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    inner_hook(&mut world, "startContainer", "hostname > /mnt/name; readlink /proc/self/ns/pid >> /mnt/name");
    world.shell("readlink /proc/self/ns/pid >> /mnt/name").create();
    assert!(!world.rootfs("mnt/name").exists());
    world.start().stopped();
    let text = world.read("bundle/rootfs/mnt/name");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[1]), (3, "conformance", lines[2]));
    world.end();
}

#[track_caller]
fn failing_fails_create(runtime: Runtime, kind: &str) {
    let mut world = World::user(runtime);
    let log = world.path("host/log").display().to_string();
    hook(&mut world, kind, "fails", "cat > /dev/null; echo what went wrong >&2; exit 3");
    hook(&mut world, kind, "never", &format!("echo never >> {log}"));
    world.shell("touch /started");
    let (code, error) = world.try_create(&[]);
    assert_ne!(code, 0, "{kind}: {error}");
    assert!(!error.is_empty());
    assert_eq!(world.read("host/log"), "", "{kind}: the next hook is not run");
    assert_eq!(world.ids_left(), Vec::<String>::new(), "{kind}");
    assert!(!world.rootfs("started").exists());
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn a_failing_create_runtime_fails_create_and_leaves_nothing(runtime: Runtime) {
    failing_fails_create(runtime, "prestart");
    failing_fails_create(runtime, "createRuntime");
}

fn a_failing_create_container_fails_create_and_leaves_nothing(runtime: Runtime) {
    failing_fails_create(runtime, "createContainer");
}

fn a_failing_start_container_keeps_the_program_from_starting(runtime: Runtime) {
    let mut world = World::user(runtime);
    inner_hook(&mut world, "startContainer", "exit 3");
    world.shell("touch /started").create();
    let output = world.call(&["start", &world.id]);
    world.end();
    assert!(!world.rootfs("started").exists(), "{}", output.report());
}

fn a_failing_poststart_is_told_and_nothing_more_or_ends_the_container(runtime: Runtime) {
    // 1.0 to 1.2: "MUST log a warning, but the remaining hooks and lifecycle continue as if the hook had succeeded". Later:
    // "MUST generate an error, stop the container". What must not be is a start that says that it failed, and runs.
    let mut world = World::user(runtime);
    let file = world.path("host/next").display().to_string();
    hook(&mut world, "poststart", "fails", "cat > /dev/null; exit 3");
    hook(&mut world, "poststart", "next", &format!("echo next > {file}"));
    world.args(&["/bin/sleep", "1000"]).create();
    let (output, log) = logged(&world, "start");
    assert!(!log.is_empty(), "a word of warning");
    if output.code() == 0 {
        assert_eq!((world.read("host/next").as_str(), world.status().as_str()), ("next\n", "running"));
    } else {
        until("nothing runs", || process::descendants(std::process::id() as i32).is_empty());
    }
    world.end();
}

fn poststop_runs_once_at_delete(runtime: Runtime) {
    let mut world = World::user(runtime);
    let log = world.path("host/log").display().to_string();
    hook(&mut world, "poststop", "hook", &format!("echo stopped >> {log}"));
    world.args(&["/bin/true"]).create().start().stopped();
    assert_eq!(world.read("host/log"), "");
    world.call(&["delete", &world.id]).ok();
    assert_eq!(world.read("host/log"), "stopped\n");
}

fn a_failing_poststop_is_told_and_nothing_more(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("host/next").display().to_string();
    hook(&mut world, "poststop", "fails", "cat > /dev/null; exit 3");
    hook(&mut world, "poststop", "next", &format!("echo next > {file}"));
    world.args(&["/bin/true"]).create().start().stopped();
    let (output, log) = logged(&world, "delete");
    assert!(!log.is_empty(), "a word of warning");
    assert_eq!(output.code(), 0, "{}", output.report());
    assert_eq!(world.read("host/next"), "next\n");
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn a_relative_path_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.script("bundle/hook", "true");
    world.push("/hooks/createRuntime", json!({"path": "hook"}));
    let (code, _) = world.try_create(&[]);
    assert_ne!(code, 0);
}

fn a_missing_hook_fails_create(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.push("/hooks/createRuntime", json!({"path": "/no/such/hook"}));
    let (code, error) = world.try_create(&[]);
    assert_ne!(code, 0);
    assert!(error.contains("/no/such/hook"), "{error}");
}

fn args_are_given_with_the_first_as_its_name(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("host/args").display().to_string();
    world.push(
        "/hooks/createRuntime",
        json!({"path": "/bin/sh", "args": ["a-name", "-c", "printf '%s|' \"$0\" \"$@\" > $FILE; tr '\\0' '|' < /proc/$$/cmdline >> $FILE",
            "zero", "one two", ""], "env": [format!("FILE={file}"), "PATH=/usr/bin:/bin"]}),
    );
    world.args(&["/bin/true"]).create().end();
    let text = world.read("host/args");
    assert!(text.starts_with("zero|one two||a-name|-c|"), "{text}");
}

fn env_is_what_is_listed(runtime: Runtime) {
    let mut world = World::user(runtime);
    let file = world.path("host/env").display().to_string();
    let script = world.script("hook", &format!("cat > /dev/null; tr '\\0' '\\n' < /proc/$$/environ > {file}"));
    world.push("/hooks/createRuntime", json!({"path": script, "env": ["A=b c", "PATH=/usr/bin:/bin"]}));
    world.args(&["/bin/true"]).create().end();
    let text = world.read("host/env");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b c", "PATH=/usr/bin:/bin"]);
}

fn a_hook_that_takes_too_long_is_ended_and_fails(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.push("/hooks/createRuntime", json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}));
    let (code, _) = world.try_create(&[]);
    assert_ne!(code, 0);
    assert_eq!(world.ids_left(), Vec::<String>::new());
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn a_timeout_of_zero_is_refused_or_none(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.push("/hooks/createRuntime", json!({"path": "/bin/sleep", "args": ["sleep", "0.1"], "timeout": 0}));
    let (_, _) = world.try_create(&[]);
    world.end();
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn a_hook_in_time_is_no_error(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.push("/hooks/createRuntime", json!({"path": "/bin/sleep", "args": ["sleep", "0.1"], "timeout": 20}));
    world.args(&["/bin/true"]).create().end();
}

fn the_state_has_id_bundle_pid_and_annotations(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/annotations", json!({"key": "value"}));
    keeps_state(&mut world, "createRuntime");
    world.args(&["/bin/true"]).create();
    let state = kept(&world, "createRuntime");
    assert_eq!(state["bundle"], json!(world.path("bundle")), "{state}");
    assert_eq!(state["annotations"]["key"], "value", "{state}");
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{state}");
    assert_eq!(state["pid"], json!(world.pid()), "{state}");
    world.end();
}

fn a_hook_that_does_not_read_its_state_does_no_harm(runtime: Runtime) {
    let mut world = World::user(runtime);
    // More than a pipe takes.
    world.set("/annotations", json!({"key": "x".repeat(200_000)}));
    world.push("/hooks/createRuntime", json!({"path": "/bin/true"}));
    world.args(&["/bin/true"]).create().end();
}

fn hooks_of_root_run_as_root(runtime: Runtime) {
    let mut world = World::root(runtime);
    let file = world.path("host/id").display().to_string();
    hook(&mut world, "createRuntime", "hook", &format!("id -u > {file}"));
    world.set("/process/user", json!({"uid": 7, "gid": 8})).args(&["/bin/true"]).create().end();
    assert_eq!(world.read("host/id"), "0\n");
}
