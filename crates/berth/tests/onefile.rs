//! Images in one file: written by `pull --output`, started by their path.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use common::Person;
use common::Session;
use common::is_root;
use common::layout;
use common::spawn;
use serde_json::json;

/// The user whom the tests are when root runs them, as in `common`.
const STRANGER: &str = "54321";

/// A layout in the person's working directory; its reference.
fn image(person: &Person, config: &serde_json::Value) -> String {
    layout::write(&person.path("work/image"), "1", config);
    "oci:image:1".to_owned()
}

/// A command that may use FUSE: root's machine may have the device closed to users, so they get one that is open.
fn with_fuse(person: &Person, arguments: &[&str]) -> Command {
    let plain = person.command(arguments);
    if !is_root() {
        return plain;
    }
    let device = person.path("fuse");
    if !device.exists() {
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, &device, kind, mode, rustix::fs::makedev(10, 229)).unwrap();
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let script = format!(
        "mount --bind '{}' /dev/fuse && exec setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups \"$0\" \"$@\"",
        device.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(plain.get_current_dir().unwrap()).env_clear().stdin(Stdio::null());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Whether this machine lets the person use FUSE; in CI it must.
fn has_fuse() -> bool {
    let open = is_root() || fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    assert!(open || std::env::var_os("CI").is_none(), "/dev/fuse cannot be opened");
    if !open {
        eprintln!("skipped: /dev/fuse cannot be opened");
    }
    open
}

fn run(person: &Person, words: &[&str]) -> Session {
    person.finish(with_fuse(person, words))
}

#[test]
fn an_image_goes_into_a_file_and_is_started_from_it() {
    if !has_fuse() {
        return;
    }
    let person = Person::new();
    let reference =
        image(&person, &json!({ "Entrypoint": ["/bin/echo"], "Cmd": ["hello"], "Env": ["PATH=/bin", "FROM=image"] }));
    let pulled = person.berth(&format!("--quiet pull --output x.sqsh {reference}"));
    assert_eq!((pulled.code, pulled.stderr.as_str()), (0, ""), "{pulled:?}");
    assert!(pulled.stdout.starts_with("sha256:"), "{pulled:?}");
    run(&person, &["run", "./x.sqsh"]).prints("hello\n");
    run(&person, &["run", "x.sqsh", "good", "day"]).prints("good day\n");
    let script = "echo $FROM; echo x > /new && cat /new; cat /etc/environment";
    run(&person, &["run", "--entrypoint", "", "./x.sqsh", "sh", "-c", script])
        .prints("image\nx\nPATH=/bin\nFROM=image\n");
    // Nothing was left in it, and nothing went into the store.
    run(&person, &["run", "--entrypoint", "", "./x.sqsh", "sh", "-c", "cat /new 2>/dev/null || echo none"])
        .prints("none\n");
    person.berth("images -q").prints("");
}

#[test]
fn an_erofs_file_is_written_and_started_too() {
    if !has_fuse() {
        return;
    }
    let person = Person::new();
    let reference = image(&person, &json!({ "Cmd": ["/bin/echo", "hello"] }));
    person.berth(&format!("--quiet pull -o x.erofs {reference}")).stdout.clear();
    run(&person, &["run", "./x.erofs"]).prints("hello\n");
}

#[test]
fn a_file_of_mksquashfs_is_started() {
    if !has_fuse() || !Path::new("/usr/bin/mksquashfs").exists() {
        assert!(std::env::var_os("CI").is_none(), "mksquashfs (package squashfs-tools) is not installed");
        return;
    }
    let person = Person::new();
    let rootfs = person.rootfs();
    let tree = rootfs.strip_prefix("dir:").unwrap();
    fs::write(Path::new(tree).join("etc/environment"), "PATH=/bin\nQUOTED=\"a b\"\n").unwrap();
    let file = person.path("work/theirs.sqsh");
    let made = Command::new("mksquashfs")
        .args([tree, file.to_str().unwrap(), "-comp", "lz4", "-all-root", "-quiet", "-no-progress"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    run(&person, &["run", file.to_str().unwrap(), "sh", "-c", "echo $QUOTED; stat -c %U /bin/busybox"])
        .prints("a b\nuser54321\n".replace("user54321", &owner()).as_str());
}

/// How a user is called who is in no database.
fn owner() -> String {
    let id = if is_root() { STRANGER.to_owned() } else { rustix::process::getuid().as_raw().to_string() };
    let listed = Command::new("id").args(["-un", &id]).output().unwrap();
    match listed.status.success() {
        true => String::from_utf8_lossy(&listed.stdout).trim_end().to_owned(),
        false => format!("user{id}"),
    }
}

#[test]
fn the_same_image_gives_the_same_bytes_and_no_file_is_replaced_unasked() {
    let person = Person::new();
    let reference = image(&person, &json!({}));
    let pull = |options: &str| person.berth(&format!("--quiet pull {options} {reference}"));
    assert_eq!(pull("-o one.sqsh").code, 0);
    assert_eq!(pull("-o two.sqsh").code, 0);
    let bytes = |name: &str| fs::read(person.path("work").join(name)).unwrap();
    assert!(bytes("one.sqsh") == bytes("two.sqsh"));
    pull("-o two.sqsh").fails(125, "two.sqsh is there already", "choose another name, or replace it with --force");
    assert_eq!(pull("-o two.sqsh --force --compression none").code, 0);
    assert!(bytes("two.sqsh").len() > bytes("one.sqsh").len());
    let mut names: Vec<_> =
        fs::read_dir(person.path("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["image", "one.sqsh", "two.sqsh"], "nothing else is left");
}

#[test]
fn settings_that_do_not_exist_are_refused() {
    let person = Person::new();
    let reference = image(&person, &json!({}));
    for (options, message) in [
        ("-o x.sqsh --compression brotli", "no compression `brotli`"),
        ("-o x.sqsh --compression zstd:99", "levels 1 to 22"),
        ("-o x.sqsh --block-size 100K", "squashfs has blocks of"),
        ("-o x.erofs --compression gzip", "EROFS files are written without compression"),
    ] {
        let session = person.berth(&format!("pull {options} {reference}"));
        assert!(session.code == 2 || session.code == 125, "{session:?}");
        assert!(session.stderr.contains(message), "{session:?}");
        assert!(!person.path("work/x.sqsh").exists(), "{options}");
    }
}

#[test]
fn what_is_no_image_is_refused_in_words() {
    let person = Person::new();
    fs::write(person.path("work/x.sqsh"), "no image").unwrap();
    person.berth("run ./x.sqsh true").fails(125, "./x.sqsh is neither a squashfs nor an EROFS image", "");
}

#[test]
fn a_pull_that_is_killed_leaves_a_whole_file_or_none() {
    let person = Person::new();
    let reference = image(&person, &json!({}));
    let file = person.path("work/x.sqsh");
    let words = ["--quiet", "pull", "-o", "x.sqsh", "--compression", "zstd:19", &reference];
    // Sooner and later, until one comes too late.
    for delay in (0..).map(|step| step * 7) {
        let mut child = spawn(person.command(&words).stdout(Stdio::null()).stderr(Stdio::null()));
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let names: Vec<_> =
            fs::read_dir(person.path("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name == "image" || name == "x.sqsh"), "after {delay} ms: {names:?}");
        if file.exists() {
            let tree = berth_imagefile::open(fs::File::open(&file).unwrap(), "x.sqsh").unwrap();
            assert!(berth_imagefile::listing::listing(&*tree, 1000).unwrap().len() > 10);
            fs::remove_file(&file).unwrap();
        }
        if ended {
            return;
        }
    }
}
