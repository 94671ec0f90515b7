//! Layers merged from the newest to the oldest give what layers applied from the oldest to the newest give.

mod common {
    pub mod tarball;
}

use std::collections::BTreeMap;
use std::fs::File;

use berth_image::layer::merge::Merger;
use berth_image::layer::tar::Limits;
use berth_image::layer::tar::Reader;
use berth_imagefile::squashfs::Options;
use berth_imagefile::squashfs::SquashfsWriter;
use common::tarball::Header;
use common::tarball::Tarball;
use proptest::prelude::*;

/// The listing of the merged layers, given from the oldest to the newest.
fn merged(layers: &[Vec<u8>]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sqsh");
    let options = Options { threads: 1, ..Options::default() };
    let mut writer = SquashfsWriter::create(File::create_new(&path).unwrap(), "image", options).unwrap();
    let spool = tempfile::tempfile().unwrap();
    let mut merger = Merger::new(&mut writer, spool, 10_000, 1 << 30);
    for layer in layers.iter().rev() {
        let mut reader = Reader::new(layer.as_slice(), Limits::default());
        merger.layer("a layer", &mut reader).map_err(|error| error.to_string())?;
    }
    writer.finish().unwrap();
    let tree = berth_imagefile::open(File::open(&path).unwrap(), "image").unwrap();
    Ok(berth_imagefile::listing::listing(&*tree, 10_000).unwrap())
}

/// Path, kind, mode, and the links and sizes of a listing: what the tests below look at.
fn brief(lines: Vec<String>) -> Vec<String> {
    let words = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let rest = words[5..].iter().filter(|word| word.len() != 64 && **word != "links=1");
        [words[0], &words[1][..1], words[2]].into_iter().chain(rest.copied()).collect::<Vec<_>>().join(" ")
    };
    lines.iter().map(words).collect()
}

#[test]
fn newer_layers_replace_and_delete() {
    let old = Tarball::new()
        .dir("etc", 0o700)
        .file("etc/kept", "kept")
        .file("etc/changed", "old")
        .file("etc/deleted", "old")
        .dir("opt", 0o755)
        .file("opt/deep/below", "old")
        .symlink("lib", "usr/lib")
        .finish();
    let new = Tarball::new()
        .file("etc/changed", "newer")
        .file("etc/.wh.deleted", "")
        .file("opt/.wh..wh..opq", "")
        .file("opt/fresh", "new")
        .file("lib/file", "in a directory of the same name")
        .finish();
    assert_eq!(
        brief(merged(&[old, new]).unwrap()),
        [
            "/ D 0755",
            "/etc D 0700",
            "/etc/changed F 0644 5",
            "/etc/kept F 0644 4",
            "/lib D 0755",
            "/lib/file F 0644 31",
            "/opt D 0755",
            "/opt/fresh F 0644 3",
        ]
    );
}

#[test]
fn a_hard_link_to_a_replaced_file_keeps_the_old_contents() {
    let old = Tarball::new()
        .file("first", "old contents")
        .hard_link("second", "first")
        .hard_link("third", "first")
        .symlink("link", "somewhere")
        .hard_link("link-too", "link")
        .finish();
    let new = Tarball::new().file("first", "new").file(".wh.link", "").finish();
    assert_eq!(
        brief(merged(&[old, new]).unwrap()),
        [
            "/ D 0755",
            "/first F 0644 3",
            "/link-too S 0777 -> somewhere",
            "/second F 0644 12 links=2",
            "/third F 0644 12 links=2 same=/second",
        ]
    );
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let layer = Tarball::new().file("a", "x").hard_link("b/c", "./a").hard_link("d", "b/c").finish();
    let deleted = Tarball::new().file(".wh.a", "").finish();
    let all = [
        "/ D 0755",
        "/a F 0644 1 links=3",
        "/b D 0755",
        "/b/c F 0644 1 links=3 same=/a",
        "/d F 0644 1 links=3 same=/a",
    ];
    assert_eq!(brief(merged(std::slice::from_ref(&layer)).unwrap()), all);
    let left = ["/ D 0755", "/b D 0755", "/b/c F 0644 1 links=2", "/d F 0644 1 links=2 same=/b/c"];
    assert_eq!(brief(merged(&[layer, deleted]).unwrap()), left);
}

#[test]
fn a_path_through_a_link_of_its_layer_is_followed() {
    let layer = Tarball::new().dir("usr/lib", 0o755).symlink("lib", "/usr/lib").file("lib/file", "x").finish();
    let lines = brief(merged(&[layer]).unwrap());
    assert_eq!(
        lines,
        ["/ D 0755", "/lib S 0777 -> /usr/lib", "/usr D 0755", "/usr/lib D 0755", "/usr/lib/file F 0644 1"]
    );
    let circle = Tarball::new().symlink("a", "b").symlink("b", "a").file("a/x", "x").finish();
    assert!(merged(&[circle]).unwrap_err().contains("round in a circle"));
}

#[test]
fn what_is_hostile_is_refused() {
    for (layer, reason) in [
        (Tarball::new().file("../x", "x"), "`..`"),
        (Tarball::new().hard_link("x", "../../etc/passwd"), "leaves the tree"),
        (Tarball::new().hard_link("x", "nowhere"), "not in this layer"),
        (Tarball::new().dir("d", 0o755).hard_link("x", "d"), "a directory"),
        (Tarball::new().file("f", "x").file("f/below", "x"), "a file stands"),
        (Tarball::new().file(".wh.", ""), "without a name"),
    ] {
        let error = merged(&[layer.finish()]).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn holes_and_devices_and_attributes_are_kept() {
    let device = Header { name: "null", kind: b'3', mode: 0o666, device: (1, 3), uid: 70_000, ..Header::default() };
    let layer = Tarball::new()
        .entry(device, b"")
        .pax(&[("SCHILY.xattr.user.note", b"x"), ("SCHILY.xattr.user.overlay.opaque", b"y")])
        .file("noted", "")
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.map", b"100000,3"),
            ("GNU.sparse.size", b"200000"),
        ])
        .file("sparse", "abc")
        .finish();
    let lines = merged(&[layer]).unwrap();
    assert!(lines[1].starts_with("/noted File 0644 0:0") && lines[1].ends_with(" links=1 user.note=x"), "{}", lines[1]);
    assert_eq!(lines[2], "/null CharDevice 0666 70000:0 1700000000.000000000 1:3 links=1");
    assert!(lines[3].starts_with("/sparse File 0644 0:0 1700000000.000000000 200000 "), "{}", lines[3]);
}

/// An entry of a made-up layer.
#[derive(Clone, Debug)]
enum Step {
    File(String, u8),
    Directory(String, u32),
    Deleted(String),
    Opaque(String),
}

/// What a path is in the model: a file's contents, or a directory's mode.
#[derive(Clone, Debug, PartialEq)]
enum Is {
    File(u8),
    Directory(u32),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let step = (path, 0..8u8).prop_map(|(path, choice)| match choice {
        0..4 => Step::File(path, choice),
        4 => Step::Directory(path, 0o700),
        5 => Step::Directory(path, 0o711),
        6 => Step::Deleted(path),
        _ => Step::Opaque(path),
    });
    prop::collection::vec(prop::collection::vec(step, 0..8), 1..5)
}

fn archive(steps: &[Step]) -> Vec<u8> {
    let marked = |path: &str, mark: &str| match path.rsplit_once('/') {
        Some((directory, name)) => format!("{directory}/{mark}{name}"),
        None => format!("{mark}{path}"),
    };
    let tar = steps.iter().fold(Tarball::new(), |tar, step| match step {
        Step::File(path, content) => tar.file(path, "x".repeat(usize::from(*content) + 1)),
        Step::Directory(path, mode) => tar.dir(path, *mode),
        Step::Deleted(path) => tar.file(&marked(path, ".wh."), ""),
        Step::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), ""),
    });
    tar.finish()
}

/// Applies a layer on top of others: first what it deletes, then what it has.
fn apply(tree: &mut BTreeMap<String, Is>, steps: &[Step]) {
    let below = |path: &str| format!("{path}/");
    for step in steps {
        match step {
            Step::Deleted(path) => tree.retain(|other, _| other != path && !other.starts_with(&below(path))),
            Step::Opaque(path) => tree.retain(|other, _| !other.starts_with(&below(path))),
            _ => {}
        }
    }
    let directory = |tree: &mut BTreeMap<String, Is>, path: &str| {
        for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
            if !matches!(tree.get(&path[..at]), Some(Is::Directory(_))) {
                tree.insert(path[..at].to_owned(), Is::Directory(0o755));
            }
        }
    };
    for step in steps {
        match step {
            Step::File(path, content) => {
                if let Some((parent, _)) = path.rsplit_once('/') {
                    directory(tree, parent);
                }
                tree.retain(|other, _| !other.starts_with(&below(path)));
                tree.insert(path.clone(), Is::File(*content));
            }
            Step::Directory(path, mode) => {
                directory(tree, path);
                tree.insert(path.clone(), Is::Directory(*mode));
            }
            Step::Opaque(path) => directory(tree, path),
            Step::Deleted(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merging_is_applying(layers in steps()) {
        let archives: Vec<_> = layers.iter().map(|steps| archive(steps)).collect();
        let ours = merged(&archives);
        // A file above a name of the same layer is an error; the model knows no errors.
        prop_assume!(ours.is_ok());
        let mut model = BTreeMap::new();
        for layer in &layers {
            apply(&mut model, layer);
        }
        let expected: Vec<_> = model.iter().map(|(path, is)| match is {
            Is::File(content) => format!("/{path} F 0644 {}", content + 1),
            Is::Directory(mode) => format!("/{path} D {mode:04o}"),
        }).collect();
        let mut ours = brief(ours.unwrap());
        ours.remove(0);
        let mut expected = expected;
        ours.sort();
        expected.sort();
        prop_assert_eq!(ours, expected);
    }
}
