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
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::Plan;
use super::sys::{self, SignalMask};
use crate::error::{Error, Result};

/// The other end of a container's terminal: what passes bytes between it and the user's.
pub trait Relay: std::fmt::Debug {
    /// Descriptors to wait for, and for what. Asked before each wait; at most four.
    fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)>;
    /// One of them is ready: moves bytes, without blocking.
    fn transfer(&mut self);
    /// The user's terminal has a new size.
    fn resize(&mut self);
    /// The command has ended: passes on what it wrote last.
    fn finish(&mut self);
}

/// A terminal for the container.
#[derive(Debug)]
pub struct Terminal<'a> {
    /// The container's end: becomes its standard input and outputs, and its controlling terminal.
    pub inside: OwnedFd,
    /// Who serves the other end.
    pub relay: &'a mut dyn Relay,
}

/// What a child says about its failure.
#[derive(Serialize, Deserialize)]
struct Report {
    message: String,
    hint: Option<String>,
    code: u8,
}

/// Starts the plan in a child, waits for it, and returns its exit code (128 + N for signal N).
pub fn run(plan: &Plan, started: &mut dyn FnMut(u32) -> Result<()>, terminal: Option<Terminal<'_>>) -> Result<u8> {
    plan.namespaces.enter()?;
    let (report, report_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("make a pipe", e))?;
    let (gate, gate_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("make a pipe", e))?;
    // Blocked before the fork, so that no signal falls between; the child unblocks before it becomes the command.
    let signals = SignalMask::block_forwarded().map_err(|e| Error::system("block signals", e))?;
    let (inside, relay) = match terminal {
        Some(Terminal { inside, relay }) => (Some(inside), Some(relay)),
        None => (None, None),
    };
    let Some(child) = sys::fork().map_err(|e| Error::system("fork the container's process", e))? else {
        drop((report, gate_writer));
        sys::exit_now(child_main(plan, gate, report_writer, inside));
    };
    drop((report_writer, gate, inside));
    let opened = started(child).and_then(|()| {
        File::from(gate_writer).write_all(b"g").map_err(|e| Error::system("start the container's process", e))
    });
    if let Err(error) = opened {
        // The closed gate told the child to end.
        let _ = waitpid(pid(child), WaitOptions::empty());
        return Err(error);
    }
    let mut text = Vec::new();
    // The pipe ends when the command runs, or with the child.
    let _ = File::from(report).take(1 << 16).read_to_end(&mut text);
    if let Ok(Report { message, hint, code }) = serde_json::from_slice(&text) {
        let _ = waitpid(pid(child), WaitOptions::empty());
        return Err(Error::Reported { message, hint, code });
    }
    attend(child, &signals, relay)
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(number as i32)
}

/// The child's life up to the command. Returns only if that failed.
fn child_main(plan: &Plan, gate: OwnedFd, report: OwnedFd, terminal: Option<OwnedFd>) -> u8 {
    let outcome = (|| {
        die_with_parent(report.as_fd())?;
        if File::from(gate).read(&mut [0]).unwrap_or(0) == 0 {
            sys::exit_now(1);
        }
        if let Some(terminal) = terminal {
            take_terminal(terminal).map_err(|e| Error::system("take the terminal", e))?;
        }
        plan.build_container()?;
        if plan.init {
            start_init()?;
        }
        let prepared = plan.finish_container()?;
        // Changing ids has reset it.
        die_with_parent(report.as_fd())?;
        Ok::<Error, Error>(prepared.exec())
    })();
    let error = outcome.unwrap_or_else(|error| error);
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

/// A new session whose controlling terminal and standard streams are this terminal.
fn take_terminal(terminal: OwnedFd) -> std::io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    rustix::stdio::dup2_stdin(&terminal)?;
    rustix::stdio::dup2_stdout(&terminal)?;
    rustix::stdio::dup2_stderr(&terminal)?;
    Ok(())
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
                Ok(signals) => attend(command, &signals, None).unwrap_or(125),
                Err(_) => 125,
            };
            sys::exit_now(code)
        }
    }
}

/// Passes signals on to `child`, reaps whoever else ends, and returns the exit code of `child`.
fn attend(child: u32, signals: &SignalMask, mut relay: Option<&mut dyn Relay>) -> Result<u8> {
    let own_session = relay.is_some();
    loop {
        let relay_ready = {
            let mut watched = vec![PollFd::new(signals, PollFlags::IN)];
            if let Some(relay) = &relay {
                watched.extend(relay.interests().into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
            }
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the container", error)),
            }
            watched[1..].iter().any(|fd| !fd.revents().is_empty())
        };
        if relay_ready && let Some(relay) = &mut relay {
            relay.transfer();
        }
        while let Some(signal) = signals.next() {
            match signal.number {
                libc::SIGCHLD => {}
                libc::SIGWINCH if own_session => {
                    if let Some(relay) = &mut relay {
                        relay.resize();
                    }
                }
                // The terminal has sent it to the whole foreground group, the child included.
                _ if signal.from_terminal && !own_session => {}
                number => sys::kill(child, number),
            }
        }
        if let Some(code) = reap(child, own_session) {
            if let Some(relay) = relay {
                relay.finish();
            }
            return Ok(code);
        }
    }
}

/// Collects all children that ended; the exit code of `child` if it is among them.
fn reap(child: u32, own_session: bool) -> Option<u8> {
    loop {
        match waitpid(None, WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((who, status))) if who.as_raw_nonzero().get() as u32 == child => {
                if status.stopped() {
                    // Ctrl-Z: the job as a whole stops, and the shell that started us learns of it. When we go on, the
                    // child may have been continued with us or not; once more does no harm.
                    if !own_session && process::id() != 1 {
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
