//! A parent that waits: for new pid namespaces, terminals, and temporary state that must be deleted afterwards.
//!
//! The parent passes signals on and takes over the exit code; if it is killed, the kernel kills the child
//! (`PR_SET_PDEATHSIG`), and with the first process of a pid namespace everything in it. What goes wrong in the child
//! before the command starts comes back over a pipe that closes when the command is executed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, waitpid};
use rustix::stdio::{stdin, stdout};
use serde::{Deserialize, Serialize};

use super::sys::{self, SignalMask};
use super::{Entry, Steps};
use crate::error::{Error, Result};
use crate::terminal::{self, Terminal};

/// What a child says about its failure.
#[derive(Serialize, Deserialize)]
struct Report {
    message: String,
    hint: Option<String>,
    code: u8,
}

/// Starts the command in a child, waits for it, and returns its exit code (128 + N for signal N).
///
/// This process stays in the namespaces where it is. A process in between enters the new ones, makes the child (a pid
/// namespace holds only for children made later) and is gone; the child's parent is this process nevertheless
/// (`CLONE_PARENT`).
pub fn run(entry: &Entry, steps: &dyn Steps, started: &mut dyn FnMut(u32) -> Result<()>) -> Result<u8> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("make a pipe", e));
    let ((report, report_writer), (gate, gate_writer), (number, number_writer)) = (pipe()?, pipe()?, pipe()?);
    // Signals are blocked before the fork, so that none falls between; the child unblocks before it becomes the command.
    let attendance = Attendance::prepare(entry.terminal)?;
    let Some(between) = sys::fork().map_err(|e| Error::system("fork the container's process", e))? else {
        drop((report, gate_writer, number));
        let made = steps
            .enter()
            .and_then(|()| sys::fork_sibling().map_err(|e| Error::system("fork the container's process", e)));
        let code = match made {
            Ok(None) => {
                drop(number_writer);
                child_main(entry, steps, gate, report_writer, attendance.terminal())
            }
            Ok(Some(child)) => match File::from(number_writer).write_all(&child.to_ne_bytes()) {
                Ok(()) => 0,
                Err(_) => 125,
            },
            Err(error) => tell(report_writer, &error),
        };
        sys::exit_now(code);
    };
    drop((report_writer, gate, number_writer));
    let mut child = [0; 4];
    let made = File::from(number).read_exact(&mut child);
    let _ = waitpid(pid(between), WaitOptions::empty());
    let child = u32::from_ne_bytes(child);
    let opened = match made {
        Ok(()) => started(child).and_then(|()| {
            File::from(gate_writer).write_all(b"g").map_err(|e| Error::system("start the container's process", e))
        }),
        Err(_) => Ok(()),
    };
    // The pipe ends when the command runs, or with the child, which ends if the gate was closed and not passed.
    let mut text = Vec::new();
    let _ = File::from(report).take(1 << 16).read_to_end(&mut text);
    let told = serde_json::from_slice(&text).ok();
    let told = told.map(|Report { message, hint, code }| Error::Reported { message, hint, code });
    if let Some(error) = opened.err().or(told) {
        if made.is_ok() {
            let _ = waitpid(pid(child), WaitOptions::empty());
        }
        return Err(error);
    }
    if let Err(error) = made {
        return Err(Error::system("start the container's process", error));
    }
    match attendance {
        Attendance::Plain(signals) => attend(child, &signals),
        Attendance::Terminal(terminal, signals) => {
            let process =
                rustix::process::pidfd_open(Pid::from_raw(child as i32).unwrap_or(Pid::INIT), PidfdFlags::empty())
                    .map_err(|e| Error::system("watch the container's process", e))?;
            terminal.relay(process.as_fd(), stdin(), stdout(), &signals)?;
            let status = waitpid(pid(child), WaitOptions::empty())
                .map_err(|e| Error::system("wait for the container's process", e))?;
            Ok(status.map_or(125, |(_, status)| exit_code(status)))
        }
    }
}

/// How the parent spends its time.
enum Attendance {
    /// Passing signals on.
    Plain(SignalMask),
    /// Passing bytes too, between the container's terminal and the user's.
    Terminal(Terminal, terminal::Signals),
}

impl Attendance {
    fn prepare(terminal: bool) -> Result<Attendance> {
        if terminal {
            return Ok(Attendance::Terminal(Terminal::open(stdout())?, terminal::Signals::block()?));
        }
        SignalMask::block_forwarded().map(Attendance::Plain).map_err(|e| Error::system("block signals", e))
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Attendance::Plain(_) => None,
            Attendance::Terminal(terminal, _) => Some(terminal.peer()),
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(number as i32)
}

/// The child's life up to the command. Returns only if that failed.
fn child_main(
    entry: &Entry,
    steps: &dyn Steps,
    gate: OwnedFd,
    report: OwnedFd,
    terminal: Option<BorrowedFd<'_>>,
) -> u8 {
    let outcome = (|| {
        die_with_parent(report.as_fd())?;
        if File::from(gate).read(&mut [0]).unwrap_or(0) == 0 {
            sys::exit_now(1);
        }
        if let Some(terminal) = terminal {
            Terminal::take_over(terminal).map_err(|e| Error::system("take the terminal", e))?;
        }
        steps.build()?;
        if entry.init {
            start_init()?;
        }
        let command = entry.finish()?;
        // Changing ids has reset it.
        die_with_parent(report.as_fd())?;
        Ok::<Error, Error>(command.exec())
    })();
    tell(report, &outcome.unwrap_or_else(|error| error))
}

/// Sends an error to the supervisor; returns its exit code.
fn tell(report: OwnedFd, error: &Error) -> u8 {
    let code = error.exit_code();
    let text = serde_json::to_vec(&Report { message: error.to_string(), hint: error.hint(), code }).unwrap_or_default();
    let _ = File::from(report).write_all(&text);
    code
}

/// Asks the kernel to kill this process when its parent dies, which may have happened already: then nobody reads the
/// report any more.
fn die_with_parent(report: BorrowedFd<'_>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Error::system("tie the container to its supervisor", e))?;
    let mut watched = [PollFd::new(&report, PollFlags::empty())];
    match poll(&mut watched, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(1..) if watched[0].revents().contains(PollFlags::ERR) => sys::exit_now(1),
        _ => Ok(()),
    }
}

/// Splits off the command's process; the caller becomes the one that reaps orphans and passes signals on. Returns in the
/// command's process only.
fn start_init() -> Result<()> {
    if process::id() != 1 {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .map_err(|e| Error::system("become the reaper of orphans", e))?;
    }
    match sys::fork().map_err(|e| Error::system("fork the command from its init", e))? {
        None => {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(|e| Error::system("tie the command to its init", e))?;
            Ok(())
        }
        Some(command) => {
            // Holding the report pipe open would make the supervisor wait for the command's end.
            sys::close_from(3);
            let code = match SignalMask::block_forwarded() {
                Ok(signals) => attend(command, &signals).unwrap_or(125),
                Err(_) => 125,
            };
            sys::exit_now(code)
        }
    }
}

/// Passes signals on to `child`, reaps whoever else ends, and returns the exit code of `child`.
fn attend(child: u32, signals: &SignalMask) -> Result<u8> {
    loop {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::system("wait for the container", error)),
        }
        while let Some(signal) = signals.next() {
            // The terminal sends its signals to the whole foreground group, the child included.
            if signal.number != libc::SIGCHLD && !signal.from_terminal {
                sys::kill(child, signal.number);
            }
        }
        if let Some(code) = reap(child) {
            return Ok(code);
        }
    }
}

/// Collects all children that ended; the exit code of `child` if it is among them.
fn reap(child: u32) -> Option<u8> {
    loop {
        match waitpid(None, WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((who, status))) if who.as_raw_nonzero().get() as u32 == child => {
                if status.stopped() {
                    // Ctrl-Z: the job as a whole stops, and the shell that started us learns of it. When we go on, the
                    // child may have been continued with us or not; once more does no harm.
                    if process::id() != 1 {
                        sys::kill(process::id(), libc::SIGSTOP);
                        sys::kill(child, libc::SIGCONT);
                    }
                } else {
                    return Some(exit_code(status));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return None,
            // No child is left, although ours was not seen to end: somebody else reaped it.
            Err(_) => return Some(125),
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125)
}
