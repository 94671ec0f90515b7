//! What we write, as the kernel's own file systems and squashfuse show it. Mounting needs root.

mod support;

use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use berth_imagefile::Compression;
use berth_imagefile::erofs::ErofsWriter;
use berth_imagefile::source::directory::add_directory;
use berth_imagefile::squashfs::Options;
use berth_imagefile::squashfs::SquashfsWriter;
use berth_imagefile::write::Content;
use berth_imagefile::write::Metadata;
use berth_imagefile::write::Sink;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI runs this as root");
    if !root {
        eprintln!("skipped: mounting needs root");
    }
    root
}

/// A mount that is taken away whatever happens.
struct Mount(String);

impl Mount {
    fn new(program: &str, arguments: &[&str], place: &Path) -> Mount {
        fs::create_dir_all(place).unwrap();
        let place = place.to_str().unwrap().to_owned();
        let mut all = arguments.to_vec();
        all.push(&place);
        support::run(program, &all);
        Mount(place)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A tree as ordinary users have it, and what only root has.
fn make_tree(top: &Path) {
    use rustix::fs::FileType;
    use rustix::fs::Mode;
    support::make_tree(top);
    let device = |name: &str, kind, number| {
        rustix::fs::mknodat(rustix::fs::CWD, top.join(name), kind, Mode::from_raw_mode(0o660), number).unwrap();
    };
    device("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    device("disk", FileType::BlockDevice, rustix::fs::makedev(259, 1234));
    device("socket", FileType::Socket, 0);
    for (number, name) in ["one", "small", "etc", "link", "null", "fifo"].into_iter().enumerate() {
        let id = 1000 + number as u32 * 70_000;
        std::os::unix::fs::lchown(top.join(name), Some(id), Some(id + 1)).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(top.join("page"), "trusted.note", b"for-root", flags).unwrap();
    rustix::fs::lsetxattr(top.join("link"), "trusted.on-a-link", b"too", flags).unwrap();
    rustix::fs::lsetxattr(top.join("null"), "trusted.on-a-device", b"too", flags).unwrap();
}

fn squashfs(tree: &Path, image: &str, options: Options) {
    let mut writer = SquashfsWriter::create(File::create_new(image).unwrap(), image, options).unwrap();
    add_directory(File::open(tree).unwrap().as_fd(), &mut writer).unwrap();
    writer.finish().unwrap();
}

#[test]
fn the_kernel_and_squashfuse_read_our_squashfs() {
    if !is_root() || !support::has("squashfuse", "squashfuse") {
        return;
    }
    let world = tempfile::tempdir().unwrap();
    let tree = world.path().join("tree");
    make_tree(&tree);
    let expected = support::walk(&tree, false);
    let base = Options::default();
    for (name, options) in [
        ("zstd", base),
        ("gzip", Options { compression: Compression::Gzip(6), ..base }),
        ("lz4", Options { compression: Compression::Lz4, ..base }),
        ("xz", Options { compression: Compression::Xz(6), ..base }),
        ("none", Options { compression: Compression::None, ..base }),
        ("4 KiB", Options { block_size: 4096, ..base }),
        ("1 MiB", Options { block_size: 1 << 20, ..base }),
        ("no fragments", Options { fragments: false, exportable: false, ..base }),
    ] {
        let image = world.path().join(format!("{name}.sqsh"));
        let image = image.to_str().unwrap();
        squashfs(&tree, image, options);
        let place = world.path().join("place");
        // A kernel may lack a compressor; then squashfuse has to do.
        let options = ["-t", "squashfs", "-o", "loop,ro,nodev", image];
        let kernel_has = Command::new("mount").args(options).arg(place_made(&place)).output().unwrap();
        if kernel_has.status.success() {
            let _mount = Mount(place.to_str().unwrap().to_owned());
            support::assert_same(&format!("{name}, kernel"), &support::walk(&place, false), &expected);
        } else {
            assert!(["lz4", "xz"].contains(&name), "{name}: {}", String::from_utf8_lossy(&kernel_has.stderr));
            eprintln!("{name}: not in this kernel");
        }
        // squashfuse counts no links, gives no empty xattrs, and takes `trusted` for `security`.
        let _mount = Mount::new("squashfuse", &[image], &place);
        let plain = |lines: Vec<String>| -> Vec<String> {
            let hidden = ["trusted.", "security.", "user.empty=", "links=", "same="];
            let shown = |word: &&str| !hidden.iter().any(|prefix| word.starts_with(prefix));
            lines.into_iter().map(|line| line.split(' ').filter(shown).collect::<Vec<_>>().join(" ")).collect()
        };
        let theirs = plain(support::walk(&place, false));
        support::assert_same(&format!("{name}, squashfuse"), &theirs, &plain(expected.clone()));
    }
}

fn place_made(place: &Path) -> std::path::PathBuf {
    fs::create_dir_all(place).unwrap();
    place.to_owned()
}

#[test]
fn the_kernel_reads_our_erofs() {
    if !is_root() {
        return;
    }
    let world = tempfile::tempdir().unwrap();
    let tree = world.path().join("tree");
    make_tree(&tree);
    let image = world.path().join("image.erofs");
    let name = image.to_str().unwrap();
    let mut writer = ErofsWriter::create(File::create_new(&image).unwrap(), name, Default::default()).unwrap();
    add_directory(File::open(&tree).unwrap().as_fd(), &mut writer).unwrap();
    writer.finish().unwrap();
    let place = world.path().join("place");
    let _mount = Mount::new("mount", &["-t", "erofs", "-o", "loop,ro,nodev", name], &place);
    support::assert_same("kernel", &support::walk(&place, true), &support::walk(&tree, true));
    let opened = berth_imagefile::open(File::open(&image).unwrap(), name).unwrap();
    let ours = berth_imagefile::listing::listing(&*opened, support::BOUND).unwrap();
    support::assert_same("ours", &ours, &support::walk(&tree, true));
}

/// Two hundred thousand names in one directory: an index of many entries, and a listing of many blocks.
#[test]
fn a_very_large_directory_is_found_through() {
    if !is_root() {
        return;
    }
    let world = tempfile::tempdir().unwrap();
    let image = world.path().join("large.sqsh");
    let name = image.to_str().unwrap();
    let mut writer = SquashfsWriter::create(File::create_new(&image).unwrap(), name, Options::default()).unwrap();
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    for number in 0..200_000 {
        let path = format!("many/file {number:06}");
        writer.add(path.as_bytes(), &metadata, Content::Symlink(b"somewhere")).unwrap();
    }
    writer.finish().unwrap();
    let tree = berth_imagefile::open(File::open(&image).unwrap(), name).unwrap();
    let many = tree.lookup(tree.root(), b"many").unwrap().unwrap();
    for number in (0..200_000).step_by(997) {
        let name = format!("file {number:06}");
        let node = tree.lookup(many, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(tree.read_link(node).unwrap(), b"somewhere");
    }
    assert_eq!(tree.lookup(many, b"file 2").unwrap(), None);
    // Piece by piece, as a server lists.
    let (mut offset, mut names) = (0, 0);
    loop {
        let before = names;
        let (mut piece, from) = (0, offset);
        let each = &mut |entry: berth_imagefile::tree::DirEntry<'_>| {
            piece += 1;
            if piece > 777 {
                return false;
            }
            assert_eq!(entry.name, format!("file {names:06}").as_bytes());
            names += 1;
            offset = entry.next;
            true
        };
        tree.read_dir(many, from, each).unwrap();
        if names == before {
            break;
        }
    }
    assert_eq!(names, 200_000);
    let place = world.path().join("place");
    let _mount = Mount::new("mount", &["-t", "squashfs", "-o", "loop,ro", name], &place);
    for number in (0..200_000).step_by(997) {
        assert!(fs::symlink_metadata(place.join(format!("many/file {number:06}"))).is_ok(), "{number}");
    }
    assert_eq!(fs::read_dir(place.join("many")).unwrap().count(), 200_000);
}
