//! The rest of the command line of runc: list, ps, kill --all, pause, update, spec, features, and how errors are told.

use serde_json::Value;
use serde_json::json;
use testbed::harness::Need;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("commands", "Other commands (command line of runc, features.md)";
    [] "list": all_containers_are_listed, the_list_is_json, the_list_can_be_only_names, an_empty_list_is_no_error;
    [Need::Root] "ps": the_processes_are_listed, the_processes_are_json;
    [Need::Root] "kill --all": every_process_is_ended;
    [] "spec": the_written_specification_has_all_that_it_needs, it_is_not_overwritten;
    [] "spec --rootless": the_written_specification_runs_for_an_ordinary_user;
    [Need::Root] "spec": the_written_specification_runs_for_root;
    [] "features": the_features_are_json_with_versions, the_hooks_and_namespaces_are_listed,
        the_mount_options_are_listed, seccomp_is_described, control_groups_are_described,
        what_seccomp_lists_is_understood, the_listed_namespaces_are_made;
    [] "--log": the_log_has_the_error, the_log_of_json_has_the_error;
    [] "--version": the_version_is_told;
    [] "--help": help_is_given;
    [] "errors": an_unknown_command_is_refused, an_unknown_option_is_refused, a_missing_id_is_refused,
        a_missing_state_directory_is_made;
    [] "--systemd-cgroup": the_option_is_understood_without_systemd_or_refused_with_a_word;
    [] "checkpoint": what_is_not_offered_is_told;
    [] "environment": without_a_runtime_directory_of_the_user_it_works;
);

fn all_containers_are_listed(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    let first = world.id.clone();
    world.id = world.another("two");
    world.create();
    let text = world.call(&["list"]).ok();
    assert!(text.contains(&first) && text.contains(&world.id) && text.contains("created"), "{text}");
    world.end();
    world.id = first;
    world.end();
}

fn the_list_is_json(runtime: Runtime) {
    let mut world = World::user(runtime);
    let pid = world.sleeper();
    let list: Value = serde_json::from_str(&world.call(&["list", "--format", "json"]).ok()).expect("JSON");
    assert_eq!(
        (&list[0]["id"], &list[0]["status"], &list[0]["pid"]),
        (&json!(world.id), &json!("running"), &json!(pid))
    );
    assert_eq!(list[0]["bundle"], json!(world.path("bundle")), "{list}");
    world.end();
}

fn the_list_can_be_only_names(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    assert_eq!(world.call(&["list", "-q"]).ok().trim(), world.id);
    world.end();
}

fn an_empty_list_is_no_error(runtime: Runtime) {
    let world = World::user(runtime);
    assert_eq!(world.call(&["list", "-q"]).ok().trim(), "");
    world.call(&["list"]).ok();
}

/// The processes of a container are known by its control group.
fn with_processes(runtime: Runtime) -> World {
    let mut world = World::root(runtime);
    crate::cgroups::with_controllers(&mut world);
    world.shell("sleep 1000 & sleep 1000 & echo ready; wait").create().start().wrote("ready");
    world
}

fn the_processes_are_listed(runtime: Runtime) {
    let world = with_processes(runtime);
    let text = world.call(&["ps", &world.id]).ok();
    assert!(text.contains("sleep") || text.lines().count() >= 3, "{text}");
    world.end();
}

fn the_processes_are_json(runtime: Runtime) {
    let world = with_processes(runtime);
    let list: Value = serde_json::from_str(&world.call(&["ps", "--format", "json", &world.id]).ok()).expect("JSON");
    let pids: Vec<i64> = list.as_array().expect("a list").iter().filter_map(Value::as_i64).collect();
    assert!(pids.len() == 3 && pids.contains(&i64::from(world.pid())), "{list}");
    world.end();
}

fn every_process_is_ended(runtime: Runtime) {
    let mut world = World::root(runtime);
    crate::cgroups::with_controllers(&mut world);
    world.keep_namespace("pid");
    world.set("/mounts/0", json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]}));
    world.shell("sleep 1000 & sleep 1000 & echo ready; wait").create().start().wrote("ready");
    world.call(&["kill", "--all", &world.id, "KILL"]).ok();
    world.stopped();
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
    world.end();
}

#[track_caller]
fn spec(world: &World, options: &[&str]) -> Value {
    let mut command = world.verb([&["spec"], options].concat());
    let text = process::run(&mut command).ok();
    assert_eq!(text, "");
    serde_json::from_str(&world.read("bundle/config.json")).expect("JSON")
}

fn the_written_specification_has_all_that_it_needs(runtime: Runtime) {
    let world = World::user(runtime);
    let spec = spec(&world, &[]);
    assert!(spec["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")), "{spec}");
    assert!(spec["process"]["args"].is_array() && spec["process"]["cwd"] == "/", "{spec}");
    assert_eq!(spec["root"]["path"], "rootfs");
    let kinds: Vec<&str> =
        spec["linux"]["namespaces"].as_array().expect("a list").iter().filter_map(|n| n["type"].as_str()).collect();
    assert!(["pid", "network", "ipc", "uts", "mount"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    assert!(spec["linux"]["maskedPaths"].is_array() && spec["linux"]["readonlyPaths"].is_array(), "{spec}");
}

fn it_is_not_overwritten(runtime: Runtime) {
    let world = World::user(runtime);
    world.write("bundle/config.json", "mine");
    assert_ne!(world.call(&["spec"]).code(), 0);
    assert_eq!(world.read("bundle/config.json"), "mine");
}

/// What `spec` wrote runs as it is, but for a program that needs no terminal.
#[track_caller]
fn runs_as_written(mut world: World, options: &[&str]) {
    let mut written = spec(&world, options);
    written["process"]["terminal"] = json!(false);
    written["process"]["args"] = json!(["/bin/id", "-u"]);
    world.spec = written;
    assert_eq!(world.run().ok(), "0\n");
}

fn the_written_specification_runs_for_an_ordinary_user(runtime: Runtime) {
    runs_as_written(World::user(runtime), &["--rootless"]);
}

fn the_written_specification_runs_for_root(runtime: Runtime) {
    runs_as_written(World::root(runtime), &[]);
}

#[track_caller]
fn features(runtime: Runtime) -> Value {
    let world = World::user(runtime);
    serde_json::from_str(&world.call(&["features"]).ok()).expect("JSON")
}

fn the_features_are_json_with_versions(runtime: Runtime) {
    let features = features(runtime);
    for name in ["ociVersionMin", "ociVersionMax"] {
        assert!(features[name].as_str().is_some_and(|version| version.starts_with("1.")), "{name}: {features}");
    }
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn the_hooks_and_namespaces_are_listed(runtime: Runtime) {
    let features = features(runtime);
    let hooks = names(&features["hooks"]);
    let all = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    assert!(all.iter().all(|hook| hooks.contains(hook)), "{hooks:?}");
    let kinds = names(&features["linux"]["namespaces"]);
    assert!(["pid", "network", "mount", "ipc", "uts", "user", "cgroup"].iter().all(|k| kinds.contains(k)), "{kinds:?}");
    assert!(names(&features["linux"]["capabilities"]).contains(&"CAP_KILL"));
}

fn the_mount_options_are_listed(runtime: Runtime) {
    let features = features(runtime);
    let options = names(&features["mountOptions"]);
    let some = ["ro", "nosuid", "nodev", "noexec", "bind", "rbind", "rro", "rprivate", "rslave"];
    assert!(some.iter().all(|option| options.contains(option)), "{options:?}");
}

fn seccomp_is_described(runtime: Runtime) {
    let features = features(runtime);
    let seccomp = &features["linux"]["seccomp"];
    assert_eq!(seccomp["enabled"], true, "{features}");
    assert!(names(&seccomp["actions"]).contains(&"SCMP_ACT_ERRNO"), "{seccomp}");
    assert!(names(&seccomp["operators"]).contains(&"SCMP_CMP_MASKED_EQ"), "{seccomp}");
}

fn what_seccomp_lists_is_understood(runtime: Runtime) {
    let features = features(runtime);
    let seccomp = &features["linux"]["seccomp"];
    // No system call of these tests has such an argument.
    let rule = |op: &&str| {
        json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 4711, "valueTwo": 4711, "op": op}, {"index": 0, "value": 4712, "op": "SCMP_CMP_EQ"}]})
    };
    let mut rules: Vec<Value> = names(&seccomp["operators"]).iter().map(rule).collect();
    // The one that asks an agent needs one.
    for action in names(&seccomp["actions"]).into_iter().filter(|action| !action.ends_with("NOTIFY")) {
        rules.push(json!({"names": ["swapoff"], "action": action}));
        let mut world = World::user(runtime);
        world.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}));
        assert_eq!(world.says("echo here"), "here", "{action}");
        rules.pop();
    }
}

fn the_listed_namespaces_are_made(runtime: Runtime) {
    let features = features(runtime);
    let mut world = World::user(runtime);
    for kind in names(&features["linux"]["namespaces"]) {
        world.keep_namespace(kind).new_namespace(kind);
    }
    assert_eq!(world.says("echo here"), "here");
}

fn control_groups_are_described(runtime: Runtime) {
    let features = features(runtime);
    let groups = &features["linux"]["cgroup"];
    assert!(groups["v1"].is_boolean() && groups["v2"].is_boolean(), "{features}");
}

#[track_caller]
fn log(runtime: Runtime, format: &str) -> String {
    let mut world = World::user(runtime);
    world.bind("/no/such/source", "/mnt", &[]).write_spec();
    let file = world.path("run/log").display().to_string();
    let globals = ["--log", &file, "--log-format", format];
    let output = process::run(&mut world.verb_with(&globals, ["run", world.id.as_str()]));
    assert_ne!(output.code(), 0);
    world.read("run/log")
}

fn the_log_has_the_error(runtime: Runtime) {
    let text = log(runtime, "text");
    assert!(text.contains("/no/such/source"), "{text}");
}

fn the_log_of_json_has_the_error(runtime: Runtime) {
    // What engines show to people is the last line of this file: an object with a level, a time and a message.
    let text = log(runtime, "json");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))).collect();
    let error = lines.iter().rfind(|line| line["level"] == "error").unwrap_or_else(|| panic!("no error in {text}"));
    assert!(error["msg"].as_str().is_some_and(|message| message.contains("/no/such/source")), "{text}");
    assert!(error["time"].as_str().is_some_and(|time| time.contains('T')), "{text}");
}

fn the_version_is_told(runtime: Runtime) {
    let world = World::user(runtime);
    let text = world.call(&["--version"]).ok();
    assert!(text.contains("spec: 1.") || text.contains("spec 1."), "{text}");
}

fn help_is_given(runtime: Runtime) {
    let world = World::user(runtime);
    let text = world.call(&["--help"]).ok();
    assert!(["create", "start", "state", "kill", "delete"].iter().all(|verb| text.contains(verb)), "{text}");
}

fn an_unknown_command_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    let output = world.call(&["frobnicate"]);
    assert!(output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
}

fn an_unknown_option_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    let output = world.call(&["run", "--no-such-option", "id"]);
    assert!(output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
}

fn a_missing_id_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    for verb in ["create", "start", "state", "kill", "delete", "run", "exec"] {
        assert_ne!(world.call(&[verb]).code(), 0, "{verb}");
    }
}

fn a_missing_state_directory_is_made(runtime: Runtime) {
    let mut world = World::user(runtime);
    std::fs::remove_dir(world.path("state")).expect("it is empty");
    assert_eq!(world.says("echo here"), "here");
}

fn the_option_is_understood_without_systemd_or_refused_with_a_word(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here").write_spec();
    let output = process::run(&mut world.verb_with(&["--systemd-cgroup"], ["run", world.id.as_str()]));
    assert!(output.stdout == "here\n" || output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
}

fn what_is_not_offered_is_told(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.sleeper();
    let output = world.call(&["checkpoint", &world.id]);
    assert!(output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
    assert_eq!(world.status(), "running");
    world.end();
}

fn without_a_runtime_directory_of_the_user_it_works(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here").write_spec();
    let mut command = world.verb(["run", world.id.as_str()]);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("HOME");
    assert_eq!(process::run(&mut command).ok(), "here\n");
}
