//! The verbs of the store, and what a start takes from an image's configuration.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use common::{Person, Session, is_root, layout};
use serde_json::{Value, json};

/// A layout in the person's working directory; its reference.
fn image(person: &Person, name: &str, config: &Value) -> String {
    layout::write(&person.path("work").join(name), "1", config);
    format!("oci:{name}:1")
}

fn json_of(session: &Session) -> Value {
    assert_eq!((session.code, session.stderr.as_str()), (0, ""), "{session:?}");
    serde_json::from_str(&session.stdout).unwrap()
}

/// The tree of an image's only layer.
fn tree(person: &Person, shown: &Value) -> PathBuf {
    let path = shown["Layers"][0]["Path"].as_str().unwrap();
    person.path(path.strip_prefix("$DIR/").unwrap())
}

#[test]
fn an_image_goes_in_is_listed_shown_used_and_goes_out() {
    let person = Person::new();
    let reference = image(&person, "image", &json!({ "Cmd": ["/bin/echo", "hello"] }));
    let pulled = person.berth(&format!("--quiet pull {reference}"));
    assert_eq!((pulled.code, pulled.stderr.as_str()), (0, ""), "{pulled:?}");
    let digest = pulled.stdout.trim_end().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{pulled:?}");

    let listed = json_of(&person.berth("images --json"));
    assert_eq!(listed[0]["name"], "oci:$DIR/work/image:1");
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[0]["layers"], 1);
    assert_eq!(listed[0]["created"], "2024-05-01T12:00:00Z");
    person.berth("images -q").prints(&format!("{digest}\n"));
    let table = person.berth("images");
    let row = table.stdout.lines().nth(1).unwrap();
    assert!(row.starts_with("oci:$DIR/work/image:1   <none>   ") && row.contains(&digest[7..19]), "{table:?}");

    let shown = json_of(&person.berth(&format!("inspect {reference}")));
    assert_eq!(shown[0]["Digest"], digest);
    assert_eq!(shown[0]["Config"]["Cmd"], json!(["/bin/echo", "hello"]));
    let tree = tree(&person, &shown[0]);
    assert!(tree.join("bin/busybox").exists(), "{}", tree.display());

    person.berth(&format!("run {reference}")).prints("hello\n");
    person.berth(&format!("run {} echo by digest", &digest[7..19])).prints("by digest\n");
    person.berth("verify --quiet").prints("");
    person.berth("gc").prints("removed 0 images and 0 layers: 0 B\n");

    person.berth(&format!("rmi {reference}")).prints("oci:$DIR/work/image:1\n");
    person.berth("images -q").prints("");
    assert!(!tree.exists(), "the layer goes with the last image that needs it");
}

#[test]
fn damage_is_found_and_repaired() {
    let person = Person::new();
    let reference = image(&person, "image", &json!({}));
    person.berth(&format!("pull -q {reference}")).stdout.clear();
    let shown = json_of(&person.berth(&format!("inspect {reference}")));
    let tree = tree(&person, &shown[0]);
    std::fs::write(tree.join("etc/passwd"), "root::0:0:::/bin/evil\n").unwrap();
    let session = person.berth("verify");
    assert_eq!(session.code, 1, "{session:?}");
    assert!(session.stdout.contains("etc/passwd"), "{session:?}");
    let session = person.berth("verify --repair --quiet");
    assert_eq!(session.code, 1, "{session:?}");
    person.berth("verify --quiet").prints("");
    person.berth(&format!("run -q {reference} echo whole")).prints("whole\n");
}

#[test]
fn the_images_configuration_is_honoured() {
    let person = Person::new();
    let config = json!({
        "User": "web",
        "Env": ["FROM=image", "PATH=/bin"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo $FROM; pwd; id -u"],
        "WorkingDir": "/made/here",
    });
    let reference = image(&person, "image", &config);
    let uid = if is_root() { 54_321 } else { rustix::process::geteuid().as_raw() };
    let run = |options: &str, command: &[&str]| {
        let mut words = vec!["run", "-q"];
        words.extend(options.split_whitespace());
        words.push(&reference);
        words.extend(command);
        person.finish(person.command(&words))
    };
    run("", &[]).prints(&format!("image\n$DIR/work\n{uid}\n"));
    run("--no-cwd", &[]).prints(&format!("image\n/made/here\n{uid}\n"));
    run("--no-cwd --user image", &[]).prints("image\n/made/here\n33\n");
    run("", &["echo $0 $1", "a", "b"]).prints("a b\n");
    run("--entrypoint /bin/echo", &["a"]).prints("a\n");
    run("--entrypoint=", &["/bin/echo", "b"]).prints("b\n");
    run("-e FROM=me --no-cwd -w /etc", &[]).prints(&format!("me\n/etc\n{uid}\n"));
}

#[test]
fn an_image_without_a_command_asks_for_one() {
    let person = Person::new();
    let reference = image(&person, "image", &json!({}));
    person.berth(&format!("run -q {reference}")).fails(
        125,
        "oci:image:1 says no command of its own, and none was given",
        "name one: `berth run oci:image:1 COMMAND`, or open a shell: `berth shell oci:image:1`",
    );
}

#[test]
fn a_sites_store_is_used_and_not_written() {
    let person = Person::new();
    let reference = image(&person, "image", &json!({ "Cmd": ["/bin/echo", "from the site"] }));
    let site = person.path("work/site");
    let digest = person.berth(&format!("pull -q --store {} {reference}", site.display())).stdout;
    std::fs::remove_dir_all(person.path("work/image")).unwrap();
    for directory in ["leases", "locks", "tmp", "."] {
        let path = site.join(directory);
        if path.exists() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).unwrap();
        }
    }
    std::fs::write(person.path("berth.toml"), format!("stores = ['{}']\n", site.display())).unwrap();
    let with_site = |words: &[&str]| {
        let mut command = person.command(words);
        command.env("BERTH_CONFIG", person.path("berth.toml"));
        person.finish(command)
    };
    with_site(&["run", "--pull", "never", digest.trim_end()]).prints("from the site\n");
    with_site(&["images", "-q"]).prints(&digest);
    person.berth("images -q").prints("");
}

#[test]
fn a_store_that_cannot_be_made_says_what_to_do() {
    let person = Person::new();
    // Not the person's own.
    std::fs::create_dir(person.path("closed")).unwrap();
    std::fs::set_permissions(person.path("closed"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let reference = image(&person, "image", &json!({}));
    let session = person.berth(&format!("pull --store {} {reference}", person.path("closed/store").display()));
    assert_eq!((session.code, session.stdout.as_str()), (125, ""));
    assert!(session.stderr.contains("closed/store") && session.stderr.contains("ermission denied"), "{session:?}");
    assert!(session.stderr.contains("\nhint: "), "{session:?}");
}

#[test]
fn a_tag_that_is_not_there_is_told_with_those_that_are() {
    let person = Person::new();
    image(&person, "image", &json!({}));
    let session = person.berth("pull oci:image:2");
    assert_eq!((session.code, session.stdout.as_str()), (125, ""));
    assert!(session.stderr.contains("`2`") && session.stderr.contains("`1`"), "{session:?}");
}

#[test]
fn several_images_are_pulled_in_their_order_and_the_first_that_fails_ends_it() {
    let person = Person::new();
    let one = image(&person, "one", &json!({ "Cmd": ["a"] }));
    let two = image(&person, "two", &json!({ "Cmd": ["b"] }));
    let digests = person.berth(&format!("pull -q {one} {two}")).stdout;
    assert_eq!(digests.lines().count(), 2);
    let session = person.berth(&format!("pull -q {one} oci:none:1 {two}"));
    assert_eq!(session.code, 125);
    assert_eq!(session.stdout.lines().collect::<Vec<_>>(), [digests.lines().next().unwrap()]);
}

#[test]
fn the_image_of_another_machine_is_another_image() {
    let person = Person::new();
    let reference = image(&person, "image", &json!({}));
    person.berth(&format!("run -q {reference} echo here")).prints("here\n");
    let session = person.berth(&format!("run -q --platform linux/s390x {reference} echo here"));
    assert_eq!((session.code, session.stdout.as_str()), (125, ""), "{session:?}");
    let session = person.berth(&format!("pull --platform nonsense/of/many/parts {reference}"));
    assert_eq!(session.code, 125);
    assert!(session.stderr.contains("OS/ARCH"), "{session:?}");
}
