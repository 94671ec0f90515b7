//! EROFS against erofs-utils: what they write is read, what we write they find right and unpack.

mod support;

use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use berth_imagefile::erofs::ErofsWriter;
use berth_imagefile::erofs::Options;
use berth_imagefile::listing::listing;
use berth_imagefile::source::directory::add_directory;
use support::BOUND;

fn read(image: &Path) -> Vec<String> {
    let tree = berth_imagefile::open(File::open(image).unwrap(), "image").unwrap();
    listing(&*tree, BOUND).unwrap()
}

fn write(tree: &Path, image: &Path) {
    let mut writer = ErofsWriter::create(File::create_new(image).unwrap(), "image", Options::default()).unwrap();
    add_directory(File::open(tree).unwrap().as_fd(), &mut writer).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(summary.bytes, fs::metadata(image).unwrap().len());
}

fn world() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    support::make_tree(&tree);
    (dir, tree)
}

/// A tree for mkfs.erofs 1.5, which stops at a name of 255 bytes.
fn world_for_mkfs() -> (tempfile::TempDir, std::path::PathBuf) {
    let (dir, tree) = world();
    fs::remove_file(tree.join("n".repeat(255))).unwrap();
    (dir, tree)
}

fn mkfs(arguments: &str, image: &Path, tree: &Path) {
    let mut all: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
    all.extend(["--quiet", image.to_str().unwrap(), tree.to_str().unwrap()]);
    support::run("mkfs.erofs", &all);
}

#[test]
fn what_mkfs_writes_is_read() {
    if !support::has("mkfs.erofs", "erofs-utils") {
        return;
    }
    let (dir, tree) = world_for_mkfs();
    let expected = support::walk(&tree, true);
    for (number, arguments) in
        ["", "-Enoinline_data", "-Eforce-inode-extended", "-x -1", "-x 1", "--chunksize=4096", "--chunksize=65536"]
            .into_iter()
            .enumerate()
    {
        let image = dir.path().join(format!("{number}.erofs"));
        mkfs(arguments, &image, &tree);
        let mut expected = expected.clone();
        if arguments == "-x -1" {
            expected.iter_mut().for_each(|line| *line = line.split(" user.").next().unwrap().to_owned());
        }
        support::assert_same(arguments, &read(&image), &expected);
    }
}

#[test]
fn compact_inodes_are_read() {
    if !support::has("mkfs.erofs", "erofs-utils") {
        return;
    }
    let (dir, tree) = world_for_mkfs();
    let image = dir.path().join("compact.erofs");
    mkfs("-T 1700000000 -Eforce-inode-compact", &image, &tree);
    // Such inodes have the image's time.
    let without_time = |lines: Vec<String>| -> Vec<String> {
        let is_time = |word: &str| word.split_once('.').is_some_and(|(_, rest)| rest.len() == 9 && word.len() == 20);
        let cut = |line: &String| line.split(' ').filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ");
        lines.iter().map(cut).collect()
    };
    let ours = read(&image);
    assert!(ours.iter().all(|line| line.contains(" 1700000000.000000000")), "{:?}", ours[1]);
    support::assert_same("compact", &without_time(ours), &without_time(support::walk(&tree, true)));
}

#[test]
fn a_compressed_image_is_refused_in_words() {
    if !support::has("mkfs.erofs", "erofs-utils") {
        return;
    }
    let (dir, tree) = world_for_mkfs();
    let image = dir.path().join("lz4.erofs");
    mkfs("-zlz4", &image, &tree);
    let error = berth_imagefile::open(File::open(&image).unwrap(), "the.erofs").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image the.erofs cannot be used: it is a compressed EROFS image, which we do not read"
    );
}

#[test]
fn what_we_write_we_read() {
    let (dir, tree) = world();
    let image = dir.path().join("ours.erofs");
    write(&tree, &image);
    support::assert_same("ours", &read(&image), &support::walk(&tree, true));
}

#[test]
fn what_we_write_fsck_finds_right_and_unpacks() {
    if !support::has("fsck.erofs", "erofs-utils") {
        return;
    }
    let (dir, tree) = world();
    let image = dir.path().join("ours.erofs");
    write(&tree, &image);
    let out = dir.path().join("out");
    let extract = format!("--extract={}", out.display());
    support::run("fsck.erofs", &[&extract, "--preserve", "--overwrite", image.to_str().unwrap()]);
    // fsck.erofs unpacks no xattrs, hard links as files of their own, and gives owners after modes, which costs set-user-id.
    let plain = |lines: Vec<String>| -> Vec<String> {
        let cut = |line: &String| {
            let line = line.split(" links=").next().unwrap().split(" user.").next().unwrap();
            line.replace(" 4751 ", " 0751 ")
        };
        lines.iter().map(cut).collect()
    };
    support::assert_same("unpacked", &plain(support::walk(&out, false)), &plain(support::walk(&tree, false)));
}

#[test]
fn two_runs_give_the_same_bytes() {
    let (dir, tree) = world();
    let (one, two) = (dir.path().join("one.erofs"), dir.path().join("two.erofs"));
    write(&tree, &one);
    write(&tree, &two);
    assert!(fs::read(one).unwrap() == fs::read(two).unwrap());
}

#[test]
fn a_planted_difference_is_found() {
    let (dir, tree) = world();
    let image = dir.path().join("ours.erofs");
    let expected = support::walk(&tree, true);
    fs::write(tree.join("etc/deep/er/and/deeper/still"), "at the button\n").unwrap();
    write(&tree, &image);
    let differences = support::differences(&read(&image), &expected);
    assert!(differences.iter().any(|line| line.contains("deeper/still")), "{differences:#?}");
}

#[test]
fn a_large_directory_is_found_through() {
    use berth_imagefile::write::Content;
    use berth_imagefile::write::Metadata;
    use berth_imagefile::write::Sink as _;
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("large.erofs");
    let mut writer = ErofsWriter::create(File::create_new(&image).unwrap(), "image", Options::default()).unwrap();
    for number in 0..30_000 {
        let path = format!("many/file {number:06}");
        writer.add(path.as_bytes(), &Metadata::default(), Content::Symlink(b"somewhere")).unwrap();
    }
    writer.finish().unwrap();
    let tree = berth_imagefile::open(File::open(&image).unwrap(), "image").unwrap();
    let many = tree.lookup(tree.root(), b"many").unwrap().unwrap();
    for number in (0..30_000).step_by(499) {
        let name = format!("file {number:06}");
        let node = tree.lookup(many, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(tree.read_link(node).unwrap(), b"somewhere");
    }
    for missing in ["file", "file 030000", "!", "~"] {
        assert_eq!(tree.lookup(many, missing.as_bytes()).unwrap(), None, "{missing}");
    }
    let mut count = 0;
    tree.read_dir(many, 0, &mut |_| {
        count += 1;
        true
    })
    .unwrap();
    assert_eq!(count, 30_000);
    if support::has("fsck.erofs", "erofs-utils") {
        support::run("fsck.erofs", &["--extract", image.to_str().unwrap()]);
    }
}
