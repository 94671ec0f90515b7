//! Images in one file are started by mounting them, and nothing is left of that.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::fuse;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::process;

const MKSQUASHFS: Need = Need::Program("mksquashfs", "squashfs-tools");

chapter!("onefile_run",
    [Need::Namespaces, MKSQUASHFS]:
        a_file_is_started_by_its_path,
        a_name_is_a_file_where_it_is_one,
        a_named_container_keeps_its_changes_on_a_file,
        what_is_no_image_is_told,
        a_file_without_a_configuration_has_a_shell_and_enroots_say_more;
    [Need::Namespaces, MKSQUASHFS, Need::Program("mkfs.erofs", "erofs-utils")]:
        an_erofs_file_is_started_too;
    [Need::Namespaces, MKSQUASHFS, REGISTRY]:
        what_berth_wrote_starts_as_the_image_does,
        a_debian_tree_is_the_same_from_a_file_as_from_the_store;
    [Need::Namespaces, MKSQUASHFS, Need::Root]:
        sixty_four_containers_of_eight_users_share_a_file,
        a_name_that_somebody_else_has_taken_does_not_matter,
        without_the_device_it_is_told_what_to_do;
    [Need::Namespaces, MKSQUASHFS]:
        a_file_that_is_replaced_stays_for_those_who_use_it,
        a_file_that_is_cut_or_damaged_in_use_is_an_error_for_its_readers,
        a_server_that_is_killed_is_an_error_for_its_users_and_nothing_for_others,
        whoever_is_killed_nothing_is_left,
        a_container_that_goes_on_keeps_its_image;
    [Need::Namespaces, MKSQUASHFS, Need::Program("newuidmap", "uidmap"), Need::SubIds]:
        ranges_of_ids_read_it_too;
);

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file with busybox and some data. Its name is no other test's, so that its traces can be told.
struct World {
    fixture: Fixture,
    file: PathBuf,
}

impl World {
    fn new() -> World {
        World::with(|_| {})
    }

    fn with(add: impl FnOnce(&Path)) -> World {
        let fixture = Fixture::new();
        fuse::allow_users(&fixture.path(""));
        let tree = fixture.path("tree");
        for name in ["bin", "etc", "dev", "proc", "sys", "tmp", "run"] {
            fs::create_dir_all(tree.join(name)).expect("a directory");
        }
        fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox");
        let names =
            ["sh", "cat", "echo", "id", "ls", "pwd", "sleep", "true", "touch", "dd", "wc", "setsid", "stat", "seq"];
        for name in names {
            symlink("busybox", tree.join("bin").join(name)).expect("a link");
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("a file");
        fs::write(tree.join("etc/told"), "by the image\n").expect("a file");
        fs::write(tree.join("data"), noise(8 << 20)).expect("a file");
        add(&tree);
        let file = fixture.path("work").join(format!("image{}.sqsh", std::process::id()));
        pack(&tree, &file);
        fixture.user.own(&file).expect("an owner");
        World { fixture, file }
    }

    fn file(&self) -> &str {
        self.file.to_str().expect("a name")
    }

    #[track_caller]
    fn shell(&self, options: &[&str], line: &str) -> process::Output {
        self.fixture.berth(&[&["run"], options, &[self.file(), "sh", "-c", line]].concat())
    }

    /// A container that says `ready`, waits for a line, and goes on.
    #[track_caller]
    fn hold(&self, options: &[&str], then: &str) -> Held {
        let line = format!("echo ready; read go; {then}");
        let words = [&["run"], options, &[self.file(), "sh", "-c", &line]].concat();
        Held::start(self.fixture.berth_command(&words))
    }

    fn traces(&self) -> Traces {
        Traces::of(&self.file)
    }

    /// Waits until nothing of this file is anywhere.
    #[track_caller]
    fn assert_gone(&self) {
        until("nothing is left of the image", || self.traces() == Traces::default());
    }
}

/// Data that does not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn pack(tree: &Path, file: &Path) {
    let options = ["-all-root", "-noappend", "-no-progress", "-quiet", "-no-fragments"];
    process::run(Command::new("mksquashfs").arg(tree).arg(file).args(options)).ok();
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("a mode");
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A container that waits.
struct Held(Child);

impl Held {
    #[track_caller]
    fn start(mut command: Command) -> Held {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::die_with_parent(command).spawn().expect("a container");
        let mut line = [0; 6];
        let read = child.stdout.as_mut().expect("its output").read_exact(&mut line);
        if read.is_err() || line != *b"ready\n" {
            let said = child.wait_with_output().expect("an end");
            panic!("the container did not start: {}", String::from_utf8_lossy(&said.stderr));
        }
        Held(child)
    }

    /// Lets it go on; what it prints then, both on standard output and error.
    fn go(mut self) -> String {
        self.0.stdin.take().expect("its input").write_all(b"go\n").expect("somebody who reads");
        let said = self.0.wait_with_output().expect("an end");
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    }

    fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("an end");
    }
}

/// What there is of an image: processes that serve it, mounts of it, and sockets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traces {
    servers: Vec<i32>,
    mounts: usize,
}

impl Traces {
    fn of(file: &Path) -> Traces {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        let mut traces = Traces::default();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A zombie has no line.
            if fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line == format!("berth: image {name}\0").as_bytes())
            {
                traces.servers.push(pid);
            }
            let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
            traces.mounts += mounts.lines().filter(|line| line.contains(&format!(" fuse.berth {name} "))).count();
        }
        traces
    }
}

/// Sockets of servers of this user.
fn sockets(uid: u32) -> usize {
    let table = fs::read_to_string("/proc/net/unix").expect("a table");
    table.lines().filter(|line| line.contains(&format!(" @berth-image-{uid}-"))).count()
}

fn a_file_is_started_by_its_path() {
    let world = World::new();
    let user = &world.fixture.user;
    assert_eq!(world.shell(&[], "cat /etc/told; id -u").ok(), format!("by the image\n{}\n", user.uid));
    let relative = format!("./{}", world.file.file_name().and_then(|name| name.to_str()).expect("a name"));
    assert_eq!(world.fixture.berth(&["run", &relative, "cat", "/etc/told"]).ok(), "by the image\n");
    // Changes are the container's own, and go with it.
    assert_eq!(world.shell(&[], "echo x >/new; echo y >>/etc/told; cat /etc/told").ok(), "by the image\ny\n");
    assert_eq!(world.shell(&[], "ls /new 2>/dev/null; cat /etc/told").ok(), "by the image\n");
    assert_eq!(world.shell(&["--read-only"], "(echo >/new) 2>/dev/null || echo no").ok(), "no\n");
    assert_eq!(world.shell(&["--remap-root"], "id -u; touch /new && stat -c %u /new").ok(), "0\n0\n");
    assert_eq!(world.shell(&["--pid", "private"], "echo $$").ok(), "1\n");
    let said = world.fixture.berth_with(&["shell", world.file()], b"echo in a shell\n", PATIENCE);
    assert_eq!(said.ok(), "in a shell\n");
    // What the image has as root's is the user's, as if the user had unpacked it.
    assert_eq!(world.shell(&[], "stat -c %u:%g /etc/told").ok(), format!("{}:{}\n", user.uid, user.gid));
    world.assert_gone();
}

fn a_name_is_a_file_where_it_is_one() {
    let world = World::new();
    let name = world.file.file_name().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(world.fixture.berth(&["run", name, "cat", "/etc/told"]).ok(), "by the image\n");
    // A link leads to the file that it leads to.
    symlink(&world.file, world.fixture.path("work/link.sqsh")).expect("a link");
    assert_eq!(world.fixture.berth(&["run", "link.sqsh", "cat", "/etc/told"]).ok(), "by the image\n");
    // Without the ending it takes a path.
    fs::copy(&world.file, world.fixture.path("work/plain")).expect("a copy");
    assert_eq!(world.fixture.berth(&["run", "./plain", "cat", "/etc/told"]).ok(), "by the image\n");
    world.assert_gone();
}

fn a_named_container_keeps_its_changes_on_a_file() {
    let world = World::new();
    world.shell(&["--name", "box"], "echo kept >/new").ok();
    assert_eq!(world.shell(&["--name", "box"], "cat /new /etc/told").ok(), "kept\nby the image\n");
    let held = world.hold(&["--name", "box"], "cat /joined");
    world.fixture.berth(&["exec", "box", "sh", "-c", "echo joined >/joined"]).ok();
    let listed = world.fixture.berth(&["ps"]).ok();
    assert!(listed.contains(world.file()), "the image is named by its path: {listed}");
    assert_eq!(held.go(), "joined\n");
    world.fixture.berth(&["rm", "box"]).ok();
    world.assert_gone();
}

fn what_is_no_image_is_told() {
    let world = World::new();
    let fixture = &world.fixture;
    let fails = |name: &str, words: &str| {
        let said = fixture.berth(&["run", name, "true"]).fails(125);
        assert!(said.contains(words), "{name}: {said}");
    };
    fails("./none.sqsh", "cannot open the image ./none.sqsh: No such file or directory");
    fixture.write("work/text.sqsh", "no image\n");
    fails("text.sqsh", "text.sqsh is neither a squashfs nor an EROFS image");
    let whole = fs::read(&world.file).expect("the file");
    fixture.write("work/cut.sqsh", &whole[..200]);
    fails("./cut.sqsh", "cut.sqsh ends too early");
    let mut wrong = whole[..8192].to_vec();
    wrong[20] = 99;
    fixture.write("work/wrong.sqsh", wrong);
    fails("./wrong.sqsh", "wrong.sqsh");
    fs::create_dir(fixture.path("work/directory.sqsh")).expect("a directory");
    fails("./directory.sqsh", "not a regular file");
    world.assert_gone();
}

fn a_file_without_a_configuration_has_a_shell_and_enroots_say_more() {
    let world = World::new();
    let said = world.fixture.berth_with(&["run", world.file()], b"echo typed\n", PATIENCE);
    assert_eq!(said.ok(), "typed\n");
    let world = World::with(|tree| {
        let script = "echo by a script; exec \"$@\"\n";
        fs::write(tree.join("etc/rc"), script).expect("a file");
        fs::write(tree.join("etc/environment"), "TOLD=by-the-image\nENROOT_X=no\n").expect("a file");
    });
    let said = world.shell(&[], "echo $TOLD$ENROOT_X").ok();
    assert_eq!(said, "by a script\nby-the-image\n");
    assert_eq!(world.shell(&["--entrypoint", ""], "echo $TOLD").ok(), "by-the-image\n");
}

fn an_erofs_file_is_started_too() {
    let world = World::new();
    let file = world.file.with_extension("erofs");
    let options = ["--quiet", "--all-root"];
    process::run(Command::new("mkfs.erofs").args(options).arg(&file).arg(world.fixture.path("tree"))).ok();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    let line = "cat /etc/told; wc -c </data; echo x >/new && cat /new";
    let said = world.fixture.berth(&["run", file.to_str().expect("a name"), "sh", "-c", line]).ok();
    assert_eq!(said, "by the image\n8388608\nx\n");
    until("nothing is left of the image", || Traces::of(&file) == Traces::default());
}

fn what_berth_wrote_starts_as_the_image_does() {
    let world = World::new();
    let fixture = &world.fixture;
    let registry = fixture.registry();
    let image = registry.reference("configured");
    fixture.berth(&["pull", &image]).ok();
    let line = "env | sort | grep -v '^SHLVL='; pwd";
    for file in ["written.sqsh", "written.erofs"] {
        fixture.berth(&["pull", "--output", file, &image]).ok();
        for options in [&["--contained"][..], &["--contained", "--entrypoint", ""]] {
            let told = |image: &str| fixture.berth(&[&["run"], options, &[image, "sh", "-c", line]].concat());
            assert_eq!(told(file).ok(), told(&image).ok(), "{file} {options:?}");
        }
        let alone = |image: &str| {
            let said = fixture.berth_with(&["run", "--contained", image], b"", PATIENCE);
            (said.code(), said.stdout)
        };
        assert_eq!(alone(file), alone(&image), "{file}, with the image's own command");
    }
}

fn a_debian_tree_is_the_same_from_a_file_as_from_the_store() {
    let world = World::new();
    let fixture = &world.fixture;
    let registry = fixture.registry();
    let image = registry.reference("debian");
    fixture.berth(&["pull", &image]).ok();
    let inspected = fixture.inspect(&image);
    let layers = inspected["Layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1, "a tree that can be packed as it is");
    let file = fixture.path("work/debian.sqsh");
    pack(Path::new(layers[0]["Path"].as_str().expect("a path")), &file);
    let file = file.to_str().expect("a name");
    let line = "cat /etc/debian_version; for d in /usr /etc /var; do \
                find $d -xdev -printf '%p %y %m %s %l %n\\n' 2>/dev/null | sort | grep -v ' d '; \
                find $d -xdev -type f -print0 | sort -z | xargs -0 sha256sum; done";
    let told = |image: &str| fixture.berth(&["run", image, "sh", "-c", line]).ok();
    let (stored, mounted) = (told(&image), told(file));
    assert!(stored.lines().count() > 5000, "{} lines", stored.lines().count());
    let differences: Vec<_> = stored.lines().zip(mounted.lines()).filter(|(one, other)| one != other).take(5).collect();
    assert!(differences.is_empty() && stored.len() == mounted.len(), "{differences:?}");
    let said = fixture.berth(&[
        "run",
        "--remap-root",
        file,
        "sh",
        "-c",
        "dpkg --version >/dev/null && rm -r /usr/share/doc && echo written",
    ]);
    assert_eq!(said.ok(), "written\n");
}

fn sixty_four_containers_of_eight_users_share_a_file() {
    let world = World::new();
    let home = world.fixture.make_dir("homes", 0o777);
    fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).expect("a mode");
    let program = world.fixture.program("berth");
    let uids: Vec<u32> = (0..8).map(|user| 720_000 + std::process::id() % 10_000 * 8 + user).collect();
    let line = "echo ready; read go; cat /etc/told";
    // All at once: none has seen another's server.
    let children: Vec<Child> = (0..64)
        .map(|number| {
            let uid = uids[number % 8];
            let mut command = Command::new(&program);
            command.args(["run", "--contained", world.file(), "sh", "-c", line]);
            command.env_clear().env("HOME", &home).env("PATH", "/usr/bin:/bin").current_dir("/");
            command.uid(uid).gid(uid).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            process::die_with_parent(&mut command).spawn().expect("a container")
        })
        .collect();
    let held: Vec<Held> = children
        .into_iter()
        .map(|mut child| {
            let mut line = [0; 6];
            let read = child.stdout.as_mut().expect("its output").read_exact(&mut line);
            assert!(read.is_ok() && line == *b"ready\n", "{:?}", child.wait_with_output());
            Held(child)
        })
        .collect();
    assert_eq!(world.traces().servers.len(), 8, "one server a user");
    for uid in &uids {
        assert_eq!(sockets(*uid), 1, "one socket of user {uid}");
    }
    for held in held {
        assert_eq!(held.go(), "by the image\n");
    }
    world.assert_gone();
    assert!(uids.iter().all(|uid| sockets(*uid) == 0));
}

fn a_name_that_somebody_else_has_taken_does_not_matter() {
    let world = World::new();
    let uid = world.fixture.user.uid;
    let held = world.hold(&[], "true");
    let table = fs::read_to_string("/proc/net/unix").expect("a table");
    let start = format!("@berth-image-{uid}-");
    let names: Vec<&str> = table.lines().filter_map(|line| line.split(' ').next_back()).collect();
    // Of this file: other tests of the same user may run.
    let before: Vec<&str> = names.into_iter().filter(|name| name.starts_with(&start)).collect();
    held.go();
    world.assert_gone();
    let after = fs::read_to_string("/proc/net/unix").expect("a table");
    let gone: Vec<&str> = before.into_iter().filter(|name| !after.contains(*name)).collect();
    // Root stands for somebody else.
    let sockets: Vec<_> = gone.iter().map(|name| listen(&name[1..])).collect();
    assert!(!sockets.is_empty());
    let one = world.hold(&[], "cat /etc/told");
    let other = world.hold(&[], "cat /etc/told");
    assert_eq!(world.traces().servers.len(), 2, "each is served apart");
    assert_eq!((one.go(), other.go()), ("by the image\n".to_owned(), "by the image\n".to_owned()));
    world.assert_gone();
}

/// Takes a name for sockets, and never answers.
fn listen(name: &str) -> rustix::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .expect("a socket");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("a name");
    rustix::net::bind(&socket, &address).expect("the name");
    rustix::net::listen(&socket, 10).expect("a socket that listens");
    socket
}

fn without_the_device_it_is_told_what_to_do() {
    let world = World::new();
    fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o600)).expect("a mode");
    let said = world.shell(&[], "true").fails(125);
    fs::set_permissions("/dev/fuse", fs::Permissions::from_mode(0o666)).expect("a mode");
    assert!(said.contains("cannot open /dev/fuse: Permission denied") && said.contains("0666"), "{said}");
    world.assert_gone();
}

fn a_file_that_is_replaced_stays_for_those_who_use_it() {
    let world = World::new();
    let held = world.hold(&[], "cat /etc/told");
    fs::write(world.fixture.path("tree/etc/told"), "by another\n").expect("a file");
    let other = world.fixture.path("work/other");
    pack(&world.fixture.path("tree"), &other);
    fs::rename(&other, &world.file).expect("replaced");
    assert_eq!(world.shell(&[], "cat /etc/told").ok(), "by another\n");
    assert_eq!(world.traces().servers.len(), 2);
    assert_eq!(held.go(), "by the image\n");
    world.assert_gone();
}

fn a_file_that_is_cut_or_damaged_in_use_is_an_error_for_its_readers() {
    let read = "cat /data >/dev/null 2>&1 || echo unreadable; cat /etc/told 2>/dev/null; echo goes on";
    let world = World::new();
    let held = world.hold(&[], read);
    fs::File::options().write(true).open(&world.file).expect("the file").set_len(1 << 20).expect("cut");
    let said = held.go();
    assert!(said.starts_with("unreadable\n") && said.ends_with("goes on\n"), "{said}");
    world.assert_gone();
    // Blocks of compressed data that are none. (The data above does not compress: any bytes are as good.)
    let world = World::with(|tree| {
        let text: String = (0..400_000).map(|number| format!("{number}\n")).collect();
        fs::write(tree.join("data"), text).expect("a file");
    });
    let held = world.hold(&[], read);
    let file = fs::File::options().write(true).open(&world.file).expect("the file");
    let length = file.metadata().expect("its length").len();
    // Behind the program, before the names.
    file.write_all_at(&vec![0x55; length as usize / 4], length * 5 / 8).expect("damaged");
    let said = held.go();
    assert!(said.starts_with("unreadable\n") && said.ends_with("goes on\n"), "{said}");
    world.assert_gone();
}

fn a_server_that_is_killed_is_an_error_for_its_users_and_nothing_for_others() {
    let world = World::new();
    let held = world.hold(&[], "cat /data >/dev/null 2>&1 || echo unreadable; echo goes on");
    let servers = world.traces().servers;
    assert_eq!(servers.len(), 1);
    process::kill(servers[0], libc::SIGKILL);
    until("the server is gone", || world.traces().servers.is_empty());
    assert_eq!(world.shell(&[], "cat /etc/told").ok(), "by the image\n");
    let said = held.go();
    // The shell itself may lose its own program's pages.
    assert!(said.is_empty() || said == "unreadable\ngoes on\n", "{said}");
    world.assert_gone();
}

fn whoever_is_killed_nothing_is_left() {
    let world = World::new();
    for options in [&[][..], &["--pid", "private"], &["--name", "box"]] {
        world.hold(options, "true").kill();
        world.assert_gone();
    }
    // While it starts.
    for round in 0..20_u64 {
        let mut command = world.fixture.berth_command(&["run", world.file(), "true"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a container");
        std::thread::sleep(Duration::from_micros(round * 400));
        let _ = child.kill();
        child.wait().expect("an end");
    }
    assert_eq!(world.shell(&[], "cat /etc/told").ok(), "by the image\n");
    world.assert_gone();
}

fn a_container_that_goes_on_keeps_its_image() {
    let world = World::new();
    // The first process ends, and what it left behind goes on in the container, longer than an unused image stays.
    let done = world.fixture.path("work/done");
    let line = "setsid sh -c 'sleep 12; cat /data | wc -c >done' >/dev/null 2>&1 </dev/null &";
    world.shell(&[], line).ok();
    let servers = world.traces().servers;
    assert_eq!(servers.len(), 1);
    until("what was left behind has read its image", || fs::read(&done).is_ok_and(|text| text.ends_with(b"\n")));
    assert_eq!(fs::read_to_string(&done).expect("what it read").trim(), (8 << 20).to_string());
    world.assert_gone();
}

fn ranges_of_ids_read_it_too() {
    let world = World::new();
    let line = "id -u; cat /etc/told; stat -c %u /etc/told; echo x >/new && stat -c %u /new";
    assert_eq!(world.shell(&["--subid"], line).ok(), "0\nby the image\n0\n0\n");
    world.assert_gone();
}
