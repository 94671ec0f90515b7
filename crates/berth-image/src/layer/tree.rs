//! Writes the entries of a layer as a tree that can be a lower layer of an overlay mount inside a user namespace.
//!
//! The archive is hostile. Every parent directory is resolved by the kernel inside the tree (`openat2` with
//! `RESOLVE_IN_ROOT`), names are created relative to that descriptor and never through a link, `..` is refused, device
//! nodes are recorded and not made, and attributes that steer overlayfs itself are dropped. Whiteouts become what
//! overlayfs with `userxattr` reads: a character device 0:0, or `user.overlay.opaque=y` on a directory.

use std::fs::File;
use std::io::{BufRead, BufWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::file::{Present, gid, hash_zeros, pwrite_all, real_path, times, uid, write_all};
use super::index::{self, Detail, printable};
use super::path::{join, normalise, split};
use super::tar::{Entry, Kind, Reader};
use super::whiteout::{self, Marker};
use crate::error::{Error, Result};

mod closing;
mod errors;
mod places;

use closing::Deferred;

/// How a tree is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Give files their owners: only real root can. Else owners are recorded in the index only.
    pub own: bool,
    /// Keep set-user-id and set-group-id bits. False in a store that other users can read, where such a file would run
    /// as the store's owner.
    pub keep_setid: bool,
    /// The process' umask, so that a mode is set once where possible.
    pub umask: u32,
    /// Most entries of one layer.
    pub entries: u64,
    /// Most logical bytes of one layer: sparse files claim more than they hold.
    pub bytes: u64,
}

/// Notes kept of one layer; the rest is counted.
const MAX_NOTES: usize = 20;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries of the archive.
    pub entries: u64,
    /// Logical bytes of regular files.
    pub bytes: u64,
    /// The layer hides everything below it.
    pub root_opaque: bool,
    /// Things a person may want to know: devices that became placeholders, attributes that were dropped.
    pub notes: Vec<String>,
}

/// Writes one layer.
#[derive(Debug)]
pub struct TreeWriter<'a> {
    /// The tree's path, for messages.
    path: PathBuf,
    layer: &'a str,
    root: OwnedFd,
    policy: Policy,
    /// The directory that the last entry was made in.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// The layer has symbolic links, through which later entries may be written.
    has_links: bool,
    /// The tree's path as the kernel knows it.
    real_root: Vec<u8>,
    /// Directories whose mode and time are set at the end, when nothing more is made in them.
    deferred: Vec<Deferred>,
    deferred_bytes: usize,
    index: index::Writer<BufWriter<File>>,
    written: Written,
    dropped_notes: u64,
}

impl<'a> TreeWriter<'a> {
    /// Makes the directory `dir/tree` and the file `dir/index`.
    pub fn create(dir: &Path, layer: &'a str, policy: Policy) -> Result<TreeWriter<'a>> {
        let path = dir.join("tree");
        let index_path = dir.join("index");
        rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)).map_err(|e| Error::io("create", &path, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| Error::io("open", &path, e))?;
        let file = File::create_new(&index_path).map_err(|e| Error::io("create", &index_path, e))?;
        let index = index::Writer::new(BufWriter::with_capacity(64 << 10, file))
            .map_err(|e| Error::io("write", &index_path, e))?;
        let deferred = vec![Deferred { path: Vec::new(), mode: 0o755, owner: (0, 0), mtime: None }];
        Ok(TreeWriter {
            parent: None,
            has_links: false,
            real_root: real_path(&root).map_err(|e| Error::io("find the path of", &path, e))?,
            path,
            layer,
            root,
            policy,
            deferred,
            deferred_bytes: 0,
            index,
            written: Written::default(),
            dropped_notes: 0,
        })
    }

    /// Writes everything that `reader` gives.
    pub fn write_all<R: BufRead>(mut self, reader: &mut Reader<R>) -> Result<Written> {
        let mut path = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(None) => break,
                Ok(Some(entry)) => normalise(&entry.path, &mut path).map_err(|reason| {
                    let entry = Some(printable(&entry.path));
                    Error::BadLayer { layer: self.layer.to_owned(), entry, reason: reason.to_owned() }
                })?,
                Err(error) => return Err(self.tar_error(error, None)),
            }
            self.resolve_links(&mut path)?;
            self.written.entries += 1;
            if self.written.entries > self.policy.entries {
                return Err(self.too_large(format!("it has more than {} entries", self.policy.entries)));
            }
            self.entry(&path, reader)?;
        }
        self.finish()
    }

    fn entry<R: BufRead>(&mut self, path: &[u8], reader: &mut Reader<R>) -> Result<()> {
        let (directory, name) = split(path);
        match whiteout::marker(name) {
            Some(Marker::Opaque) => return self.opaque(directory),
            Some(Marker::Internal) => return Ok(()),
            Some(Marker::Hides(hidden)) => {
                if hidden.is_empty() || hidden == b"." || hidden == b".." {
                    return Err(self.bad(path, "a whiteout without a name"));
                }
                return self.whiteout(directory, hidden);
            }
            None => {}
        }
        if path.is_empty() {
            return self.root_entry(reader.entry());
        }
        match reader.entry().kind {
            Kind::File => self.file(path, reader),
            Kind::Directory => self.directory(path, reader.entry()),
            Kind::HardLink => self.hard_link(path, reader.entry()),
            Kind::Symlink => self.symlink(path, reader.entry()),
            Kind::Fifo => self.fifo(path, reader.entry()),
            Kind::CharDevice | Kind::BlockDevice => self.device(path, reader.entry()),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(self.bad(b"/", "the tree's root is no directory"));
        }
        self.deferred[0].mode = entry.mode;
        self.deferred[0].owner = (entry.uid, entry.gid);
        self.deferred[0].mtime = Some(entry.mtime);
        let root = self.root.try_clone().map_err(|e| Error::io("open", &self.path, e))?;
        let recorded = self.set_xattrs(root.as_fd(), b"", &entry.xattrs)?;
        self.record(b"", entry, &Detail { recorded_xattrs: &recorded, ..Detail::default() })
    }

    fn file<R: BufRead>(&mut self, path: &[u8], reader: &mut Reader<R>) -> Result<()> {
        let (directory, name) = split(path);
        let size = reader.entry().size;
        self.written.bytes = self.written.bytes.saturating_add(size);
        if self.written.bytes > self.policy.bytes {
            return Err(self.too_large(format!("its files claim more than {} GiB", self.policy.bytes >> 30)));
        }
        let mode = self.mode(reader.entry().mode);
        // An attribute can only be set while its file's mode allows its owner to write.
        let has_xattrs = !reader.entry().xattrs.is_empty();
        let first_mode = Mode::from_raw_mode(if has_xattrs { mode & 0o777 | 0o200 } else { mode & 0o777 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.parent(directory)?;
        let create = || rustix::fs::openat(parent, name, flags, first_mode);
        let file = match create() {
            Err(Errno::EXIST) => {
                self.remove(directory, name)?;
                rustix::fs::openat(self.parent(directory)?, name, flags, first_mode)
            }
            other => other,
        };
        let file = file.map_err(|e| self.io("create", path, e))?;
        let xxh3 = self.contents(&file, path, reader)?;
        let entry = reader.entry();
        let recorded = self.set_xattrs(file.as_fd(), path, &entry.xattrs)?;
        self.own(file.as_fd(), path, entry)?;
        if has_xattrs || mode & (self.policy.umask | 0o7000) != 0 {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| self.io("set the mode of", path, e))?;
        }
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(|e| self.io("set the time of", path, e))?;
        self.record(path, entry, &Detail { xxh3, recorded_xattrs: &recorded, ..Detail::default() })
    }

    /// Copies a file's data and gives its hash. Holes of sparse files stay holes and count as zeros in the hash.
    fn contents<R: BufRead>(&mut self, file: &OwnedFd, path: &[u8], reader: &mut Reader<R>) -> Result<u64> {
        // Small files are the rule: one piece, hashed without a running state.
        let (size, sparse) = (reader.entry().size, reader.entry().sparse.take());
        if let Some(regions) = sparse {
            return self.sparse_contents(file, path, reader, size, &regions);
        }
        let mut hasher: Option<Box<Xxh3>> = None;
        let mut done = 0u64;
        loop {
            let piece = match reader.data() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => return Err(self.tar_error(error, Some(path))),
            };
            write_all(file, piece).map_err(|e| self.io("write", path, e))?;
            let length = piece.len();
            if done == 0 && length as u64 == size {
                let hash = xxhash_rust::xxh3::xxh3_64(piece);
                reader.consume(length);
                return Ok(hash);
            }
            hasher.get_or_insert_with(|| Box::new(Xxh3::new())).update(piece);
            done += length as u64;
            reader.consume(length);
        }
        Ok(hasher.map_or_else(|| xxhash_rust::xxh3::xxh3_64(b""), |hasher| hasher.digest()))
    }

    fn sparse_contents<R: BufRead>(
        &mut self,
        file: &OwnedFd,
        path: &[u8],
        reader: &mut Reader<R>,
        size: u64,
        regions: &[(u64, u64)],
    ) -> Result<u64> {
        let mut hasher = Box::new(Xxh3::new());
        let mut position = 0;
        rustix::fs::ftruncate(file, size).map_err(|e| self.io("set the size of", path, e))?;
        for &(offset, length) in regions {
            hash_zeros(&mut hasher, offset - position);
            position = offset;
            let end = offset + length;
            while position < end {
                let piece = match reader.data() {
                    Ok(Some(piece)) => piece,
                    Ok(None) => return Err(self.bad(path, "the data of a sparse file ends too early")),
                    Err(error) => return Err(self.tar_error(error, Some(path))),
                };
                let take = piece.len().min(usize::try_from(end - position).unwrap_or(usize::MAX));
                pwrite_all(file, &piece[..take], position).map_err(|e| self.io("write", path, e))?;
                hasher.update(&piece[..take]);
                reader.consume(take);
                position += take as u64;
            }
        }
        hash_zeros(&mut hasher, size - position);
        Ok(hasher.digest())
    }

    fn directory(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (directory, name) = split(path);
        // Writable for us until the end, when it gets its own mode.
        let mode = Mode::from_raw_mode(0o700);
        let mut was_hidden = false;
        if let Err(error) = rustix::fs::mkdirat(self.parent(directory)?, name, mode) {
            if error != Errno::EXIST {
                return Err(self.io("create", path, error));
            }
            match self.kind_of(directory, name)? {
                Some(Present::Directory) => {}
                present => {
                    was_hidden = present == Some(Present::Whiteout);
                    self.remove(directory, name)?;
                    rustix::fs::mkdirat(self.parent(directory)?, name, mode).map_err(|e| self.io("create", path, e))?;
                }
            }
        }
        let mut recorded = Vec::new();
        if !entry.xattrs.is_empty() {
            let fd = self.open_directory(path)?;
            recorded = self.set_xattrs(fd.as_fd(), path, &entry.xattrs)?;
        }
        self.record(path, entry, &Detail { recorded_xattrs: &recorded, ..Detail::default() })?;
        if was_hidden {
            // The layer both deletes the name and makes a directory of it: nothing from below may shine through.
            self.opaque(path)?;
        }
        self.defer(path, entry.mode, (entry.uid, entry.gid), Some(entry.mtime))
    }

    fn hard_link(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let mut target = Vec::new();
        normalise(&entry.link, &mut target).map_err(|_| self.bad(path, "a hard link that leaves the tree"))?;
        if target.is_empty() || target == path {
            return Err(self.bad(path, "a hard link to itself or to nothing"));
        }
        let (target_directory, target_name) = split(&target);
        let source = self.open_path(target_directory).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => self.missing_target(path, &target),
            other => self.io("open", target_directory, other),
        })?;
        let (directory, name) = split(path);
        let link = |writer: &mut Self| -> Result<Result<(), Errno>> {
            let parent = writer.parent(directory)?;
            Ok(rustix::fs::linkat(&source, target_name, parent, name, AtFlags::empty()))
        };
        let mut linked = link(self)?;
        if linked == Err(Errno::EXIST) {
            self.remove(directory, name)?;
            linked = link(self)?;
        }
        linked.map_err(|e| match e {
            Errno::NOENT => self.missing_target(path, &target),
            // Linux refuses hard links to directories.
            Errno::PERM => self.bad(path, "a hard link to a directory"),
            other => self.io("link", path, other),
        })?;
        self.record(path, entry, &Detail { target: &target, ..Detail::default() })
    }

    fn missing_target(&self, path: &[u8], target: &[u8]) -> Error {
        self.bad(path, &format!("a hard link to `{}`, which is not in this layer before it", printable(target)))
    }

    fn symlink(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (directory, name) = split(path);
        if entry.link.is_empty() {
            return Err(self.bad(path, "a symbolic link without a target"));
        }
        self.make(directory, name, path, |parent| rustix::fs::symlinkat(&entry.link, parent, name))?;
        self.has_links = true;
        // What was opened by this name before it became a link is no longer what the name means.
        self.parent = None;
        self.node_metadata(path, entry)?;
        self.record(path, entry, &Detail { recorded_xattrs: &entry.xattrs, ..Detail::default() })
    }

    fn fifo(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (directory, name) = split(path);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.make(directory, name, path, |parent| rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0))?;
        rustix::fs::chmodat(self.parent(directory)?, name, mode, AtFlags::empty())
            .map_err(|e| self.io("set the mode of", path, e))?;
        self.node_metadata(path, entry)?;
        self.record(path, entry, &Detail { recorded_xattrs: &entry.xattrs, ..Detail::default() })
    }

    /// A device node: an empty file stands for it. Making it takes root, and in a store it would be a door to the
    /// machine's disks; a container gets its `/dev` from the launcher.
    fn device(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (directory, name) = split(path);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.make(directory, name, path, |parent| rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0))?;
        rustix::fs::chmodat(self.parent(directory)?, name, mode, AtFlags::empty())
            .map_err(|e| self.io("set the mode of", path, e))?;
        self.node_metadata(path, entry)?;
        self.note(|| format!("device node `{}` is recorded, not made", printable(path)));
        self.record(path, entry, &Detail { recorded_xattrs: &entry.xattrs, ..Detail::default() })
    }

    /// Makes something in a directory, in the place of what an earlier entry of the layer made there.
    fn make(
        &mut self,
        directory: &[u8],
        name: &[u8],
        path: &[u8],
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<()>,
    ) -> Result<()> {
        match make(self.parent(directory)?) {
            Err(Errno::EXIST) => {
                self.remove(directory, name)?;
                make(self.parent(directory)?).map_err(|e| self.io("create", path, e))
            }
            other => other.map_err(|e| self.io("create", path, e)),
        }
    }

    fn node_metadata(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let (directory, name) = split(path);
        let own = self.policy.own && (entry.uid, entry.gid) != (0, 0);
        let parent = self.parent(directory)?;
        if own {
            // The ids of the image may not exist in this user namespace; they are in the index in any case.
            let _ = rustix::fs::chownat(parent, name, uid(entry.uid), gid(entry.gid), AtFlags::SYMLINK_NOFOLLOW);
        }
        rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.io("set the time of", path, e))
    }

    fn whiteout(&mut self, directory: &[u8], hidden: &[u8]) -> Result<()> {
        let path = join(directory, hidden);
        match self.kind_of(directory, hidden)? {
            // The layer has the name itself: the whiteout speaks of what is below, so a directory becomes opaque and
            // anything else hides what is below anyway.
            Some(Present::Directory) => return self.opaque(&path),
            Some(_) => return Ok(()),
            None => {}
        }
        let parent = self.parent(directory)?;
        whiteout::make(parent, hidden).map_err(|e| self.whiteout_error(&path, e))?;
        self.index.whiteout(&path).map_err(|e| self.index_error(e))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            self.written.root_opaque = true;
        }
        let fd = match self.open_directory(path) {
            Ok(fd) => fd,
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {
                self.make_directories(path, 0)?;
                self.open_directory(path)?
            }
            Err(error) => return Err(error),
        };
        whiteout::make_opaque(fd.as_fd()).map_err(|e| self.whiteout_error(path, e))?;
        self.index.directory(path, true).map_err(|e| self.index_error(e))
    }

    fn whiteout_error(&self, path: &[u8], error: Errno) -> Error {
        if matches!(error, Errno::PERM | Errno::OPNOTSUPP) {
            return Error::Store {
                path: self.path.clone(),
                reason: format!(
                    "is on a file system where an ordinary user can mark nothing as deleted (`{}`: {error})",
                    printable(path)
                ),
                hint: Some(
                    "keep the store on a file system with user xattrs (ext4, xfs, tmpfs of kernel 6.6 or newer): --store or BERTH_STORE".to_owned(),
                ),
            };
        }
        self.io("mark as deleted", path, error)
    }

    fn set_xattrs(
        &mut self,
        fd: BorrowedFd<'_>,
        path: &[u8],
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut recorded = Vec::new();
        for (name, value) in xattrs {
            if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
                self.note(|| format!("`{}`: the attribute {} is dropped", printable(path), printable(name)));
                continue;
            }
            let settable = name.starts_with(b"user.")
                || (self.policy.own && self.policy.keep_setid && name == b"security.capability");
            let set = settable && !name.contains(&0) && name.len() <= 255;
            if !set {
                recorded.push((name.clone(), value.clone()));
                continue;
            }
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::TOOBIG | Errno::RANGE | Errno::INVAL) => {
                    recorded.push((name.clone(), value.clone()));
                }
                Err(error) => return Err(self.io("set an attribute of", path, error)),
            }
        }
        Ok(recorded)
    }

    fn own(&self, fd: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        if !self.policy.own || (entry.uid, entry.gid) == (0, 0) {
            return Ok(());
        }
        match rustix::fs::fchown(fd, uid(entry.uid), gid(entry.gid)) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
            Err(error) => Err(self.io("set the owner of", path, error)),
        }
    }

    fn mode(&self, mode: u32) -> u32 {
        if self.policy.keep_setid { mode } else { mode & !0o6000 }
    }

    fn record(&mut self, path: &[u8], entry: &Entry, detail: &Detail<'_>) -> Result<()> {
        self.index.entry(path, entry, detail).map_err(|e| self.index_error(e))
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.written.notes.len() < MAX_NOTES {
            self.written.notes.push(text());
        } else {
            self.dropped_notes += 1;
        }
    }
}
