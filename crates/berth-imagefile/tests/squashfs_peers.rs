//! Squashfs against squashfs-tools: what they write is read, what we write they read.

mod support;

use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use berth_imagefile::Compression;
use berth_imagefile::listing::listing;
use berth_imagefile::source::directory::add_directory;
use berth_imagefile::squashfs::Options;
use berth_imagefile::squashfs::SquashfsWriter;
use support::BOUND;

/// Where everything of a test is.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        support::make_tree(&dir.path().join("tree"));
        World { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn tree(&self) -> Vec<String> {
        support::walk(&self.dir.path().join("tree"), false)
    }
}

fn read(image: &str) -> Vec<String> {
    let tree = berth_imagefile::open(File::open(image).unwrap(), "image").unwrap();
    listing(&*tree, BOUND).unwrap()
}

fn write(tree: &Path, image: &str, options: Options) {
    let file = File::create_new(image).unwrap();
    let mut writer = SquashfsWriter::create(file, image, options).unwrap();
    add_directory(File::open(tree).unwrap().as_fd(), &mut writer).unwrap();
    let summary = writer.finish().unwrap();
    assert_eq!(summary.bytes, fs::metadata(image).unwrap().len());
}

fn mksquashfs(world: &World, arguments: &[&str]) -> Vec<String> {
    let image = world.path("theirs.sqsh");
    let _ = fs::remove_file(&image);
    let tree = world.path("tree");
    let mut all = vec![tree.as_str(), image.as_str(), "-no-progress", "-quiet"];
    all.extend_from_slice(arguments);
    support::run("mksquashfs", &all);
    read(&image)
}

#[test]
fn what_mksquashfs_writes_is_read() {
    if !support::has("mksquashfs", "squashfs-tools") {
        return;
    }
    let world = World::new();
    let expected = world.tree();
    for arguments in [
        "-comp gzip",
        "-comp zstd",
        "-comp lz4",
        "-comp lz4 -Xhc",
        "-comp xz",
        "-comp xz -Xbcj x86,arm",
        "-comp lzma",
        "-comp lzo",
        "-comp lzo -Xalgorithm lzo1x_1",
        // enroot's own choice.
        "-comp lzo -noD",
        "-comp zstd -b 4096",
        "-comp zstd -b 1048576",
        "-comp zstd -no-fragments",
        "-comp zstd -always-use-fragments",
        "-comp zstd -no-exports",
        "-comp zstd -no-duplicates",
        "-comp zstd -noI -noD",
        "-noI -noD -noF -noX",
        "-comp zstd -no-sparse",
        "-comp gzip -Xcompression-level 1 -Xwindow-size 8",
        "-comp zstd -nopad",
    ] {
        let ours = mksquashfs(&world, &arguments.split(' ').collect::<Vec<_>>());
        support::assert_same(arguments, &ours, &expected);
    }
}

#[test]
fn an_image_without_xattrs_has_none() {
    if !support::has("mksquashfs", "squashfs-tools") {
        return;
    }
    let world = World::new();
    let ours = mksquashfs(&world, &["-comp", "zstd", "-no-xattrs"]);
    assert!(ours.len() > 1000 && !ours.iter().any(|line| line.contains(" user.")));
}

#[test]
fn a_planted_difference_is_found() {
    if !support::has("mksquashfs", "squashfs-tools") {
        return;
    }
    let world = World::new();
    let expected = world.tree();
    let tree = world.dir.path().join("tree");
    fs::write(tree.join("etc/deep/er/and/deeper/still"), "at the button\n").unwrap();
    let differences = support::differences(&mksquashfs(&world, &["-comp", "zstd"]), &expected);
    assert!(differences.iter().any(|line| line.contains("deeper/still")), "{differences:#?}");
}

/// Settings that our writer has.
fn settings() -> Vec<(&'static str, Options)> {
    let base = Options { threads: 3, ..Options::default() };
    vec![
        ("zstd", base),
        ("zstd:19", Options { compression: Compression::Zstd(19), ..base }),
        ("gzip", Options { compression: Compression::Gzip(6), ..base }),
        ("gzip:9", Options { compression: Compression::Gzip(9), ..base }),
        ("lz4", Options { compression: Compression::Lz4, ..base }),
        ("xz", Options { compression: Compression::Xz(6), ..base }),
        ("none", Options { compression: Compression::None, ..base }),
        ("4 KiB", Options { block_size: 4096, ..base }),
        ("1 MiB", Options { block_size: 1 << 20, ..base }),
        ("no fragments", Options { fragments: false, ..base }),
        ("no duplicates", Options { duplicates: false, ..base }),
        ("not exportable", Options { exportable: false, ..base }),
    ]
}

#[test]
fn what_we_write_we_read() {
    let world = World::new();
    let expected = world.tree();
    for (name, options) in settings() {
        let image = world.path(&format!("{name}.sqsh"));
        write(&world.dir.path().join("tree"), &image, options);
        support::assert_same(name, &read(&image), &expected);
    }
}

#[test]
fn what_we_write_unsquashfs_reads() {
    if !support::has("unsquashfs", "squashfs-tools") {
        return;
    }
    let world = World::new();
    let expected = world.tree();
    for (name, options) in settings() {
        let image = world.path(&format!("{name}.sqsh"));
        write(&world.dir.path().join("tree"), &image, options);
        let out = world.path(&format!("{name}.out"));
        support::run("unsquashfs", &["-no-progress", "-quiet", "-dest", &out, &image]);
        support::assert_same(name, &support::walk(Path::new(&out), false), &expected);
    }
}

#[test]
fn two_runs_give_the_same_bytes_on_any_number_of_threads() {
    let world = World::new();
    let tree = world.dir.path().join("tree");
    let images: Vec<_> = [1, 2, 5]
        .into_iter()
        .map(|threads| {
            let image = world.path(&format!("{threads}.sqsh"));
            write(&tree, &image, Options { threads, ..Options::default() });
            fs::read(image).unwrap()
        })
        .collect();
    assert!(images[0] == images[1] && images[0] == images[2]);
}

#[test]
fn equal_files_are_stored_once() {
    let world = World::new();
    let tree = world.dir.path().join("tree");
    let (once, twice) = (world.path("once.sqsh"), world.path("twice.sqsh"));
    write(&tree, &once, Options::default());
    fs::write(tree.join("noise-again"), support::noise(5, 300_000)).unwrap();
    write(&tree, &twice, Options::default());
    let size = |image| fs::metadata(image).unwrap().len();
    assert!(size(&twice) <= size(&once) + 4096, "{} {}", size(&once), size(&twice));
    support::assert_same("twice", &read(&twice), &world.tree());
}

#[test]
fn an_image_that_was_cut_short_says_so() {
    let world = World::new();
    let image = world.path("cut.sqsh");
    write(&world.dir.path().join("tree"), &image, Options::default());
    let file = File::options().write(true).open(&image).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let error = berth_imagefile::open(File::open(&image).unwrap(), "cut.sqsh").unwrap_err();
    assert_eq!(error.to_string(), "cut.sqsh ends too early: it was cut short, or changed while it was in use");
    assert_eq!(error.errno(), rustix::io::Errno::IO.raw_os_error());
}

#[test]
fn an_image_that_becomes_shorter_while_it_is_read_gives_errors() {
    let world = World::new();
    let image = world.path("cut.sqsh");
    write(&world.dir.path().join("tree"), &image, Options::default());
    let tree = berth_imagefile::open(File::open(&image).unwrap(), "cut.sqsh").unwrap();
    File::options().write(true).open(&image).unwrap().set_len(5000).unwrap();
    assert!(listing(&*tree, BOUND).is_err());
}
