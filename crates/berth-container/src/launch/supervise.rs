//! A parent for the command: where it is a child, for new pid namespaces, terminals, and what must be done afterwards.
//!
//! The parent passes signals on and takes over the exit code; if it is killed, the kernel kills the child
//! (`PR_SET_PDEATHSIG`), and with the first process of a pid namespace everything in it. Or it leaves once the command
//! runs, or once all is ready for it ([`Attendance`]). What goes wrong in the child before the command starts comes back
//! over a [`Channel`] that closes when the command is executed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, wait, waitpid};
use rustix::stdio::{stdin, stdout};

use super::channel::{Channel, Message};
use super::namespaces::Namespaces;
use super::sys::{self, SignalMask};
use super::{Entry, Observer, Outcome, Steps};
use crate::error::{Error, Result};
use crate::terminal::{self, Terminal};

/// How long the parent stays, and who gets the terminal.
#[derive(Debug, Default)]
pub struct Attendance {
    /// The parent leaves when the command has been executed.
    pub detach: bool,
    /// The command is not executed before somebody connects to this listening socket; the parent leaves when that is all
    /// that is left to do.
    pub gate: Option<OwnedFd>,
    /// A connected socket that gets the terminal, as a descriptor; absent means that the parent passes the bytes on.
    pub console: Option<OwnedFd>,
    /// What the command has as standard input, output and error instead of the caller's. It also gets a session of its
    /// own then, so that whoever ends the caller's process group leaves it alone.
    pub stdio: Option<[OwnedFd; 3]>,
}

impl Attendance {
    fn leaves(&self) -> bool {
        self.detach || self.gate.is_some()
    }
}

/// Starts the command in a child.
///
/// This process stays in the namespaces where it is. The child is born into new ones; where some must be joined first, or
/// others write the ids, a process in between enters them, makes the child (a pid namespace holds only for children made
/// later) and is gone; the child's parent is this process nevertheless (`CLONE_PARENT`).
pub fn run(entry: &Entry, steps: &dyn Steps, attendance: Attendance, observer: &mut dyn Observer) -> Result<Outcome> {
    let (channel, theirs) = Channel::pair()?;
    // Signals are blocked before the fork, so that none falls between; the child unblocks before it becomes the command.
    let relayed = entry.terminal && attendance.console.is_none() && !attendance.leaves();
    let signals = Signals::block(relayed)?;
    let started = match steps.at_birth() {
        Some(namespaces) => match sys::fork_into(u64::from(namespaces.bits())) {
            Ok(None) => {
                drop(channel);
                sys::exit_now(child_main(entry, steps, theirs, &attendance, true))
            }
            Ok(Some(child)) => Started { between: None, child: Some(child) },
            Err(error) => return Err(Namespaces::refused(namespaces, error)),
        },
        None => {
            let Some(between) = sys::fork().map_err(cannot_fork)? else {
                drop(channel);
                let made = entry.enter(steps).and_then(|()| sys::fork_sibling().map_err(cannot_fork));
                let code = match made {
                    Ok(None) => child_main(entry, steps, theirs, &attendance, false),
                    Ok(Some(child)) => u8::from(theirs.tell_child(child).is_err()),
                    Err(error) => theirs.tell_error(&error),
                };
                sys::exit_now(code);
            };
            Started { between: Some(between), child: None }
        }
    };
    drop(theirs);
    let mut parent = Parent { channel, started, terminal: None, early: Vec::new() };
    let outcome = parent.follow(steps, &attendance, observer, &signals);
    let child = match outcome {
        Ok(child) => child,
        Err(error) => {
            parent.give_up();
            return Err(error);
        }
    };
    if attendance.leaves() {
        return Ok(Outcome::Left(child));
    }
    // What came before there was a command is for it, too.
    parent.early.iter().for_each(|signal| sys::kill(child, *signal));
    let code = match (signals, parent.terminal.take()) {
        (Signals::Relayed(signals), Some(terminal)) => {
            let process = pid(child)
                .ok_or(rustix::io::Errno::SRCH)
                .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
                .map_err(|e| Error::system("watch the container's process", e))?;
            terminal.relay(process.as_fd(), stdin(), stdout(), &signals)?;
            let status = waitpid(pid(child), WaitOptions::empty())
                .map_err(|e| Error::system("wait for the container's process", e))?;
            status.map_or(125, |(_, status)| exit_code(status))
        }
        (Signals::Plain(signals), _) => attend(child, &signals)?,
        (Signals::Relayed(_), None) => attend(child, &SignalMask::block_forwarded().map_err(blocking)?)?,
    };
    Ok(Outcome::Ended(code))
}

fn cannot_fork(error: std::io::Error) -> Error {
    Error::system("fork the container's process", error)
}

fn blocking(error: std::io::Error) -> Error {
    Error::system("block signals", error)
}

/// Blocked signals, by how the parent spends its time.
enum Signals {
    /// Passing signals on.
    Plain(SignalMask),
    /// Passing bytes too, between the container's terminal and the user's.
    Relayed(terminal::Signals),
}

impl Signals {
    fn block(relayed: bool) -> Result<Signals> {
        if relayed {
            return terminal::Signals::block().map(Signals::Relayed);
        }
        SignalMask::block_forwarded().map(Signals::Plain).map_err(blocking)
    }

    fn next(&self) -> Option<i32> {
        match self {
            Signals::Plain(signals) => signals.next().map(|signal| signal.number),
            Signals::Relayed(signals) => signals.next(),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Signals::Plain(signals) => signals.as_fd(),
            Signals::Relayed(signals) => signals.as_fd(),
        }
    }
}

/// Processes of a start.
struct Started {
    between: Option<u32>,
    child: Option<u32>,
}

/// The parent's side of a start.
struct Parent {
    channel: Channel,
    started: Started,
    terminal: Option<Terminal>,
    /// Signals that came before there was a command.
    early: Vec<i32>,
}

impl Parent {
    /// The next message. A signal that asks for the end is obeyed: the file server of a mount may not answer, and then
    /// nothing else ends the wait.
    fn receive(&mut self, signals: &Signals) -> Result<Message> {
        const ENDING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];
        loop {
            let mut both = [PollFd::new(&self.channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the container's process", error)),
            }
            // Who has just started the command has no reason to end it: signals are for the command then.
            if !both[0].revents().is_empty() {
                return Ok(self.channel.receive());
            }
            while let Some(signal) = signals.next() {
                if ENDING.contains(&signal) {
                    let message = format!("ended by signal {signal} before the command ran");
                    return Err(Error::Reported { message, hint: None, code: 128 + signal as u8 });
                }
                if signal != libc::SIGCHLD {
                    self.early.push(signal);
                }
            }
        }
    }

    /// Has the child written down, and lets it go on.
    fn register(&self, child: u32, observer: &mut dyn Observer) -> Result<()> {
        observer.created(child).and_then(|()| self.channel.go()).map_err(|error| {
            // It may have failed meanwhile: then its own words say more than what we missed it for.
            let mut waiting = [PollFd::new(&self.channel, PollFlags::IN)];
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut waiting, Some(&now)) {
                Ok(1..) => match self.channel.receive() {
                    Message::Failed(own) => own,
                    _ => error,
                },
                _ => error,
            }
        })
    }

    /// Accompanies the child until its command runs, or is ready to.
    fn follow(
        &mut self,
        steps: &dyn Steps,
        attendance: &Attendance,
        observer: &mut dyn Observer,
        signals: &Signals,
    ) -> Result<u32> {
        let died = || Error::Reported {
            message: "the container's process was killed before its command ran".to_owned(),
            hint: None,
            code: 125,
        };
        if let Some(child) = self.started.child {
            self.register(child, observer)?;
        }
        loop {
            match (self.receive(signals)?, self.started.child) {
                (Message::Child(child), _) => {
                    self.started.child = Some(child);
                    let _ = waitpid(self.started.between.take().and_then(pid), WaitOptions::empty());
                    self.register(child, observer)?;
                }
                (Message::Hooks, Some(child)) => {
                    steps.hooks_outside(child)?;
                    self.channel.go()?;
                }
                (Message::Terminal(terminal), _) => match &attendance.console {
                    Some(socket) => terminal.send_to(socket.as_fd())?,
                    None => self.terminal = Some(terminal),
                },
                (Message::Failed(error), _) => return Err(error),
                (Message::Created, Some(child)) => {
                    observer.ready(child)?;
                    return Ok(child);
                }
                (Message::Closed, Some(child)) if attendance.gate.is_none() => {
                    observer.ready(child)?;
                    return Ok(child);
                }
                _ => return Err(died()),
            }
        }
    }

    /// Ends what was begun.
    fn give_up(self) {
        drop(self.channel);
        if let Some(child) = self.started.child {
            sys::kill(child, libc::SIGKILL);
        }
        for process in [self.started.between, self.started.child].into_iter().flatten() {
            let _ = waitpid(pid(process), WaitOptions::empty());
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(number as i32)
}

/// The child's life up to the command. Returns only if that failed. `born`: it was born into its namespaces, and nothing
/// was done of what [`Entry::enter`] does.
fn child_main(entry: &Entry, steps: &dyn Steps, channel: Channel, attendance: &Attendance, born: bool) -> u8 {
    let mut channel = channel;
    let outcome = (|| {
        if !attendance.leaves() {
            die_with_parent(channel.as_fd())?;
        }
        if born {
            // Meanwhile the parent writes us down; what needs that waits for it ([`Channel::wait_once`]).
            entry.settle(steps)?;
        } else if !channel.wait_once() {
            sys::exit_now(1);
        }
        entry.affinity.settle()?;
        if attendance.leaves() && !entry.terminal {
            // Whoever ends the caller's process group does not mean a container that was left to itself. It fails where
            // there is a session already, which is as good.
            let _ = rustix::process::setsid();
        }
        if let Some([input, output, errors]) = &attendance.stdio {
            rustix::stdio::dup2_stdin(input)
                .and_then(|()| rustix::stdio::dup2_stdout(output))
                .and_then(|()| rustix::stdio::dup2_stderr(errors))
                .map_err(|e| Error::system("connect the command's standard files", e))?;
        }
        // A container without terminals of its own has one of the host's, which can be reached only now.
        let mut terminal = (entry.terminal && !steps.has_terminals()).then(Terminal::open).transpose()?;
        steps.build(Some(&channel))?;
        if !channel.wait_once() {
            sys::exit_now(1);
        }
        if entry.terminal {
            let terminal = match terminal.take() {
                Some(terminal) => terminal,
                None => Terminal::open_inside()?,
            };
            entry.give_terminal(&terminal)?;
            if attendance.console.is_none() {
                // Before the command can ask for its size.
                terminal.adopt(stdout())?;
            }
            channel.tell_terminal(&terminal)?;
            Terminal::take_over(terminal.peer()).map_err(|e| Error::system("take the terminal", e))?;
        }
        if entry.init {
            start_init()?;
        }
        if let Some(gate) = &attendance.gate {
            entry.attributes.try_limits()?;
            entry.command.check()?;
            // It may be long until the start: nobody is to wait for what the caller had open, nor for our own.
            entry.close_all_but(&[Some(channel.as_fd()), Some(gate.as_fd())])?;
            if !channel.tell_created() {
                sys::exit_now(1);
            }
            channel = wait_for_start(gate)?;
        }
        steps.begin()?;
        let command = entry.finish(Some(channel.as_fd()))?;
        if !attendance.leaves() {
            // Changing ids has reset it.
            die_with_parent(channel.as_fd())?;
        }
        Ok::<Error, Error>(command.exec())
    })();
    channel.tell_error(&outcome.unwrap_or_else(|error| error))
}

/// Waits until somebody connects and asks for the start; the connection takes what is said from now on.
fn wait_for_start(gate: &OwnedFd) -> Result<Channel> {
    let connection = loop {
        match rustix::net::accept_with(gate, rustix::net::SocketFlags::CLOEXEC) {
            Ok(connection) => break Channel::from_socket(connection),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(error) => return Err(Error::system("wait for the start", error)),
        }
    };
    // Who connects has taken the name of the socket away: if it is gone now, nobody else will come.
    if !connection.wait() {
        sys::exit_now(1);
    }
    Ok(connection)
}

/// Asks the kernel to kill this process when its parent dies, which may have happened already: then nobody is at the
/// other end of the channel any more.
fn die_with_parent(channel: BorrowedFd<'_>) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Error::system("tie the container to its supervisor", e))?;
    let mut watched = [PollFd::new(&channel, PollFlags::empty())];
    match poll(&mut watched, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(1..) if watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => sys::exit_now(1),
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

/// Collects all children that ended, whatever process group they have made for themselves; the exit code of `child` if it
/// is among them.
fn reap(child: u32) -> Option<u8> {
    loop {
        match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
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
