//! config-linux.md: namespaces, new and joined, and what belongs to them.

use std::fs;
use std::process::Command;

use serde_json::json;
use testbed::harness::Need;
use testbed::process;
use testbed::process::Guard;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("namespaces", "Namespaces (config-linux.md)";
    [] "linux.namespaces[] pid": a_new_pid_namespace_begins_with_one, without_it_the_pid_namespace_is_the_hosts,
        a_pid_namespace_is_joined;
    [] "linux.namespaces[] network": a_new_network_has_only_a_loopback, the_loopback_of_a_new_network_is_up,
        without_it_the_network_is_the_hosts, a_network_is_joined;
    [] "linux.namespaces[] mount": a_new_mount_namespace_is_made;
    [] "linux.namespaces[] ipc": a_new_ipc_namespace_is_made, without_it_the_ipc_namespace_is_the_hosts,
        an_ipc_namespace_is_joined;
    [] "linux.namespaces[] uts": a_new_uts_namespace_is_made, without_it_the_uts_namespace_is_the_hosts,
        a_uts_namespace_is_joined;
    [] "linux.namespaces[] user": a_new_user_namespace_is_made, a_user_namespace_is_joined;
    [Need::Root] "linux.namespaces[] user": without_it_root_is_root;
    [] "linux.namespaces[] cgroup": a_new_cgroup_namespace_has_itself_as_root, without_it_the_cgroup_namespace_is_the_hosts,
        a_cgroup_namespace_is_joined;
    [] "linux.namespaces[] time": a_new_time_namespace_is_made, a_time_namespace_is_joined;
    [Need::Root] "linux.namespaces[].path": root_joins_a_network, root_joins_a_pid_namespace, root_joins_an_ipc_namespace,
        root_joins_a_uts_namespace, root_joins_a_cgroup_namespace, root_joins_a_mount_namespace;
    [] "linux.namespaces[].path": a_missing_path_is_refused, a_path_of_another_kind_is_refused,
        a_path_that_is_no_namespace_is_refused;
    [] "linux.namespaces[].type": the_same_kind_twice_is_refused, an_unknown_kind_is_refused;
    [] "linux.timeOffsets": the_clocks_are_moved;
    [] "hostname": the_hostname_is_set, a_hostname_without_a_uts_namespace_is_refused;
    [] "domainname": the_domainname_is_set;
);

/// The name that the kernel has for a namespace of the test's own process.
fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).expect("the kernel has it").display().to_string()
}

/// The same in the container.
#[track_caller]
fn inside(world: &mut World, kind: &str) -> String {
    world.says(&format!("readlink /proc/self/ns/{kind}"))
}

#[track_caller]
fn is_new(runtime: Runtime, spec: &str, kind: &str) {
    let mut world = World::user(runtime);
    world.keep_namespace(spec).new_namespace(spec);
    assert_ne!(inside(&mut world, kind), own(kind));
}

#[track_caller]
fn is_kept(runtime: Runtime, spec: &str, kind: &str) {
    let mut world = World::user(runtime);
    world.keep_namespace(spec).remove("/hostname");
    assert_eq!(inside(&mut world, kind), own(kind));
}

/// A second container joins a namespace of the first, and its user namespace, without which an ordinary user may not.
#[track_caller]
fn is_joined(runtime: Runtime, spec: &str, kind: &str) {
    let mut world = World::user(runtime);
    world.keep_namespace(spec).new_namespace(spec);
    let pid = world.sleeper();
    let wanted = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the kernel has it").display().to_string();
    let first = world.id.clone();
    world.id = world.another("joins");
    world.join_namespace("user", &format!("/proc/{pid}/ns/user"));
    world.remove("/linux/uidMappings").remove("/linux/gidMappings");
    if spec != "user" {
        world.join_namespace(spec, &format!("/proc/{pid}/ns/{kind}"));
        world.remove("/hostname");
    }
    assert_eq!(inside(&mut world, kind), wanted);
    world.id = first;
    world.end();
}

fn a_new_pid_namespace_begins_with_one(runtime: Runtime) {
    is_new(runtime, "pid", "pid");
    assert_eq!(World::user(runtime).says("echo $$"), "1");
}

fn without_it_the_pid_namespace_is_the_hosts(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.keep_namespace("pid");
    world.set("/mounts/0", json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]}));
    assert_eq!(inside(&mut world, "pid"), own("pid"));
}

fn a_pid_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "pid", "pid");
}

fn a_new_network_has_only_a_loopback(runtime: Runtime) {
    is_new(runtime, "network", "net");
    let mut world = World::user(runtime);
    world.new_namespace("network");
    assert_eq!(world.says("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo");
}

fn the_loopback_of_a_new_network_is_up(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("network");
    let text = world.says("ip addr show lo");
    assert!(text.contains("127.0.0.1/8") && text.contains("UP"), "{text}");
}

fn without_it_the_network_is_the_hosts(runtime: Runtime) {
    is_kept(runtime, "network", "net");
}

fn a_network_is_joined(runtime: Runtime) {
    is_joined(runtime, "network", "net");
}

fn a_new_mount_namespace_is_made(runtime: Runtime) {
    is_new(runtime, "mount", "mnt");
}

fn a_new_ipc_namespace_is_made(runtime: Runtime) {
    is_new(runtime, "ipc", "ipc");
}

fn without_it_the_ipc_namespace_is_the_hosts(runtime: Runtime) {
    is_kept(runtime, "ipc", "ipc");
}

fn an_ipc_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "ipc", "ipc");
}

fn a_new_uts_namespace_is_made(runtime: Runtime) {
    is_new(runtime, "uts", "uts");
}

fn without_it_the_uts_namespace_is_the_hosts(runtime: Runtime) {
    is_kept(runtime, "uts", "uts");
}

fn a_uts_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "uts", "uts");
}

fn a_new_user_namespace_is_made(runtime: Runtime) {
    is_new(runtime, "user", "user");
}

fn a_user_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "user", "user");
}

fn without_it_root_is_root(runtime: Runtime) {
    assert_eq!(inside(&mut World::root(runtime), "user"), own("user"));
}

fn a_new_cgroup_namespace_has_itself_as_root(runtime: Runtime) {
    is_new(runtime, "cgroup", "cgroup");
    let mut world = World::user(runtime);
    world.new_namespace("cgroup");
    let text = world.says("cat /proc/self/cgroup");
    assert!(text.lines().all(|line| line.ends_with(":/")), "{text}");
}

fn without_it_the_cgroup_namespace_is_the_hosts(runtime: Runtime) {
    is_kept(runtime, "cgroup", "cgroup");
}

fn a_cgroup_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "cgroup", "cgroup");
}

fn a_new_time_namespace_is_made(runtime: Runtime) {
    is_new(runtime, "time", "time");
}

fn a_time_namespace_is_joined(runtime: Runtime) {
    is_joined(runtime, "time", "time");
}

#[track_caller]
fn root_joins(runtime: Runtime, spec: &str, kind: &str) {
    let mut world = World::root(runtime);
    world.keep_namespace(spec).new_namespace(spec);
    let pid = world.sleeper();
    let path = format!("/proc/{pid}/ns/{kind}");
    let wanted = fs::read_link(&path).expect("the kernel has it").display().to_string();
    let first = world.id.clone();
    world.id = world.another("joins");
    world.remove("/hostname").join_namespace(spec, &path);
    assert_eq!(inside(&mut world, kind), wanted);
    world.id = first;
    world.end();
}

fn root_joins_a_network(runtime: Runtime) {
    root_joins(runtime, "network", "net");
}

fn root_joins_a_pid_namespace(runtime: Runtime) {
    root_joins(runtime, "pid", "pid");
}

fn root_joins_an_ipc_namespace(runtime: Runtime) {
    root_joins(runtime, "ipc", "ipc");
}

fn root_joins_a_uts_namespace(runtime: Runtime) {
    root_joins(runtime, "uts", "uts");
}

fn root_joins_a_cgroup_namespace(runtime: Runtime) {
    root_joins(runtime, "cgroup", "cgroup");
}

fn root_joins_a_mount_namespace(runtime: Runtime) {
    let mut command = Command::new("unshare");
    let holder = Guard(command.args(["--mount", "sleep", "1000"]).spawn().expect("util-linux"));
    let pid = holder.0.id() as i32;
    until("it has its namespace", || process::name(pid) == "sleep 1000");
    let path = format!("/proc/{pid}/ns/mnt");
    let wanted = fs::read_link(&path).expect("the kernel has it").display().to_string();
    let mut world = World::root(runtime);
    world.join_namespace("mount", &path);
    assert_eq!(inside(&mut world, "mnt"), wanted);
}

fn a_missing_path_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.join_namespace("network", "/no/such/namespace");
    let error = world.refused();
    assert!(error.contains("/no/such/namespace"), "{error}");
}

fn a_path_of_another_kind_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.join_namespace("network", "/proc/self/ns/ipc");
    world.refused();
}

fn a_path_that_is_no_namespace_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.join_namespace("network", "/etc/passwd");
    world.refused();
}

fn the_same_kind_twice_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("ipc");
    world.refused();
}

fn an_unknown_kind_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("dreams");
    let error = world.refused();
    assert!(error.contains("dreams"), "{error}");
}

fn the_clocks_are_moved(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("time");
    world.set(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 2000, "nanosecs": 5}, "boottime": {"secs": 1_000_000}}),
    );
    let uptime = world.says("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets");
    let (uptime, offsets) = uptime.split_once('\n').expect("two lines");
    assert!(uptime.parse::<u64>().is_ok_and(|seconds| seconds >= 1_000_000), "{uptime}");
    let words: Vec<&str> = offsets.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "2000", "5", "boottime", "1000000", "0"]);
}

fn the_hostname_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/hostname", json!("a-name.example"));
    assert_eq!(world.says("hostname"), "a-name.example");
}

fn a_hostname_without_a_uts_namespace_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.keep_namespace("uts");
    world.refused();
}

fn the_domainname_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/domainname", json!("example.org"));
    assert_eq!(world.says("cat /proc/sys/kernel/domainname"), "example.org");
}
