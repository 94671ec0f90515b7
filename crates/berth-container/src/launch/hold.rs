//! A container without a command: a process that makes one around itself and waits while others join it.
//!
//! This is how a step of Slurm comes into its container: Slurm starts the commands itself, each in a task that has joined
//! ([`crate::launch::join`] does the same for commands of ours). When the last process in it ends, the container is gone.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::{Plan, Steps, in_child};
use crate::error::{Error, Result};

impl Plan {
    /// Moves this process, which must have one thread, into the container: afterwards its root is the container's. The
    /// plan's command is not started, and descriptors stay open.
    ///
    /// # Errors
    /// What keeps the container from being made. The process is in no usable state then.
    pub fn inhabit(&self) -> Result<()> {
        self.entry.enter(&self.steps)?;
        self.steps.build(None)?;
        self.steps.begin()
    }

    /// The kinds of namespaces that are the container's own, as setns(2) takes them.
    pub fn namespaces(&self) -> u32 {
        self.steps.namespaces.new.bits()
    }
}

/// Starts `work` in a child that is left behind: nobody waits for it. Its answer is its exit code.
pub fn leave_behind(work: impl FnOnce() -> u8) -> Result<u32> {
    in_child(work)
}

/// This process, as a descriptor by which others can join its namespaces.
pub fn own_process() -> Result<OwnedFd> {
    process(getpid())
}

/// The same for another process of this user's.
pub fn process_of(pid: u32) -> Result<OwnedFd> {
    let gone = || Error::Join { pid, reason: "there is no such process".to_owned(), hint: None };
    process(i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?)
}

fn process(pid: Pid) -> Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::system("open the container's process", e))
}

/// Goes to a directory of the container, making it if that is wanted.
pub fn enter_directory(path: &Path, create: bool) -> Result<()> {
    let mut made = rustix::process::chdir(path);
    if made == Err(rustix::io::Errno::NOENT) && create {
        std::fs::create_dir_all(path).map_err(|e| Error::io("create the working directory", path, e))?;
        made = rustix::process::chdir(path);
    }
    made.map_err(|e| Error::io("enter the working directory", path, e))
}
