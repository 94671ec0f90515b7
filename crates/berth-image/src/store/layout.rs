//! One store directory: its paths, and how a file or a directory appears in it.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::lock::{self, Kind, Lock};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What `version` holds. A store of another major number is left alone.
const VERSION: &str = "berth-store 1\n";
/// The directories of a store.
const DIRECTORIES: [&str; 7] = ["blobs", "layers", "images", "refs", "locks", "leases", "tmp"];

/// A store directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    /// Nobody but the owner can look inside.
    pub private: bool,
}

impl Layout {
    /// Opens a store, or makes one where nothing is. A new store is readable for its owner only: layers may hold
    /// set-user-id programs, which would otherwise run as the owner for anybody.
    pub fn open_or_create(root: &Path) -> Result<Layout> {
        match Layout::open(root)? {
            Some(layout) => Ok(layout),
            None => Layout::create(root),
        }
    }

    /// Opens a store that exists.
    pub fn open(root: &Path) -> Result<Option<Layout>> {
        let version_path = root.join("version");
        let mut version = String::new();
        match File::open(&version_path).and_then(|file| file.take(64).read_to_string(&mut version)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &version_path, error)),
        }
        if version != VERSION {
            return Err(Error::Store {
                path: root.to_owned(),
                reason: format!("has the format `{}`, which this berth does not know", version.trim().escape_debug()),
                hint: Some("use a newer berth, or another store with --store".to_owned()),
            });
        }
        let mode = std::fs::metadata(root).map_err(|e| Error::io("look at", root, e))?.mode();
        Ok(Some(Layout { root: root.to_owned(), private: mode & 0o077 == 0 }))
    }

    fn create(root: &Path) -> Result<Layout> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let fail = |path: &Path, error: std::io::Error| match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Error::Store {
                path: root.to_owned(),
                reason: format!("cannot be made: {error} ({})", path.display()),
                hint: Some("choose a place that you can write with --store or BERTH_STORE".to_owned()),
            },
            _ => Error::io("create", path, error),
        };
        builder.create(root).map_err(|e| fail(root, e))?;
        if std::fs::read_dir(root).map_err(|e| fail(root, e))?.flatten().any(|entry| {
            !DIRECTORIES.iter().any(|known| entry.file_name() == *known)
                && entry.file_name() != "gc.lock"
                && entry.file_name() != "version"
        }) {
            return Err(Error::Store {
                path: root.to_owned(),
                reason: "is a directory that holds other things".to_owned(),
                hint: Some("name an empty or a new directory with --store".to_owned()),
            });
        }
        // The top alone keeps others out: opening it is all that sharing a store takes.
        builder.mode(0o755);
        for name in DIRECTORIES {
            let path = root.join(name);
            builder.create(&path).map_err(|e| fail(&path, e))?;
        }
        let mode = std::fs::metadata(root).map_err(|e| fail(root, e))?.mode();
        let layout = Layout { root: root.to_owned(), private: mode & 0o077 == 0 };
        // Last: a directory with this file is a whole store.
        layout.write_file(&root.join("version"), VERSION.as_bytes())?;
        Ok(layout)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a layer.
    pub fn layer(&self, digest: &Digest) -> PathBuf {
        self.root.join("layers").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The file of a manifest or configuration.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The record of an image.
    pub fn image(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", digest.hex()))
    }

    /// The file that says which image a name means.
    pub fn reference(&self, name: &str) -> PathBuf {
        self.root.join("refs").join(file_name_of(name))
    }

    /// The directory of leases.
    pub fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// The directory of what is being made.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Keeps garbage collection away (shared), or everybody else (exclusive).
    pub fn gc_lock(&self, kind: Kind) -> Result<Lock> {
        lock::acquire(&self.root.join("gc.lock"), kind)
    }

    /// The lock file for fetching a blob.
    pub fn blob_lock(&self, digest: &Digest) -> PathBuf {
        self.root.join("locks").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Writes a file so that it appears whole or not at all, also over a loss of power.
    pub fn write_file(&self, path: &Path, content: &[u8]) -> Result<()> {
        let work = WorkDir::create(self)?;
        let temporary = work.path().join("file");
        let mut file = File::create_new(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        file.write_all(content).map_err(|e| Error::io("write", &temporary, e))?;
        if !self.private {
            let mode = Permissions::from_mode(0o644);
            file.set_permissions(mode).map_err(|e| Error::io("set the mode of", &temporary, e))?;
        }
        file.sync_all().map_err(|e| Error::io("write", &temporary, e))?;
        make_parent(path)?;
        std::fs::rename(&temporary, path).map_err(|e| Error::io("rename to its place", path, e))
    }
}

/// Makes the directory that `path` will stand in.
pub(super) fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match std::fs::create_dir(parent) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("create", parent, error)),
        _ => Ok(()),
    }
}

/// A directory below `tmp/` for something that is being made, with a lock that tells others that its maker lives.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Lock,
}

impl WorkDir {
    /// Makes one.
    pub fn create(layout: &Layout) -> Result<WorkDir> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let host = rustix::system::uname();
        // Unique on all hosts that share the store: name, process and time; a clash is caught by `create_dir`.
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let host = host.nodename().to_string_lossy().replace('/', "_");
        let name = format!("{host}-{}-{nanos:x}-{number}", std::process::id());
        let path = layout.tmp().join(&name);
        let lock_path = layout.tmp().join(format!("{name}.lock"));
        let lock = match lock::try_acquire(&lock_path, Kind::Exclusive)? {
            Some(lock) => lock,
            None => lock::acquire(&lock_path, Kind::Exclusive)?,
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(WorkDir { path, lock_path, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = super::remove::tree(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Removes what dead processes left below `tmp/`, and tells how many such there were.
pub fn sweep(layout: &Layout) -> Result<usize> {
    let tmp = layout.tmp();
    let mut swept = 0;
    let entries = std::fs::read_dir(&tmp).map_err(|e| Error::io("read", &tmp, e))?;
    let names: std::collections::BTreeSet<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| name.strip_suffix(".lock").unwrap_or(&name).to_owned())
        .collect();
    for name in names {
        let (work, lock_path) = (tmp.join(&name), tmp.join(format!("{name}.lock")));
        // Whoever makes something holds its lock; taking it proves that nobody does.
        if let Some(_lock) = lock::try_acquire(&lock_path, Kind::Exclusive)? {
            super::remove::tree(&work).map_err(|e| Error::io("remove", &work, e))?;
            std::fs::remove_file(&lock_path).map_err(|e| Error::io("remove", &lock_path, e))?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// A name as a file name: letters, digits, `.`, `-`, `_`, `:`, `@` and `+` stand for themselves, everything else is
/// `%XX`, so that one directory holds all names and none can be a path. A name that gets too long for a file ends in its
/// hash; the file holds the full name in any case.
pub fn file_name_of(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len() + 8);
    for (index, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b':' | b'@' | b'+')
            || (byte == b'.' && index > 0)
        {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if out.len() > 200 {
        out.truncate(130);
        let _ = write!(out, "~{}", Digest::of(name.as_bytes()).hex());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_becomes_a_path_or_a_hidden_or_overlong_file() {
        let long = "a/".repeat(400);
        let names =
            ["docker.io/library/debian:12", "localhost:5000/a/b@sha256:00", ".hidden/../x", "ü %2F", &long, &long[2..]];
        let files: std::collections::BTreeSet<String> = names.iter().map(|name| file_name_of(name)).collect();
        assert_eq!(files.len(), names.len(), "two names share a file: {files:?}");
        for file in files {
            assert!(!file.contains('/') && !file.starts_with('.') && file.len() <= 255, "{file}");
        }
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_no_store() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(Layout::open_or_create(dir.path()), Err(Error::Store { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn sweeping_takes_what_dead_makers_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_create(&dir.path().join("store")).unwrap();
        let alive = WorkDir::create(&layout).unwrap();
        std::fs::create_dir_all(layout.tmp().join("dead-1/tree")).unwrap();
        std::fs::write(layout.tmp().join("dead-1.lock"), "").unwrap();
        std::fs::create_dir(layout.tmp().join("no-lock")).unwrap();
        assert_eq!(sweep(&layout).unwrap(), 2);
        assert!(alive.path().exists());
        drop(alive);
        assert_eq!(std::fs::read_dir(layout.tmp()).unwrap().count(), 0);
    }
}
