//! Locks that die with their holder.
//!
//! `flock(2)`: the kernel drops it when the holder exits, however it exits. On NFS the client turns it into a byte-range
//! lock of the server, so it works across hosts there too (Linux 2.6.12 and newer); on Lustre it does with the mount
//! option `flock`. Where a file system has no locks at all, work may be done twice and is still right: everything
//! appears by an atomic rename.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// How to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Many may hold it.
    Shared,
    /// One may hold it.
    Exclusive,
}

/// Takes the lock of `path`, which is made if needed; waits as long as it takes. The kernel wakes us: no polling.
pub fn acquire(path: &Path, kind: Kind) -> Result<Lock> {
    loop {
        if let Some(lock) = take(path, kind, true)? {
            return Ok(lock);
        }
    }
}

/// Takes the lock if nobody is in the way.
pub fn try_acquire(path: &Path, kind: Kind) -> Result<Option<Lock>> {
    take(path, kind, false)
}

fn take(path: &Path, kind: Kind, wait: bool) -> Result<Option<Lock>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file: File = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| Error::io("open the lock", path, e))?
        .into();
    let operation = match (kind, wait) {
        (Kind::Shared, true) => FlockOperation::LockShared,
        (Kind::Shared, false) => FlockOperation::NonBlockingLockShared,
        (Kind::Exclusive, true) => FlockOperation::LockExclusive,
        (Kind::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
    };
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            // No locks on this file system: see the head of this file.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => return Ok(Some(Lock { _file: file })),
            Err(error) => return Err(Error::io("lock", path, error)),
        }
    }
    // Somebody may have removed the file between our open and our lock: then the lock is of a file that nobody else will
    // ever open.
    let same = match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    };
    if same {
        return Ok(Some(Lock { _file: file }));
    }
    if wait { Ok(None) } else { take(path, kind, wait) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = acquire(&path, Kind::Exclusive).unwrap();
        assert!(try_acquire(&path, Kind::Shared).unwrap().is_none());
        drop(held);
        let shared = try_acquire(&path, Kind::Shared).unwrap();
        assert!(shared.is_some());
        assert!(try_acquire(&path, Kind::Shared).unwrap().is_some());
        assert!(try_acquire(&path, Kind::Exclusive).unwrap().is_none());
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _old = acquire(&path, Kind::Exclusive).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(try_acquire(&path, Kind::Exclusive).unwrap().is_some());
    }
}
