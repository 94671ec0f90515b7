//! The two files: new entries beside those of others, written whole or not at all.
//!
//! What a user has is never changed on the way: a range that moves leaves files behind that belong to whoever gets the old one.
//! Such users are told, and [`crate::subid::migrate`] moves them with their files.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use berth_container::subid::entries;
use rustix::fs::{Gid, Uid};
use serde::Serialize;

use crate::subid::lock::{Lock, LockError, with_suffix};
use crate::subid::users::text_of;
use crate::subid::{IdKind, Range, last};

/// Why a file could not be changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum FileError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Where the two files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Of user ids.
    pub subuid: PathBuf,
    /// Of group ids.
    pub subgid: PathBuf,
}

impl Default for Files {
    fn default() -> Files {
        Files { subuid: IdKind::User.file().into(), subgid: IdKind::Group.file().into() }
    }
}

impl Files {
    /// Both, with what they are of.
    pub fn both(&self) -> [(IdKind, &Path); 2] {
        [(IdKind::User, &self.subuid), (IdKind::Group, &self.subgid)]
    }

    /// Both texts, empty where there is no file.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn texts(&self) -> Result<[String; 2], FileError> {
        let text = |path: &Path| text_of(path).map_err(|source| FileError::Read { path: path.to_owned(), source });
        Ok([text(&self.subuid)?, text(&self.subgid)?])
    }

    /// Changes both under their locks: `change` gets the kind and the text, and gives the new one, or none where nothing is to be
    /// written.
    ///
    /// # Errors
    /// Locks, reading, writing. The first file may be new and the second not: both are good by themselves.
    pub fn change(&self, mut change: impl FnMut(IdKind, &str) -> Option<String>) -> Result<(), FileError> {
        let locks = self.lock()?;
        for (kind, path) in self.both() {
            // The file itself, not a link to it: that would be replaced.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let text = text_of(&path).map_err(|source| FileError::Read { path: path.clone(), source })?;
            if let Some(new) = change(kind, &text) {
                replace(&path, new.as_bytes()).map_err(|source| FileError::Write { path, source })?;
            }
        }
        drop(locks);
        Ok(())
    }

    /// The locks of both, in the order in which the shadow tools take them.
    fn lock(&self) -> Result<[Lock; 2], FileError> {
        let accounts = self.subuid.parent() == Some(Path::new("/etc"));
        let first = Lock::take(&self.subuid, accounts)?;
        Ok([first, Lock::take(&self.subgid, false)?])
    }
}

/// Replaces a file by one rename, with the mode, the owner and the label of the one before, which is kept as `FILE-`.
///
/// # Errors
/// Whatever goes wrong; the file is then as it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let before = match File::open(path) {
        Ok(file) => Some((file.metadata()?, label(&file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.is_some() {
        let old = fs::read(path)?;
        place(path, &with_suffix(path, "-"), &old, before.as_ref())?;
    }
    place(path, path, content, before.as_ref())?;
    // The new name itself must reach the disk.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Writes beside `path` and renames to `target`.
fn place(path: &Path, target: &Path, content: &[u8], like: Option<&(fs::Metadata, Vec<u8>)>) -> io::Result<()> {
    // One name: what a killed writer left is overwritten by the next, under the same lock.
    let new = with_suffix(path, "+");
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        let mode = like.map_or(0o644, |(metadata, _)| metadata.mode() & 0o7777);
        if let Some((metadata, label)) = like {
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
                let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
                rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid))?;
            }
            if !label.is_empty() {
                rustix::fs::fsetxattr(&file, "security.selinux", label, rustix::fs::XattrFlags::empty())?;
            }
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, target)
    };
    let result = write();
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

/// The label of SELinux, empty where there is none.
fn label(file: &File) -> Vec<u8> {
    let mut value = vec![0; 256];
    let length = rustix::fs::fgetxattr(file, "security.selinux", &mut value).unwrap_or(0);
    value.truncate(length);
    value
}

/// An entry to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Login name: the key of the entry, in both files.
    pub name: &'a str,
    /// Uid, by which the user may be in the file already.
    pub uid: u32,
    /// The range.
    pub range: Range,
}

/// Why an entry was not added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Whose entry.
    pub name: String,
    /// Line of the file that is in the way.
    pub line: usize,
    /// In words.
    pub reason: String,
}

/// A text with entries added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The text.
    pub text: String,
    /// Entries that were added, and those that were there.
    pub added: usize,
    /// See `added`.
    pub kept: usize,
    /// Those that were not.
    pub conflicts: Vec<Conflict>,
}

/// Adds entries to a text; every line that is there stays as it is.
pub fn merge(text: &str, wanted: &[Wanted<'_>]) -> Merged {
    let mut there: HashMap<&str, Vec<(usize, Range)>> = HashMap::new();
    let mut taken: Vec<(u64, u64, usize, &str)> = Vec::new();
    for entry in entries(text).flatten().filter(|entry| entry.count > 0) {
        if let Some(range) = entry.range() {
            there.entry(entry.owner).or_default().push((entry.line, range));
        }
        taken.push((entry.first, entry.first.saturating_add(entry.count), entry.line, entry.owner));
    }
    taken.sort_unstable();
    // Ends of everything up to here, for a search among ranges that may lie in one another.
    let mut ends: Vec<u64> = Vec::with_capacity(taken.len());
    for (_, end, _, _) in &taken {
        ends.push((*end).max(ends.last().copied().unwrap_or(0)));
    }

    let mut merged = Merged { text: text.to_owned(), added: 0, kept: 0, conflicts: Vec::new() };
    if !merged.text.is_empty() && !merged.text.ends_with('\n') {
        merged.text.push('\n');
    }
    for wanted in wanted {
        let (range, uid) = (wanted.range, wanted.uid.to_string());
        let own: Vec<_> = [wanted.name, uid.as_str()].iter().filter_map(|key| there.get(key)).flatten().collect();
        if own.iter().any(|(_, other)| *other == range) {
            merged.kept += 1;
            continue;
        }
        let mut conflict =
            |line, reason| merged.conflicts.push(Conflict { name: wanted.name.to_owned(), line, reason });
        if let Some((line, other)) = own.first() {
            let reason = format!(
                "has {}-{} already, and the rule says {}-{}",
                other.first,
                last(*other),
                range.first,
                last(range)
            );
            conflict(*line, reason);
            continue;
        }
        let (first, end) = (u64::from(range.first), u64::from(last(range)) + 1);
        let candidates = taken.partition_point(|(start, ..)| *start < end);
        let from = ends[..candidates].partition_point(|end| *end <= first);
        if let Some((_, _, line, owner)) = taken[from..candidates].iter().find(|(_, end, ..)| *end > first) {
            conflict(*line, format!("{owner} has ids of {}-{}", range.first, last(range)));
            continue;
        }
        merged.text.push_str(&format!("{}:{}:{}\n", wanted.name, range.first, range.count));
        merged.added += 1;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, uid: u32) -> Wanted<'_> {
        Wanted { name, uid, range: Range { first: uid * 65_536, count: 65_536 } }
    }

    #[test]
    fn entries_are_added_and_everything_else_stays_byte_for_byte() {
        let text = "# ours\ncontainers:100000:65536\nbroken\n1002:65667072:65536\nno-newline:5:1";
        let merged = merge(text, &[wanted("alice", 1001), wanted("bob", 1002)]);
        assert_eq!(merged.text, format!("{text}\nalice:65601536:65536\n"));
        assert_eq!((merged.added, merged.kept, merged.conflicts.len()), (1, 1, 0));
        let again = merge(&merged.text, &[wanted("alice", 1001), wanted("bob", 1002)]);
        assert_eq!((again.text, again.added), (merged.text, 0));
    }

    #[test]
    fn a_range_that_would_move_or_meet_anothers_is_not_written() {
        let text = "alice:10010001:65536\nbig:65667000:4000000000\ninner:65667001:1\n";
        let merged = merge(text, &[wanted("alice", 1001), wanted("bob", 1002), wanted("carol", 1000)]);
        let told: Vec<_> = merged.conflicts.iter().map(|c| (c.name.as_str(), c.line, c.reason.as_str())).collect();
        assert_eq!(
            told,
            [
                ("alice", 1, "has 10010001-10075536 already, and the rule says 65601536-65667071"),
                ("bob", 2, "big has ids of 65667072-65732607"),
            ]
        );
        assert_eq!(merged.text, format!("{text}carol:65536000:65536\n"));
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_a_copy_of_before_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        assert_eq!(fs::read(dir.path().join("subuid-")).unwrap(), b"old\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(!dir.path().join("subuid+").exists());
        replace(&dir.path().join("fresh"), b"x").unwrap();
        assert_eq!(fs::metadata(dir.path().join("fresh")).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn a_link_to_a_file_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { subuid: dir.path().join("subuid"), subgid: dir.path().join("subgid") };
        fs::write(dir.path().join("real"), "a:1:2\n").unwrap();
        std::os::unix::fs::symlink("real", &files.subuid).unwrap();
        files.change(|_, text| Some(format!("{text}b:3:4\n"))).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("real")).unwrap(), "a:1:2\nb:3:4\n");
        assert!(files.subuid.is_symlink());
        assert_eq!(fs::read_to_string(&files.subgid).unwrap(), "b:3:4\n");
    }
}
