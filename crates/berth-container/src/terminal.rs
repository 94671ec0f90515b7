//! A terminal of the container's own (`--pty`), and the relay between it and the terminal, pipes or files outside.
//!
//! ```text
//!  outer terminal or pipe                 this process                     container
//!     input  ─────────────────►  to_terminal ──► controller │ peer  ──►  stdin
//!     output ◄─────────────────  to_output   ◄── controller │ peer  ◄──  stdout, stderr
//!     SIGWINCH, SIGTERM, … ────►  signalfd ─────► window size, pidfd_send_signal
//! ```
//!
//! * Nothing is lost: the relay ends when the container's process has ended *and* the terminal has nothing left to read. This
//!   process keeps the peer open until the first of the two, so that a container which closes its standard files is no hang-up,
//!   and closes it then, as only a terminal without peers reports its end.
//! * The outer terminal gets its modes back on every way out: all signals that would end or stop this process arrive by signalfd, in
//!   the loop, as long as [`Signals`] lives; errors and panics run the destructor. SIGKILL can't be helped.
//! * Input that is no terminal works: its end is typed as the end-of-file character (^D). Closed output works: what the container
//!   writes is thrown away, so that it isn't stopped by a reader that is gone.
#![allow(unsafe_code)] // signalfd(2) and the signal mask: rustix has neither.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, Winsize};

use crate::{Error, Result};

/// Size of a terminal when there is none outside to take it from.
const DEFAULT_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// A write of this size to a pipe that is ready doesn't block (`PIPE_BUF`).
const MAX_WRITE: usize = 4096;

/// What is read at most once the container's process has ended: more than a terminal holds, and an end, should a process left
/// behind go on writing.
const MAX_LEFT: usize = 1 << 20;

/// How long a process left behind, which keeps the terminal open, is listened to. Usually there is none, and the end of the
/// terminal's data is reported as soon as it is reached.
const LEFT_BEHIND: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Signals that arrive by signalfd while a relay may run.
const SIGNALS: &[i32] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
    // Blocked, so that a closed output, or changing the outer terminal from the background, is an error code and not an end.
    libc::SIGPIPE,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Signals passed on to the container's process.
const FORWARDED: &[i32] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Signals as file contents, from before the container's process is made until it has ended.
///
/// The process that becomes the container's must unblock its signals.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals for this thread, which must be the only one, and those it makes.
    ///
    /// # Errors
    /// Too many open files.
    pub fn block() -> Result<Signals> {
        let mut set = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises `set`; the numbers are valid signals, and pthread_sigmask initialises `before`.
        let (set, before) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in SIGNALS {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            (set.assume_init(), before.assume_init())
        };
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            restore_mask(&before);
            return Err(Error::system("watch signals", error));
        }
        // SAFETY: signalfd just made it, and nobody else knows it.
        Ok(Signals { fd: unsafe { OwnedFd::from_raw_fd(fd) }, before })
    }

    /// The next signal that has arrived.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut record) {
            // The number is the first field.
            Ok(length) if length == record.len() => {
                Some(i32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
            }
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What is still pending was meant for a container that has ended; it must not change this process' exit code.
        while self.next().is_some() {}
        restore_mask(&self.before);
    }
}

fn restore_mask(mask: &libc::sigset_t) {
    // SAFETY: `mask` came from pthread_sigmask; the old mask isn't asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) };
}

fn cannot_open(error: Errno) -> Error {
    Error::system("open a pseudo terminal", error)
}

/// A new pseudo terminal.
#[derive(Debug)]
pub struct Terminal {
    controller: OwnedFd,
    peer: OwnedFd,
}

impl Terminal {
    /// Opens a pair of the host's.
    ///
    /// # Errors
    /// No pseudo terminals left, or none mounted (`/dev/ptmx`).
    pub fn open() -> Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = rustix::pty::openpt(flags).map_err(cannot_open)?;
        Terminal::unlock(controller)
    }

    /// Opens a pair of the container's, in whose root this process is already.
    ///
    /// # Errors
    /// No pseudo terminals left, or `/dev/pts` is not where the kernel keeps them: it could lead anywhere.
    pub fn open_inside() -> Result<Terminal> {
        /// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
        const DEVPTS: rustix::fs::FsWord = 0x1cd1;
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let controller = loop {
            match rustix::fs::openat2(CWD, c"/dev/pts/ptmx", flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                answer => break answer.map_err(cannot_open)?,
            }
        };
        if rustix::fs::fstatfs(&controller).map_err(cannot_open)?.f_type != DEVPTS {
            return Err(cannot_open(Errno::NODEV));
        }
        Terminal::unlock(controller)
    }

    fn unlock(controller: OwnedFd) -> Result<Terminal> {
        rustix::pty::unlockpt(&controller).map_err(cannot_open)?;
        // By ioctl and not by name: a name is only valid in the mount namespace of this instance of devpts.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = rustix::pty::ioctl_tiocgptpeer(&controller, flags).map_err(cannot_open)?;
        Ok(Terminal { controller, peer })
    }

    /// A pair that was opened elsewhere.
    pub fn of(controller: OwnedFd, peer: OwnedFd) -> Terminal {
        Terminal { controller, peer }
    }

    /// Sets the size of its window, in characters.
    ///
    /// # Errors
    /// None that is known for a terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.controller, size)
            .map_err(|e| Error::system("set the size of the terminal", e))
    }

    /// Prepares it for [`Terminal::relay`], with the window size of `outer` if that is a terminal.
    ///
    /// # Errors
    /// None that is known for a terminal.
    pub fn adopt(&self, outer: BorrowedFd<'_>) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.controller, true).map_err(cannot_open)?;
        let known = |size: &Winsize| size.ws_row > 0 && size.ws_col > 0;
        let size = rustix::termios::tcgetwinsize(outer).ok().filter(known);
        let own = rustix::termios::tcgetwinsize(&self.controller).ok().filter(known);
        rustix::termios::tcsetwinsize(&self.controller, size.or(own).unwrap_or(DEFAULT_SIZE)).map_err(cannot_open)
    }

    /// Sends the controller to whoever listens at the other end of a console socket, as runc does: the descriptor, and
    /// its name as text.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send_to(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let controller = [self.controller.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&controller));
        rustix::net::sendmsg(socket, &[io::IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL)
            .map(drop)
            .map_err(|e| Error::system("send the terminal to the console socket", e))
    }

    /// The side of whoever looks at it.
    pub fn controller(&self) -> BorrowedFd<'_> {
        self.controller.as_fd()
    }

    /// The container's side.
    pub fn peer(&self) -> BorrowedFd<'_> {
        self.peer.as_fd()
    }

    /// Makes `peer` the controlling terminal and the three standard files of this process, in a session of its own. For the
    /// container's process, between fork and exec: allocates nothing.
    ///
    /// # Errors
    /// `EPERM` when this process leads a process group already.
    pub fn take_over(peer: BorrowedFd<'_>) -> io::Result<()> {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(peer)?;
        rustix::stdio::dup2_stdin(peer)?;
        rustix::stdio::dup2_stdout(peer)?;
        rustix::stdio::dup2_stderr(peer)?;
        Ok(())
    }

    /// Copies both ways until the process behind `child`, a pidfd, has ended and everything it wrote is out. Does not wait
    /// for (reap) the process.
    ///
    /// `input` is put into raw mode while this runs if it is a terminal and this process is in its foreground.
    ///
    /// # Errors
    /// Failures of poll(2), of which there are none but a lack of memory.
    pub fn relay(
        self,
        child: BorrowedFd<'_>,
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        signals: &Signals,
    ) -> Result<()> {
        let input_is_terminal = rustix::termios::isatty(input);
        let mut relay = Relay {
            controller: self.controller,
            peer: Some(self.peer),
            child,
            input,
            output,
            outer: if input_is_terminal { input } else { output },
            input_is_terminal,
            raw: None,
            input_state: Input::Open,
            output_open: true,
            to_terminal: Buffer::new(),
            to_output: Buffer::new(),
            last_typed: b'\n',
        };
        relay.enter_raw_mode();
        relay.run(signals)
    }
}

/// State of the input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// At its end, which is yet to be typed.
    Ended,
    Closed,
}

struct Relay<'a> {
    controller: OwnedFd,
    /// Kept open until the container's process has ended.
    peer: Option<OwnedFd>,
    child: BorrowedFd<'a>,
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    /// Whose window size counts, if it is a terminal.
    outer: BorrowedFd<'a>,
    input_is_terminal: bool,
    raw: Option<RawMode<'a>>,
    input_state: Input,
    output_open: bool,
    to_terminal: Buffer,
    to_output: Buffer,
    last_typed: u8,
}

impl<'a> Relay<'a> {
    fn run(&mut self, signals: &Signals) -> Result<()> {
        let mut left = None;
        loop {
            let ready = self.wait(signals, left.is_some())?;
            if ready.nothing {
                return Ok(()); // Ended, and a process left behind has nothing to say.
            }
            if ready.signals {
                while let Some(signal) = signals.next() {
                    if self.handle(signal) && left.is_some() {
                        return Ok(()); // Told to end, and nobody is there to pass it on to.
                    }
                }
            }
            if ready.output {
                self.write_output();
            }
            if ready.terminal_read {
                let count = self.read_terminal();
                if let Some(left) = &mut left {
                    match count {
                        Some(count) if count <= *left => *left -= count,
                        _ => return Ok(()),
                    }
                }
            }
            if ready.input {
                self.read_input();
            }
            if ready.terminal_write {
                self.write_terminal();
            }
            if ready.child && left.is_none() {
                left = Some(MAX_LEFT);
                self.peer = None;
            }
        }
    }

    fn wait(&self, signals: &Signals, ended: bool) -> Result<Ready> {
        let interests = [
            (signals.fd.as_fd(), true, PollFlags::IN),
            (self.output, !self.to_output.is_empty(), PollFlags::OUT),
            (self.child, !ended, PollFlags::IN),
            (self.controller.as_fd(), self.to_output.is_empty(), PollFlags::IN),
            (self.controller.as_fd(), !ended && self.has_typing(), PollFlags::OUT),
            (self.input, !ended && self.input_state == Input::Open && self.to_terminal.is_empty(), PollFlags::IN),
        ];
        // What isn't waited for is left out, not given without events: its hang-up would be reported again and again.
        let wanted = interests.iter().filter(|(_, wanted, _)| *wanted);
        let mut fds: Vec<PollFd<'_>> = wanted.map(|(fd, _, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = (ended && self.to_output.is_empty()).then_some(LEFT_BEHIND);
        let nothing = loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(count) => break count == 0,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the terminal", error)),
            }
        };
        let mut results = fds.iter().map(|fd| !fd.revents().is_empty());
        let ready = interests.map(|(_, wanted, _)| wanted && results.next().unwrap_or(false));
        let [signals, output, child, terminal_read, terminal_write, input] = ready;
        Ok(Ready { nothing, signals, output, child, terminal_read, terminal_write, input })
    }

    fn has_typing(&self) -> bool {
        !self.to_terminal.is_empty() || self.input_state == Input::Ended
    }

    fn read_input(&mut self) {
        match self.to_terminal.fill(self.input) {
            Ok(0) => self.input_state = if self.input_is_terminal { Input::Closed } else { Input::Ended },
            Ok(_) => self.last_typed = self.to_terminal.last(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal read from the background, or one that is gone; a descriptor that is not open.
            Err(_) => self.input_state = if self.input_is_terminal { Input::Closed } else { Input::Ended },
        }
    }

    fn write_terminal(&mut self) {
        if self.to_terminal.is_empty() && self.input_state == Input::Ended {
            self.type_end_of_file();
        }
        match self.to_terminal.drain(self.controller.as_fd()) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.to_terminal.clear(),
        }
    }

    /// In the middle of a line, the first one ends the line as it is and the second one ends the file. A program that reads keys
    /// one by one gets none: it would take ^D for a command.
    fn type_end_of_file(&mut self) {
        self.input_state = Input::Closed;
        let modes = self.peer.as_ref().and_then(|peer| rustix::termios::tcgetattr(peer).ok());
        let Some(modes) = modes.filter(|modes| modes.local_modes.contains(LocalModes::ICANON)) else { return };
        let key = modes.special_codes[SpecialCodeIndex::VEOF];
        let times = if self.last_typed == b'\n' { 1 } else { 2 };
        self.to_terminal.put(&[key, key][..times]);
    }

    /// Returns how much there was, and nothing at the end: no peer is open any more, and all that they wrote is read.
    fn read_terminal(&mut self) -> Option<usize> {
        let count = match self.to_output.fill(self.controller.as_fd()) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return None,
        };
        if !self.output_open {
            self.to_output.clear();
        }
        Some(count)
    }

    fn write_output(&mut self) {
        match self.to_output.drain(self.output) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.output_open = false;
                self.to_output.clear();
            }
        }
    }

    /// Returns whether the signal asks to end.
    fn handle(&mut self, signal: i32) -> bool {
        match signal {
            libc::SIGWINCH => self.copy_size(),
            libc::SIGTSTP => {
                self.raw = None;
                // The kernel's own stop, of this process; SIGCONT, below, is what comes next.
                let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
            }
            libc::SIGCONT => {
                self.enter_raw_mode();
                self.copy_size();
                if self.input_is_terminal {
                    self.input_state = Input::Open;
                }
            }
            _ => {}
        }
        let forward = FORWARDED.contains(&signal);
        if let Some(signal) = Signal::from_named_raw(signal).filter(|_| forward) {
            // A process that has ended meanwhile is no error.
            let _ = rustix::process::pidfd_send_signal(self.child, signal);
        }
        forward && signal != libc::SIGUSR1 && signal != libc::SIGUSR2
    }

    /// The kernel tells the container's foreground processes by SIGWINCH if the size is another.
    fn copy_size(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(self.outer) {
            let _ = rustix::termios::tcsetwinsize(&self.controller, size);
        }
    }

    fn enter_raw_mode(&mut self) {
        let foreground = rustix::termios::tcgetpgrp(self.input).is_ok_and(|group| group == rustix::process::getpgrp());
        // A terminal that isn't this session's controlling one has no foreground to ask for, and nobody to take it from.
        let foreign = rustix::termios::tcgetsid(self.input).is_err();
        if self.input_is_terminal && self.raw.is_none() && (foreground || foreign) {
            self.raw = RawMode::enter(self.input).ok();
        }
    }
}

struct Ready {
    /// The time is over.
    nothing: bool,
    signals: bool,
    output: bool,
    child: bool,
    terminal_read: bool,
    terminal_write: bool,
    input: bool,
}

/// A terminal in raw mode; as it was before when dropped.
struct RawMode<'a> {
    fd: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    fn enter(fd: BorrowedFd<'a>) -> rustix::io::Result<RawMode<'a>> {
        let before = rustix::termios::tcgetattr(fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(fd, OptionalActions::Now, &raw)?;
        Ok(RawMode { fd, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // Not after the output has drained: a terminal stopped by ^S would never let this process end.
        let _ = rustix::termios::tcsetattr(self.fd, OptionalActions::Now, &self.before);
    }
}

/// Bytes on their way; filled only when empty.
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: vec![0; 16 << 10].into_boxed_slice(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn last(&self) -> u8 {
        self.bytes[self.end - 1]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }

    fn fill(&mut self, from: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        self.clear();
        self.end = rustix::io::read(from, &mut self.bytes[..])?;
        Ok(self.end)
    }

    fn drain(&mut self, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let chunk = &self.bytes[self.start..self.end.min(self.start + MAX_WRITE)];
        self.start += rustix::io::write(to, chunk)?;
        Ok(())
    }
}
