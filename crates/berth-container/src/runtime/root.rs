//! The directory of containers, and what can be done with one that is there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::{ProcessId, Record, Status};
use super::{Warn, parse, read_bounded, read_config};
use crate::error::{Error, Result};
use crate::launch::hooks::{self, Identity, Stage};
use crate::oci::{self, Spec};

/// Files of a container's directory.
pub(super) const STATE: &str = "state.json";
pub(super) const CONFIG: &str = "config.json";
pub(super) const START: &str = "start.sock";
/// Beside the containers' directories; no id has this character.
pub(super) const KEPT_FILTERS: &str = "~filters";

/// Longest id: a file name.
const MAX_ID: usize = 255;

/// How long a killed process may take to be gone. It has to be, unless the kernel or a device keeps it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A signal, by number.
pub type Signal = i32;

/// A directory of containers.
#[derive(Debug, Clone)]
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
    /// the user has no session: then [`Root::of_user`] is meant.
    pub fn named(path: &Path) -> Root {
        let uid = rustix::process::geteuid().as_raw();
        let of_session = path.starts_with(format!("/run/user/{uid}"));
        Root { path: path.to_owned(), instead: of_session.then(|| Root::in_tmp(uid)) }
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
    fn places(&self) -> impl Iterator<Item = &Path> {
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

    /// The same, if nobody has for a while: with hundreds of containers it is work.
    pub(super) fn sweep_sometimes(&self) {
        const WHILE: Duration = Duration::from_secs(60);
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
            (Err(_), Some(instead)) => {
                make(instead)?;
                instead
            }
            (Err(error), None) => return Err(error),
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
                // New, or left by somebody who was killed before it was a container.
                Ok(None) => return Ok((dir, lock)),
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

/// A container that was made.
#[derive(Debug)]
pub struct Container {
    pub(super) dir: PathBuf,
    /// What is written down of it.
    pub record: Record,
}

impl Container {
    /// Reads the record; `None` where there is none of ours. What somebody else wrote down would have us kill processes
    /// and remove cgroups that are none of theirs.
    fn read(dir: &Path) -> Result<Option<Record>> {
        let uid = rustix::process::geteuid().as_raw();
        if !std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid) {
            return Ok(None);
        }
        let path = dir.join(STATE);
        match read_bounded(&path) {
            Ok(text) => parse(&path, &text).map(Some),
            Err(Error::Io { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG)) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Where in its life it is, asked anew.
    pub fn status(&self) -> Status {
        if !self.record.is_alive() {
            Status::Stopped
        } else if self.dir.join(START).symlink_metadata().is_ok() {
            Status::Created
        } else if self.record.cgroup.is_own() && self.record.cgroup.is_frozen() {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// The state as the specification has it, with what runc says beyond.
    pub fn state(&self) -> serde_json::Value {
        let record = &self.record;
        let status = self.status();
        let mut state = serde_json::json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "pid": if status == Status::Stopped { 0 } else { record.process.pid },
            "status": status.word(),
            "bundle": record.bundle,
            "rootfs": record.rootfs,
            "created": record.created,
            "owner": owner_name(record.owner),
        });
        if !record.annotations.is_empty() {
            state["annotations"] = serde_json::json!(record.annotations);
        }
        state
    }

    /// The configuration as it was when the container was made.
    pub fn spec(&self) -> Result<Spec> {
        read_config(&self.dir.join(CONFIG)).map(|(spec, _)| spec)
    }

    fn identity(&self) -> Identity {
        Identity { id: self.record.id.clone(), bundle: self.record.bundle.clone() }
    }

    fn refuse(&self, reason: impl Into<String>, hint: Option<&str>) -> Error {
        Error::ContainerState { name: self.record.id.clone(), reason: reason.into(), hint: hint.map(str::to_owned) }
    }

    /// The process is there, in whatever state but stopped.
    pub(super) fn must_live(&self) -> Result<()> {
        match self.status() {
            // These words are what containerd and docker look for.
            Status::Stopped => Err(self.refuse("is stopped: container not running", None)),
            _ => Ok(()),
        }
    }

    /// Runs the command of a created container.
    ///
    /// # Errors
    /// Another state than created; and what kept the command from running, with its exit code.
    pub fn start(&self) -> Result<()> {
        let not_created = || {
            let reason = format!("cannot be started: it is {}", self.status().word());
            self.refuse(reason, Some("only a created container can be started, and once"))
        };
        if self.status() != Status::Created {
            return Err(not_created());
        }
        let Some(gate) = super::birth::Gate::connect(&self.dir)? else { return Err(not_created()) };
        let spec = self.spec()?;
        gate.start()?;
        let started = hooks::run_stage(&spec, Stage::Poststart, &self.identity(), self.record.process.pid);
        if started.is_err() {
            let _ = self.signal_init(libc::SIGKILL);
        }
        started
    }

    /// Sends a signal to the first process, or to all.
    ///
    /// # Errors
    /// A stopped container, unless `all`.
    pub fn kill(&self, signal: Signal, all: bool) -> Result<()> {
        if all {
            return self.signal_all(signal);
        }
        self.must_live()?;
        let paused = self.status() == Status::Paused;
        match self.signal_init(signal) {
            // A frozen process would die only when it goes on, and its parent waits now.
            Ok(()) if signal == libc::SIGKILL && paused => self.record.cgroup.freeze(false),
            Err(Errno::SRCH) => Err(self.refuse("is stopped: container not running", None)),
            other => other.map_err(|e| Error::system(format!("send signal {signal}"), e)),
        }
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        if self.record.cgroup.is_own() {
            return self.record.cgroup.kill(signal);
        }
        if !self.record.is_alive() {
            return Ok(());
        }
        for pid in self.processes()? {
            if let Some(process) = Pid::from_raw(pid as i32) {
                let _ =
                    rustix::process::pidfd_open(process, PidfdFlags::empty()).and_then(|fd| send_signal(&fd, signal));
            }
        }
        Ok(())
    }

    fn signal_init(&self, signal: Signal) -> std::result::Result<(), Errno> {
        let process = open_process(self.record.process)?;
        send_signal(&process, signal)
    }

    /// All processes in it, by their numbers here: those of its cgroup, or else those that share its mounts.
    pub fn processes(&self) -> Result<Vec<u32>> {
        if !self.record.is_alive() {
            return Ok(Vec::new());
        }
        if self.record.cgroup.is_own() {
            return self.record.cgroup.processes();
        }
        let mounts =
            |pid: &str| rustix::fs::stat(format!("/proc/{pid}/ns/mnt")).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        let Some(own) = mounts(&self.record.process.pid.to_string()) else { return Ok(Vec::new()) };
        let mut pids: Vec<u32> = std::fs::read_dir("/proc")
            .map_err(|e| Error::io("list", "/proc", e))?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let pid = name.parse().ok()?;
                (mounts(&name) == Some(own)).then_some(pid)
            })
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Stops all its processes where they are, or lets them go on.
    ///
    /// # Errors
    /// A container without a cgroup of its own: there is no other way to reach all processes at once.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let verb = if frozen { "paused" } else { "resumed" };
        let wanted = if frozen { Status::Running } else { Status::Paused };
        let status = self.status();
        if !self.record.cgroup.is_own() && status != Status::Stopped {
            let hint = "give it one: as root, or as a user to whom a part of the cgroup tree was delegated";
            return Err(self.refuse(format!("cannot be {verb}: it has no control group of its own"), Some(hint)));
        }
        if status != wanted {
            return Err(self.refuse(format!("cannot be {verb}: it is {}", status.word()), None));
        }
        self.record.cgroup.freeze(frozen)
    }

    /// Changes limits.
    pub fn update(&self, resources: &oci::Resources) -> Result<()> {
        self.must_live()?;
        if !self.record.cgroup.is_own() {
            let hint = "give it one: as root, or as a user to whom a part of the cgroup tree was delegated";
            return Err(self.refuse("cannot be updated: it has no control group of its own", Some(hint)));
        }
        self.record.cgroup.update(resources)
    }

    /// Deletes it: its cgroup, what is left of its processes, its record. `force` kills a container that is not stopped.
    ///
    /// # Errors
    /// A container that is neither stopped nor merely created, without `force`; a process that cannot be killed.
    pub fn delete(self, force: bool, warn: Warn<'_>) -> Result<()> {
        match self.status() {
            Status::Stopped | Status::Created => {}
            _ if force => {}
            status => {
                let reason = format!("cannot be deleted: it is {}", status.word());
                return Err(self.refuse(reason, Some("kill it first, or delete it with --force")));
            }
        }
        if self.record.is_alive() {
            self.end()?;
        }
        let lock = match Lock::on(&self.dir) {
            Ok(lock) => lock,
            // Somebody else deletes it, or whoever attended it.
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::io("lock", &self.dir, error)),
        };
        self.finish(&lock, warn)
    }

    /// Kills it and waits until it is gone.
    fn end(&self) -> Result<()> {
        let process = match open_process(self.record.process) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(Error::system("find the container's process", error)),
        };
        if self.record.cgroup.is_own() {
            let _ = self.record.cgroup.kill(libc::SIGKILL);
            let _ = self.record.cgroup.freeze(false);
        }
        match send_signal(&process, libc::SIGKILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(Error::system("kill the container", error)),
        }
        let limit = rustix::time::Timespec::try_from(PATIENCE).ok();
        loop {
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], limit.as_ref()) {
                Ok(0) => {
                    let reason = format!("was killed and is still there after {} s", PATIENCE.as_secs());
                    return Err(self.refuse(reason, Some("it waits for a device or a file server (state D)")));
                }
                Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(Error::system("wait for the container's end", error)),
            }
        }
    }

    /// Everything but the processes.
    pub(super) fn finish(&self, _lock: &Lock, warn: Warn<'_>) -> Result<()> {
        let removed = self.record.cgroup.remove();
        // The hooks are told of the end whatever became of the cgroup.
        let hooks = match self.spec() {
            Ok(spec) => hooks::run_stage(&spec, Stage::Poststop, &self.identity(), 0),
            Err(_) => Ok(()),
        };
        remove_files(&self.dir);
        match std::fs::remove_dir(&self.dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", &self.dir, error)),
        }
        if let Err(warning) = hooks {
            // As the specification has it: a warning, and the container is deleted nevertheless.
            warn(&warning.to_string());
        }
        removed
    }

    /// Removes what was left behind, as far as it can be: nobody is told.
    fn discard(&self, _lock: &Lock) {
        let _ = self.record.cgroup.kill(libc::SIGKILL);
        let _ = self.record.cgroup.remove();
        remove_files(&self.dir);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

fn remove_files(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Writes a file of a container's directory in one piece: whoever reads it finds all of it, or what was there before.
pub(super) fn write_whole(dir: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (path, new) = (dir.join(name), dir.join(format!(".{name}.new")));
    File::create(&new)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&new, &path))
        .map_err(|e| Error::io("write", &path, e))
}

/// A descriptor of the process, which is no other one that has its number now.
fn open_process(process: ProcessId) -> std::result::Result<OwnedFd, Errno> {
    let fd =
        Pid::from_raw(process.pid as i32).ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))?;
    if process.is_alive() { Ok(fd) } else { Err(Errno::SRCH) }
}

fn send_signal(process: &OwnedFd, signal: Signal) -> std::result::Result<(), Errno> {
    crate::launch::send_signal(process.as_fd(), signal)
}

/// The name of a user of this machine, from `/etc/passwd` only: a directory service may take seconds.
fn owner_name(uid: u32) -> String {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    passwd
        .split(|&byte| byte == b'\n')
        .find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let name = fields.next()?;
            (fields.nth(1)? == uid.to_string().as_bytes())
                .then(|| OsStr::from_bytes(name).to_string_lossy().into_owned())
        })
        .unwrap_or_else(|| uid.to_string())
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
        let (_, _lock) = root.claim("one").unwrap();
        assert!(std::fs::read_dir(&path).unwrap().next().is_none());
        assert!(root.get("one").unwrap_err().to_string().contains("does not exist"));
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
