//! config-linux.md: user and group id mappings.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;
use testbed::harness::Need;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::field;

section!("ids", "Id mappings (config-linux.md)";
    [] "linux.uidMappings": one_id_is_mapped, the_user_keeps_his_own_number, files_belong_to_the_user_on_the_host,
        a_foreign_id_is_refused, maps_that_overlap_are_refused;
    [Need::SubIds] "linux.uidMappings": ranges_are_mapped, files_can_belong_to_several_users,
        the_program_runs_with_a_mapped_id, the_number_of_the_user_can_be_in_the_middle;
    [] "linux.gidMappings": one_group_is_mapped, a_single_group_forbids_setgroups;
    [Need::SubIds] "linux.gidMappings": groups_of_the_ranges_are_set, groups_that_are_not_mapped_are_refused;
    [Need::Root] "linux.uidMappings": root_maps_any_range, the_program_of_root_has_the_ids_of_the_map;
    [Need::Root] "process.user": all_mapped_files_are_owned_as_on_disk;
);

fn one_id_is_mapped(runtime: Runtime) {
    let mut world = World::user(runtime);
    let map = world.says("cat /proc/self/uid_map");
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &world.user.uid.to_string(), "1"]);
}

fn one_group_is_mapped(runtime: Runtime) {
    let mut world = World::user(runtime);
    let map = world.says("cat /proc/self/gid_map");
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &world.user.gid.to_string(), "1"]);
}

fn a_single_group_forbids_setgroups(runtime: Runtime) {
    assert_eq!(World::user(runtime).says("cat /proc/self/setgroups"), "deny");
}

fn the_user_keeps_his_own_number(runtime: Runtime) {
    let mut world = World::user(runtime);
    let (uid, gid) = (world.user.uid, world.user.gid);
    world.set("/linux/uidMappings/0/containerID", json!(uid)).set("/linux/gidMappings/0/containerID", json!(gid));
    world.set("/process/user", json!({"uid": uid, "gid": gid}));
    assert_eq!(world.says("id -u; id -g"), format!("{uid}\n{gid}"));
}

fn files_belong_to_the_user_on_the_host(runtime: Runtime) {
    let mut world = World::user(runtime);
    assert_eq!(world.says("touch /new; stat -c %u:%g /new"), "0:0");
    let file = world.rootfs("new").metadata().expect("the file");
    assert_eq!((file.uid(), file.gid()), (world.user.uid, world.user.gid));
}

fn a_foreign_id_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/uidMappings/0/hostID", json!(1));
    world.refused();
}

fn maps_that_overlap_are_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    let map = world.spec["linux"]["uidMappings"][0].clone();
    world.push("/linux/uidMappings", map);
    world.refused();
}

fn ranges_are_mapped(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    let map = world.says("cat /proc/self/uid_map");
    let words: Vec<&str> = map.split_whitespace().collect();
    let wanted = &world.spec["linux"]["uidMappings"];
    assert_eq!(words, ["0", &wanted[0]["hostID"].to_string(), "1", "1", &wanted[1]["hostID"].to_string(), "65535"]);
}

fn files_can_belong_to_several_users(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    world.set(
        "/process/capabilities",
        json!({"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}),
    );
    assert_eq!(world.says("touch /new; chown 7:8 /new; stat -c %u:%g /new"), "7:8");
    let first = world.spec["linux"]["uidMappings"][1]["hostID"].as_u64().expect("a number");
    assert_eq!(u64::from(world.rootfs("new").metadata().expect("the file").uid()), first + 6);
}

fn the_program_runs_with_a_mapped_id(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8}));
    let status = world.says("cat /proc/self/status");
    assert_eq!((field(&status, "Uid"), field(&status, "Gid")), ("7\t7\t7\t7", "8\t8\t8\t8"));
}

fn the_number_of_the_user_can_be_in_the_middle(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    let (uid, sub) = (world.user.uid, world.spec["linux"]["uidMappings"][1]["hostID"].as_u64().expect("a number"));
    world.set(
        "/linux/uidMappings",
        json!([{"containerID": 0, "hostID": sub, "size": 1000},
        {"containerID": 1000, "hostID": uid, "size": 1}, {"containerID": 1001, "hostID": sub + 1000, "size": 1000}]),
    );
    let (gid, sub) = (world.user.gid, world.spec["linux"]["gidMappings"][1]["hostID"].as_u64().expect("a number"));
    world.set(
        "/linux/gidMappings",
        json!([{"containerID": 0, "hostID": sub, "size": 1000},
        {"containerID": 1000, "hostID": gid, "size": 1}, {"containerID": 1001, "hostID": sub + 1000, "size": 1000}]),
    );
    world.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(world.says("id -u; touch /tmp/new; stat -c %u:%g /tmp/new"), "1000\n1000:1000");
    assert_eq!(world.rootfs("tmp/new").metadata().expect("the file").uid(), uid);
}

fn groups_of_the_ranges_are_set(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [5, 9000]}));
    let status = world.says("cat /proc/self/status");
    let groups: Vec<&str> = field(&status, "Groups").split(' ').filter(|group| *group != "8").collect();
    assert_eq!(groups, ["5", "9000"]);
}

fn groups_that_are_not_mapped_are_refused(runtime: Runtime) {
    let mut world = World::ranges(runtime);
    world.set("/process/user/additionalGids", json!([1_000_000]));
    world.refused();
}

/// Root with a user namespace whose ids begin at 200,000.
fn mapped_root(runtime: Runtime) -> World {
    let mut world = World::root(runtime);
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    world.new_namespace("user").set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    for entry in fs::read_dir(world.rootfs("")).expect("the root").flatten() {
        std::os::unix::fs::chown(entry.path(), Some(200_000), Some(200_000)).expect("its owner");
    }
    std::os::unix::fs::chown(world.rootfs(""), Some(200_000), Some(200_000)).expect("its owner");
    world
}

fn root_maps_any_range(runtime: Runtime) {
    let mut world = mapped_root(runtime);
    let map = world.says("cat /proc/self/uid_map");
    assert_eq!(map.split_whitespace().collect::<Vec<&str>>(), ["0", "200000", "65536"]);
}

fn the_program_of_root_has_the_ids_of_the_map(runtime: Runtime) {
    let mut world = mapped_root(runtime);
    world.set("/process/user", json!({"uid": 7, "gid": 8, "additionalGids": [9]}));
    assert_eq!(world.says("id -u; id -g; touch /tmp/new"), "7\n8");
    let file = world.rootfs("tmp/new").metadata().expect("the file");
    assert_eq!((file.uid(), file.gid()), (200_007, 200_008));
}

fn all_mapped_files_are_owned_as_on_disk(runtime: Runtime) {
    let mut world = World::root(runtime);
    let file = world.write("bundle/rootfs/mnt/file", "");
    std::os::unix::fs::chown(file, Some(4711), Some(815)).expect("its owner");
    assert_eq!(world.says("stat -c %u:%g /mnt/file"), "4711:815");
}
