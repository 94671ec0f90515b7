//! More programs in a container that runs: the command line of runc.

use serde_json::json;
use testbed::harness::Need;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::field;
use crate::world::until;

section!("exec", "exec (command line of runc)";
    [] "exec": args_are_given, the_code_is_that_of_the_program, a_missing_program_is_told,
        it_is_in_the_namespaces_of_the_container, it_has_the_environment_of_the_specification,
        it_has_the_capabilities_of_the_specification, it_has_no_new_privileges_like_the_container,
        it_has_the_limits_of_the_specification, its_streams_are_those_of_the_caller, it_has_the_filter_of_the_container,
        in_what_was_created_it_works_or_is_refused, in_what_has_stopped_it_is_refused,
        in_what_is_unknown_it_is_refused, signals_end_it_with_a_code, no_descriptor_leaks_into_it,
        it_sees_the_mounts_of_the_container, it_ends_with_the_container;
    [] "exec --cwd": cwd_is_set, a_missing_cwd_is_refused;
    [] "exec --env": a_variable_is_added;
    [] "exec --detach": it_returns_at_once;
    [] "exec --pid-file": the_pid_file_holds_the_pid;
    [] "exec --process": the_process_of_the_file_is_run;
    [Need::Root] "exec --user": it_has_the_ids_asked_for, a_user_is_one_number_or_two;
    [Need::SubIds] "exec --user": an_ordinary_user_execs_with_another_id;
    [] "exec --preserve-fds": a_descriptor_is_preserved;
    [] "exec --no-new-privs": no_new_privileges_are_given;
    [Need::Root] "exec --cap": a_capability_is_added;
);

/// A container that runs.
#[track_caller]
fn running(runtime: Runtime) -> World {
    let mut world = World::user(runtime);
    world.sleeper();
    world
}

fn args_are_given(runtime: Runtime) {
    let world = running(runtime);
    let output =
        world.call(&["exec", &world.id, "/bin/sh", "-c", "printf '%s|' \"$0\" \"$@\"", "a b", "", "--cwd", "*"]);
    assert_eq!(output.ok(), "a b||--cwd|*|");
    world.end();
}

fn the_code_is_that_of_the_program(runtime: Runtime) {
    let world = running(runtime);
    for code in [0, 1, 42, 255] {
        assert_eq!(world.exec(&format!("exit {code}")).code(), code);
    }
    world.end();
}

fn a_missing_program_is_told(runtime: Runtime) {
    let world = running(runtime);
    let output = world.call(&["exec", &world.id, "/no/such/program"]);
    assert_ne!(output.code(), 0);
    assert!(output.stderr.contains("/no/such/program"), "{}", output.report());
    assert_eq!(world.status(), "running");
    world.end();
}

fn it_is_in_the_namespaces_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    for kind in ["network", "cgroup"] {
        world.new_namespace(kind);
    }
    let pid = world.sleeper();
    for kind in ["pid", "mnt", "ipc", "uts", "user", "net", "cgroup"] {
        let wanted =
            std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the kernel has it").display().to_string();
        assert_eq!(world.exec(&format!("readlink /proc/self/ns/{kind}")).ok().trim(), wanted);
    }
    world.end();
}

fn it_has_the_environment_of_the_specification(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/env", json!(["PATH=/bin", "A=b c"]));
    world.sleeper();
    let mut command = world.verb(["exec", world.id.as_str(), "/bin/env"]);
    command.env("OF_THE_CALLER", "secret");
    let text = process::run(&mut command).ok();
    assert!(text.contains("A=b c\n") && !text.contains("OF_THE_CALLER"), "{text}");
    world.end();
}

fn it_has_the_capabilities_of_the_specification(runtime: Runtime) {
    let mut world = World::user(runtime);
    let set = json!(["CAP_KILL"]);
    world.set("/process/capabilities", json!({"bounding": set, "effective": set, "permitted": set}));
    world.sleeper();
    let status = world.exec("cat /proc/self/status").ok();
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(field(&status, set), "0000000000000020", "{set}");
    }
    world.end();
}

fn it_has_no_new_privileges_like_the_container(runtime: Runtime) {
    let world = running(runtime);
    assert_eq!(field(&world.exec("cat /proc/self/status").ok(), "NoNewPrivs"), "1");
    world.end();
}

fn it_has_the_limits_of_the_specification(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 300}]));
    world.sleeper();
    assert_eq!(world.exec("ulimit -Sn; ulimit -Hn").ok(), "200\n300\n");
    world.end();
}

fn its_streams_are_those_of_the_caller(runtime: Runtime) {
    let world = running(runtime);
    let mut command = world.verb(["exec", world.id.as_str(), "/bin/sh", "-c", "tr a-z A-Z; echo err >&2"]);
    let output = process::run_with(&mut command, b"some words\n", process::LIMIT);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("SOME WORDS\n", "err\n"));
    world.end();
}

fn it_has_the_filter_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    world.sleeper();
    assert_eq!(world.exec("mkdir /new 2>/dev/null || echo no").ok(), "no\n");
    world.end();
}

fn in_what_was_created_it_works_or_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create();
    let output = world.exec("echo here");
    assert!(output.code() != 0 && !output.stderr.is_empty() || output.stdout == "here\n", "{}", output.report());
    assert_eq!(world.status(), "created");
    world.end();
}

fn in_what_has_stopped_it_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/true"]).create().start().stopped();
    let output = world.exec("echo here");
    assert!(output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
    world.end();
}

fn in_what_is_unknown_it_is_refused(runtime: Runtime) {
    let world = World::user(runtime);
    assert_ne!(world.call(&["exec", "unknown", "/bin/true"]).code(), 0);
}

fn signals_end_it_with_a_code(runtime: Runtime) {
    let world = running(runtime);
    assert_eq!(world.exec("kill -TERM $$").code(), 128 + 15);
    world.end();
}

fn no_descriptor_leaks_into_it(runtime: Runtime) {
    let world = running(runtime);
    let file = world.path("run/pid").display().to_string();
    let words = ["exec", "--detach", "--pid-file", &file, &world.id, "/bin/sleep", "2000"];
    assert_eq!(world.detached(&mut world.verb(words)), 0, "{}", world.read("err"));
    let pid: i32 = world.read("run/pid").trim().parse().expect("a pid");
    until("it sleeps", || process::name(pid) == "/bin/sleep 2000");
    let list = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the kernel tells");
    let mut names: Vec<String> = list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["0", "1", "2"]);
    world.end();
}

fn it_sees_the_mounts_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["size=1m"]);
    world.sleeper();
    assert_eq!(world.exec("df -k /mnt | awk 'NR == 2 { print $2 }'; ls -d /bin/sh").ok(), "1024\n/bin/sh\n");
    world.end();
}

fn it_ends_with_the_container(runtime: Runtime) {
    let world = running(runtime);
    let words = ["exec", "--detach", &world.id, "/bin/sleep", "2000"];
    assert_eq!(world.detached(&mut world.verb(words)), 0, "{}", world.read("err"));
    world.call(&["kill", &world.id, "KILL"]).ok();
    world.stopped();
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
    world.end();
}

fn cwd_is_set(runtime: Runtime) {
    let world = running(runtime);
    assert_eq!(world.call(&["exec", "--cwd", "/mnt", &world.id, "/bin/pwd"]).ok(), "/mnt\n");
    world.end();
}

fn a_missing_cwd_is_refused(runtime: Runtime) {
    let world = running(runtime);
    let output = world.call(&["exec", "--cwd", "/no/such/place", &world.id, "/bin/pwd"]);
    assert!(output.code() != 0 || output.stdout == "/no/such/place\n", "{}", output.report());
    world.end();
}

fn a_variable_is_added(runtime: Runtime) {
    let world = running(runtime);
    let output =
        world.call(&["exec", "--env", "A=b c", "--env", "D=e", &world.id, "/bin/sh", "-c", "echo $A $D $PATH"]);
    assert_eq!(output.ok(), "b c e /bin\n");
    world.end();
}

fn it_returns_at_once(runtime: Runtime) {
    let world = running(runtime);
    let words = ["exec", "-d", &world.id, "/bin/sh", "-c", "echo started; sleep 1000"];
    assert_eq!(world.detached(&mut world.verb(words)), 0, "{}", world.read("err"));
    world.wrote("started");
    world.end();
}

fn the_pid_file_holds_the_pid(runtime: Runtime) {
    let world = running(runtime);
    let file = world.path("run/pid").display().to_string();
    let words = ["exec", "-d", "--pid-file", &file, &world.id, "/bin/sleep", "2000"];
    assert_eq!(world.detached(&mut world.verb(words)), 0, "{}", world.read("err"));
    let pid: i32 = world.read("run/pid").trim().parse().expect("a pid");
    until("it sleeps", || process::name(pid) == "/bin/sleep 2000");
    world.end();
}

fn the_process_of_the_file_is_run(runtime: Runtime) {
    let world = running(runtime);
    let mut process = world.spec["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", "pwd; echo $A; umask; grep CapEff /proc/self/status"]);
    process["cwd"] = json!("/mnt");
    process["env"] = json!(["PATH=/bin", "A=b c"]);
    process["user"]["umask"] = json!(0o027);
    let set = json!(["CAP_KILL"]);
    process["capabilities"] = json!({"bounding": set, "effective": set, "permitted": set});
    let file = world.write("run/process.json", process.to_string());
    let output = world.call(&["exec", "--process", &file.display().to_string(), &world.id]);
    assert_eq!(output.ok(), "/mnt\nb c\n0027\nCapEff:\t0000000000000020\n");
    world.end();
}

fn it_has_the_ids_asked_for(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.sleeper();
    let status = world.call(&["exec", "--user", "7:8", &world.id, "/bin/cat", "/proc/self/status"]).ok();
    assert_eq!((field(&status, "Uid"), field(&status, "Gid")), ("7\t7\t7\t7", "8\t8\t8\t8"));
    world.end();
}

fn a_user_is_one_number_or_two(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.sleeper();
    assert_eq!(world.call(&["exec", "-u", "7", &world.id, "/bin/id", "-u"]).ok(), "7\n");
    assert_ne!(world.call(&["exec", "-u", "seven:eight", &world.id, "/bin/id", "-u"]).code(), 0);
    world.end();
}

fn an_ordinary_user_execs_with_another_id(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    world.sleeper();
    let status = world.call(&["exec", "--user", "7:8", &world.id, "/bin/cat", "/proc/self/status"]).ok();
    assert_eq!((field(&status, "Uid"), field(&status, "Gid")), ("7\t7\t7\t7", "8\t8\t8\t8"));
    world.end();
}

fn a_descriptor_is_preserved(runtime: Runtime) {
    let world = running(runtime);
    world.write("host/file", "preserved");
    let file = std::fs::File::open(world.path("host/file")).expect("a file");
    let mut command = world.verb(["exec", "--preserve-fds", "1", world.id.as_str(), "/bin/sh", "-c", "cat <&3"]);
    crate::streams::with_descriptor(&mut command, &file, 3);
    assert_eq!(process::run(&mut command).ok(), "preserved");
    world.end();
}

fn no_new_privileges_are_given(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/noNewPrivileges", json!(false));
    world.sleeper();
    let status = world.call(&["exec", "--no-new-privs", &world.id, "/bin/cat", "/proc/self/status"]).ok();
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    world.end();
}

fn a_capability_is_added(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.sleeper();
    let status = world.call(&["exec", "--cap", "CAP_CHOWN", &world.id, "/bin/cat", "/proc/self/status"]).ok();
    assert!(field(&status, "CapEff").ends_with('1'), "{status}");
    world.end();
}
