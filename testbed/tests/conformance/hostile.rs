//! Bundles that were made to harm or to confuse: a clear refusal, and nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use serde_json::json;
use testbed::harness::Need;
use testbed::process;

use crate::runtime::Runtime;
use crate::section;
use crate::world::World;
use crate::world::until;

section!("hostile", "Hostile bundles";
    [] "config.json": what_is_no_json_is_refused, an_empty_file_is_refused, a_list_is_refused,
        deeply_nested_json_is_refused_or_ignored, a_huge_file_is_refused_or_taken, a_text_for_a_number_is_refused,
        a_negative_id_is_refused, a_number_that_is_too_large_is_refused, a_pipe_for_a_file_does_not_hang_it;
    [] "missing fields": without_a_process_it_is_refused, without_a_root_it_is_refused, without_a_cwd_it_is_refused,
        a_mount_without_a_destination_is_refused, a_hook_without_a_path_is_refused;
    [] "NUL bytes": a_nul_in_an_argument_is_refused, a_nul_in_a_path_is_refused, a_nul_in_the_environment_is_refused,
        a_nul_in_the_hostname_is_refused;
    [] "mount targets": a_link_to_the_host_is_no_way_out, dots_are_no_way_out, a_link_in_the_middle_is_no_way_out,
        a_link_of_proc_is_no_way_out, a_link_that_runs_in_circles_is_refused, a_mount_over_proc_is_refused_or_harmless,
        a_file_is_not_made_through_a_link, a_folder_that_becomes_a_link_meanwhile_is_no_way_out;
    [] "root.path": a_root_that_is_a_link_is_resolved_or_refused, the_root_of_the_host_is_not_changed;
    [] "process.cwd": a_cwd_of_an_inherited_descriptor_is_refused;
    [] "hostname": a_name_that_is_too_long_is_refused;
    [] "console": a_console_that_is_a_link_writes_nothing_on_the_host;
    [Need::Root] "default devices": a_null_device_that_is_a_link_is_not_followed;
    [Need::Root] "linux.maskedPaths": a_masked_path_through_a_link_of_the_root_masks_nothing_of_the_host;
);

#[track_caller]
fn config_is_refused(runtime: Runtime, text: impl AsRef<[u8]>) {
    let world = World::user(runtime);
    world.write("bundle/config.json", text);
    let output = world.call(&["run", &world.id]);
    assert_ne!(output.code(), 0, "{}", output.report());
    assert!(!output.stderr.trim().is_empty(), "no word of why: {}", output.report());
    assert!(output.code() < 128 || output.code() == 255, "it crashed: {}", output.report());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn what_is_no_json_is_refused(runtime: Runtime) {
    config_is_refused(runtime, "no json at all");
    config_is_refused(runtime, "{\"ociVersion\": \"1.0.2\", ");
    config_is_refused(runtime, [0xff, 0xfe, 0x00]);
}

fn an_empty_file_is_refused(runtime: Runtime) {
    config_is_refused(runtime, "");
}

fn a_list_is_refused(runtime: Runtime) {
    config_is_refused(runtime, "[]");
    config_is_refused(runtime, "null");
}

/// The specification with one more property, as text.
fn with_property(world: &World, text: &str) -> String {
    let spec = world.spec.to_string();
    format!("{{\"extra\": {text}, {}", &spec[1..])
}

fn deeply_nested_json_is_refused_or_ignored(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    world.write("bundle/config.json", with_property(&world, &deep));
    let output = world.call(&["run", &world.id]);
    assert!(output.stdout == "here\n" || output.code() != 0 && output.code() < 128, "{}", output.report());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn a_huge_file_is_refused_or_taken(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.shell("echo here");
    let huge = format!("\"{}\"", "x".repeat(64 << 20));
    world.write("bundle/config.json", with_property(&world, &huge));
    let output = world.call(&["run", &world.id]);
    assert!(output.stdout == "here\n" || output.code() != 0 && output.code() < 128, "{}", output.report());
    assert_eq!(world.ids_left(), Vec::<String>::new());
}

fn a_text_for_a_number_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/user/uid", json!("root"));
    world.refused();
}

fn a_negative_id_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/user/uid", json!(-1));
    world.refused();
}

fn a_number_that_is_too_large_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/user/uid", json!((1_u64 << 32) + 5));
    world.refused();
}

fn a_pipe_for_a_file_does_not_hang_it(runtime: Runtime) {
    let world = World::user(runtime);
    let path = world.path("bundle/config.json");
    process::run(std::process::Command::new("mkfifo").arg(&path)).ok();
    world.user.own(&path).expect("its owner");
    let mut child =
        world.verb(["run", world.id.as_str()]).stderr(std::process::Stdio::null()).spawn().expect("a runtime");
    let ended = process::wait(&mut child, std::time::Duration::from_secs(3));
    assert!(ended.is_ok_and(|(status, _)| !status.success()), "it hangs");
}

fn without_a_process_it_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.remove("/process");
    world.refused();
}

fn without_a_root_it_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.remove("/root");
    world.refused();
}

fn without_a_cwd_it_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.remove("/process/cwd");
    world.refused();
}

fn a_mount_without_a_destination_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.push("/mounts", json!({"type": "tmpfs", "source": "tmpfs"}));
    world.refused();
}

fn a_hook_without_a_path_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/hooks", json!({"createRuntime": [{"args": ["x"]}]}));
    world.refused();
}

fn a_nul_in_an_argument_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.args(&["/bin/echo", "a\0b"]);
    world.refused();
}

fn a_nul_in_a_path_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.mount("/mnt\0/x", "tmpfs", "tmpfs", &[]);
    world.refused();
}

fn a_nul_in_the_environment_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/process/env", json!(["PATH=/bin", "A=b\0c"]));
    world.refused();
}

fn a_nul_in_the_hostname_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/hostname", json!("a\0b"));
    world.refused();
}

/// A mount on this destination leaves the folder `host` of the test as it is: no mount there, and nothing made in it.
#[track_caller]
fn nothing_reaches_the_host(mut world: World, destination: &str) {
    world.write("host/kept", "of the host");
    world.mount(destination, "tmpfs", "tmpfs", &[]);
    let before = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells");
    world.args(&["/bin/sleep", "1000"]);
    let (code, _) = world.try_create(&[]);
    assert_eq!(world.read("host/kept"), "of the host");
    assert_eq!(fs::read_dir(world.path("host")).expect("a folder").count(), 1, "something was made on the host");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells"), before);
    if code == 0 {
        world.end();
    }
}

fn a_link_to_the_host_is_no_way_out(runtime: Runtime) {
    let world = World::user(runtime);
    symlink(world.path("host"), world.rootfs("link")).expect("a link");
    nothing_reaches_the_host(world, "/link");
}

fn dots_are_no_way_out(runtime: Runtime) {
    nothing_reaches_the_host(World::user(runtime), "/../../host");
    nothing_reaches_the_host(World::user(runtime), "/mnt/../../../host");
}

fn a_link_in_the_middle_is_no_way_out(runtime: Runtime) {
    let world = World::user(runtime);
    symlink("../../host", world.rootfs("link")).expect("a link");
    nothing_reaches_the_host(world, "/link/new/place");
}

fn a_link_of_proc_is_no_way_out(runtime: Runtime) {
    let world = World::user(runtime);
    let host = world.path("host");
    symlink(format!("/proc/self/root{}", host.display()), world.rootfs("link")).expect("a link");
    symlink("/proc/1/cwd", world.rootfs("other")).expect("a link");
    nothing_reaches_the_host(world, "/link/new");
}

fn a_link_that_runs_in_circles_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    symlink("b", world.rootfs("a")).expect("a link");
    symlink("a", world.rootfs("b")).expect("a link");
    world.mount("/a/place", "tmpfs", "tmpfs", &[]);
    world.refused();
}

fn a_mount_over_proc_is_refused_or_harmless(runtime: Runtime) {
    // CVE-2019-16884: what lies in the image at /proc must not stand for the kernel's.
    let mut world = World::user(runtime);
    fs::remove_dir(world.rootfs("proc")).expect("it is empty");
    symlink("/tmp", world.rootfs("proc")).expect("a link");
    world.shell("readlink /proc/self/ns/pid > /dev/null && echo of the kernel");
    let output = world.run();
    assert!(output.code() != 0 || output.stdout == "of the kernel\n", "{}", output.report());
}

fn a_file_is_not_made_through_a_link(runtime: Runtime) {
    let mut world = World::user(runtime);
    let source = world.write("run/source", "bound");
    symlink(world.path("host/new"), world.rootfs("link")).expect("a link");
    world.bind(source, "/link", &[]).args(&["/bin/true"]);
    let _ = world.run();
    assert!(!world.path("host/new").exists());
}

fn a_folder_that_becomes_a_link_meanwhile_is_no_way_out(runtime: Runtime) {
    // CVE-2021-30465: another process of the user exchanges a folder on the way to the mount with a link to the host.
    let mut world = World::user(runtime);
    world.make_dir("bundle/rootfs/place", 0o777);
    symlink(world.path("host"), world.rootfs("other")).expect("a link");
    let (place, other) = (world.rootfs("place"), world.rootfs("other"));
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let racer = std::thread::spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let _ = rustix::fs::renameat_with(rustix::fs::CWD, &place, rustix::fs::CWD, &other, flags);
        }
    });
    let source = world.write("run/source", "bound");
    world.mount("/place/new", "tmpfs", "tmpfs", &[]).bind(source, "/place/file", &[]).args(&["/bin/true"]);
    for _ in 0..15 {
        let _ = world.run();
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().expect("the racer does not panic");
    assert_eq!(fs::read_dir(world.path("host")).expect("a folder").count(), 0, "something was made on the host");
}

fn a_root_that_is_a_link_is_resolved_or_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    symlink("rootfs", world.path("bundle/link")).expect("a link");
    world.set("/root/path", json!("link")).shell("echo here");
    let output = world.run();
    assert!(output.code() != 0 || output.stdout == "here\n", "{}", output.report());
}

fn the_root_of_the_host_is_not_changed(runtime: Runtime) {
    let before = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells");
    let mut world = World::user(runtime);
    world.set("/linux/rootfsPropagation", json!("shared"));
    world.mount("/mnt/dev", "none", "/dev", &["rbind", "rshared"]).mount("/mnt/dev/shm", "tmpfs", "tmpfs", &[]);
    let _ = world.args(&["/bin/true"]).run();
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells"), before);
}

fn a_cwd_of_an_inherited_descriptor_is_refused(runtime: Runtime) {
    // CVE-2024-21626: a descriptor of the host that the runtime holds must not become the working directory.
    for number in 3..12 {
        let mut world = World::user(runtime);
        world
            .set("/process/cwd", json!(format!("/proc/self/fd/{number}")))
            .shell("ls ../../../../../../../../*/os-release; pwd -P");
        let output = world.run();
        assert!(!output.stdout.contains("os-release"), "{}", output.report());
        assert_eq!(world.ids_left(), Vec::<String>::new());
    }
}

fn a_name_that_is_too_long_is_refused(runtime: Runtime) {
    let mut world = World::user(runtime);
    world.set("/hostname", json!("x".repeat(65)));
    world.refused();
}

fn a_console_that_is_a_link_writes_nothing_on_the_host(runtime: Runtime) {
    let mut world = World::user(runtime);
    // Without a tmpfs of its own, /dev is the image's.
    let mounts = world.spec["mounts"].as_array().expect("a list").clone();
    world.set("/mounts", json!(mounts.into_iter().filter(|mount| mount["destination"] != "/dev").collect::<Vec<_>>()));
    symlink(world.path("host/console"), world.rootfs("dev/console")).expect("a link");
    world.set("/process/terminal", json!(true)).args(&["/bin/true"]);
    let (listener, path) = (world.path("run/console"), world.path("run/console").display().to_string());
    let listener = std::os::unix::net::UnixListener::bind(listener).expect("a socket");
    world.user.own(&world.path("run/console")).expect("its owner");
    std::thread::spawn(move || listener.accept());
    let _ = world.try_create(&["--console-socket", &path]);
    assert!(!world.path("host/console").exists());
    world.end();
    until("all is gone", || process::descendants(std::process::id() as i32).is_empty());
}

fn a_null_device_that_is_a_link_is_not_followed(runtime: Runtime) {
    // CVE-2025-31133 and the like: /dev/null, which masks paths, must be the kernel's.
    let mut world = World::root(runtime);
    let mounts = world.spec["mounts"].as_array().expect("a list").clone();
    world.set("/mounts", json!(mounts.into_iter().filter(|mount| mount["destination"] != "/dev").collect::<Vec<_>>()));
    let secret = world.write("host/secret", "of the host");
    symlink(&secret, world.rootfs("dev/null")).expect("a link");
    world.set("/linux/maskedPaths", json!(["/proc/version"])).shell("cat /proc/version; echo end");
    let output = world.run();
    assert!(!output.stdout.contains("of the host"), "{}", output.report());
    assert!(output.code() != 0 || output.stdout == "end\n", "{}", output.report());
    assert_eq!(world.read("host/secret"), "of the host");
}

fn a_masked_path_through_a_link_of_the_root_masks_nothing_of_the_host(runtime: Runtime) {
    let mut world = World::root(runtime);
    let secret = world.write("host/secret", "of the host");
    symlink(&secret, world.rootfs("link")).expect("a link");
    world.set("/linux/maskedPaths", json!(["/link"])).set("/linux/readonlyPaths", json!(["/link"]));
    let _ = world.args(&["/bin/true"]).run();
    assert_eq!(world.read("host/secret"), "of the host");
}
