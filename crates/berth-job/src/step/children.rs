//! Signals, and children that are not tasks.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::Usage;
use crate::control::WAKE;
use crate::error::{Error, Result};
use crate::tree;

/// Signals as something to wait for. They are blocked in this process from here on; tasks unblock them.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// All that mean something to `srun`.
    #[allow(unsafe_code)]
    pub fn open() -> Result<Signals> {
        // SAFETY: the set is filled in first, and the descriptor is new and nobody else's.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [
                libc::SIGCHLD,
                libc::SIGINT,
                libc::SIGQUIT,
                libc::SIGTERM,
                libc::SIGHUP,
                libc::SIGUSR1,
                libc::SIGUSR2,
                libc::SIGALRM,
                libc::SIGCONT,
                libc::SIGWINCH,
                WAKE,
            ] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let descriptor = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if descriptor < 0 {
                return Err(Error::system("wait for signals", io::Error::last_os_error()));
            }
            Ok(Signals(OwnedFd::from_raw_fd(descriptor)))
        }
    }

    /// To wait for one.
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Those that have come.
    pub fn take(&self) -> Vec<i32> {
        let mut numbers = Vec::new();
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.0, &mut buffer).is_ok_and(|count| count == buffer.len()) {
            // The number is the first field.
            numbers.push(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
        }
        numbers
    }
}

/// What tasks leave behind becomes this process' own.
#[allow(unsafe_code)]
pub fn become_subreaper() {
    // SAFETY: numbers only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Ends what tasks have left behind: it has become this process' own, and has no place outside of a step.
#[allow(unsafe_code)]
pub fn kill_children(usage: &mut Usage, mark: &str) {
    loop {
        let children = tree::children(mark);
        if children.is_empty() {
            return;
        }
        for child in children {
            tree::send(child, libc::SIGKILL);
            let mut status = 0;
            // SAFETY: room for a status and for what was used.
            unsafe {
                let mut used: libc::rusage = std::mem::zeroed();
                if libc::wait4(child as i32, &raw mut status, 0, &raw mut used) > 0 {
                    usage.add(&used);
                }
            }
        }
    }
}
