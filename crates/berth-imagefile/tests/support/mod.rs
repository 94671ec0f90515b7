//! A folder with a bit of everything, and what a plain walk tells of a folder.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::XattrFlags;
use sha2::Digest as _;
use sha2::Sha256;

/// Most names that a listing may have.
pub const BOUND: usize = 1_000_000;

/// Whether a program is there. In CI it must be.
pub fn has(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    assert!(found || std::env::var_os("CI").is_none(), "{program} (package {package}) is not installed");
    if !found {
        eprintln!("skipped: {program} (package {package}) is not installed");
    }
    found
}

/// Runs a program that must succeed, and gives its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// Bytes that compress somewhat, and differ by `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(3) {
            bytes.extend_from_slice(&state.to_le_bytes());
        } else {
            let _ = writeln!(bytes, "line {} of many", state % 1000);
        }
    }
    bytes.truncate(length);
    bytes
}

/// Bytes that do not compress at all.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 32);
    let mut digest: [u8; 32] = Sha256::digest(seed.to_le_bytes()).into();
    while bytes.len() < length {
        bytes.extend_from_slice(&digest);
        digest = Sha256::digest(digest).into();
    }
    bytes.truncate(length);
    bytes
}

/// Makes the folder. Sizes lie around the edges of blocks; one directory is large enough for an index.
pub fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("etc/deep/er/and/deeper")).unwrap();
    fs::create_dir(top.join("many")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    for (name, length) in [
        ("zero", 0),
        ("one", 1),
        ("small", 3000),
        ("under", 131_071),
        ("block", 131_072),
        ("over", 131_073),
        ("several", 700_001),
        ("page", 4096),
        ("pages", 8192 + 17),
    ] {
        fs::write(top.join(name), bytes(length as u64 + 1, length)).unwrap();
    }
    fs::write(top.join("noise"), noise(5, 300_000)).unwrap();
    fs::write(top.join("noise-small"), noise(6, 5000)).unwrap();
    for copy in ["copy-1", "copy-2"] {
        fs::write(top.join("etc").join(copy), bytes(77, 400_000)).unwrap();
        fs::write(top.join("etc").join(format!("{copy}-small")), bytes(78, 900)).unwrap();
    }
    fs::write(top.join("etc/deep/er/and/deeper/still"), "at the bottom\n").unwrap();
    let hole = File::create(top.join("hole")).unwrap();
    hole.write_all_at(&bytes(9, 10_000), 1_000_000).unwrap();
    hole.set_len(3_000_000).unwrap();
    File::create(top.join("only-hole")).unwrap().set_len(500_000).unwrap();
    for number in 0..1200 {
        let name = format!("a name that is long enough to fill blocks of the directory table, number {number:05}");
        fs::write(top.join("many").join(name), format!("{}\n", number % 50)).unwrap();
    }
    fs::hard_link(top.join("several"), top.join("etc/several-too")).unwrap();
    fs::hard_link(top.join("small"), top.join("many/small-too")).unwrap();
    symlink("etc/deep", top.join("link")).unwrap();
    symlink("x".repeat(3000), top.join("long-link")).unwrap();
    symlink("/nowhere", top.join("etc/dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, top.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    fs::write(top.join("a name with \u{fc} and \\ and \n"), "odd\n").unwrap();
    fs::write(top.join("n".repeat(255)), "long name\n").unwrap();
    for (name, attribute, value) in [
        ("small", "user.note", b"small".to_vec()),
        ("small", "user.empty", Vec::new()),
        ("one", "user.note", b"small".to_vec()),
        ("etc", "user.of-a-directory", b"\0\xff\n".to_vec()),
        ("several", "user.large", bytes(4, 2000)),
        ("page", "user.large", bytes(4, 2000)),
    ] {
        rustix::fs::setxattr(top.join(name), attribute, &value, XattrFlags::empty()).unwrap();
    }
    fs::set_permissions(top.join("one"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(top.join("zero"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(top.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    for name in ["several", "etc/copy-1", "many"] {
        File::open(top.join(name)).unwrap().set_modified(time).unwrap();
    }
}

/// What `berth_imagefile::listing` should tell of a folder.
pub fn walk(top: &Path, nanoseconds: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first_names = HashMap::new();
    walk_into(top, b"", nanoseconds, &mut lines, &mut first_names);
    lines
}

fn walk_into(
    place: &Path,
    path: &[u8],
    nanoseconds: bool,
    lines: &mut Vec<String>,
    first_names: &mut HashMap<u64, String>,
) {
    let status = fs::symlink_metadata(place).unwrap();
    let kind = status.file_type();
    let name = if path.is_empty() { "/".to_owned() } else { path.escape_ascii().to_string() };
    let kind_name = match () {
        () if kind.is_dir() => "Directory",
        () if kind.is_file() => "File",
        () if kind.is_symlink() => "Symlink",
        () if kind.is_fifo() => "Fifo",
        () if kind.is_socket() => "Socket",
        () if kind.is_char_device() => "CharDevice",
        () => "BlockDevice",
    };
    let fraction = if nanoseconds { status.mtime_nsec() } else { 0 };
    let (mode, uid, gid) = (status.mode() & 0o7777, status.uid(), status.gid());
    let mut text = format!("{name} {kind_name} {mode:04o} {uid}:{gid} {}.{fraction:09}", status.mtime());
    if kind.is_file() {
        let digest = Sha256::digest(fs::read(place).unwrap());
        let digest = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        write!(text, " {} {digest}", status.len()).unwrap();
    } else if kind.is_symlink() {
        let target = fs::read_link(place).unwrap();
        write!(text, " -> {}", target.as_os_str().as_bytes().escape_ascii()).unwrap();
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(text, " {}:{}", rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev())).unwrap();
    }
    if !kind.is_dir() {
        write!(text, " links={}", status.nlink()).unwrap();
        if status.nlink() > 1 {
            match first_names.get(&status.ino()) {
                Some(first) => write!(text, " same={first}").unwrap(),
                None => drop(first_names.insert(status.ino(), name)),
            }
        }
    }
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(place, &mut names).unwrap_or(0);
    let mut names: Vec<_> = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort();
    for name in names {
        let mut value = vec![0; 65_536];
        // squashfuse lists what it does not give.
        let length = match rustix::fs::lgetxattr(place, name, &mut value) {
            Err(rustix::io::Errno::NODATA) => continue,
            length => length.unwrap(),
        };
        write!(text, " {}={}", name.escape_ascii(), value[..length].escape_ascii()).unwrap();
    }
    lines.push(text);
    if kind.is_dir() {
        let mut children: Vec<_> =
            fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
        children.sort();
        for child in children {
            let below = [path, b"/", child.as_slice()].concat();
            let place = place.join(std::ffi::OsStr::from_bytes(&child));
            walk_into(&place, &below, nanoseconds, lines, first_names);
        }
    }
}

/// Fails with the lines that differ.
pub fn assert_same(what: &str, ours: &[String], theirs: &[String]) {
    let differences = differences(ours, theirs);
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
    assert!(ours.len() > 1000, "{what}: a tree of {} names proves little", ours.len());
}

/// Lines of only one of two listings, at most 20.
pub fn differences(ours: &[String], theirs: &[String]) -> Vec<String> {
    let only = |some: &[String], others: &[String], mark: &str| {
        let others: std::collections::HashSet<_> = others.iter().collect();
        some.iter().filter(|line| !others.contains(line)).map(|line| format!("{mark} {line:.300}")).collect::<Vec<_>>()
    };
    let mut lines = only(ours, theirs, "<");
    lines.extend(only(theirs, ours, ">"));
    lines.truncate(20);
    lines
}
