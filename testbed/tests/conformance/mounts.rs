//! config.md and config-linux.md: the root file system and what is mounted in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;

use serde_json::json;
use testbed::harness::Need;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;

section!("mounts", "Root and mounts (config.md, config-linux.md)";
    [] "root.path": an_absolute_root_is_taken, a_relative_root_is_in_the_bundle, a_missing_root_is_refused,
        a_root_that_is_a_file_is_refused, nothing_of_the_host_is_below_the_root;
    [] "root.readonly": a_read_only_root_cannot_be_written, a_writable_root_is_written;
    [] "mounts[]": mounts_are_made_in_the_order_of_the_list, a_mount_point_that_is_missing_is_made,
        a_mount_point_is_made_in_what_was_mounted_before, a_relative_destination_is_below_the_root_or_refused,
        a_link_on_the_way_to_the_destination_is_followed_inside, an_unknown_type_of_file_system_is_refused,
        an_unknown_option_is_refused_by_the_file_system;
    [] "mounts[] proc": proc_shows_the_processes_of_the_container;
    [] "mounts[] sysfs": sysfs_is_mounted_with_a_network_of_its_own;
    [] "mounts[] mqueue": mqueue_is_mounted;
    [] "mounts[] tmpfs": a_tmpfs_has_its_size, a_tmpfs_has_its_mode, a_tmpfs_has_its_number_of_inodes;
    [] "mounts[] devpts": devpts_has_its_modes;
    [] "mounts[] cgroup": a_mount_of_cgroups_shows_the_control_groups;
    [] "mounts[] bind": a_folder_is_bound, a_file_is_bound_and_its_place_made, a_socket_is_bound,
        a_relative_source_is_in_the_bundle, a_missing_source_is_refused_with_its_name, a_bind_needs_no_type,
        a_bind_can_be_read_only, a_recursive_bind_brings_what_is_mounted_below, a_bind_keeps_the_flags_of_its_source;
    [Need::Root] "mounts[] bind": a_plain_bind_leaves_what_is_mounted_below;
    [] "mounts[] ro": option_ro;
    [] "mounts[] nosuid": option_nosuid;
    [] "mounts[] nodev": option_nodev;
    [] "mounts[] noexec": option_noexec, a_program_on_a_noexec_mount_does_not_start;
    [] "mounts[] noatime": option_noatime;
    [] "mounts[] nodiratime": option_nodiratime;
    [] "mounts[] relatime": option_relatime;
    [] "mounts[] strictatime": option_strictatime;
    [] "mounts[] nosymfollow": option_nosymfollow;
    [] "mounts[] sync": option_sync;
    [] "mounts[] dirsync": option_dirsync;
    [] "mounts[] defaults": option_defaults, the_last_of_two_opposite_options_wins;
    [] "mounts[] rro": option_rro;
    [] "mounts[] rnosuid": option_rnosuid;
    [] "mounts[] rnodev": option_rnodev;
    [] "mounts[] rnoexec": option_rnoexec;
    [] "mounts[] rnosymfollow": option_rnosymfollow;
    [Need::Root] "mounts[] rnoatime": option_rnoatime;
    [Need::Root] "mounts[] rstrictatime": option_rstrictatime;
    [] "mounts[] private": option_private;
    [] "mounts[] shared": option_shared;
    [] "mounts[] slave": option_slave;
    [] "mounts[] unbindable": option_unbindable;
    [] "mounts[] rprivate": option_rprivate;
    [] "mounts[] rshared": option_rshared;
    [] "mounts[] rslave": option_rslave;
    [Need::Root] "mounts[].uidMappings": a_mount_has_ids_of_its_own;
    [] "linux.rootfsPropagation": the_root_is_private, the_root_is_shared, the_root_is_slave, the_root_is_unbindable,
        a_propagation_that_does_not_exist_is_refused;
);

/// A line of `/proc/PID/mountinfo`.
#[derive(Debug)]
pub struct Mount {
    /// Options of the mount.
    pub options: Vec<String>,
    /// `shared:1`, `master:1`, `unbindable`.
    pub tags: Vec<String>,
    /// Type of the file system.
    pub kind: String,
    /// Options of the file system.
    pub features: Vec<String>,
}

/// The mounts at a path or below, with the last at each path.
pub fn mounts(info: &str, path: &str) -> Vec<(String, Mount)> {
    let mut list: Vec<(String, Mount)> = Vec::new();
    for line in info.lines() {
        let (own, other) = line.split_once(" - ").expect("a line of mountinfo");
        let own: Vec<&str> = own.split(' ').collect();
        let other: Vec<&str> = other.split(' ').collect();
        let place = own[4];
        if place != path && !place.starts_with(&format!("{}/", path.trim_end_matches('/'))) {
            continue;
        }
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<String>>();
        let mount = Mount {
            options: words(own[5]),
            tags: own[6..].iter().map(|tag| (*tag).to_owned()).collect(),
            kind: other[0].to_owned(),
            features: words(other.get(2).unwrap_or(&"")),
        };
        list.retain(|(old, _)| old != place);
        list.push((place.to_owned(), mount));
    }
    list
}

/// The mount at a path of a container that is run with what was set.
#[track_caller]
fn mounted(world: &mut World, path: &str) -> Mount {
    let info = world.says("cat /proc/self/mountinfo");
    let found = mounts(&info, path).into_iter().find(|(place, _)| place == path);
    found.unwrap_or_else(|| panic!("no mount at {path}:\n{info}")).1
}

fn an_absolute_root_is_taken(runtime: Runtime) {
    let mut world = World::user(runtime);
    let root = world.path("bundle/rootfs");
    world.set("/root/path", json!(root));
    assert_eq!(world.says("echo here"), "here");
}

fn a_relative_root_is_in_the_bundle(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here").write_spec();
    let bundle = world.path("bundle");
    let mut command = world.verb(["run", "--bundle"]);
    command.arg(bundle).arg(&world.id).current_dir("/");
    assert_eq!(testbed::process::run(&mut command).ok(), "here\n");
}

fn a_missing_root_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/root/path", json!("nowhere"));
    let error = world.refused();
    assert!(error.contains("nowhere"), "{error}");
}

fn a_root_that_is_a_file_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("bundle/file", "");
    world.set("/root/path", json!("file"));
    world.refused();
}

fn nothing_of_the_host_is_below_the_root(runtime: Runtime) {
    let mut world = World::user(runtime);
    let found = world.says("echo $(ls /); cat /proc/self/mountinfo");
    let (names, info) = found.split_once('\n').unwrap_or((&found, ""));
    assert_eq!(names.trim(), "bin dev etc mnt proc root sys tmp");
    let places: Vec<String> = mounts(info, "/").into_iter().map(|(place, _)| place).collect();
    let known = |place: &String| place == "/" || ["/proc", "/dev"].iter().any(|root| place.starts_with(root));
    assert!(places.iter().all(known), "{places:?}");
}

fn a_read_only_root_cannot_be_written(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/root/readonly", json!(true));
    assert!(world.says("touch /new 2>&1; touch /dev/shm/new && echo written").contains("Read-only file system"));
    assert!(!world.rootfs("new").exists());
}

fn a_writable_root_is_written(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.says("touch /new");
    assert_eq!(world.rootfs("new").metadata().expect("the new file").uid(), world.user.uid);
}

fn mounts_are_made_in_the_order_of_the_list(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.make_dir("host/first", 0o755);
    world.make_dir("host/second", 0o755);
    for name in ["first", "second"] {
        world.write(&format!("host/{name}/name"), name);
    }
    let (first, second) = (world.path("host/first"), world.path("host/second"));
    world.bind(first, "/mnt", &[]).bind(second, "/mnt", &[]);
    assert_eq!(world.says("cat /mnt/name"), "second");
}

fn a_mount_point_that_is_missing_is_made(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/a/b/c", "tmpfs", "tmpfs", &[]);
    assert_eq!(mounted(&mut world, "/a/b/c").kind, "tmpfs");
}

fn a_mount_point_is_made_in_what_was_mounted_before(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &[]).mount("/mnt/a/b", "tmpfs", "tmpfs", &[]);
    assert_eq!(mounted(&mut world, "/mnt/a/b").kind, "tmpfs");
    assert!(!world.rootfs("mnt/a").exists());
}

fn a_relative_destination_is_below_the_root_or_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("mnt", "tmpfs", "tmpfs", &[]).shell("cat /proc/self/mountinfo");
    let output = world.run();
    if output.code() == 0 {
        assert_eq!(mounts(&output.stdout, "/mnt").len(), 1, "{}", output.stdout);
    } else {
        assert!(output.stderr.contains("mnt"), "{}", output.stderr);
    }
}

fn a_link_on_the_way_to_the_destination_is_followed_inside(runtime: Runtime) {
    let mut world = World::user(runtime);
    symlink("/mnt", world.rootfs("link")).expect("a link");
    world.mount("/link/place", "tmpfs", "tmpfs", &[]);
    assert_eq!(mounted(&mut world, "/mnt/place").kind, "tmpfs");
}

fn an_unknown_type_of_file_system_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "nosuchfs", "none", &[]);
    let error = world.refused();
    assert!(error.contains("mnt") || error.contains("nosuchfs"), "{error}");
}

fn an_unknown_option_is_refused_by_the_file_system(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["nosuchoption"]);
    world.refused();
}

fn proc_shows_the_processes_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    assert_eq!(world.says("ls -d /proc/[0-9]* | sort -n | head -n 1; test -e /proc/99 || echo few"), "/proc/1\nfew");
}

fn sysfs_is_mounted_with_a_network_of_its_own(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("network").mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    assert_eq!(world.says("ls /sys/class/net | grep -v bonding"), "lo");
}

fn mqueue_is_mounted(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    assert_eq!(mounted(&mut world, "/dev/mqueue").kind, "mqueue");
}

fn a_tmpfs_has_its_size(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["nosuid", "size=1m"]);
    assert_eq!(world.says("df -k /mnt | awk 'NR == 2 { print $2 }'"), "1024");
}

fn a_tmpfs_has_its_mode(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["mode=0705"]);
    assert_eq!(world.says("stat -c %a /mnt"), "705");
}

fn a_tmpfs_has_its_number_of_inodes(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["nr_inodes=7"]);
    assert_eq!(world.says("df -i /mnt | awk 'NR == 2 { print $2 }'"), "7");
}

fn devpts_has_its_modes(runtime: Runtime) {
    let mut world = World::user(runtime);
    let mount = mounted(&mut world, "/dev/pts");
    for wanted in ["mode=620", "ptmxmode=666"] {
        assert!(mount.features.iter().any(|option| option == wanted), "{mount:?}");
    }
}

fn a_mount_of_cgroups_shows_the_control_groups(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.new_namespace("cgroup");
    world.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    let info = world.says("cat /proc/self/mountinfo");
    let found = mounts(&info, "/sys/fs/cgroup");
    assert!(found.iter().any(|(_, mount)| mount.kind.starts_with("cgroup")), "{found:?}");
    // What only holds the places of the hierarchies may be anything.
    let mut hierarchies = found.iter().filter(|(_, mount)| mount.kind.starts_with("cgroup"));
    assert!(hierarchies.all(|(_, mount)| mount.options.contains(&"ro".to_owned())), "{found:?}");
}

fn a_folder_is_bound(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("host/file", "of the host");
    let source = world.path("host");
    world.bind(source, "/opt/data", &[]);
    assert_eq!(world.says("cat /opt/data/file; touch /opt/data/new"), "of the host");
    assert!(world.path("host/new").exists());
}

fn a_file_is_bound_and_its_place_made(runtime: Runtime) {
    let mut world = World::user(runtime);
    let source = world.write("host/file", "of the host");
    world.bind(source, "/opt/a/file", &[]);
    assert_eq!(world.says("cat /opt/a/file; test -f /opt/a/file && echo a file"), "of the hosta file");
}

fn a_socket_is_bound(runtime: Runtime) {
    let mut world = World::user(runtime);
    let source = world.path("host/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&source).expect("a socket");
    world.bind(source, "/run/socket", &[]);
    assert_eq!(world.says("test -S /run/socket && echo a socket"), "a socket");
}

fn a_relative_source_is_in_the_bundle(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.make_dir("bundle/data", 0o755);
    world.write("bundle/data/file", "of the bundle");
    world.bind("data", "/mnt", &[]).shell("cat /mnt/file").write_spec();
    let bundle = world.path("bundle");
    let mut command = world.verb(["run", "--bundle"]);
    command.arg(bundle).arg(&world.id).current_dir("/");
    assert_eq!(testbed::process::run(&mut command).ok(), "of the bundle");
}

fn a_missing_source_is_refused_with_its_name(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.bind("/no/such/source", "/mnt", &[]);
    let error = world.refused();
    assert!(error.contains("/no/such/source"), "{error}");
}

fn a_bind_needs_no_type(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.write("host/file", "of the host");
    let source = world.path("host");
    world.push("/mounts", json!({"destination": "/mnt", "source": source, "options": ["bind"]}));
    assert_eq!(world.says("cat /mnt/file"), "of the host");
}

fn a_bind_can_be_read_only(runtime: Runtime) {
    let mut world = World::user(runtime);
    let source = world.path("host");
    world.bind(source, "/mnt", &["ro"]);
    assert!(world.says("touch /mnt/new 2>&1; true").contains("Read-only file system"));
}

fn a_recursive_bind_brings_what_is_mounted_below(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt/dev", "none", "/dev", &["rbind"]);
    let info = world.says("cat /proc/self/mountinfo");
    assert!(mounts(&info, "/mnt/dev").iter().any(|(place, _)| place == "/mnt/dev/pts"), "{info}");
}

fn a_bind_keeps_the_flags_of_its_source(runtime: Runtime) {
    // /dev/pts is mounted nosuid and noexec on every host, and the kernel lets nobody in a user namespace take that off.
    let host = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells");
    let (_, host) = mounts(&host, "/dev/pts").pop().expect("a mount");
    let mut world = World::user(runtime);
    world.mount("/mnt/pts", "none", "/dev/pts", &["rbind", "ro"]);
    let mount = mounted(&mut world, "/mnt/pts");
    assert!(mount.options.contains(&"ro".to_owned()), "{mount:?}");
    for flag in ["nosuid", "noexec", "nodev"] {
        let flag = flag.to_owned();
        assert!(!host.options.contains(&flag) || mount.options.contains(&flag), "{flag}: {mount:?}");
    }
}

fn a_plain_bind_leaves_what_is_mounted_below(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.mount("/mnt/dev", "none", "/dev", &["bind"]);
    let info = world.says("cat /proc/self/mountinfo");
    assert_eq!(mounts(&info, "/mnt/dev").len(), 1, "{info}");
}

/// A tmpfs with this option has this flag.
#[track_caller]
fn flag(runtime: Runtime, options: &[&str], wanted: &str) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", options);
    let mount = mounted(&mut world, "/mnt");
    let has = mount.options.iter().chain(&mount.features).any(|option| option == wanted);
    assert!(has, "{options:?}: no {wanted} in {mount:?}");
}

/// A tmpfs with this option has not this flag.
#[track_caller]
fn no_flag(runtime: Runtime, options: &[&str], unwanted: &str) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", options);
    let mount = mounted(&mut world, "/mnt");
    let has = mount.options.iter().chain(&mount.features).any(|option| option == unwanted);
    assert!(!has, "{options:?}: {unwanted} in {mount:?}");
}

fn option_ro(runtime: Runtime) {
    flag(runtime, &["ro"], "ro");
}

fn option_nosuid(runtime: Runtime) {
    flag(runtime, &["nosuid"], "nosuid");
}

fn option_nodev(runtime: Runtime) {
    flag(runtime, &["nodev"], "nodev");
}

fn option_noexec(runtime: Runtime) {
    flag(runtime, &["noexec"], "noexec");
}

fn a_program_on_a_noexec_mount_does_not_start(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt", "tmpfs", "tmpfs", &["noexec"]);
    assert_eq!(world.says("cp /bin/busybox /mnt/echo; /mnt/echo it started 2>/dev/null; echo $?"), "126");
}

fn option_noatime(runtime: Runtime) {
    flag(runtime, &["noatime"], "noatime");
}

fn option_nodiratime(runtime: Runtime) {
    flag(runtime, &["nodiratime"], "nodiratime");
}

fn option_relatime(runtime: Runtime) {
    flag(runtime, &["relatime"], "relatime");
}

fn option_strictatime(runtime: Runtime) {
    no_flag(runtime, &["strictatime"], "relatime");
}

fn option_nosymfollow(runtime: Runtime) {
    flag(runtime, &["nosymfollow"], "nosymfollow");
}

fn option_sync(runtime: Runtime) {
    flag(runtime, &["sync"], "sync");
}

fn option_dirsync(runtime: Runtime) {
    flag(runtime, &["dirsync"], "dirsync");
}

fn option_defaults(runtime: Runtime) {
    flag(runtime, &["defaults"], "rw");
}

fn the_last_of_two_opposite_options_wins(runtime: Runtime) {
    no_flag(runtime, &["ro", "noexec", "rw", "exec"], "ro");
    no_flag(runtime, &["ro", "noexec", "rw", "exec"], "noexec");
    flag(runtime, &["suid", "nosuid"], "nosuid");
}

/// A recursive bind of /dev with this option: all mounts below have this flag.
#[track_caller]
fn all_have(mut world: World, option: &str, wanted: &str) {
    world.mount("/mnt/dev", "none", "/dev", &["rbind", option]);
    let info = world.says("cat /proc/self/mountinfo");
    let found = mounts(&info, "/mnt/dev");
    assert!(found.len() > 1, "{info}");
    for (place, mount) in found {
        assert!(mount.options.iter().any(|option| option == wanted), "{place}: no {wanted} in {mount:?}");
    }
}

fn option_rro(runtime: Runtime) {
    all_have(World::user(runtime), "rro", "ro");
}

fn option_rnosuid(runtime: Runtime) {
    all_have(World::user(runtime), "rnosuid", "nosuid");
}

fn option_rnodev(runtime: Runtime) {
    all_have(World::user(runtime), "rnodev", "nodev");
}

fn option_rnoexec(runtime: Runtime) {
    all_have(World::user(runtime), "rnoexec", "noexec");
}

fn option_rnosymfollow(runtime: Runtime) {
    all_have(World::user(runtime), "rnosymfollow", "nosymfollow");
}

fn option_rnoatime(runtime: Runtime) {
    // In a user namespace the kernel lets nobody change how times are kept.
    all_have(World::root(runtime), "rnoatime", "noatime");
}

fn option_rstrictatime(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.mount("/mnt/dev", "none", "/dev", &["rbind", "rstrictatime"]);
    let info = world.says("cat /proc/self/mountinfo");
    for (place, mount) in mounts(&info, "/mnt/dev") {
        let lax = mount.options.iter().any(|option| option == "relatime" || option == "noatime");
        assert!(!lax, "{place}: {mount:?}");
    }
}

/// Tags of a bind of /dev, or of what is mounted below it.
#[track_caller]
fn tags(runtime: Runtime, option: &str, below: &str) -> String {
    let mut world = World::user(runtime);
    world.mount("/mnt/dev", "none", "/dev", &["rbind", option]);
    let info = world.says("cat /proc/self/mountinfo");
    let found = mounts(&info, &format!("/mnt/dev{below}"));
    let tags = &found.first().unwrap_or_else(|| panic!("{info}")).1.tags;
    tags.iter().map(|tag| tag.split(':').next().unwrap_or_default()).collect::<Vec<&str>>().join(" ")
}

fn option_private(runtime: Runtime) {
    assert_eq!(tags(runtime, "private", ""), "");
}

fn option_shared(runtime: Runtime) {
    assert!(tags(runtime, "shared", "").contains("shared"));
}

fn option_slave(runtime: Runtime) {
    assert!(!tags(runtime, "slave", "").contains("shared"));
}

fn option_unbindable(runtime: Runtime) {
    assert_eq!(tags(runtime, "unbindable", ""), "unbindable");
}

fn option_rprivate(runtime: Runtime) {
    assert_eq!(tags(runtime, "rprivate", "/pts"), "");
}

fn option_rshared(runtime: Runtime) {
    assert!(tags(runtime, "rshared", "/pts").contains("shared"));
}

fn option_rslave(runtime: Runtime) {
    assert!(!tags(runtime, "rslave", "/pts").contains("shared"));
}

fn a_mount_has_ids_of_its_own(runtime: Runtime) {
    let mut world = World::root(runtime);
    let source = world.path("host");
    world.write("host/file", "");
    let map = json!([{"containerID": 0, "hostID": 7000, "size": 10}]);
    world.push(
        "/mounts",
        json!({"destination": "/mnt", "type": "bind", "source": source, "options": ["bind", "idmap"],
            "uidMappings": map, "gidMappings": map}),
    );
    assert_eq!(world.says("stat -c %u:%g /mnt/file"), "7000:7000");
}

#[track_caller]
fn root_tags(runtime: Runtime, propagation: &str) -> String {
    let mut world = World::user(runtime);
    world.set("/linux/rootfsPropagation", json!(propagation));
    mounted(&mut world, "/").tags.join(" ")
}

fn the_root_is_private(runtime: Runtime) {
    assert_eq!(root_tags(runtime, "private"), "");
}

fn the_root_is_shared(runtime: Runtime) {
    assert!(root_tags(runtime, "shared").contains("shared:"));
}

fn the_root_is_slave(runtime: Runtime) {
    assert!(!root_tags(runtime, "slave").contains("shared:"));
}

fn the_root_is_unbindable(runtime: Runtime) {
    assert_eq!(root_tags(runtime, "unbindable"), "unbindable");
}

fn a_propagation_that_does_not_exist_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/rootfsPropagation", json!("everywhere"));
    world.refused();
}
