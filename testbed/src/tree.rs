//! Lists a folder down to the last bit, and says where two lists differ.
//!
//! The list is what the tests compare with other tools' work, so it is taken by system calls of its own: no code of
//! berth's takes part in it.

#![allow(unsafe_code)] // llistxattr and lgetxattr of names that are no C strings elsewhere, and unshare(2).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest as _;
use sha2::Sha256;

/// What one name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `file`, `dir`, `link`, `char`, `block`, `fifo` or `socket`.
    pub kind: String,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner as seen from where the list was taken.
    pub uid: u32,
    /// Group as seen from where the list was taken.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// SHA-256 and size of a file, target of a link, number of a device.
    pub content: String,
    /// The first name (in byte order) of the same file, where it has several.
    pub same_as: Option<String>,
    /// Extended attributes, values in hex.
    pub xattrs: BTreeMap<String, String>,
}

/// A whole folder, by escaped name relative to it; the folder itself is `.`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree(pub BTreeMap<String, Entry>);

/// What a comparison looks at besides names, types, modes of all but links, contents and hard links.
#[derive(Debug, Clone, Copy)]
pub struct Compare<'a> {
    /// Owners and groups.
    pub owners: bool,
    /// Times of everything but folders, whose times say when an entry came or went.
    pub times: bool,
    /// Extended attributes, but for those whose names start with one of these.
    pub xattrs_except: &'a [&'a str],
    /// Names (as listed, with all below) to leave out.
    pub except: &'a [&'a str],
}

impl Tree {
    /// Lists a folder as the calling process sees it.
    pub fn of(dir: &Path) -> io::Result<Tree> {
        let mut tree = Tree::default();
        let mut first = HashMap::new();
        walk(dir, Path::new(""), &mut tree, &mut first)?;
        Ok(tree)
    }

    /// Reads the text that the `testbed tree` command printed.
    pub fn parse(text: &str) -> Tree {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("no tree ({error}): {text:.300}"))
    }

    /// Says in words where two trees differ, one line for each name, at most 40 lines.
    pub fn differences(&self, other: &Tree, compare: Compare<'_>) -> Vec<String> {
        let skipped = |name: &str| {
            compare
                .except
                .iter()
                .any(|skip| name == *skip || name.strip_prefix(skip).is_some_and(|rest| rest.starts_with('/')))
        };
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).filter(|name| !skipped(name)).collect();
        names.sort();
        names.dedup();
        let mut found = Vec::new();
        for name in names {
            match (self.0.get(name), other.0.get(name)) {
                (Some(_), None) => found.push(format!("{name}: only in the first")),
                (None, Some(_)) => found.push(format!("{name}: only in the second")),
                (Some(one), Some(two)) => {
                    for (what, left, right) in one
                        .aspects(compare)
                        .into_iter()
                        .zip(two.aspects(compare))
                        .filter_map(|((what, left), (_, right))| (left != right).then_some((what, left, right)))
                    {
                        found.push(format!("{name}: {what} {left} against {right}"));
                    }
                }
                (None, None) => {}
            }
            if found.len() >= 40 {
                found.push("… and more".to_owned());
                break;
            }
        }
        found
    }
}

impl Entry {
    fn aspects(&self, compare: Compare<'_>) -> Vec<(&'static str, String)> {
        // A symbolic link's mode is whatever its file system says.
        let mode = if self.kind == "link" { 0 } else { self.mode };
        let xattrs: Vec<String> = self
            .xattrs
            .iter()
            .filter(|(name, _)| !compare.xattrs_except.iter().any(|prefix| name.starts_with(prefix)))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut aspects = vec![
            ("type", self.kind.clone()),
            ("mode", format!("{mode:o}")),
            ("content", self.content.clone()),
            ("hard link to", self.same_as.clone().unwrap_or_default()),
            ("xattrs", xattrs.join(" ")),
        ];
        if compare.owners {
            aspects.push(("owner", format!("{}:{}", self.uid, self.gid)));
        }
        if compare.times && self.kind != "dir" {
            aspects.push(("time", self.mtime.to_string()));
        }
        aspects
    }
}

/// A name with everything but plain printable ASCII written as `\ooo`, so that no two names look alike.
pub fn escape(name: &[u8]) -> String {
    name.iter().fold(String::new(), |text, byte| match byte {
        b'!'..=b'[' | b']'..=b'~' => text + char::from(*byte).encode_utf8(&mut [0; 4]),
        _ => text + &format!("\\{byte:03o}"),
    })
}

fn walk(root: &Path, name: &Path, tree: &mut Tree, first: &mut HashMap<(u64, u64), String>) -> io::Result<()> {
    let path = if name.as_os_str().is_empty() { root.to_owned() } else { root.join(name) };
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let meta = fs::symlink_metadata(&path).map_err(told)?;
    let kind = meta.file_type();
    let label = if name.as_os_str().is_empty() { ".".to_owned() } else { escape(name.as_os_str().as_bytes()) };
    let (kind, content) = if kind.is_dir() {
        ("dir", String::new())
    } else if kind.is_symlink() {
        ("link", escape(fs::read_link(&path).map_err(told)?.as_os_str().as_bytes()))
    } else if kind.is_char_device() {
        ("char", format!("{:#x}", meta.rdev()))
    } else if kind.is_block_device() {
        ("block", format!("{:#x}", meta.rdev()))
    } else if kind.is_fifo() {
        ("fifo", String::new())
    } else if kind.is_socket() {
        ("socket", String::new())
    } else {
        ("file", hash(&path).map_err(told)?)
    };
    let same_as = if kind != "dir" && meta.nlink() > 1 {
        let one = first.entry((meta.dev(), meta.ino())).or_insert_with(|| label.clone());
        (*one != label).then(|| one.clone())
    } else {
        None
    };
    let entry = Entry {
        kind: kind.to_owned(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: meta.mtime(),
        content,
        same_as,
        xattrs: xattrs(&path).map_err(told)?,
    };
    tree.0.insert(label, entry);
    if kind == "dir" {
        let mut names: Vec<_> =
            fs::read_dir(&path).map_err(told)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        // Byte order, so that "the first name of a file" is the same everywhere.
        names.sort_by(|one, two| one.as_bytes().cmp(two.as_bytes()));
        for child in names {
            walk(root, &name.join(child), tree, first)?;
        }
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    let mut size = 0u64;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        size += read as u64;
    }
    Ok(hex(hash.finalize().as_slice()) + &format!(" {size}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut names = vec![0u8; 1 << 16];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(found),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 1 << 16];
        let name = CString::new(name)?;
        match rustix::fs::lgetxattr(path, &name, &mut value[..]) {
            Ok(length) => {
                found.insert(name.to_string_lossy().into_owned(), hex(&value[..length]));
            }
            // Gone between the two calls, or hidden from this process (trusted.* for all but the real root).
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Moves the process into a user namespace of its own, where it is root over what its user owns, and a mount namespace.
pub fn become_namespace_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: unshare takes flags only; the process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Mounts layers (lowest first) as the kernel's overlay, read-only, in the mount namespace that
/// [`become_namespace_root`] made: so the kernel itself is the judge of the layers' whiteouts.
pub fn mount_layers(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    use rustix::fs::Mode;
    use rustix::fs::OFlags;
    use rustix::mount::MountFlags;

    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), None)?;
    // Without an upper folder the kernel wants two lower ones at least.
    let empty = target.join("empty");
    let merged = target.join("merged");
    fs::create_dir(&empty)?;
    fs::create_dir(&merged)?;
    // By descriptor, as the options of a mount are short and know no way to write a colon.
    let mut folders = Vec::new();
    for path in layers.iter().rev().chain([&empty]) {
        folders.push(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    }
    let lowers: Vec<String> = folders.iter().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd())).collect();
    let options = CString::new(format!("lowerdir={},userxattr", lowers.join(":")))?;
    rustix::mount::mount("overlay", &merged, "overlay", MountFlags::RDONLY, Some(options.as_c_str()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const ALL: Compare<'_> = Compare { owners: true, times: true, xattrs_except: &[], except: &[] };

    fn sample() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/file"), "content").unwrap();
        fs::hard_link(dir.path().join("d/file"), dir.path().join("twin")).unwrap();
        std::os::unix::fs::symlink("d/file", dir.path().join("link")).unwrap();
        let tree = Tree::of(dir.path()).unwrap();
        (dir, tree)
    }

    fn changed(change: impl FnOnce(&Path)) -> Vec<String> {
        let (dir, before) = sample();
        change(dir.path());
        before.differences(&Tree::of(dir.path()).unwrap(), Compare { times: false, ..ALL })
    }

    #[test]
    fn an_unchanged_tree_has_no_differences() {
        let (dir, before) = sample();
        assert_eq!(before.differences(&Tree::of(dir.path()).unwrap(), ALL), Vec::<String>::new());
    }

    #[test]
    fn each_planted_difference_is_found() {
        let mode = changed(|dir| {
            fs::set_permissions(dir.join("d/file"), fs::Permissions::from_mode(0o600)).unwrap();
        });
        assert_eq!(mode.len(), 2, "{mode:?}");
        assert!(mode[0].contains("mode 644 against 600"), "{mode:?}");
        let byte = changed(|dir| fs::write(dir.join("twin"), "Content").unwrap());
        assert!(byte[0].starts_with("d/file: content"), "{byte:?}");
        let link = changed(|dir| {
            fs::remove_file(dir.join("link")).unwrap();
            std::os::unix::fs::symlink("d/file2", dir.join("link")).unwrap();
        });
        assert_eq!(link, ["link: content d/file against d/file2"]);
        let split = changed(|dir| {
            fs::remove_file(dir.join("twin")).unwrap();
            fs::write(dir.join("twin"), "content").unwrap();
        });
        assert_eq!(split, ["twin: hard link to d/file against "]);
        let gone = changed(|dir| fs::remove_file(dir.join("link")).unwrap());
        assert_eq!(gone, ["link: only in the first"]);
    }

    #[test]
    fn a_planted_attribute_is_found() {
        let found = changed(|dir| {
            rustix::fs::lsetxattr(dir.join("d"), "user.planted", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        });
        assert_eq!(found, ["d: xattrs  against user.planted=31"]);
    }

    #[test]
    fn no_two_names_look_alike() {
        assert_eq!(escape(b"a b\n\\\xff"), "a\\040b\\012\\134\\377");
    }
}
