//! Directories get their modes and times at the end, when nothing more is made in them.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::file::{gid, times, uid};
use super::{TreeWriter, Written};
use crate::error::{Error, Result};

/// Bytes of directory paths that are kept until the end of a layer; more is an attack, not an image.
const MAX_DEFERRED: usize = 512 << 20;

#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) mtime: Option<(i64, u32)>,
}

impl TreeWriter<'_> {
    pub(super) fn defer(&mut self, path: &[u8], mode: u32, owner: (u64, u64), mtime: Option<(i64, u32)>) -> Result<()> {
        self.deferred_bytes += path.len() + std::mem::size_of::<Deferred>();
        if self.deferred_bytes > MAX_DEFERRED {
            return Err(self.too_large("it has too many directories".to_owned()));
        }
        self.deferred.push(Deferred { path: path.to_vec(), mode, owner, mtime });
        Ok(())
    }

    /// Gives directories their modes and times, innermost first, and closes the index.
    pub(super) fn finish(mut self) -> Result<Written> {
        // Stable: of two entries for one path the later stays behind.
        self.deferred.sort_by(|a, b| b.path.cmp(&a.path));
        let deferred = std::mem::take(&mut self.deferred);
        let mut iterator = deferred.iter().peekable();
        while let Some(directory) = iterator.next() {
            if iterator.peek().is_some_and(|next| next.path == directory.path) {
                continue;
            }
            self.finish_directory(directory)?;
        }
        if self.dropped_notes > 0 {
            self.written.notes.push(format!("and {} more of the kind", self.dropped_notes));
        }
        let error_path = self.path.with_file_name("index");
        self.index.finish().map_err(|e| Error::io("write", error_path, e))?;
        Ok(self.written)
    }

    pub(super) fn finish_directory(&self, directory: &Deferred) -> Result<()> {
        let path: &[u8] = if directory.path.is_empty() { b"." } else { &directory.path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Without links: a directory that a later entry replaced by a link keeps nothing to set.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = match crate::inside::open(&self.root, path, flags, resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(self.io("open", path, error)),
        };
        if self.policy.own && directory.owner != (0, 0) {
            let _ = rustix::fs::fchown(&fd, uid(directory.owner.0), gid(directory.owner.1));
        }
        let mode = Mode::from_raw_mode(self.mode(directory.mode));
        rustix::fs::fchmod(&fd, mode).map_err(|e| self.io("set the mode of", path, e))?;
        if let Some(mtime) = directory.mtime {
            rustix::fs::futimens(&fd, &times(mtime)).map_err(|e| self.io("set the time of", path, e))?;
        }
        Ok(())
    }
}
