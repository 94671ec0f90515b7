//! The directory of containers.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::container::Container;
use crate::error::{Error, Result};

/// Files of a container's directory.
pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";
pub(super) const START: &str = "start.sock";
const NEW_STATE: &str = ".state.json.new";
/// Beside the containers' directories; no id has this character.
pub(super) const KEPT_FILTERS: &str = "~filters";

/// Longest id: a file name.
const MAX_ID: usize = 255;

/// A directory of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
    /// Where containers are if that place cannot be made.
    instead: Option<PathBuf>,
}

impl Root {
    /// The directory at `path`, which need not be there.
    pub fn at(path: impl Into<PathBuf>) -> Root {
        Root { path: path.into(), instead: None }
    }

    /// The directory that a command line names. Slurm's guide names `/run/user/UID`, which is not there on a node where
    /// the user has no session: then [`Root::of_user`] is meant. Root may ask for anybody's.
    pub fn named(path: &Path) -> Root {
        let caller = rustix::process::geteuid();
        let session = path.strip_prefix("/run/user").ok().and_then(|rest| rest.iter().next()?.to_str()?.parse().ok());
        let uid = session.filter(|&uid: &u32| uid == caller.as_raw() || caller.is_root());
        Root { path: path.to_owned(), instead: uid.map(Root::in_tmp) }
    }

    /// Where containers are if nothing else was said: `/run/berth` for root; for others `$XDG_RUNTIME_DIR/berth`, or
    /// `/tmp/berth-runtime-UID` where no session was opened (nodes of a cluster), or where the variable came from
    /// somebody else's session.
    pub fn of_user() -> Root {
        let uid = rustix::process::geteuid();
        // In a user namespace, root is somebody who may not write there.
        if uid.is_root() && rustix::fs::access("/run", rustix::fs::Access::WRITE_OK).is_ok() {
            return Root::at("/run/berth");
        }
        let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        match session.filter(|dir| std::fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid.as_raw())) {
            Some(dir) => Root::at(dir.join("berth")),
            None => Root::at(Root::in_tmp(uid.as_raw())),
        }
    }

    fn in_tmp(uid: u32) -> PathBuf {
        PathBuf::from(format!("/tmp/berth-runtime-{uid}"))
    }

    /// All places where containers may be.
    pub(super) fn places(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path.as_path()).chain(self.instead.as_deref())
    }

    /// Where compiled system call filters are kept; nowhere as long as there was no container.
    pub(super) fn kept_filters(&self) -> Option<PathBuf> {
        self.places().find(|place| place.is_dir()).map(|place| place.join(KEPT_FILTERS))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The container with this id.
    ///
    /// # Errors
    /// [`Error::ContainerState`] where there is none, or what there is was never finished.
    pub fn get(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        for place in self.places() {
            let dir = place.join(id);
            if let Some(record) = Container::read(&dir)? {
                return Ok(Container { dir, record });
            }
        }
        Err(no_container(id))
    }

    /// All containers of this user, by id. What cannot be read, because it is being made or deleted, is left out.
    pub fn list(&self) -> Result<Vec<Container>> {
        let mut containers = Vec::new();
        for place in self.places() {
            let entries = match std::fs::read_dir(place) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("list", place, error)),
            };
            containers.extend(entries.flatten().filter_map(|entry| {
                let dir = entry.path();
                Container::read(&dir).ok().flatten().map(|record| Container { dir, record })
            }));
        }
        containers.sort_by(|one: &Container, other| one.record.id.cmp(&other.record.id));
        Ok(containers)
    }

    /// Removes what somebody left who was killed before it was a container.
    pub fn forget(&self, id: &str) {
        for dir in self.places().filter(|_| check_id(id).is_ok()).map(|place| place.join(id)) {
            let uid = rustix::process::geteuid().as_raw();
            if std::fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid)
                && let Ok(Some(_lock)) = Lock::try_on(&dir)
                && let Ok(None) = Container::read(&dir)
            {
                remove_files(&dir);
                let _ = std::fs::remove_dir(&dir);
            }
        }
    }

    /// Removes what others left behind: containers of an earlier boot, and those of a `run` that was killed.
    pub fn sweep(&self) {
        for container in self.list().unwrap_or_default() {
            if container.record.is_stale()
                && let Ok(Some(lock)) = Lock::try_on(&container.dir)
            {
                container.discard(&lock);
            }
        }
    }

    /// The same in a place of our own, if nobody has for a while: with hundreds of containers it is work. A directory that
    /// the caller named is no place for a mark.
    pub(super) fn sweep_sometimes(&self) {
        const WHILE: Duration = Duration::from_secs(60);
        if *self != Root::of_user() {
            return;
        }
        for place in self.places() {
            // A name that no container can have.
            let mark = place.join("~swept");
            let fresh = |meta: std::fs::Metadata| meta.modified().ok()?.elapsed().ok().map(|age| age < WHILE);
            if std::fs::symlink_metadata(&mark).ok().and_then(fresh) == Some(true) {
                return;
            }
            let _ = std::fs::remove_file(&mark);
            let _ = std::fs::OpenOptions::new().write(true).create_new(true).open(&mark);
        }
        self.sweep();
    }

    /// Makes the directory of a new container, and locks it.
    ///
    /// # Errors
    /// [`Error::ContainerState`] where the id is in use.
    pub(super) fn claim(&self, id: &str) -> Result<(PathBuf, Lock)> {
        check_id(id)?;
        let place = match (make(&self.path), &self.instead) {
            (Ok(()), _) => &self.path,
            // Not somebody else's: root may ask for those, and makes nothing there.
            (Err(_), Some(instead)) if *instead == Root::in_tmp(rustix::process::geteuid().as_raw()) => {
                make(instead)?;
                instead
            }
            (Err(error), _) => return Err(error),
        };
        let dir = place.join(id);
        let taken = |reason: String, hint: &str| Error::ContainerState {
            name: id.to_owned(),
            reason,
            hint: Some(hint.to_owned()),
        };
        loop {
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", &dir, error)),
            }
            let uid = rustix::process::geteuid().as_raw();
            if std::fs::symlink_metadata(&dir).is_ok_and(|meta| !meta.is_dir() || meta.uid() != uid) {
                return Err(taken("belongs to somebody else".to_owned(), "choose another id, or another --root"));
            }
            let lock = match Lock::try_on(&dir) {
                Ok(Some(lock)) => lock,
                Ok(None) => return Err(taken("already exists: it is being made".to_owned(), "choose another id")),
                // Deleted since.
                Err(Errno::NOENT | Errno::STALE) => continue,
                Err(error) => return Err(Error::io("lock", &dir, error)),
            };
            match Container::read(&dir) {
                // New, or left by somebody who was killed before it was a container; or no container's at all.
                Ok(None) => {
                    remove_files(&dir);
                    if std::fs::read_dir(&dir).is_ok_and(|mut rest| rest.next().is_some()) {
                        let reason = format!("cannot be made: {} has other files", dir.display());
                        return Err(taken(reason, "choose another id, or another --root"));
                    }
                    return Ok((dir, lock));
                }
                Ok(Some(record)) if !record.is_stale() => {
                    let container = Container { dir, record };
                    let reason = format!("already exists ({})", container.status().word());
                    return Err(taken(reason, "delete it, or choose another id"));
                }
                Ok(Some(record)) => {
                    Container { dir: dir.clone(), record }.discard(&lock);
                }
                // A state that cannot be understood: half of a disk's last moments, or another version's.
                Err(_) => remove_files(&dir),
            }
        }
    }
}

/// Makes the directory of containers, for nobody else to look into.
fn make(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::io("create", path, e))?;
    // One that was there, in a place where anybody can make one: unless it is that place itself, which is protected as
    // such places are.
    let meta = std::fs::symlink_metadata(path).map_err(|e| Error::io("examine", path, e))?;
    let mode = meta.permissions().mode();
    if meta.is_dir() && mode & 0o1002 == 0o1002 {
        return Ok(());
    }
    let uid = rustix::process::geteuid().as_raw();
    let strange = !meta.is_dir() || (meta.uid() != uid && uid != 0) || mode & 0o022 != 0;
    let shared = path.parent().and_then(|parent| std::fs::metadata(parent).ok());
    if strange && shared.is_some_and(|parent| parent.permissions().mode() & 0o002 != 0) {
        let why = "it is a link, belongs to somebody else, or others may write to it";
        return Err(Error::io("use", path, std::io::Error::other(why)));
    }
    Ok(())
}

/// An id becomes a file name, and is printed.
fn check_id(id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.' | '@' | ':' | '%' | ',' | '=');
    if id.is_empty() || id.len() > MAX_ID || id == "." || id == ".." || !id.chars().all(fine) {
        let shown: String = id.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
        return Err(Error::ContainerState {
            name: shown,
            reason: "has no valid id".to_owned(),
            hint: Some(format!("letters, digits and `_+-.@:%,=`, at most {MAX_ID} of them")),
        });
    }
    Ok(())
}

fn no_container(id: &str) -> Error {
    Error::ContainerState { name: id.to_owned(), reason: "does not exist".to_owned(), hint: None }
}

/// The lock of a container's directory. Processes that are forked while it is held share it: so it is let go by word, not
/// by closing.
#[derive(Debug)]
pub(super) struct Lock(OwnedFd);

impl Lock {
    /// Locks the directory, unless somebody else has.
    fn try_on(dir: &Path) -> Result<Option<Lock>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error),
        }
        // It may have been deleted, and made anew, before it was locked.
        let (locked, there) = (rustix::fs::fstat(&fd)?, rustix::fs::stat(dir)?);
        if (locked.st_dev, locked.st_ino) == (there.st_dev, there.st_ino) {
            Ok(Some(Lock(fd)))
        } else {
            Err(Errno::STALE)
        }
    }

    /// Locks the directory, waiting for whoever has it.
    pub(super) fn on(dir: &Path) -> Result<Lock, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
        while let Err(error) = flock(&fd, FlockOperation::LockExclusive) {
            if error != Errno::INTR {
                return Err(error);
            }
        }
        Ok(Lock(fd))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Removes the files of a container's directory, and nothing that is none of ours.
pub(super) fn remove_files(dir: &Path) {
    for name in [STATE, CONFIG, START, NEW_STATE] {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

/// Writes the state in one piece: whoever reads it finds all of it, or what was there before.
pub(super) fn write_state(dir: &Path, content: &[u8]) -> Result<()> {
    let (path, new) = (dir.join(STATE), dir.join(NEW_STATE));
    File::create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|e| Error::io("write", &path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names_that_can_be_printed() {
        for id in ["a", "n1.user.12.0.-1", "a_b+c-d.e@f:g", "...", &"x".repeat(MAX_ID)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "/", "a\nb", "a b", "ä", "a\0", &"x".repeat(MAX_ID + 1)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn an_id_is_claimed_once_and_what_a_killed_creator_left_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path().join("deep/root"));
        let (path, lock) = root.claim("one").unwrap();
        assert!(root.claim("one").unwrap_err().to_string().contains("being made"));
        drop(lock);
        std::fs::write(path.join(CONFIG), "{").unwrap();
        std::fs::write(path.join(STATE), "half of a rec").unwrap();
        std::fs::write(path.join(START), "").unwrap();
        let (_, lock) = root.claim("one").unwrap();
        assert!(std::fs::read_dir(&path).unwrap().next().is_none());
        assert!(root.get("one").unwrap_err().to_string().contains("does not exist"));
        drop(lock);
        root.forget("one");
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_is_no_containers_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let papers = dir.path().join("papers");
        std::fs::create_dir(&papers).unwrap();
        std::fs::write(papers.join("thesis"), "years").unwrap();
        assert!(root.claim("papers").unwrap_err().to_string().contains("other files"));
        root.forget("papers");
        root.sweep();
        assert_eq!(std::fs::read_to_string(papers.join("thesis")).unwrap(), "years");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("tmp");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::os::unix::fs::symlink(dir.path(), shared.join("link")).unwrap();
        std::fs::create_dir(shared.join("open")).unwrap();
        std::fs::set_permissions(shared.join("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["link", "open"] {
            assert!(Root::at(shared.join(name)).claim("x").is_err(), "{name}");
        }
        assert!(Root::at(shared.join("new")).claim("x").is_ok());
    }
}
