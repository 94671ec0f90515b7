//! config-linux.md: sysctl, masked and read-only paths, personality.

use serde_json::json;
use testbed::harness::Need;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;

section!("linux", "Sysctl, masked and read-only paths, personality (config-linux.md)";
    [] "linux.sysctl": a_sysctl_of_the_network_is_set, a_sysctl_of_ipc_is_set,
        a_sysctl_of_the_host_is_refused, a_sysctl_of_the_hosts_network_is_refused, a_sysctl_that_does_not_exist_is_refused,
        a_name_that_leads_out_of_proc_sys_is_refused;
    [Need::Root] "linux.sysctl": root_sets_a_sysctl_of_the_network;
    [] "linux.maskedPaths": a_masked_file_reads_empty, a_masked_folder_is_empty_and_read_only,
        a_masked_path_that_is_missing_is_no_error, a_masked_path_stays_inside_of_the_root;
    [] "linux.readonlyPaths": a_read_only_file_cannot_be_written, a_read_only_folder_cannot_be_written,
        a_read_only_path_that_is_missing_is_no_error;
    [] "linux.personality": the_personality_of_a_32_bit_machine_is_set, the_personality_of_this_machine_is_set,
        an_unknown_personality_is_refused;
    [] "linux.intelRdt": it_is_refused_where_the_kernel_has_none;
    [] "linux.mountLabel": an_empty_label_changes_nothing;
);

fn a_sysctl_of_the_network_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("network").set("/linux/sysctl", json!({"net.ipv4.ip_unprivileged_port_start": "81"}));
    assert_eq!(world.says("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "81");
}

fn root_sets_a_sysctl_of_the_network(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.new_namespace("network").set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert_eq!(world.says("cat /proc/sys/net/ipv4/ip_forward"), "1");
}

fn a_sysctl_of_ipc_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/sysctl", json!({"kernel.msgmax": "8000", "fs.mqueue.msg_max": "9"}));
    assert_eq!(world.says("cat /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max"), "8000\n9");
}

#[track_caller]
fn sysctl_is_refused(runtime: Runtime, name: &str) {
    let mut world = World::user(runtime);
    world.set("/linux/sysctl", json!({name: "1"}));
    world.refused();
}

fn a_sysctl_of_the_host_is_refused(runtime: Runtime) {
    sysctl_is_refused(runtime, "vm.swappiness");
    sysctl_is_refused(runtime, "kernel.core_pattern");
}

fn a_sysctl_of_the_hosts_network_is_refused(runtime: Runtime) {
    sysctl_is_refused(runtime, "net.ipv4.ip_forward");
}

fn a_sysctl_that_does_not_exist_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("network").set("/linux/sysctl", json!({"net.ipv4.no_such_thing": "1"}));
    world.refused();
}

fn a_name_that_leads_out_of_proc_sys_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("network").set("/linux/sysctl", json!({"net/../../self/oom_score_adj": "500"}));
    world.refused();
}

fn a_masked_file_reads_empty(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/maskedPaths", json!(["/proc/version", "/etc/passwd"]));
    assert_eq!(world.says("cat /proc/version /etc/passwd | wc -c"), "0");
}

fn a_masked_folder_is_empty_and_read_only(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/maskedPaths", json!(["/proc/sys", "/etc"]));
    assert_eq!(world.says("ls /proc/sys /etc | grep -v :; touch /etc/new 2>/dev/null || echo no"), "\nno");
}

fn a_masked_path_that_is_missing_is_no_error(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/maskedPaths", json!(["/no/such/path", "/proc/no-such"]));
    assert_eq!(world.says("test -e /no || echo here"), "here");
}

fn a_masked_path_stays_inside_of_the_root(runtime: Runtime) {
    let mut world = World::user(runtime);
    let host = world.write("host/secret", "of the host");
    std::os::unix::fs::symlink(&host, world.rootfs("link")).expect("a link");
    world.set("/linux/maskedPaths", json!(["/link"])).shell("echo here");
    let output = world.run();
    assert!(output.code() != 0 || output.stdout == "here\n", "{}", output.report());
    assert_eq!(world.read("host/secret"), "of the host");
}

fn a_read_only_file_cannot_be_written(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/readonlyPaths", json!(["/etc/passwd"]));
    assert_eq!(
        world.says("(echo x >> /etc/passwd) 2>/dev/null || echo no; touch /etc/new && wc -l < /etc/passwd"),
        "no\n2"
    );
}

fn a_read_only_folder_cannot_be_written(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/readonlyPaths", json!(["/proc/sys", "/etc"]));
    let script = "touch /etc/new 2>&1; (echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1; true";
    let text = world.says(script);
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
}

fn a_read_only_path_that_is_missing_is_no_error(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/readonlyPaths", json!(["/no/such/path"]));
    assert_eq!(world.says("echo here"), "here");
}

fn the_personality_of_a_32_bit_machine_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/personality", json!({"domain": "LINUX32"}));
    assert_eq!(world.says("cat /proc/self/personality"), "00000008");
}

fn the_personality_of_this_machine_is_set(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/personality", json!({"domain": "LINUX"}));
    assert_eq!(world.says("cat /proc/self/personality"), "00000000");
}

fn an_unknown_personality_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/personality", json!({"domain": "MINIX"}));
    world.refused();
}

fn it_is_refused_where_the_kernel_has_none(runtime: Runtime) {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return;
    }
    let mut world = World::user(runtime);
    world.set("/linux/intelRdt", json!({"closID": "group", "l3CacheSchema": "L3:0=ff"}));
    world.refused();
}

fn an_empty_label_changes_nothing(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/mountLabel", json!(""));
    assert_eq!(world.says("echo here"), "here");
}
