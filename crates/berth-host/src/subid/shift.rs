//! Gives the files in a tree to other ids, at the same place of another range.
//!
//! The tree belongs to a user who may be hostile and at work in it, and this is root's program. So every file is opened before it
//! is looked at, names are never followed, what is changed is what was looked at, and nothing is touched whose id is not in
//! the user's own old range. A file with a link from outside of the user's trees stays as it is: it may be another user's.
//!
//! An id is either in an old range or in a new one, never in both (see [`crate::subid::migrate`]), so that a walk that was
//! interrupted may simply be begun again. What a change of owner takes away (set-user-id bits, file capabilities) is noted
//! before, and put back.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use serde::{Deserialize, Serialize};

use crate::subid::Range;

/// Ids that go elsewhere together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// First id of before.
    pub from: u32,
    /// First id of after.
    pub to: u32,
    /// How many.
    pub count: u32,
}

/// Where a user's ids go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// User ids.
    pub uids: Vec<Move>,
    /// Group ids.
    pub gids: Vec<Move>,
}

impl Moves {
    /// Nothing goes anywhere.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }
}

fn moved(moves: &[Move], id: u32) -> Option<u32> {
    let one = moves.iter().find(|one| id >= one.from && id - one.from < one.count)?;
    Some(one.to + (id - one.from))
}

/// From one list of ranges to one range, in the order in which a container sees them. None if it is too small.
pub fn moves(old: &[Range], new: Range) -> Option<Vec<Move>> {
    let mut offset = 0u32;
    let mut moves = Vec::new();
    for range in old {
        let next = offset.checked_add(range.count).filter(|end| *end <= new.count)?;
        if range.first != new.first + offset {
            moves.push(Move { from: range.first, to: new.first + offset, count: range.count });
        }
        offset = next;
    }
    Some(moves)
}

/// A file whose owner is to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owners {
    /// Where it is.
    pub path: PathBuf,
    /// User and group of before.
    pub from: (u32, u32),
    /// User and group of after.
    pub to: (u32, u32),
}

/// What a change of owner would take away, noted before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Which file.
    pub device: u64,
    /// Which file.
    pub inode: u64,
    /// Where it was found, the bytes of its path below `root`.
    pub path: Vec<u8>,
    /// The tree.
    pub root: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its capabilities; may be empty.
    pub capabilities: Vec<u8>,
}

/// What was found in trees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files that were looked at.
    pub seen: u64,
    /// Files whose owners were, or are to be, changed.
    pub shifted: u64,
    /// Files left alone since they have links from elsewhere.
    pub linked: Vec<PathBuf>,
    /// Files with ids that are neither an account's nor in a range of the user's; the first few of them.
    pub foreign: Vec<PathBuf>,
    /// How many of those there are.
    pub foreign_count: u64,
}

/// What a walk is for.
pub trait Sink {
    /// A file whose owner is to change.
    fn found(&mut self, owners: Owners) -> io::Result<()>;
    /// Called before an owner changes that takes something away.
    fn note(&mut self, noted: &Noted) -> io::Result<()>;
}

/// Why a tree was not shifted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum ShiftError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} belongs to uid {owner} and not to {user}", path.display())]
    NotTheirs { path: PathBuf, owner: u32, user: u32 },
}

/// Files with several names, and how many of them were seen.
pub type Links = HashMap<(u64, u64), u64>;

/// The trees of one user.
pub struct Shift<'a> {
    /// Whose.
    pub uid: u32,
    /// Where ids go.
    pub moves: &'a Moves,
    /// Change owners, or only find out.
    pub apply: bool,
    /// Names seen before, by [`Shift::walk`] without `apply` over all trees of the user.
    pub links: &'a mut Links,
    /// Is told.
    pub sink: &'a mut dyn Sink,
}

impl fmt::Debug for Shift<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shift").field("uid", &self.uid).field("moves", self.moves).finish_non_exhaustive()
    }
}

/// A folder that is being walked.
struct Level {
    dir: OwnedFd,
    names: std::vec::IntoIter<CString>,
    path: PathBuf,
}

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Shift<'_> {
    /// Walks one tree, on its own file system only.
    ///
    /// # Errors
    /// The tree is not the user's, or something in it cannot be read or changed. Going on from there is beginning again.
    pub fn walk(&mut self, root: &Path, report: &mut Report) -> Result<(), ShiftError> {
        let top = rustix::fs::open(root, LOOK, Mode::empty()).map_err(|e| io_error("open", root, e))?;
        let stat = rustix::fs::fstat(&top).map_err(|e| io_error("look at", root, e))?;
        if stat.st_uid != self.uid {
            return Err(ShiftError::NotTheirs { path: root.to_owned(), owner: stat.st_uid, user: self.uid });
        }
        let device = stat.st_dev;
        self.inode(&top, &stat, root, root, report)?;
        let mut levels = Vec::new();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            levels.push(level(&top, root.to_owned())?);
        }
        while let Some(current) = levels.last_mut() {
            let Some(name) = current.names.next() else {
                levels.pop();
                continue;
            };
            let path = current.path.join(OsStr::from_bytes(name.to_bytes()));
            let found = rustix::fs::openat(&current.dir, &name, LOOK, Mode::empty());
            let file = match found {
                Ok(file) => file,
                Err(rustix::io::Errno::NOENT) => continue, // Removed since it was listed.
                Err(errno) => return Err(io_error("open", &path, errno)),
            };
            let stat = rustix::fs::fstat(&file).map_err(|e| io_error("look at", &path, e))?;
            if stat.st_dev != device {
                continue; // Something is mounted here.
            }
            self.inode(&file, &stat, root, &path, report)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                levels.push(level(&file, path)?);
            }
        }
        Ok(())
    }

    fn inode(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        root: &Path,
        path: &Path,
        report: &mut Report,
    ) -> Result<(), ShiftError> {
        report.seen += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let to = (moved(&self.moves.uids, stat.st_uid), moved(&self.moves.gids, stat.st_gid));
        let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
        if kind != FileType::Symlink {
            self.lists(&magic, path)?;
        }
        if to == (None, None) {
            let strange = |id: u32, moves: &[Move]| {
                id > 65_535 && id != self.uid && !moves.iter().any(|one| id >= one.to && id - one.to < one.count)
            };
            if strange(stat.st_uid, &self.moves.uids) || strange(stat.st_gid, &self.moves.gids) {
                report.foreign_count += 1;
                if report.foreign.len() < 10 {
                    report.foreign.push(path.to_owned());
                }
            }
            return Ok(());
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let links = self.links.entry((stat.st_dev, stat.st_ino)).or_default();
            if !self.apply {
                *links += 1;
            } else if *links < stat.st_nlink as u64 {
                report.linked.push(path.to_owned());
                return Ok(());
            }
        }
        let from = (stat.st_uid, stat.st_gid);
        let owners = Owners { path: path.to_owned(), from, to: (to.0.unwrap_or(from.0), to.1.unwrap_or(from.1)) };
        let (uid, gid) = owners.to;
        report.shifted += 1;
        self.sink.found(owners).map_err(|source| ShiftError::Io {
            action: "tell of",
            path: path.to_owned(),
            source,
        })?;
        if !self.apply {
            return Ok(());
        }
        let mode = stat.st_mode & 0o7777;
        let capabilities =
            if kind == FileType::RegularFile { attribute(&magic, "security.capability") } else { Vec::new() };
        let noted =
            (kind == FileType::RegularFile && (mode & 0o6000 != 0 || !capabilities.is_empty())).then(|| Noted {
                device: stat.st_dev,
                inode: stat.st_ino,
                path: path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec(),
                root: root.to_owned(),
                mode,
                capabilities,
            });
        if let Some(noted) = &noted {
            self.sink.note(noted).map_err(|source| ShiftError::Io { action: "note", path: path.to_owned(), source })?;
        }
        rustix::fs::chownat(file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
            .map_err(|e| io_error("change the owner of", path, e))?;
        noted.map_or(Ok(()), |noted| put_back(&magic, &noted)).map_err(|e| io_error("restore the rights of", path, e))
    }

    /// Access lists name ids, too.
    fn lists(&self, magic: &str, path: &Path) -> Result<(), ShiftError> {
        if !self.apply {
            return Ok(());
        }
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            let list = attribute(magic, name);
            let new = shifted_list(&list, self.moves);
            if new != list {
                rustix::fs::setxattr(magic, name, &new, XattrFlags::empty())
                    .map_err(|e| io_error("change the access list of", path, e))?;
            }
        }
        Ok(())
    }
}

fn io_error(action: &'static str, path: &Path, errno: rustix::io::Errno) -> ShiftError {
    ShiftError::Io { action, path: path.to_owned(), source: errno.into() }
}

fn level(file: &OwnedFd, path: PathBuf) -> Result<Level, ShiftError> {
    let list = || -> rustix::io::Result<(OwnedFd, Vec<CString>)> {
        let dir = rustix::fs::openat(file.as_fd(), ".", LIST, Mode::empty())?;
        let names = rustix::fs::Dir::read_from(&dir)?
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .filter(|name| name.as_ref().map_or(true, |name| name.as_bytes() != b"." && name.as_bytes() != b".."))
            .collect::<Result<_, _>>()?;
        Ok((dir, names))
    };
    let (dir, names) = list().map_err(|errno| io_error("list", &path, errno))?;
    Ok(Level { dir, names: names.into_iter(), path })
}

/// An attribute of a file, empty where it has none.
fn attribute(magic: &str, name: &str) -> Vec<u8> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(magic, name, &mut value).unwrap_or(0);
    value.truncate(length);
    value
}

fn put_back(magic: &str, noted: &Noted) -> rustix::io::Result<()> {
    rustix::fs::chmod(magic, Mode::from_raw_mode(noted.mode))?;
    if !noted.capabilities.is_empty() {
        rustix::fs::setxattr(magic, "security.capability", &noted.capabilities, XattrFlags::empty())?;
    }
    Ok(())
}

/// Puts back what was noted last, after an interruption that may have come between the two.
///
/// # Errors
/// It is there and cannot be changed.
pub fn resume(noted: &Noted) -> io::Result<()> {
    let root = rustix::fs::open(&noted.root, LIST, Mode::empty())?;
    let path = if noted.path.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(&noted.path)) };
    let beneath = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    let file = match rustix::fs::openat2(&root, path, LOOK, Mode::empty(), beneath) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    if (stat.st_dev, stat.st_ino) == (noted.device, noted.inode) {
        put_back(&format!("/proc/self/fd/{}", file.as_raw_fd()), noted)?;
    }
    Ok(())
}

/// An access list in the kernel's form (a version, then entries of tag, permissions and id) with its ids moved.
fn shifted_list(list: &[u8], moves: &Moves) -> Vec<u8> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let mut new = list.to_vec();
    if list.len() < 4 || list[..4] != 2u32.to_le_bytes() {
        return new;
    }
    for entry in new[4..].chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let to = match tag {
            USER => moved(&moves.uids, id),
            GROUP => moved(&moves.gids, id),
            _ => None,
        };
        if let Some(to) = to {
            entry[4..].copy_from_slice(&to.to_le_bytes());
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_place_through_several_ranges() {
        let old = [Range { first: 100, count: 10 }, Range { first: 500, count: 20 }];
        let moves = moves(&old, Range { first: 1000, count: 65_536 }).unwrap();
        assert_eq!(
            [100, 109, 500, 519, 110, 99].map(|id| moved(&moves, id)),
            [Some(1000), Some(1009), Some(1010), Some(1029), None, None]
        );
        assert_eq!(super::moves(&old, Range { first: 1000, count: 29 }), None);
        assert_eq!(super::moves(&old[..1], old[0]), Some(Vec::new()));
    }

    #[test]
    fn access_lists_are_rewritten_entry_by_entry() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &7u16.to_le_bytes(), &id.to_le_bytes()].concat();
        let list = |user: u32, group: u32| {
            let entries = [entry(1, u32::MAX), entry(2, user), entry(8, group), entry(4, u32::MAX)];
            [2u32.to_le_bytes().to_vec(), entries.concat()].concat()
        };
        let moves = Moves {
            uids: vec![Move { from: 100, to: 5000, count: 10 }],
            gids: vec![Move { from: 100, to: 7000, count: 10 }],
        };
        assert_eq!(shifted_list(&list(103, 104), &moves), list(5003, 7004));
        assert_eq!(shifted_list(&list(99, 110), &moves), list(99, 110));
        assert_eq!(shifted_list(b"x", &moves), b"x");
    }
}
