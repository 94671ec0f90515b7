//! config-linux.md: default devices, links and what is asked for.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde_json::json;
use testbed::harness::Need;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;

section!("devices", "Devices (config-linux.md)";
    [] "default devices": the_six_devices_are_there, the_devices_work, ptmx_makes_terminals_of_the_container,
        there_is_no_console_without_a_terminal, no_other_device_of_the_host_is_there;
    [Need::Root] "default devices": the_devices_of_root_are_there;
    [] "/dev symbolic links": fd_stdin_stdout_and_stderr_are_links;
    [] "linux.devices": a_device_of_the_host_is_given_to_an_ordinary_user, a_device_of_an_unknown_kind_is_refused;
    [Need::Root] "linux.devices": a_character_device_is_made, a_block_device_is_made, a_pipe_is_made,
        mode_and_owner_of_a_device_are_set, the_folder_of_a_device_is_made,
        a_device_outside_of_dev_is_made_or_refused, a_file_in_the_place_of_a_device_is_refused;
);

const DEVICES: &str = "for d in null zero full random urandom tty; do echo $(stat -c '%n %t:%T %F' /dev/$d); done";
const WANTED: &str = "/dev/null 1:3 character special file\n/dev/zero 1:5 character special file\n\
    /dev/full 1:7 character special file\n/dev/random 1:8 character special file\n\
    /dev/urandom 1:9 character special file\n/dev/tty 5:0 character special file";

fn the_six_devices_are_there(runtime: Runtime) {
    assert_eq!(World::user(runtime).says(DEVICES), WANTED);
}

fn the_devices_of_root_are_there(runtime: Runtime) {
    assert_eq!(World::root(runtime).says(DEVICES), WANTED);
}

fn the_devices_work(runtime: Runtime) {
    let script = "head -c 3 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; echo x > /dev/null && echo null; \
        sh -c 'echo x > /dev/full' 2>/dev/null || echo full";
    let text = World::user(runtime).says(script);
    assert_eq!(text.split_whitespace().collect::<Vec<&str>>(), ["00", "00", "00", "8", "null", "full"]);
}

fn ptmx_makes_terminals_of_the_container(runtime: Runtime) {
    let mut world = World::user(runtime);
    let text = world.says("ls /dev/pts; exec 3<>/dev/ptmx; ls /dev/pts");
    assert_eq!(text.split_whitespace().collect::<Vec<&str>>(), ["ptmx", "0", "ptmx"]);
}

fn there_is_no_console_without_a_terminal(runtime: Runtime) {
    assert_eq!(World::user(runtime).says("test -c /dev/console || echo none"), "none");
}

fn no_other_device_of_the_host_is_there(runtime: Runtime) {
    let names = World::user(runtime).says("echo $(find /dev -maxdepth 1 '(' -type c -o -type b ')' | sort)");
    for name in names.split(' ') {
        let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"];
        assert!(known.iter().any(|known| name == format!("/dev/{known}")), "{names}");
    }
}

fn fd_stdin_stdout_and_stderr_are_links(runtime: Runtime) {
    let text = World::user(runtime).says("for l in fd stdin stdout stderr; do readlink /dev/$l; done");
    assert_eq!(text, "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2");
}

fn a_device_of_the_host_is_given_to_an_ordinary_user(runtime: Runtime) {
    // One that is not there by default, but on every host.
    let (path, major, minor) = [("/dev/kmsg", 1, 11), ("/dev/fuse", 10, 229), ("/dev/mem", 1, 1), ("/dev/port", 1, 4)]
        .into_iter()
        .find(|(path, ..)| Path::new(path).metadata().is_ok_and(|file| file.file_type().is_char_device()))
        .expect("a device");
    let mut world = World::user(runtime);
    world.set("/linux/devices", json!([{"path": path, "type": "c", "major": major, "minor": minor}]));
    assert_eq!(
        world.says(&format!("stat -c '%t:%T %F' {path}")),
        format!("{major:x}:{minor:x} character special file")
    );
}

fn a_device_of_an_unknown_kind_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/linux/devices", json!([{"path": "/dev/thing", "type": "x", "major": 1, "minor": 1}]));
    world.refused();
}

#[track_caller]
fn device(runtime: Runtime, device: serde_json::Value, format: &str) -> String {
    let mut world = World::root(runtime);
    let path = device["path"].as_str().expect("a path").to_owned();
    world.set("/linux/devices", json!([device]));
    world.says(&format!("stat -c '{format}' {path}"))
}

fn a_character_device_is_made(runtime: Runtime) {
    let wanted = json!({"path": "/dev/thing", "type": "c", "major": 1, "minor": 3});
    assert_eq!(device(runtime, wanted, "%t:%T %F"), "1:3 character special file");
    let unbuffered = json!({"path": "/dev/thing", "type": "u", "major": 1, "minor": 3});
    assert_eq!(device(runtime, unbuffered, "%t:%T %F"), "1:3 character special file");
}

fn a_block_device_is_made(runtime: Runtime) {
    let wanted = json!({"path": "/dev/thing", "type": "b", "major": 7, "minor": 200});
    assert_eq!(device(runtime, wanted, "%t:%T %F"), "7:c8 block special file");
}

fn a_pipe_is_made(runtime: Runtime) {
    assert_eq!(device(runtime, json!({"path": "/dev/thing", "type": "p"}), "%F"), "fifo");
}

fn mode_and_owner_of_a_device_are_set(runtime: Runtime) {
    let wanted =
        json!({"path": "/dev/thing", "type": "c", "major": 1, "minor": 3, "fileMode": 0o642, "uid": 7, "gid": 8});
    assert_eq!(device(runtime, wanted, "%a %u:%g"), "642 7:8");
}

fn the_folder_of_a_device_is_made(runtime: Runtime) {
    let wanted = json!({"path": "/dev/a/b/thing", "type": "c", "major": 1, "minor": 3});
    assert_eq!(device(runtime, wanted, "%t:%T"), "1:3");
}

fn a_device_outside_of_dev_is_made_or_refused(runtime: Runtime) {
    let mut world = World::root(runtime);
    world.set("/linux/devices", json!([{"path": "/mnt/thing", "type": "c", "major": 1, "minor": 3}]));
    world.shell("stat -c '%t:%T' /mnt/thing");
    let output = world.run();
    assert!(output.code() != 0 || output.stdout == "1:3\n", "{}", output.report());
}

fn a_file_in_the_place_of_a_device_is_refused(runtime: Runtime) {
    // "If a file already exists at path that does not match the requested device, the runtime MUST generate an error."
    let mut world = World::root(runtime);
    world.write("bundle/rootfs/mnt/thing", "");
    world.set("/linux/devices", json!([{"path": "/mnt/thing", "type": "c", "major": 1, "minor": 3}]));
    world.refused();
}
