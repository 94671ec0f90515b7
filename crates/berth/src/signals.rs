//! Signals by name, and sending them to a container's processes.

use std::time::{Duration, Instant};

use berth_container::state::{Container, Member};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::CommandError;

/// Names and numbers of the signals that have the same number on every machine that berth runs on, and those of Linux.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Reads a signal: `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`.
pub fn parse(text: &str) -> Option<Signal> {
    // Numbers of the C library's own real-time signals are refused with the rest that is no name.
    let number = number(text)?;
    Signal::from_named_raw(number).or_else(|| real_time(number))
}

/// The same as a number.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match NAMES.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => *number,
        None => match name.strip_prefix("RTMIN") {
            Some("") => libc::SIGRTMIN(),
            Some(offset) => libc::SIGRTMIN() + offset.strip_prefix('+')?.parse::<u8>().ok()? as i32,
            None => name.parse().ok()?,
        },
    };
    (1..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

fn real_time(number: i32) -> Option<Signal> {
    if !(libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) {
        return None;
    }
    from_raw(number)
}

#[allow(unsafe_code)] // rustix asks for a promise about the C library's own signals.
fn from_raw(number: i32) -> Option<Signal> {
    // SAFETY: the number is between SIGRTMIN and SIGRTMAX as the C library gives them, so it is none that the C library
    // keeps for itself.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// A process that cannot be mistaken for a later one with the same number.
struct Process {
    pid: u32,
    fd: OwnedFd,
}

fn open(container: &Container) -> Result<Vec<Process>, CommandError> {
    let mut processes = Vec::new();
    for member in container.members()? {
        match member {
            Member::Here(pid) => {
                let Some(number) = Pid::from_raw(pid.cast_signed()) else { continue };
                match pidfd_open(number, PidfdFlags::empty()) {
                    Ok(fd) => processes.push(Process { pid, fd }),
                    Err(Errno::SRCH) => {}
                    Err(error) => return Err(CommandError::io("open the process", pid.to_string(), error)),
                }
            }
            Member::On { host, pid } => {
                return Err(CommandError::failure(format!(
                    "container `{}` runs on {host} (process {pid})",
                    container.name()
                ))
                .with_hint(format!("signals are sent where it runs: log in to {host}")));
            }
        }
    }
    Ok(processes)
}

/// Sends a signal to all processes that were started in a container; says how many there are.
pub fn send(container: &Container, signal: Signal) -> Result<usize, CommandError> {
    let processes = open(container)?;
    send_to(&processes, signal)?;
    Ok(processes.len())
}

fn send_to(processes: &[Process], signal: Signal) -> Result<(), CommandError> {
    for process in processes {
        match pidfd_send_signal(&process.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(CommandError::io("signal the process", process.pid.to_string(), error)),
        }
    }
    Ok(())
}

/// Ends all processes of a container: politely first, and by SIGKILL what is still there after `patience`. Ends also
/// what the processes left behind.
pub fn stop(container: &Container, politely: Signal, patience: Duration) -> Result<(), CommandError> {
    let deadline = Instant::now() + patience;
    let mut signal = politely;
    loop {
        let processes = open(container)?;
        if processes.is_empty() {
            return Ok(());
        }
        send_to(&processes, signal)?;
        for process in &processes {
            // A stopped process would not see the signal.
            let _ = pidfd_send_signal(&process.fd, Signal::CONT);
            let left =
                if signal == Signal::KILL { None } else { Some(deadline.saturating_duration_since(Instant::now())) };
            wait_for(process, left)?;
        }
        if Instant::now() >= deadline {
            signal = Signal::KILL;
        }
    }
}

/// Waits until a process has ended, at most for a time.
fn wait_for(process: &Process, time: Option<Duration>) -> Result<(), CommandError> {
    let timeout = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    match poll(&mut [PollFd::new(&process.fd, PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(CommandError::io("wait for the process", process.pid.to_string(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_in_several_spellings_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Some(Signal::TERM), "{text}");
        }
        assert_eq!(parse("9"), Some(Signal::KILL));
        assert_eq!(parse("RTMIN+3").map(Signal::as_raw), Some(libc::SIGRTMIN() + 3));
        for text in ["", "0", "-9", "NONSENSE", "RTMIN+99", "RTMIN-1", "32", "1000"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
