//! config-linux.md: system call filters.

use serde_json::Value;
use serde_json::json;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::field;

section!("seccomp", "Seccomp (config-linux.md)";
    [] "linux.seccomp": the_filter_is_in_force, without_it_there_is_no_filter, a_filter_needs_no_new_privileges_no_more;
    [] "linux.seccomp.defaultAction": the_default_refuses_what_is_not_listed;
    [] "linux.seccomp.defaultErrnoRet": the_default_error_is_what_is_asked_for;
    [] "linux.seccomp.architectures": the_architectures_of_this_machine_are_filtered,
        an_unknown_architecture_is_refused;
    [] "linux.seccomp.flags": the_flag_log_is_taken, the_flag_spec_allow_is_taken, an_unknown_flag_is_refused;
    [] "linux.seccomp.syscalls[].action": errno_answers_with_eperm, allow_allows, kill_process_ends_the_process,
        kill_ends_the_process, kill_thread_ends_the_thread, trap_sends_sigsys, log_lets_it_pass, trace_without_a_tracer_answers_enosys,
        an_unknown_action_is_refused;
    [] "linux.seccomp.syscalls[].errnoRet": the_error_is_what_is_asked_for;
    [] "linux.seccomp.syscalls[].args": an_equal_argument_is_matched, other_arguments_are_not_matched,
        a_masked_argument_is_matched, a_larger_argument_is_matched, all_of_several_arguments_must_match,
        an_argument_of_64_bits_is_matched, an_unknown_comparison_is_refused;
    [] "linux.seccomp.syscalls[].names": several_names_have_one_rule, an_unknown_name_does_no_harm;
    [] "linux.seccomp.listenerPath": the_agent_gets_the_descriptor_of_the_filter;
);

/// A container whose filter allows all but what these rules say.
fn with(runtime: Runtime, rules: Value) -> World {
    let mut world = World::user(runtime);
    world.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"], "syscalls": rules}),
    );
    world
}

/// A rule against making folders, which busybox does with mkdir.
fn mkdir(action: &str) -> Value {
    json!([{"names": ["mkdir", "mkdirat"], "action": action}])
}

fn the_filter_is_in_force(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    assert_eq!(field(&world.says("cat /proc/self/status"), "Seccomp"), "2");
}

fn without_it_there_is_no_filter(runtime: Runtime) {
    assert_eq!(field(&World::user(runtime).says("cat /proc/self/status"), "Seccomp"), "0");
}

fn a_filter_needs_no_new_privileges_no_more(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    world.set("/process/noNewPrivileges", json!(false));
    let status = world.says("cat /proc/self/status");
    assert_eq!((field(&status, "Seccomp"), field(&status, "NoNewPrivs")), ("2", "0"));
}

/// All that busybox needs, as a list of what is allowed would be too long to be kept here: the rest of a refusing filter.
const ALLOWED: &[&str] = &[
    "read",
    "write",
    "close",
    "fstat",
    "lstat",
    "stat",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "ioctl",
    "access",
    "pipe",
    "pipe2",
    "dup",
    "dup2",
    "dup3",
    "nanosleep",
    "getpid",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "wait4",
    "kill",
    "uname",
    "fcntl",
    "getcwd",
    "chdir",
    "fchdir",
    "readlink",
    "readlinkat",
    "getuid",
    "getgid",
    "geteuid",
    "getegid",
    "getppid",
    "getpgrp",
    "setuid",
    "setgid",
    "setgroups",
    "setresuid",
    "setresgid",
    "capget",
    "capset",
    "prctl",
    "arch_prctl",
    "futex",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "getrandom",
    "openat",
    "open",
    "newfstatat",
    "statx",
    "getdents64",
    "seccomp",
    "sigaltstack",
    "sched_yield",
    "gettid",
    "tgkill",
    "epoll_pwait",
    "epoll_ctl",
    "epoll_create1",
    "faccessat2",
];

fn refusing(runtime: Runtime) -> World {
    let mut world = World::user(runtime);
    // What the runtimes themselves call between the filter and the program.
    let more = [
        "eventfd2",
        "madvise",
        "getpgid",
        "close_range",
        "fstatfs",
        "statfs",
        "umask",
        "setsid",
        "faccessat",
        "rt_sigtimedwait",
        "restart_syscall",
        "newuname",
        "getsockopt",
        "sendmsg",
        "sendto",
        "recvmsg",
        "recvfrom",
        "socket",
        "connect",
        "shutdown",
        "poll",
        "ppoll",
        "signalfd4",
        "epoll_wait",
        "tkill",
        "sched_getaffinity",
        "clock_gettime",
        "pread64",
        "writev",
        "readv",
    ];
    world.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ALLOWED, "action": "SCMP_ACT_ALLOW"}, {"names": more, "action": "SCMP_ACT_ALLOW"}]}),
    );
    world
}

fn the_default_refuses_what_is_not_listed(runtime: Runtime) {
    let text = refusing(runtime).says("mkdir /new 2>&1; echo $?");
    assert!(text.contains("Operation not permitted") && text.ends_with('1'), "{text}");
}

fn the_default_error_is_what_is_asked_for(runtime: Runtime) {
    let mut world = refusing(runtime);
    world.set("/linux/seccomp/defaultErrnoRet", json!(libc::ENOSPC));
    let text = world.says("mkdir /new 2>&1; true");
    assert!(text.contains("No space left on device"), "{text}");
}

fn the_architectures_of_this_machine_are_filtered(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    world.remove("/linux/seccomp/architectures");
    assert_eq!(world.says("mkdir /new 2>/dev/null || echo no"), "no");
}

fn an_unknown_architecture_is_refused(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    world.set("/linux/seccomp/architectures", json!(["SCMP_ARCH_ABACUS"]));
    world.refused();
}

#[track_caller]
fn flag_is_taken(runtime: Runtime, flag: &str) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    world.set("/linux/seccomp/flags", json!([flag]));
    assert_eq!(world.says("mkdir /new 2>/dev/null || echo no"), "no");
}

fn the_flag_log_is_taken(runtime: Runtime) {
    flag_is_taken(runtime, "SECCOMP_FILTER_FLAG_LOG");
}

fn the_flag_spec_allow_is_taken(runtime: Runtime) {
    flag_is_taken(runtime, "SECCOMP_FILTER_FLAG_SPEC_ALLOW");
}

fn an_unknown_flag_is_refused(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_ERRNO"));
    world.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_NO_SUCH"]));
    world.refused();
}

#[track_caller]
fn does(runtime: Runtime, action: &str) -> String {
    with(runtime, mkdir(action)).says("mkdir /new 2>&1; echo $?")
}

fn errno_answers_with_eperm(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_ERRNO");
    assert!(text.contains("Operation not permitted"), "{text}");
}

fn allow_allows(runtime: Runtime) {
    assert_eq!(does(runtime, "SCMP_ACT_ALLOW"), "0");
}

fn kill_process_ends_the_process(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_KILL_PROCESS");
    assert!(text.ends_with("159"), "{text}");
}

fn kill_ends_the_process(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_KILL");
    assert!(text.ends_with("159"), "{text}");
}

fn kill_thread_ends_the_thread(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_KILL_THREAD");
    assert!(text.ends_with("159"), "{text}");
}

fn trap_sends_sigsys(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_TRAP");
    assert!(text.ends_with("159"), "{text}");
}

fn log_lets_it_pass(runtime: Runtime) {
    assert_eq!(does(runtime, "SCMP_ACT_LOG"), "0");
}

fn trace_without_a_tracer_answers_enosys(runtime: Runtime) {
    let text = does(runtime, "SCMP_ACT_TRACE");
    assert!(text.contains("Function not implemented"), "{text}");
}

fn an_unknown_action_is_refused(runtime: Runtime) {
    with(runtime, mkdir("SCMP_ACT_FORGIVE")).refused();
}

fn the_error_is_what_is_asked_for(runtime: Runtime) {
    let rule = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSPC}]);
    let text = with(runtime, rule).says("mkdir /new 2>&1; true");
    assert!(text.contains("No space left on device"), "{text}");
}

/// A rule about sending signals: kill(2) with these arguments.
fn kill(args: Value) -> Value {
    json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSPC, "args": args}])
}

/// Which of the signals 0, 10, 12 can be sent to oneself (who ignores them).
#[track_caller]
fn sent(runtime: Runtime, args: Value) -> String {
    let script = "trap '' USR1 USR2; for s in 0 10 12; do kill -$s $$ 2>/dev/null && echo $s; done; true";
    with(runtime, kill(args)).says(script).replace('\n', " ")
}

fn an_equal_argument_is_matched(runtime: Runtime) {
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}])), "0 12");
}

fn other_arguments_are_not_matched(runtime: Runtime) {
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_NE"}])), "10");
}

fn a_masked_argument_is_matched(runtime: Runtime) {
    let args = json!([{"index": 1, "value": 4, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}]);
    assert_eq!(sent(runtime, args), "0 10");
}

fn a_larger_argument_is_matched(runtime: Runtime) {
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_GT"}])), "0 10");
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_GE"}])), "0");
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_LT"}])), "10 12");
    assert_eq!(sent(runtime, json!([{"index": 1, "value": 10, "op": "SCMP_CMP_LE"}])), "12");
}

fn all_of_several_arguments_must_match(runtime: Runtime) {
    let both = |pid: u32| json!([{"index": 0, "value": pid, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]);
    assert_eq!(sent(runtime, both(1)), "0 12");
    assert_eq!(sent(runtime, both(77)), "0 10 12");
}

fn an_argument_of_64_bits_is_matched(runtime: Runtime) {
    // The upper half is compared, too: no argument here has any bit of it.
    assert_eq!(sent(runtime, json!([{"index": 1, "value": (1_u64 << 40) + 10, "op": "SCMP_CMP_EQ"}])), "0 10 12");
}

fn an_unknown_comparison_is_refused(runtime: Runtime) {
    with(runtime, kill(json!([{"index": 1, "value": 10, "op": "SCMP_CMP_LIKE"}]))).refused();
}

fn several_names_have_one_rule(runtime: Runtime) {
    let rule = json!([{"names": ["mkdir", "mkdirat", "symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO"}]);
    assert_eq!(
        with(runtime, rule).says("mkdir /a 2>/dev/null; ln -s a /b 2>/dev/null; ls -d /a /b 2>/dev/null; echo no"),
        "no"
    );
}

fn an_unknown_name_does_no_harm(runtime: Runtime) {
    let rule = json!([{"names": ["no_such_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    assert_eq!(with(runtime, rule).says("mkdir /a 2>/dev/null || echo no"), "no");
}

fn the_agent_gets_the_descriptor_of_the_filter(runtime: Runtime) {
    let mut world = with(runtime, mkdir("SCMP_ACT_NOTIFY"));
    let path = world.path("run/agent");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    world.user.own(&path).expect("its owner");
    world.set("/linux/seccomp/listenerPath", json!(path)).set("/linux/seccomp/listenerMetadata", json!("about me"));
    world.args(&["/bin/sleep", "1000"]).write_spec();
    let agent = std::thread::spawn(move || crate::terminal::receive(&listener));
    let code = world.detached(&mut world.verb(["create", world.id.as_str()]));
    if code == 0 {
        world.call(&["start", &world.id]).ok();
    }
    assert_eq!(code, 0, "{}", world.read("err"));
    let (text, descriptors) = agent.join().expect("the agent does not panic");
    let message: Value = serde_json::from_str(&text).expect("the state of the container's process");
    assert_eq!(descriptors.len(), 1);
    assert_eq!(message["fds"], json!(["seccompFd"]), "{message}");
    assert_eq!(message["metadata"], "about me");
    assert_eq!(message["state"]["id"], json!(world.id));
    assert_eq!(message["pid"], json!(world.pid()), "{message}");
    world.end();
}
