//! config.md and config-linux.md: the process.

#![allow(unsafe_code)] // sched_getattr and ioprio_get, which the C library does not have.

use serde_json::json;
use testbed::harness::Need;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::field;

section!("process", "The process (config.md)";
    [] "process.args": args_are_given_as_they_are, the_first_word_is_found_by_the_path_of_the_container,
        an_empty_list_of_args_is_refused, a_missing_program_is_named_in_the_error;
    [] "process.cwd": it_starts_in_cwd, a_missing_cwd_is_made_or_refused, a_relative_cwd_is_refused;
    [] "process.env": env_is_exactly_what_is_listed, of_two_with_one_name_the_program_sees_one;
    [] "process.user.umask": the_umask_is_set;
    [Need::Root] "process.user": ids_are_those_of_the_user, groups_are_exactly_the_additional_ones,
        an_ordinary_user_keeps_no_capability_in_effect_without_ambient;
    [] "process.user.uid": an_id_that_is_not_mapped_is_refused;
    [] "process.capabilities": the_bounding_set_is_set, the_effective_set_is_set, the_permitted_set_is_set,
        the_inheritable_set_is_set, the_ambient_set_is_set, no_capabilities_means_none, an_unknown_capability_does_no_harm;
    [] "process.rlimits": soft_and_hard_limits_are_set, an_unlimited_one_is_the_largest_number,
        an_unknown_limit_is_refused, the_same_limit_twice_is_refused;
    [] "process.noNewPrivileges": no_new_privileges_is_set, no_new_privileges_is_off_where_it_is_false;
    [] "process.oomScoreAdj": the_score_for_the_lack_of_memory_is_set;
    [] "process.scheduler": a_nice_value_is_set, the_batch_policy_is_set;
    [Need::Root] "process.scheduler": a_real_time_policy_is_set, a_deadline_is_set;
    [] "process.ioPriority": the_class_and_the_level_are_set;
    [] "process.execCPUAffinity": the_final_affinity_holds_for_exec;
    [] "process.commandLine": a_windows_command_line_is_ignored;
);

fn args_are_given_as_they_are(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/sh", "-c", "printf '%s|' \"$0\" \"$@\"", "a b", "", "*", "$HOME", "ü\n"]);
    assert_eq!(world.run().ok(), "a b||*|$HOME|ü\n|");
}

fn the_first_word_is_found_by_the_path_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.make_dir("bundle/rootfs/opt", 0o755);
    std::fs::rename(world.rootfs("bin/id"), world.rootfs("opt/id")).expect("moved");
    std::fs::remove_file(world.rootfs("opt/id")).expect("gone");
    std::os::unix::fs::symlink("/bin/busybox", world.rootfs("opt/id")).expect("a link");
    world.set("/process/env", json!(["PATH=/nowhere:/opt"])).args(&["id", "-u"]);
    assert_eq!(world.run().ok(), "0\n");
}

fn an_empty_list_of_args_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&[]);
    world.refused();
}

fn a_missing_program_is_named_in_the_error(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/no-such-program"]);
    let error = world.refused();
    assert!(error.contains("no-such-program"), "the program is named: {error}");
}

fn it_starts_in_cwd(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/cwd", json!("/mnt"));
    assert_eq!(world.says("pwd; readlink /proc/self/cwd"), "/mnt\n/mnt");
}

fn a_missing_cwd_is_made_or_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/cwd", json!("/new/place")).shell("pwd");
    let output = world.run();
    if output.code() == 0 {
        assert_eq!(output.stdout, "/new/place\n");
    } else {
        assert!(output.stderr.contains("/new/place"), "{}", output.report());
    }
}

fn a_relative_cwd_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/cwd", json!("mnt"));
    world.refused();
}

fn env_is_exactly_what_is_listed(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/env", json!(["PATH=/bin", "A=b=c", "EMPTY=", "TEXT=two words"])).args(&["/bin/env"]);
    let output = world.run().ok();
    let mut lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("HOME=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b=c", "EMPTY=", "PATH=/bin", "TEXT=two words"]);
}

fn of_two_with_one_name_the_program_sees_one(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/env", json!(["PATH=/bin", "A=first", "A=second"]));
    let seen = world.says("echo $A");
    assert!(["first", "second"].contains(&seen.as_str()), "{seen}");
}

fn the_umask_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/user/umask", json!(0o027));
    assert_eq!(world.says("umask"), "0027");
}

fn ids_are_those_of_the_user(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8}));
    let status = world.says("cat /proc/self/status");
    assert_eq!(field(&status, "Uid"), "7\t7\t7\t7");
    assert_eq!(field(&status, "Gid"), "8\t8\t8\t8");
}

fn groups_are_exactly_the_additional_ones(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [5, 9000]}));
    let status = world.says("cat /proc/self/status");
    let groups: Vec<&str> = field(&status, "Groups").split(' ').filter(|group| *group != "8").collect();
    assert_eq!(groups, ["5", "9000"]);
}

fn an_ordinary_user_keeps_no_capability_in_effect_without_ambient(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8}));
    assert_eq!(field(&world.says("cat /proc/self/status"), "CapEff"), "0000000000000000");
}

fn an_id_that_is_not_mapped_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/user/uid", json!(7));
    world.refused();
}

/// CAP_KILL and CAP_CHOWN as in `/proc/PID/status`.
const KILL: &str = "0000000000000020";
const CHOWN_KILL: &str = "0000000000000021";

fn capability_set(runtime: Runtime, sets: &[(&str, &[&str])], name: &str) -> String {
    let mut world = World::user(runtime);
    world.set("/process/capabilities", json!({}));
    for (set, capabilities) in sets {
        world.set(&format!("/process/capabilities/{set}"), json!(capabilities));
    }
    field(&world.says("cat /proc/self/status"), name).to_owned()
}

fn the_bounding_set_is_set(runtime: Runtime) {
    let sets: &[(&str, &[&str])] =
        &[("bounding", &["CAP_KILL", "CAP_CHOWN"]), ("effective", &["CAP_KILL"]), ("permitted", &["CAP_KILL"])];
    assert_eq!(capability_set(runtime, sets, "CapBnd"), CHOWN_KILL);
}

fn the_effective_set_is_set(runtime: Runtime) {
    // The kernel gives root all of the bounding set when a program starts.
    let sets: &[(&str, &[&str])] =
        &[("bounding", &["CAP_KILL"]), ("effective", &["CAP_KILL"]), ("permitted", &["CAP_KILL"])];
    assert_eq!(capability_set(runtime, sets, "CapEff"), KILL);
}

fn the_permitted_set_is_set(runtime: Runtime) {
    let sets: &[(&str, &[&str])] =
        &[("bounding", &["CAP_KILL"]), ("effective", &["CAP_KILL"]), ("permitted", &["CAP_KILL"])];
    assert_eq!(capability_set(runtime, sets, "CapPrm"), KILL);
}

fn the_inheritable_set_is_set(runtime: Runtime) {
    let all: &[&str] = &["CAP_KILL"];
    let sets = [("bounding", all), ("effective", all), ("permitted", all), ("inheritable", all)];
    assert_eq!(capability_set(runtime, &sets, "CapInh"), KILL);
}

fn the_ambient_set_is_set(runtime: Runtime) {
    let all: &[&str] = &["CAP_KILL"];
    let sets = [("bounding", all), ("effective", all), ("permitted", all), ("inheritable", all), ("ambient", all)];
    assert_eq!(capability_set(runtime, &sets, "CapAmb"), KILL);
}

fn no_capabilities_means_none(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/capabilities", json!({"bounding": [], "effective": [], "permitted": []}));
    let status = world.says("cat /proc/self/status");
    for set in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
}

fn an_unknown_capability_does_no_harm(runtime: Runtime) {
    // "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise, MUST be logged as
    // a warning by the runtime. Runtimes SHOULD NOT fail if the container configuration requests capabilities that cannot
    // be granted."
    let mut world = World::user(runtime);
    let set = json!(["CAP_KILL", "CAP_NO_SUCH"]);
    world.set("/process/capabilities", json!({"bounding": set, "effective": set, "permitted": set}));
    assert_eq!(field(&world.says("cat /proc/self/status"), "CapEff"), KILL);
}

fn soft_and_hard_limits_are_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 300},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
    );
    assert_eq!(world.says("ulimit -Sn; ulimit -Hn; ulimit -c"), "200\n300\n0");
}

fn an_unlimited_one_is_the_largest_number(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": u64::MAX, "hard": u64::MAX}]));
    assert_eq!(world.says("ulimit -t"), "unlimited");
}

fn an_unknown_limit_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/rlimits", json!([{"type": "RLIMIT_NO_SUCH", "soft": 1, "hard": 1}]));
    world.refused();
}

fn the_same_limit_twice_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    let limit = |value: u32| json!({"type": "RLIMIT_NOFILE", "soft": value, "hard": value});
    world.set("/process/rlimits", json!([limit(100), limit(200)]));
    world.refused();
}

fn no_new_privileges_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    assert_eq!(field(&world.says("cat /proc/self/status"), "NoNewPrivs"), "1");
}

fn no_new_privileges_is_off_where_it_is_false(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/noNewPrivileges", json!(false));
    assert_eq!(field(&world.says("cat /proc/self/status"), "NoNewPrivs"), "0");
}

fn the_score_for_the_lack_of_memory_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/oomScoreAdj", json!(321));
    assert_eq!(world.says("cat /proc/self/oom_score_adj"), "321");
}

/// `struct sched_attr` of sched_getattr(2).
#[derive(Debug, Default)]
#[repr(C)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn scheduling(pid: i32) -> Scheduling {
    let mut attributes = Scheduling::default();
    let size = size_of::<Scheduling>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to a live local of that size.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, pid, &raw mut attributes, size, 0) };
    assert_eq!(result, 0, "sched_getattr: {}", std::io::Error::last_os_error());
    attributes
}

fn a_nice_value_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 7}));
    let pid = world.sleeper();
    assert_eq!(scheduling(pid).nice, 7);
}

fn the_batch_policy_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/scheduler", json!({"policy": "SCHED_BATCH"}));
    let pid = world.sleeper();
    assert_eq!(scheduling(pid).policy, libc::SCHED_BATCH as u32);
}

fn a_real_time_policy_is_set(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.set(
        "/process/scheduler",
        json!({"policy": "SCHED_FIFO", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    );
    let pid = world.sleeper();
    let attributes = scheduling(pid);
    assert_eq!((attributes.policy, attributes.priority, attributes.flags & 1), (libc::SCHED_FIFO as u32, 3, 1));
}

fn a_deadline_is_set(runtime: Runtime) {
    let mut world = World::root(runtime);
    let (run, deadline, period) = (1_000_000, 50_000_000, 100_000_000);
    world.set(
        "/process/scheduler",
        json!({"policy": "SCHED_DEADLINE", "runtime": run, "deadline": deadline, "period": period}),
    );
    let pid = world.sleeper();
    let attributes = scheduling(pid);
    assert_eq!(
        (attributes.policy, attributes.runtime, attributes.deadline, attributes.period),
        (6, run, deadline, period)
    );
}

fn the_class_and_the_level_are_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
    let pid = world.sleeper();
    // SAFETY: ioprio_get takes numbers only; 1 is IOPRIO_WHO_PROCESS.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, pid) };
    assert_eq!((priority >> 13, priority & 7), (2, 6));
}

fn the_final_affinity_holds_for_exec(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
    world.sleeper();
    let status = world.exec("cat /proc/self/status").ok();
    assert_eq!(field(&status, "Cpus_allowed_list"), "0");
}

fn a_windows_command_line_is_ignored(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/commandLine", json!("cmd.exe /c dir"));
    assert_eq!(world.says("echo here"), "here");
}
