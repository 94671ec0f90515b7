//! Real mounts, made by an ordinary user in a user namespace of its own.

#[path = "../../berth-imagefile/tests/support/mod.rs"]
mod support;

use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use berth_imagefile::source::directory::add_directory;
use berth_imagefile::squashfs::Options;
use berth_imagefile::squashfs::SquashfsWriter;

/// Who mounts where the tests are run by root.
const USER: u32 = 12_345;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where this machine lets no user mount; in CI that is a failure.
    fn new() -> Option<World> {
        let dir = tempfile::tempdir().unwrap();
        let world = World { dir };
        let device = if rustix::process::geteuid().is_root() {
            // The user's own: what the machine's lets users do is the site's choice.
            let device = world.path("fuse");
            let number = rustix::fs::makedev(10, 229);
            let kind = rustix::fs::FileType::CharacterDevice;
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(rustix::fs::CWD, &device, kind, mode, number).unwrap();
            fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
            fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            device
        } else {
            PathBuf::from("/dev/fuse")
        };
        let usable = File::options().read(true).write(true).open(&device).is_ok();
        assert!(usable || std::env::var_os("CI").is_none(), "{} cannot be opened", device.display());
        if !usable {
            eprintln!("skipped: {} cannot be opened", device.display());
            return None;
        }
        support::make_tree(&world.path("tree"));
        fs::create_dir(world.path("place")).unwrap();
        let image = world.path("image.sqsh");
        let mut writer =
            SquashfsWriter::create(File::create_new(&image).unwrap(), "image.sqsh", Options::default()).unwrap();
        add_directory(File::open(world.path("tree")).unwrap().as_fd(), &mut writer).unwrap();
        writer.finish().unwrap();
        // Outside of the build's folder, which may be closed to others.
        let program = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/onefile");
        fs::copy(program, world.path("onefile")).unwrap();
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script in namespaces of the user's own, with the image mounted at `$PLACE` by the process `$SERVER`.
    fn run(&self, script: &str) -> Output {
        let prelude = r#"
            set -eu
            "$ONEFILE" mount "$IMAGE" "$PLACE" 0:0 &
            SERVER=$!
            until mountpoint -q "$PLACE"; do kill -0 $SERVER; sleep 0.02; done
        "#;
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", &format!("{prelude}\n{script}")]);
        if rustix::process::geteuid().is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(USER).gid(USER);
            command.env("ONEFILE_DEVICE", self.path("fuse"));
        }
        let names = [("ONEFILE", "onefile"), ("IMAGE", "image.sqsh"), ("PLACE", "place")];
        command.envs(names.map(|(name, file)| (name, self.path(file))));
        command.current_dir("/").output().unwrap()
    }
}

fn text(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// What a user sees whose files are all its own.
fn owned_by_root(lines: Vec<String>) -> Vec<String> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    lines.into_iter().map(|line| line.replacen(&format!(" {uid}:{gid} "), " 0:0 ", 1)).collect()
}

#[test]
fn a_user_sees_the_whole_tree() {
    let Some(world) = World::new() else { return };
    let expected = owned_by_root(support::walk(&world.path("tree"), false));
    let lines =
        text(&world.run(r#""$ONEFILE" walk "$PLACE"; "$ONEFILE" walk "$PLACE"; umount "$PLACE"; wait $SERVER"#));
    // Twice: from the server, and from what the kernel kept.
    assert_eq!(lines.len(), 2 * expected.len());
    let (first, second) = lines.split_at(expected.len());
    support::assert_same("first", first, &expected);
    support::assert_same("second", second, &expected);
}

#[test]
fn the_server_ends_when_nothing_is_mounted() {
    let Some(world) = World::new() else { return };
    let lines = text(&world.run(r#"umount "$PLACE"; wait $SERVER; echo ended $?"#));
    assert_eq!(lines, ["ended 0"]);
}

#[test]
fn nothing_can_be_written() {
    let Some(world) = World::new() else { return };
    let script = r#"
        (echo x > "$PLACE/new") 2>&1 | grep -c 'Read-only file system'
        (echo x >> "$PLACE/one") 2>&1 | grep -c 'Read-only file system'
        umount "$PLACE"
    "#;
    assert_eq!(text(&world.run(script)), ["1", "1"]);
}

#[test]
fn users_of_a_killed_server_get_an_error_and_do_not_hang() {
    let Some(world) = World::new() else { return };
    let script = r#"
        head -c 1 "$PLACE/several" >/dev/null
        kill -9 $SERVER
        wait $SERVER || true
        ls "$PLACE/many" 2>&1 | grep -c 'Transport endpoint is not connected'
        umount "$PLACE"
    "#;
    assert_eq!(text(&world.run(script)), ["1"]);
}

#[test]
fn a_file_that_is_cut_short_gives_errors_and_the_rest_goes_on() {
    let Some(world) = World::new() else { return };
    let copy = world.path("copy.sqsh");
    fs::copy(world.path("image.sqsh"), &copy).unwrap();
    let script = r#"
        truncate -s 5000 "$IMAGE"
        cat "$PLACE/several" 2>&1 >/dev/null | grep -c 'Input/output error'
        mountpoint -q "$PLACE" && echo still there
        umount "$PLACE"; wait $SERVER
    "#;
    fs::set_permissions(world.path("image.sqsh"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(text(&world.run(script)), ["1", "still there"]);
}

#[test]
fn many_read_at_once() {
    let Some(world) = World::new() else { return };
    let script = r#"
        for turn in 1 2 3 4 5 6 7 8; do (cd "$PLACE" && cat several noise etc/copy-1 many/* | sha256sum) & jobs="${jobs-} $!"; done
        for job in $jobs; do wait $job; done
        umount "$PLACE"; wait $SERVER
    "#;
    let lines = text(&world.run(script));
    assert_eq!(lines.len(), 8);
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    let expected = Command::new("sh")
        .args(["-c", "cat several noise etc/copy-1 many/* | sha256sum"])
        .current_dir(Path::new(&world.path("tree")))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(expected.stdout).unwrap().trim_end(), lines[0]);
}
