//! `berth bundle`: what is made of an image, and what a runtime makes of that.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{Person, is_root, layout};
use serde_json::{Value, json};

fn config(person: &Person, bundle: &str) -> Value {
    let text = fs::read_to_string(person.path("work").join(bundle).join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_image_becomes_a_bundle_that_a_runtime_runs() {
    let person = Person::new();
    let said = json!({
        "Entrypoint": ["/bin/echo"], "Cmd": ["hello", "it's"], "Env": ["A=b c", "PATH=/bin"], "WorkingDir": "/bin",
        "Labels": {"key": "value"}
    });
    layout::write(&person.path("work/image"), "1", &said);
    person.berth("--quiet bundle oci:image:1 out").prints("$DIR/work/out\n");
    let config = config(&person, "out");
    assert_eq!(config["process"]["args"], json!(["/bin/echo", "hello", "it's"]));
    assert_eq!((&config["process"]["cwd"], &config["annotations"]["key"]), (&json!("/bin"), &json!("value")));
    assert_eq!(config["root"], json!({"path": "rootfs"}));
    person.berth("runtime --root=state run --bundle out one").prints("hello it's\n");
    // It is a copy: the image's tree stays as it is.
    let busybox = person.path("work/out/rootfs/bin/busybox");
    assert_eq!(fs::metadata(&busybox).unwrap().permissions().mode() & 0o777, 0o755);
    fs::remove_file(busybox).unwrap();
    person.berth("run oci:image:1").prints("hello it's\n");
    let left: Vec<_> = fs::read_dir(person.path("work")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn a_directory_becomes_a_bundle_with_its_shell() {
    let person = Person::new();
    let rootfs = person.rootfs();
    let said = person.berth(&format!("--json bundle {rootfs} out"));
    assert_eq!(said.code, 0, "{said:?}");
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (&told["bundle"], &told["rootless"], &told["digest"]),
        (&json!("$DIR/work/out"), &json!(true), &Value::Null)
    );
    assert_eq!(config(&person, "out")["process"]["args"], json!(["/bin/sh"]));
}

#[test]
fn what_is_there_is_not_written_over() {
    let person = Person::new();
    let rootfs = person.rootfs();
    fs::create_dir(person.path("work/full")).unwrap();
    fs::write(person.path("work/full/file"), "mine").unwrap();
    person.berth(&format!("bundle {rootfs} full")).fails(
        125,
        "$DIR/work/full is there already, and not empty",
        "choose another directory, or remove it",
    );
    assert_eq!(fs::read_dir(person.path("work/full")).unwrap().count(), 1);
    assert_eq!(person.berth(&format!("bundle {rootfs} none/below")).code, 125);
    // A copy within what is copied would have no end.
    let within = person.berth(&format!("bundle {rootfs} ../root/srv/below"));
    assert!(within.code == 125 && within.stderr.contains("lies within"), "{within:?}");
    // An empty directory will do; the person's own.
    fs::create_dir(person.path("work/empty")).unwrap();
    if is_root() {
        let parent = fs::metadata(person.path("work")).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        std::os::unix::fs::chown(person.path("work/empty"), Some(parent.uid()), Some(parent.gid())).unwrap();
    }
    person.berth(&format!("--quiet bundle {rootfs} empty")).prints("$DIR/work/empty\n");
    assert!(person.path("work/empty/config.json").exists());
}

#[test]
fn what_a_killed_one_left_is_swept_and_what_another_makes_is_not() {
    let person = Person::new();
    let rootfs = person.rootfs();
    let said = person.berth(&format!("--quiet bundle {rootfs} first"));
    assert_eq!(said.code, 0, "{said:?}");
    // As a process leaves them that was killed; and one that is at work.
    let (left, busy) = (person.path("work/.out.4194305.part"), person.path("work/.out.4194306.part"));
    fs::rename(person.path("work/first"), &left).unwrap();
    fs::create_dir(&busy).unwrap();
    let lock = fs::File::open(&busy).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fs::create_dir(person.path("work/.out.mine.part")).unwrap();
    person.berth(&format!("--quiet bundle {rootfs} out")).prints("$DIR/work/out\n");
    assert!(!left.exists() && busy.exists() && person.path("work/.out.mine.part").exists());
}
