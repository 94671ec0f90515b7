//! The trees of layers as one tree: what the kernel's overlay shows, as plain files that anybody's runtime takes.
//!
//! A directory is read in all layers at once, the uppermost first: the first layer that has a name decides what it is, a
//! whiteout hides it, and directories go on below until one is opaque or something that is none. So each file is copied once, and
//! nothing is copied that an upper layer hides. Everything is opened by descriptor and no link is followed: trees are what
//! strangers packed.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::layer::whiteout::OPAQUE;
use crate::layer::whiteout::WHITEOUT;

/// Deepest directory; a layer in the store has no deeper one either.
const MAX_DEPTH: usize = 256;

/// Longest attribute, and longest list of names of attributes: the kernel's own limit.
const MAX_XATTR: usize = 1 << 16;

/// Something that could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct CopyError {
    /// What was tried.
    pub action: &'static str,
    /// Within the tree.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Copies the trees of layers, the lowest first, into a directory that is there and empty. Owners are kept if `owners` says
/// so, which takes root.
pub fn copy(layers: &[PathBuf], target: &Path, owners: bool) -> Result<(), CopyError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error: Errno| CopyError { action: "open", path, source: error.into() }
    };
    let open = |path: &PathBuf| rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(fail(path));
    let trees = layers.iter().rev().map(open).collect::<Result<Vec<OwnedFd>, _>>()?;
    let root = rustix::fs::open(target, DIRECTORY, Mode::empty()).map_err(fail(target))?;
    let Some(top) = trees.first() else { return Ok(()) };
    let stat = rustix::fs::fstat(top).map_err(fail(target))?;
    let trees: Vec<(usize, OwnedFd)> = trees.into_iter().enumerate().collect();
    let mut copy = Copy { root: root.as_fd(), owners, links: HashMap::new() };
    copy.directory(&visible(trees), root.as_fd(), &mut PathBuf::new(), 0)?;
    copy.finish(root.as_fd(), &stat, Path::new("/"))
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Layers down to the first in which the directory is opaque. They are numbered from the top.
fn visible(mut trees: Vec<(usize, OwnedFd)>) -> Vec<(usize, OwnedFd)> {
    let opaque = |fd: &OwnedFd| {
        let mut value = [0_u8; 2];
        matches!(rustix::fs::fgetxattr(fd, OPAQUE, &mut value), Ok(1)) && value[0] == b'y'
    };
    if let Some(last) = trees.iter().position(|(_, fd)| opaque(fd)) {
        trees.truncate(last + 1);
    }
    trees
}

struct Copy<'a> {
    root: BorrowedFd<'a>,
    owners: bool,
    /// Where a file with several names is in the copy: by layer, device and number.
    links: HashMap<(usize, u64, u64), PathBuf>,
}

/// What a name is.
enum Found {
    /// A directory, in these layers.
    Directory(Vec<(usize, OwnedFd)>, Stat),
    /// Anything else, in this layer.
    Other(usize, Stat),
}

impl Copy<'_> {
    fn directory(
        &mut self,
        trees: &[(usize, OwnedFd)],
        target: BorrowedFd<'_>,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(error("enter", path)(Errno::NAMETOOLONG));
        }
        // By name, so that a copy is made in the same order each time.
        let mut names: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
        for (_, tree) in trees {
            for entry in Dir::read_from(tree).map_err(error("read", path))? {
                let entry = entry.map_err(error("read", path))?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(name.to_vec(), ());
                }
            }
        }
        for name in names.into_keys() {
            path.push(std::ffi::OsString::from(os(&name)));
            if let Some(found) = find(trees, &name, path)? {
                self.entry(trees, found, target, &name, path, depth)?;
            }
            path.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        trees: &[(usize, OwnedFd)],
        found: Found,
        target: BorrowedFd<'_>,
        name: &[u8],
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        let (layer, stat) = match found {
            Found::Directory(below, stat) => {
                // Only later may its owner be kept out.
                rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(error("make", path))?;
                let made = rustix::fs::openat(target, name, DIRECTORY, Mode::empty()).map_err(error("open", path))?;
                self.directory(&below, made.as_fd(), path, depth + 1)?;
                copy_attributes(below[0].1.as_fd(), made.as_fd());
                return self.finish(made.as_fd(), &stat, path);
            }
            Found::Other(layer, stat) => (layer, stat),
        };
        let key = (layer, stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                let linked = rustix::fs::linkat(self.root, first, target, name, AtFlags::empty());
                return linked.map_err(error("link", path));
            }
            self.links.insert(key, path.clone());
        }
        let tree = &trees.iter().find(|(number, _)| *number == layer).expect("it was found there").1;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(tree.as_fd(), target, name, &stat, path),
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(tree, name, Vec::new()).map_err(error("read", path))?;
                rustix::fs::symlinkat(to, target, name).map_err(error("make", path))?;
                self.finish_at(target, name, &stat, path)
            }
            FileType::Fifo => {
                rustix::fs::mknodat(target, name, FileType::Fifo, Mode::empty(), 0).map_err(error("make", path))?;
                // No link could be followed: it was just made, and nobody else writes here.
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::chmodat(target, name, mode, AtFlags::empty()).map_err(error("set the mode of", path))?;
                self.finish_at(target, name, &stat, path)
            }
            // The store has no others, and in a person's own directory they are the host's.
            _ => Ok(()),
        }
    }

    fn file(
        &self,
        tree: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: &Path,
    ) -> Result<(), CopyError> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(tree, name, read, Mode::empty()).map_err(error("open", path))?;
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(target, name, write, Mode::RUSR | Mode::WUSR).map_err(error("make", path))?;
        // Where the file system can, both have the same blocks.
        if rustix::fs::ioctl_ficlone(&made, &source).is_err() {
            let (mut from, mut to) = (File::from(source), File::from(made));
            io::copy(&mut from, &mut to).map_err(|source| CopyError {
                action: "copy",
                path: path.to_owned(),
                source,
            })?;
            copy_attributes(from.as_fd(), to.as_fd());
            return self.finish(to.as_fd(), stat, path);
        }
        copy_attributes(source.as_fd(), made.as_fd());
        self.finish(made.as_fd(), stat, path)
    }

    /// Owner, mode and time, in this order: a change of owner takes set-id bits away.
    fn finish(&self, made: BorrowedFd<'_>, stat: &Stat, path: &Path) -> Result<(), CopyError> {
        if self.owners {
            rustix::fs::fchown(made, uid(stat.st_uid), gid(stat.st_gid)).map_err(error("give", path))?;
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::fchmod(made, mode).map_err(error("set the mode of", path))?;
        rustix::fs::futimens(made, &times(stat)).map_err(error("set the time of", path))
    }

    /// Likewise for what cannot be opened.
    fn finish_at(&self, target: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &Path) -> Result<(), CopyError> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.owners {
            rustix::fs::chownat(target, name, uid(stat.st_uid), gid(stat.st_gid), nofollow)
                .map_err(error("give", path))?;
        }
        rustix::fs::utimensat(target, name, &times(stat), nofollow).map_err(error("set the time of", path))
    }
}

/// What a name is, in layers that are numbered from the top.
fn find(trees: &[(usize, OwnedFd)], name: &[u8], path: &Path) -> Result<Option<Found>, CopyError> {
    let mut directories: Vec<(usize, OwnedFd)> = Vec::new();
    let mut first = None;
    for (layer, tree) in trees {
        let stat = match rustix::fs::statat(tree, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(error("look at", path))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory {
            let hidden = is_whiteout(tree.as_fd(), name, &stat);
            // Below a directory, something else is over it or gone: nothing more is to be seen.
            if directories.is_empty() && !hidden {
                return Ok(Some(Found::Other(*layer, stat)));
            }
            break;
        }
        let opened = rustix::fs::openat(tree, name, DIRECTORY, Mode::empty()).map_err(error("open", path))?;
        directories.push((*layer, opened));
        first = first.or(Some(stat));
    }
    Ok(first.map(|stat| Found::Directory(visible(directories), stat)))
}

fn is_whiteout(tree: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        FileType::RegularFile if stat.st_size == 0 => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(tree, name, flags, Mode::empty());
            file.is_ok_and(|file| rustix::fs::fgetxattr(&file, WHITEOUT, &mut [0_u8; 1]).is_ok())
        }
        _ => false,
    }
}

/// Attributes, as far as the file system and one's rights let them be set, but for those that steer overlayfs.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    // Most files have none, and then no memory is needed.
    let Ok(length @ 1..=MAX_XATTR) = rustix::fs::flistxattr_query(from) else { return };
    let mut names = vec![0_u8; length];
    let Ok(length) = rustix::fs::flistxattr(from, &mut names) else { return };
    let mut value = vec![0_u8; MAX_XATTR];
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        if let Ok(length) = rustix::fs::fgetxattr(from, name, &mut value) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
}

fn error(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> CopyError + use<> {
    let path = Path::new("/").join(path);
    move |error| CopyError { action, path, source: error.into() }
}

fn os(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

fn times(stat: &Stat) -> rustix::fs::Timestamps {
    crate::layer::file::times((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
}

fn uid(id: u32) -> Option<rustix::fs::Uid> {
    crate::layer::file::uid(id.into())
}

fn gid(id: u32) -> Option<rustix::fs::Gid> {
    crate::layer::file::gid(id.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::layer::whiteout;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        /// Layers of these names, with directories (that end with a slash) and files that contain their layer's name.
        fn new(layers: &[(&str, &[&str])]) -> World {
            let world = World { dir: tempfile::tempdir().unwrap() };
            for (layer, paths) in layers {
                fs::create_dir(world.path(layer)).unwrap();
                for path in *paths {
                    let full = world.path(layer).join(path);
                    fs::create_dir_all(if path.ends_with('/') { &full } else { full.parent().unwrap() }).unwrap();
                    if !path.ends_with('/') {
                        fs::write(full, layer).unwrap();
                    }
                }
            }
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn whiteout(&self, layer: &str, directory: &str, name: &str) {
            let parent = File::open(self.path(layer).join(directory)).unwrap();
            whiteout::make(parent.as_fd(), name.as_bytes()).unwrap();
        }

        /// Everything that is in the copy of these layers: `path=content`, or `path/`.
        fn copied(&self, layers: &[&str]) -> Vec<String> {
            let target = self.path("copy");
            fs::create_dir(&target).unwrap();
            let layers: Vec<PathBuf> = layers.iter().map(|layer| self.path(layer)).collect();
            copy(&layers, &target, false).unwrap();
            let mut found = Vec::new();
            list(&target, "", &mut found);
            found.sort();
            found
        }
    }

    fn list(dir: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                found.push(format!("{name}/"));
                list(&entry.path(), &format!("{name}/"), found);
            } else if entry.file_type().unwrap().is_symlink() {
                found.push(format!("{name}->{}", fs::read_link(entry.path()).unwrap().display()));
            } else {
                found.push(format!("{name}={}", fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }

    #[test]
    fn upper_layers_replace_and_hide_what_is_below() {
        let world = World::new(&[
            ("low", &["a/one", "a/two", "b/x", "c/gone", "d/y", "f"]),
            ("middle", &["a/one", "c/", "e/z"]),
            ("high", &["a/three", "b", "f/now", "e/"]),
        ]);
        world.whiteout("middle", "c", "gone");
        world.whiteout("middle", "", "d");
        whiteout::make_opaque(File::open(world.path("high").join("e")).unwrap().as_fd()).unwrap();
        assert_eq!(
            world.copied(&["low", "middle", "high"]),
            ["a/", "a/one=middle", "a/three=high", "a/two=low", "b=high", "c/", "e/", "f/", "f/now=high"]
        );
    }

    #[test]
    fn a_directory_over_a_whiteout_shows_nothing_of_below() {
        let world = World::new(&[("low", &["a/old"]), ("middle", &[]), ("high", &["a/new"])]);
        world.whiteout("middle", "", "a");
        assert_eq!(world.copied(&["low", "middle", "high"]), ["a/", "a/new=high"]);
    }

    #[test]
    fn links_modes_times_and_attributes_stay() {
        let world = World::new(&[("low", &["dir/file"])]);
        let file = world.path("low/dir/file");
        fs::hard_link(&file, world.path("low/other")).unwrap();
        symlink("/etc/passwd", world.path("low/link")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(world.path("low/dir"), fs::Permissions::from_mode(0o500)).unwrap();
        rustix::fs::setxattr(&file, "user.test", b"value", XattrFlags::empty()).unwrap();
        assert_eq!(world.copied(&["low"]), ["dir/", "dir/file=low", "link->/etc/passwd", "other=low"]);
        let (one, other) =
            (fs::metadata(world.path("copy/dir/file")).unwrap(), fs::metadata(world.path("copy/other")).unwrap());
        assert_eq!((one.ino(), one.mode() & 0o7777, one.nlink()), (other.ino(), 0o4751, 2));
        assert_eq!(one.mtime_nsec(), fs::metadata(&file).unwrap().mtime_nsec());
        assert_eq!(fs::metadata(world.path("copy/dir")).unwrap().mode() & 0o7777, 0o500);
        let mut value = [0_u8; 8];
        assert_eq!(rustix::fs::getxattr(world.path("copy/other"), "user.test", &mut value), Ok(5));
    }

    #[test]
    fn links_of_a_tree_lead_nowhere() {
        // A directory below, a link in its place above, and files behind it below.
        let world = World::new(&[("low", &["etc/file"]), ("high", &[])]);
        let outside = world.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, world.path("high/etc")).unwrap();
        assert_eq!(world.copied(&["low", "high"]), [format!("etc->{}", outside.display())]);
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }
}
