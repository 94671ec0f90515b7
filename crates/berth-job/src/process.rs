//! Processes, named so that a number that the kernel gives away again is no mistake.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

/// A process: its number, when it was started (in ticks since the boot), and in which boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Ticks since the boot, the 22nd field of `/proc/PID/stat`.
    pub start: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl Process {
    /// This process.
    pub fn this() -> Process {
        let pid = std::process::id();
        Process { pid, start: start_time(pid).unwrap_or(0), boot: boot_id() }
    }

    /// A process by its number; nothing where there is none, or only what is left of one.
    pub fn of(pid: u32) -> Option<Process> {
        Some(Process { pid, start: start_time(pid)?, boot: boot_id() })
    }

    /// Whether it lives, in this boot. One that has ended and was not waited for does not live.
    pub fn is_alive(&self) -> bool {
        self.boot == boot_id() && stat(self.pid).is_some_and(|stat| stat.start == self.start && !stat.is_dead())
    }

    /// A descriptor of it, which can be waited for by poll(2). Nothing where it does not live any more.
    pub fn open(&self) -> Option<OwnedFd> {
        let descriptor = open(self.pid).ok()?;
        // Only now is the number sure to be its own.
        self.is_alive().then_some(descriptor)
    }

    /// Sends a signal to it, and to nothing else.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        send(&self.open().ok_or_else(gone)?, number)
    }
}

/// A descriptor of a process.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends any signal, also such as have no name (SIGRTMIN and on).
#[allow(unsafe_code)]
pub fn send(process: &OwnedFd, number: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: a descriptor that is open, numbers, and no further information.
    let rc = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), number, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What of `/proc/PID/stat` is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z`, ...
    pub state: u8,
    /// The parent.
    pub parent: u32,
    /// The session.
    pub session: u32,
    /// When it was started, in ticks since the boot.
    pub start: u64,
}

impl Stat {
    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads `/proc/PID/stat`.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name is in parentheses and may itself have some.
    let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, start })
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

/// The name of this boot.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = "12 (a) (b c) S 1 12 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 100 5";
        assert_eq!(parse_stat(line), Some(Stat { state: b'S', parent: 1, session: 7, start: 4711 }));
    }

    #[test]
    fn this_process_lives_and_one_of_another_start_does_not() {
        let this = Process::this();
        assert!(this.is_alive() && this.open().is_some());
        assert!(!Process { start: this.start + 1, ..this.clone() }.is_alive());
        assert!(!Process { boot: "other".into(), ..this }.is_alive());
    }
}
