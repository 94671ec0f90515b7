//! What can be done with a container that is there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::record::{ProcessId, Record, Status};
use super::root::{CONFIG, Lock, START, STATE, remove_files};
use super::{Warn, parse, read_bounded, read_config};
use crate::error::{Error, Result};
use crate::launch::hooks::{self, Identity, Stage};
use crate::oci::{self, NamespaceKind, Spec};

/// How long a killed process may take to be gone. It has to be, unless the kernel or a device keeps it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A signal, by number.
pub type Signal = i32;
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
    pub(super) fn read(dir: &Path) -> Result<Option<Record>> {
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
        // No pid namespace ends with its first process: the others are to be found and killed.
        let own_pids = |spec: Spec| {
            let namespaces = spec.linux.map(|linux| linux.namespaces).unwrap_or_default();
            namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Pid && namespace.path.is_none())
        };
        if signal == libc::SIGKILL && self.record.cgroup.is_own() && !self.spec().is_ok_and(own_pids) {
            return self.signal_all(signal);
        }
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
    fn finish(&self, lock: &Lock, warn: Warn<'_>) -> Result<()> {
        // The hooks are told of the end whatever became of the configuration's copy.
        let spec = self.spec().unwrap_or_default();
        self.finish_as(&spec, lock, warn)
    }

    /// The same with the configuration at hand.
    pub(super) fn finish_as(&self, spec: &Spec, _lock: &Lock, warn: Warn<'_>) -> Result<()> {
        let removed = self.record.cgroup.remove();
        let hooks = hooks::run_stage(spec, Stage::Poststop, &self.identity(), 0);
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
    pub(super) fn discard(&self, _lock: &Lock) {
        let _ = self.record.cgroup.kill(libc::SIGKILL);
        let _ = self.record.cgroup.remove();
        remove_files(&self.dir);
        let _ = std::fs::remove_dir(&self.dir);
    }
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
