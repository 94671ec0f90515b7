//! Where entries go: parents are found by the kernel inside the tree, made where the archive has none, and what an earlier
//! entry put there is removed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::file::{Present, present, real_path};
use super::super::path::{join, resolve_lexically, split};
use super::TreeWriter;
use crate::error::{Error, Result};

impl TreeWriter<'_> {
    /// Replaces the directory of `path` by where it really is, if a link of the layer stands in it, so that the index
    /// names everything by the one place where it is.
    pub(super) fn resolve_links(&mut self, path: &mut Vec<u8>) -> Result<()> {
        if !self.has_links {
            return Ok(());
        }
        let (directory, name) = split(path);
        let known = self.parent.as_ref().is_some_and(|(known, _)| known == directory);
        if directory.is_empty() || known {
            return Ok(());
        }
        self.parent(directory)?;
        let Some((_, fd)) = &self.parent else { return Ok(()) };
        let real = real_path(fd).map_err(|e| self.io("find the path of", directory, e))?;
        let inside = real.strip_prefix(self.real_root.as_slice()).map(|rest| rest.strip_prefix(b"/").unwrap_or(rest));
        let Some(inside) = inside else { return Err(self.bad(path, "a path that leads out of the tree")) };
        if inside != directory {
            *path = join(inside, name);
            // The cache must not take the link for the directory the next time.
            self.parent = None;
        }
        Ok(())
    }

    /// The directory `path`, made where the archive has no entry for it.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        let known = self.parent.as_ref().is_some_and(|(known, _)| known == path);
        if !known {
            let fd = match self.open_path(path) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(path, 0)?,
                Err(Errno::LOOP) => return Err(self.bad(path, "symbolic links that go round in a circle")),
                Err(error) => return Err(self.io("open", path, error)),
            };
            let mut cached = self.parent.take().map(|(path, _)| path).unwrap_or_default();
            cached.clear();
            cached.extend_from_slice(path);
            self.parent = Some((cached, fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Ok(self.root.as_fd()),
        }
    }

    /// Opens a directory for reference only. Links are followed as a process in the container would, by the kernel and
    /// inside the tree.
    pub(super) fn open_path(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        crate::inside::open(
            &self.root,
            path,
            OFlags::PATH | OFlags::DIRECTORY,
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    pub(super) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let relative: &[u8] = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        crate::inside::open(&self.root, relative, flags, resolve).map_err(|e| self.io("open", path, e))
    }

    /// Makes the directories of `path` that the archive did not mention, also where a link of the layer leads to a
    /// directory that only a lower layer has.
    pub(super) fn make_directories(&mut self, path: &[u8], depth: u32) -> Result<OwnedFd> {
        if depth > 40 {
            return Err(self.bad(path, "symbolic links that go round in a circle"));
        }
        let mut reached = self.root.try_clone().map_err(|e| Error::io("open", &self.path, e))?;
        let mut end = 0;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let start = if end == 0 { 0 } else { end + 1 };
            end = start + name.len();
            let prefix = &path[..end];
            reached = match self.open_path(prefix) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_directory(&reached, prefix, name, depth)?,
                Err(error) => return Err(self.io("open", prefix, error)),
            };
        }
        Ok(reached)
    }

    pub(super) fn make_directory(&mut self, parent: &OwnedFd, path: &[u8], name: &[u8], depth: u32) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.index.directory(path, false).map_err(|e| self.index_error(e))?;
                self.defer(path, 0o755, (0, 0), None)?;
            }
            Err(Errno::EXIST) => match present(parent.as_fd(), name).map_err(|e| self.io("look at", path, e))? {
                Some(Present::Whiteout) => {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(|e| self.io("remove", path, e))?;
                    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
                        .map_err(|e| self.io("create", path, e))?;
                    self.index.directory(path, false).map_err(|e| self.index_error(e))?;
                    self.opaque(path)?;
                }
                Some(Present::Symlink) => {
                    let target = rustix::fs::readlinkat(parent, name, Vec::new())
                        .map_err(|e| self.io("read the link", path, e))?;
                    let through = resolve_lexically(split(path).0, target.as_bytes());
                    self.make_directories(&through, depth + 1)?;
                }
                _ => return Err(self.bad(path, "a file stands where a directory must be")),
            },
            Err(error) => return Err(self.io("create", path, error)),
        }
        self.open_path(path).map_err(|e| match e {
            Errno::LOOP => self.bad(path, "symbolic links that go round in a circle"),
            Errno::NOTDIR => self.bad(path, "a file stands where a directory must be"),
            other => self.io("open", path, other),
        })
    }

    pub(super) fn kind_of(&mut self, directory: &[u8], name: &[u8]) -> Result<Option<Present>> {
        let parent = self.parent(directory)?;
        present(parent, name).map_err(|e| self.io("look at", &join(directory, name), e))
    }

    /// Removes what an earlier entry of this layer made.
    pub(super) fn remove(&mut self, directory: &[u8], name: &[u8]) -> Result<()> {
        let path = join(directory, name);
        let is_directory = self.kind_of(directory, name)? == Some(Present::Directory);
        let parent = self.parent(directory)?;
        let removed = if is_directory {
            crate::store::remove::tree_at(parent, name)
        } else {
            rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(Into::into)
        };
        removed.map_err(|e| Error::Io { action: "replace", path: self.shown(&path), source: e })?;
        if is_directory {
            // The cached parent may have been inside.
            self.parent = None;
            self.index.removed(&path).map_err(|e| self.index_error(e))?;
        }
        Ok(())
    }
}
