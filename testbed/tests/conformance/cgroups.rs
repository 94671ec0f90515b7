//! config-linux.md: control groups, of the old and of the new kind, and the commands that need them.

#![allow(unsafe_code)] // umount2, in the mount namespace of the test.

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::json;
use testbed::harness::Need;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("cgroups", "Control groups (config-linux.md; pause, resume, update)";
    [Need::Root] "linux.cgroupsPath": an_absolute_path_is_taken, a_relative_path_is_taken, without_a_path_the_container_has_a_group_of_its_own,
        what_was_made_is_removed, what_was_there_before_is_kept;
    [] "linux.cgroupsPath": an_ordinary_user_without_control_groups_runs;
    [Need::Root] "linux.cgroupsPath": groups_of_the_old_kind_that_a_user_was_given_are_used_or_that_is_told,
        groups_of_the_new_kind_that_a_user_was_given_are_used,
        groups_that_take_no_process_are_used_or_refused_and_nothing_is_left;
    [] "linux.resources": a_limit_that_cannot_be_set_is_told_or_left;
    [Need::Root] "linux.resources.memory.limit": the_memory_limit_is_set, the_memory_limit_is_in_force,
        minus_one_is_no_limit;
    [Need::Root] "linux.resources.memory.reservation": the_reservation_is_set;
    [Need::Root] "linux.resources.memory.swap": the_limit_with_swap_is_set;
    [Need::Root] "linux.resources.memory.swappiness": the_swappiness_is_set;
    [Need::Root] "linux.resources.cpu.shares": the_shares_are_set;
    [Need::Root] "linux.resources.cpu.quota": the_quota_and_the_period_are_set;
    [Need::Root] "linux.resources.cpu.burst": the_burst_is_set;
    [Need::Root] "linux.resources.cpu.idle": the_group_is_idle;
    [Need::Root] "linux.resources.memory.disableOOMKiller": the_killer_is_off;
    [Need::Root] "linux.resources.cpu.cpus": the_processors_are_set;
    [Need::Root] "linux.resources.cpu.mems": the_memory_nodes_are_set;
    [Need::Root] "linux.resources.pids.limit": the_number_of_processes_is_set, the_number_of_processes_is_in_force;
    [Need::Root] "linux.resources.blockIO": a_throttle_is_set;
    [Need::Root] "linux.resources.devices": a_device_that_is_not_allowed_cannot_be_opened,
        a_device_that_is_allowed_can_be_opened, a_device_can_be_allowed_for_reading_only;
    [Need::Root] "linux.resources.hugepageLimits": the_limit_of_huge_pages_is_set;
    [Need::Root] "linux.resources.unified": a_file_of_the_new_kind_is_written, a_file_that_does_not_exist_is_refused;
    [Need::Root] "pause": a_paused_container_stands_still, exec_in_a_paused_container_is_refused,
        what_is_paused_can_be_deleted_by_force;
    [Need::Root] "resume": it_goes_on, resume_of_what_runs_is_refused;
    [Need::Root] "update": the_memory_limit_is_changed, resources_are_read_from_a_file, a_number_of_processes_is_changed;
);

/// Where this test's groups are, below every hierarchy.
fn place() -> String {
    format!("berth-conformance-{}", std::process::id())
}

fn unmount(path: &CStr) {
    // SAFETY: the string lives as long as the call.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
}

/// Lets the container have control groups of the host's kind. Where the host has both kinds, those that have the
/// controllers stay: crun refuses the mixture.
pub fn with_controllers(world: &mut World) {
    let new = Path::new("/sys/fs/cgroup/cgroup.controllers");
    if new.exists() && !fs::read_to_string(new).unwrap_or_default().contains("memory") {
        unmount(c"/sys/fs/cgroup");
        if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
            unmount(c"/sys/fs/cgroup/unified");
            // crun writes there all the same: what it makes is to go with the test.
            let flags = rustix::mount::MountFlags::NOSUID;
            rustix::mount::mount("tmpfs", "/sys/fs/cgroup/unified", "tmpfs", flags, None).expect("an empty folder");
        }
    }
    with_groups(world);
}

fn with_groups(world: &mut World) {
    world.without_cgroups = false;
    world.set("/linux/cgroupsPath", json!(format!("/{}/c", place())));
}

/// Removes what a test that failed left.
pub fn remove() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        for name in ["c/x", "c", "own", ""] {
            let _ = fs::remove_dir(hierarchy.join(place()).join(name));
        }
    }
}

/// The directory of a process's group in the hierarchy that has this controller, and whether that is of the old kind.
fn directory(pid: i32, controller: &str) -> (PathBuf, bool) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the kernel tells");
    let root = PathBuf::from("/sys/fs/cgroup");
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if names.split(',').any(|name| name == controller) && root.join(controller).exists() {
            return (root.join(controller).join(path.trim_start_matches('/')), true);
        }
    }
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).expect("a group of the new kind");
    (root.join(path.trim_start_matches('/')), false)
}

/// What a file of the group of a process holds, by its name of the old and of the new kind.
#[track_caller]
fn value(pid: i32, controller: &str, old: &str, new: &str) -> String {
    let (directory, is_old) = directory(pid, controller);
    let path = directory.join(if is_old { old } else { new });
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

/// A container of root that sleeps, with these resources.
#[track_caller]
fn limited(runtime: Runtime, resources: serde_json::Value) -> (World, i32) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/resources", resources);
    let pid = world.sleeper();
    (world, pid)
}

fn an_absolute_path_is_taken(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({}));
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the kernel tells");
    let (directory, _) = directory(pid, "memory");
    assert!(directory.ends_with(format!("{}/c", place())), "{text}");
    world.end();
}

fn a_relative_path_is_taken(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/cgroupsPath", json!(format!("{}/c", place())));
    let pid = world.sleeper();
    let (directory, _) = directory(pid, "memory");
    assert!(directory.ends_with(format!("{}/c", place())), "{}", directory.display());
    world.end();
}

/// Gives a group, with the files that move processes and controllers, to the user.
fn give(world: &World, group: &Path) {
    fs::create_dir_all(group).expect("a group");
    for path in [group.to_owned()].into_iter().chain(fs::read_dir(group).expect("a group").flatten().map(|e| e.path()))
    {
        std::os::unix::fs::chown(path, Some(world.user.uid), Some(world.user.gid)).expect("its owner");
    }
}

/// Gives the user a group in every hierarchy of the old kind; false where there is none.
fn give_all(world: &World, with_processors: bool) -> bool {
    if !directory(std::process::id() as i32, "pids").1 {
        return false;
    }
    let controllers = ["memory", "pids", "cpu", "cpuacct", "cpuset", "blkio", "devices", "freezer", "systemd"];
    for hierarchy in controllers.map(|name| Path::new("/sys/fs/cgroup").join(name)) {
        if hierarchy.exists() {
            let group = hierarchy.join(place());
            give(world, &group);
            // A group of this controller takes no process before it has processors and memory.
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if with_processors && hierarchy.join(name).exists() {
                    fs::copy(hierarchy.join(name), group.join(name)).expect("its processors and its memory");
                }
            }
        }
    }
    true
}

fn groups_of_the_old_kind_that_a_user_was_given_are_used_or_that_is_told(runtime: Runtime) {
    let mut world = World::user(runtime);
    with_controllers(&mut world);
    if !give_all(&world, true) {
        return;
    }
    // Nobody delegates the old kind safely, so that a runtime may leave it alone; but not without a word.
    world.set("/linux/resources", json!({"pids": {"limit": 20}})).args(&["/bin/sleep", "1000"]).write_spec();
    let log = world.path("run/log").display().to_string();
    let code = world.detached(&mut world.verb_with(&["--log", &log], ["create", world.id.as_str()]));
    let told = !(world.read("run/log") + &world.read("err")).is_empty();
    assert!(code == 0 || told);
    if code == 0 {
        let (group, _) = directory(world.pid(), "pids");
        let limit = fs::read_to_string(group.join("pids.max")).unwrap_or_default();
        assert!(limit == "20\n" || told, "{}: {limit}", group.display());
        world.end();
    }
}

fn groups_that_take_no_process_are_used_or_refused_and_nothing_is_left(runtime: Runtime) {
    let mut world = World::user(runtime);
    with_controllers(&mut world);
    if !give_all(&world, false) {
        return;
    }
    world.args(&["/bin/true"]).write_spec();
    let mut child = world.verb(["run", world.id.as_str()]).stderr(world.append("err")).spawn().expect("a runtime");
    let ended = process::wait(&mut child, std::time::Duration::from_secs(10));
    assert!(ended.is_ok_and(|(status, _)| status.success() || !world.read("err").is_empty()), "it hangs");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("the hierarchies").flatten() {
        let group = hierarchy.path().join(place()).join("c");
        assert!(!group.exists(), "{}", group.display());
    }
}

fn groups_of_the_new_kind_that_a_user_was_given_are_used(runtime: Runtime) {
    let mut world = World::user(runtime);
    only_the_new_kind();
    with_groups(&mut world);
    let (root, group) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup").join(place()));
    let (controller, file, wanted) = a_limit_of_the_new_kind();
    let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    give(&world, &group);
    give(&world, &group.join("own"));
    // Who wants to move a process needs the right to write in the group above both.
    fs::write(group.join("own/cgroup.procs"), std::process::id().to_string()).expect("moved");
    world.set("/linux/resources/unified", json!({file: wanted}));
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let pid = world.sleeper();
        let limit = value(pid, "none", "", file);
        world.end();
        limit
    }));
    fs::write(root.join("cgroup.procs"), std::process::id().to_string()).expect("moved");
    let _ = fs::remove_dir(group.join("own"));
    assert_eq!(outcome.expect("the container runs"), wanted);
}

fn without_a_path_the_container_has_a_group_of_its_own(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.remove("/linux/cgroupsPath");
    let pid = world.sleeper();
    let (own, _) = directory(std::process::id() as i32, "memory");
    let (there, _) = directory(pid, "memory");
    assert!(own != there && there.display().to_string().contains(&world.id), "{}", there.display());
    world.end();
    assert!(!there.exists());
}

fn what_was_made_is_removed(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}));
    let all = ["memory", "pids", "cpu", "devices", "freezer"].map(|controller| directory(pid, controller).0);
    world.end();
    for directory in all {
        assert!(!directory.ends_with("c") || !directory.exists(), "{}", directory.display());
    }
}

fn what_was_there_before_is_kept(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    let (own, _) = directory(std::process::id() as i32, "memory");
    let base = if Path::new("/sys/fs/cgroup/memory").exists() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
    let _ = own;
    let parent = Path::new(base).join(place());
    fs::create_dir_all(&parent).expect("a group");
    let _ = world.args(&["/bin/true"]).run().ok();
    assert!(parent.exists() && !parent.join("c").exists());
    fs::remove_dir(&parent).expect("it is empty");
}

fn an_ordinary_user_without_control_groups_runs(runtime: Runtime) {
    assert_eq!(World::user(runtime).says("echo here"), "here");
}

fn a_limit_that_cannot_be_set_is_told_or_left(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/resources", json!({"pids": {"limit": 20}, "memory": {"limit": 64 << 20}})).shell("echo here");
    let output = world.run();
    assert!(output.stdout == "here\n" || output.code() != 0 && !output.stderr.is_empty(), "{}", output.report());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn the_memory_limit_is_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20}}));
    assert_eq!(value(pid, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    world.end();
}

fn the_memory_limit_is_in_force(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/resources/memory", json!({"limit": 16 << 20, "swap": 16 << 20}));
    // tail keeps its input until a line ends, which none of these zeroes does.
    assert_eq!(world.shell("head -c 100m /dev/zero | tail > /dev/null; exit $?").run().code(), 137);
}

fn minus_one_is_no_limit(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": -1}}));
    let limit = value(pid, "memory", "memory.limit_in_bytes", "memory.max");
    assert!(limit == "max" || limit.parse::<u64>().is_ok_and(|limit| limit > 1 << 60), "{limit}");
    world.end();
}

fn the_reservation_is_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20, "reservation": 32 << 20}}));
    assert_eq!(value(pid, "memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
    world.end();
}

fn the_limit_with_swap_is_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20, "swap": 96 << 20}}));
    let (_, old) = directory(pid, "memory");
    // The old kind counts memory and swap together, the new kind swap alone.
    let wanted = if old { "100663296" } else { "33554432" };
    assert_eq!(value(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), wanted);
    world.end();
}

fn the_swappiness_is_set(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/resources", json!({"memory": {"limit": 64 << 20, "swappiness": 30}}));
    if directory(std::process::id() as i32, "memory").1 {
        let pid = world.sleeper();
        assert_eq!(value(pid, "memory", "memory.swappiness", ""), "30");
        world.end();
    } else {
        // The new kind has none: it must be refused, or left.
        let (code, error) = world.try_create(&[]);
        assert!(code == 0 || !error.is_empty());
    }
}

fn the_shares_are_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"shares": 512}}));
    let (_, old) = directory(pid, "cpu");
    let shares = value(pid, "cpu", "cpu.shares", "cpu.weight");
    assert!(
        if old { shares == "512" } else { (15..=80).contains(&shares.parse::<u32>().expect("a number")) },
        "{shares}"
    );
    world.end();
}

fn the_quota_and_the_period_are_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"quota": 40_000, "period": 80_000}}));
    let (_, old) = directory(pid, "cpu");
    if old {
        assert_eq!(value(pid, "cpu", "cpu.cfs_quota_us", ""), "40000");
        assert_eq!(value(pid, "cpu", "cpu.cfs_period_us", ""), "80000");
    } else {
        assert_eq!(value(pid, "cpu", "", "cpu.max"), "40000 80000");
    }
    world.end();
}

fn the_burst_is_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"quota": 40_000, "period": 80_000, "burst": 10_000}}));
    assert_eq!(value(pid, "cpu", "cpu.cfs_burst_us", "cpu.max.burst"), "10000");
    world.end();
}

fn the_group_is_idle(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"idle": 1}}));
    assert_eq!(value(pid, "cpu", "cpu.idle", "cpu.idle"), "1");
    world.end();
}

fn the_killer_is_off(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/resources/memory", json!({"limit": 64 << 20, "disableOOMKiller": true}));
    if directory(std::process::id() as i32, "memory").1 {
        let pid = world.sleeper();
        assert!(value(pid, "memory", "memory.oom_control", "").contains("oom_kill_disable 1"));
        world.end();
    } else {
        // The new kind has none: it must be refused, or left.
        let (code, error) = world.try_create(&[]);
        assert!(code == 0 || !error.is_empty());
    }
}

fn the_processors_are_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"cpus": "0", "mems": "0"}}));
    assert_eq!(value(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(world.exec("grep Cpus_allowed_list /proc/self/status").ok(), "Cpus_allowed_list:\t0\n");
    world.end();
}

fn the_memory_nodes_are_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"cpu": {"mems": "0"}}));
    assert_eq!(value(pid, "cpuset", "cpuset.mems", "cpuset.mems"), "0");
    world.end();
}

fn the_number_of_processes_is_set(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"pids": {"limit": 20}}));
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "20");
    world.end();
}

fn the_number_of_processes_is_in_force(runtime: Runtime) {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/resources/pids", json!({"limit": 20}));
    let output = world.shell("for n in $(seq 40); do sleep 5 & done; kill -9 -1; true").run();
    assert!(output.stderr.contains("can't fork"), "{}", output.report());
}

fn a_throttle_is_set(runtime: Runtime) {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let number = disks
        .filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok())
        .map(|number| number.trim().to_owned())
        .find(|number| !number.starts_with("7:"))
        .expect("a disk");
    let (major, minor) = number.split_once(':').expect("two numbers");
    let device = json!({"major": major.parse::<u32>().expect("a number"), "minor": minor.parse::<u32>().expect("a number"),
        "rate": 1_048_576});
    let (world, pid) = limited(runtime, json!({"blockIO": {"throttleReadBpsDevice": [device]}}));
    let text = value(pid, "blkio", "blkio.throttle.read_bps_device", "io.max");
    assert!(text.contains(&number) && text.contains("1048576"), "{text}");
    world.end();
}

/// What reading and writing /dev/kmsg, which no runtime gives by itself, answers.
#[track_caller]
fn kmsg(runtime: Runtime, rules: serde_json::Value) -> String {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.set("/linux/devices", json!([{"path": "/dev/thing", "type": "c", "major": 1, "minor": 11}]));
    world.set("/linux/resources/devices", rules);
    // Without it, the kernel lets nobody read this one.
    let set = json!(["CAP_SYSLOG"]);
    world.set("/process/capabilities", json!({"bounding": set, "effective": set, "permitted": set}));
    world
        .says("(: < /dev/thing) 2>/dev/null && echo r; (: >> /dev/thing) 2>/dev/null && echo w; echo end")
        .replace('\n', "")
}

fn a_device_that_is_not_allowed_cannot_be_opened(runtime: Runtime) {
    assert_eq!(kmsg(runtime, json!([{"allow": false, "access": "rwm"}])), "end");
}

fn a_device_that_is_allowed_can_be_opened(runtime: Runtime) {
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"});
    assert_eq!(kmsg(runtime, json!([{"allow": false, "access": "rwm"}, rule])), "rwend");
}

fn a_device_can_be_allowed_for_reading_only(runtime: Runtime) {
    let rule = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    assert_eq!(kmsg(runtime, json!([{"allow": false, "access": "rwm"}, rule])), "rend");
}

/// A container on a machine that has the new kind alone: no other is left in this test's mounts.
fn with_new_kind(runtime: Runtime) -> World {
    let mut world = World::root(runtime);
    only_the_new_kind();
    with_groups(&mut world);
    world
}

fn only_the_new_kind() {
    while fs::read_to_string("/proc/self/mountinfo").is_ok_and(|info| info.contains(" /sys/fs/cgroup ")) {
        unmount(c"/sys/fs/cgroup");
    }
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, None).expect("the new kind");
}

/// A controller that is there, a file of it, and what can be written to that.
fn a_limit_of_the_new_kind() -> (&'static str, &'static str, &'static str) {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    match controllers.split_whitespace().any(|name| name == "pids") {
        true => ("pids", "pids.max", "33"),
        // What no hierarchy of the old kind has taken.
        false => ("hugetlb", "hugetlb.2MB.max", "6291456"),
    }
}

fn the_limit_of_huge_pages_is_set(runtime: Runtime) {
    let mut world = with_new_kind(runtime);
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !controllers.contains("hugetlb") || !Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        return;
    }
    world.set("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4 << 20}]));
    let pid = world.sleeper();
    assert_eq!(value(pid, "none", "", "hugetlb.2MB.max"), "4194304");
    world.end();
}

fn a_file_of_the_new_kind_is_written(runtime: Runtime) {
    let mut world = with_new_kind(runtime);
    let (_, file, wanted) = a_limit_of_the_new_kind();
    world.set("/linux/resources/unified", json!({file: wanted, "cgroup.max.depth": "7"}));
    let pid = world.sleeper();
    assert_eq!(value(pid, "none", "", file), wanted);
    assert_eq!(value(pid, "none", "", "cgroup.max.depth"), "7");
    world.end();
}

fn a_file_that_does_not_exist_is_refused(runtime: Runtime) {
    let mut world = with_new_kind(runtime);
    world.set("/linux/resources/unified", json!({format!("{}.no-such-file", a_limit_of_the_new_kind().0): "1"}));
    world.refused();
}

/// A container that counts, paused.
#[track_caller]
fn paused(runtime: Runtime) -> World {
    let mut world = World::root(runtime);
    with_controllers(&mut world);
    world.shell("echo ready; while true; do echo x; sleep 0.01; done").create().start().wrote("ready");
    world.call(&["pause", &world.id]).ok();
    world
}

fn a_paused_container_stands_still(runtime: Runtime) {
    let world = paused(runtime);
    assert_eq!(world.status(), "paused");
    let before = world.read("out").len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(world.read("out").len(), before);
    world.call(&["resume", &world.id]).ok();
    world.end();
}

fn exec_in_a_paused_container_is_refused(runtime: Runtime) {
    let world = paused(runtime);
    let mut command = world.verb(["exec", world.id.as_str(), "/bin/true"]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("a runtime");
    let ended = process::wait(&mut child, std::time::Duration::from_secs(3));
    world.call(&["resume", &world.id]).ok();
    world.end();
    assert!(ended.is_ok_and(|(status, _)| !status.success()), "it hangs, or succeeds");
}

fn what_is_paused_can_be_deleted_by_force(runtime: Runtime) {
    let world = paused(runtime);
    let mut command = world.verb(["delete", "--force", world.id.as_str()]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("a runtime");
    let ended = process::wait(&mut child, std::time::Duration::from_secs(15));
    assert!(ended.is_ok_and(|(status, _)| status.success()), "it hangs, or fails");
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn it_goes_on(runtime: Runtime) {
    let world = paused(runtime);
    world.call(&["resume", &world.id]).ok();
    assert_eq!(world.status(), "running");
    let before = world.read("out").len();
    until("it goes on", || world.read("out").len() > before);
    world.end();
}

fn resume_of_what_runs_is_refused(runtime: Runtime) {
    let (world, _) = limited(runtime, json!({}));
    assert_ne!(world.call(&["resume", &world.id]).code(), 0);
    assert_eq!(world.status(), "running");
    world.end();
}

fn the_memory_limit_is_changed(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20}}));
    world.call(&["update", "--memory", "83886080", &world.id]).ok();
    assert_eq!(value(pid, "memory", "memory.limit_in_bytes", "memory.max"), "83886080");
    world.end();
}

fn resources_are_read_from_a_file(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}));
    let file = world.write("run/resources.json", json!({"pids": {"limit": 33}}).to_string());
    world.call(&["update", "--resources", &file.display().to_string(), &world.id]).ok();
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "33");
    world.end();
}

fn a_number_of_processes_is_changed(runtime: Runtime) {
    let (world, pid) = limited(runtime, json!({"pids": {"limit": 20}}));
    world.call(&["update", "--pids-limit", "44", &world.id]).ok();
    assert_eq!(value(pid, "pids", "pids.max", "pids.max"), "44");
    world.end();
}
