//! Joining a running container: a new process in the namespaces of one that is there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::affinity;
use super::channel::Channel;
use super::process::Host;
use super::{Attendance, Entry, Observer, Options, Outcome, Steps, supervise};
use crate::error::{Error, Result};
use crate::oci::Process;

/// Files of `/proc/PID/ns`, and their flags.
const NAMESPACES: &[(&str, u32)] = &[
    ("user", libc::CLONE_NEWUSER as u32),
    ("mnt", libc::CLONE_NEWNS as u32),
    ("pid_for_children", libc::CLONE_NEWPID as u32),
    ("ipc", libc::CLONE_NEWIPC as u32),
    ("uts", libc::CLONE_NEWUTS as u32),
    ("net", libc::CLONE_NEWNET as u32),
    ("cgroup", libc::CLONE_NEWCGROUP as u32),
    ("time_for_children", CLONE_NEWTIME),
];

/// As in `linux/sched.h`; libc has it for some targets only.
const CLONE_NEWTIME: u32 = 0x80;

/// A running container, found by one of its processes.
#[derive(Debug)]
pub struct Target {
    pid: u32,
    process: OwnedFd,
    /// The namespaces in which it differs from the caller.
    namespaces: ThreadNameSpaceType,
}

impl Target {
    /// Finds out what it takes to join this process.
    ///
    /// # Errors
    /// [`Error::Join`] if there is no such process, if it is somebody else's, or if it is in no container.
    pub fn of_process(pid: u32) -> Result<Target> {
        let refuse = |reason: String, hint: Option<&str>| Error::Join { pid, reason, hint: hint.map(str::to_owned) };
        let process = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| match e {
                rustix::io::Errno::SRCH => refuse("there is no such process".to_owned(), None),
                other => refuse(other.to_string(), None),
            })?;
        let mut namespaces = ThreadNameSpaceType::empty();
        for (name, flag) in NAMESPACES {
            let identity = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
            let theirs = identity(Path::new(&format!("/proc/{pid}/ns/{name}"))).map_err(|e| match e {
                rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => refuse(
                    "it belongs to somebody else".to_owned(),
                    Some("a container can be joined by the user who started it"),
                ),
                rustix::io::Errno::NOENT => refuse("it has just ended".to_owned(), None),
                other => refuse(other.to_string(), None),
            })?;
            if identity(Path::new(&format!("/proc/self/ns/{name}"))) != Ok(theirs) {
                namespaces |= ThreadNameSpaceType::from_bits_retain(*flag);
            }
        }
        if !namespaces.contains(ThreadNameSpaceType::from_bits_retain(libc::CLONE_NEWNS as u32)) {
            return Err(refuse("it runs in no container, or in this one".to_owned(), None));
        }
        Ok(Target { pid, process, namespaces })
    }

    /// The kinds of namespaces in which the container differs from this process, as setns(2) takes them.
    pub fn namespaces(&self) -> u32 {
        self.namespaces.bits()
    }

    /// The container's process, as a descriptor.
    pub fn into_process(self) -> OwnedFd {
        self.process
    }

    /// Moves this process, which must have one thread, into the container, but into a mount namespace of its own there:
    /// what it mounts, the others do not see.
    pub fn enter_apart(&self) -> Result<()> {
        self.enter()?;
        super::namespaces::unshare(rustix::thread::UnshareFlags::NEWNS)
            .map_err(|e| Error::system("make a mount namespace in the container", e))?;
        // Others of this user's join this process in its turn, for which they must be allowed to look into it.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .map_err(|e| Error::system("let others join", e))
    }

    /// Runs `process` in the container: becomes it, or starts it and waits where a pid namespace or a terminal needs a
    /// parent; then returns its exit code. `observer` as in [`crate::launch::Plan::execute`].
    pub fn execute(self, process: &Process, options: &Options, observer: &mut dyn Observer) -> Result<u8> {
        self.entry(process, None, options)?.execute(&self, observer)
    }

    /// Runs `process` in the container as a child, attended as it says. `personality` is that of the container's
    /// configuration.
    pub fn attend(
        self,
        process: &Process,
        personality: Option<&str>,
        options: &Options,
        attendance: Attendance,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let entry = self.entry(process, personality, options)?;
        supervise::run(&entry, &self, attendance, observer)
    }

    fn entry(&self, process: &Process, personality: Option<&str>, options: &Options) -> Result<Entry> {
        let new = |flag: u32| self.namespaces.contains(ThreadNameSpaceType::from_bits_retain(flag));
        let need_parent = new(libc::CLONE_NEWPID as u32) || new(CLONE_NEWTIME);
        let may_set_groups =
            std::fs::read(format!("/proc/{}/setgroups", self.pid)).is_ok_and(|text| text == b"allow\n");
        let mut entry = Entry::new(process, personality, options, need_parent, may_set_groups)?;
        entry.affinity = affinity::Affinity::plan(process.exec_cpu_affinity.as_ref())?;
        entry.host = Some(Host::plan(process)?);
        Ok(entry)
    }
}

impl Steps for Target {
    fn enter(&self) -> Result<()> {
        // From here on the container's root could look into this process, which still holds what is the host's.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| Error::system("hide from the container", e))?;
        move_into_thread_name_spaces(self.process.as_fd(), self.namespaces).map_err(|e| Error::Join {
            pid: self.pid,
            reason: match e {
                rustix::io::Errno::SRCH => "it has just ended".to_owned(),
                other => other.to_string(),
            },
            hint: matches!(e, rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)
                .then(|| "a container can be joined by the user who started it".to_owned()),
        })
    }

    fn build(&self, _channel: Option<&Channel>) -> Result<()> {
        Ok(())
    }

    fn has_terminals(&self) -> bool {
        // `/dev/pts` of the container, where it is one: seen from here by way of one of its processes.
        let ours = |path: &str| rustix::fs::stat(path).map(|stat| stat.st_dev).ok();
        let theirs = ours(&format!("/proc/{}/root/dev/pts/ptmx", self.pid));
        theirs.is_some() && theirs != ours("/dev/pts/ptmx")
    }
}
