//! What the two sides of a start tell each other: the parent, and the child that will be the command.
//!
//! A pair of connected sockets that keep the bounds of messages. It closes when the command is executed, which is how the
//! parent learns that all went well.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::terminal::Terminal;

/// Longest message: an error with its hint. What is longer is cut.
const LONGEST: usize = 16 << 10;

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// The other side has let us go on already.
    passed: Cell<bool>,
}

/// What a child tells.
#[derive(Debug)]
pub enum Message {
    /// From the process in between: the child's process id.
    Child(u32),
    /// The container is built: now come the hooks that run outside of it. Waits for the answer.
    Hooks,
    /// The terminal that the command will have.
    Terminal(Terminal),
    /// All is ready, and waits for somebody to ask for the start.
    Created,
    /// It failed.
    Failed(Error),
    /// The command was executed, or the child is gone.
    Closed,
}

/// What a child says about its failure.
#[derive(Serialize, Deserialize)]
struct Report {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Channel {
    /// Two connected ends.
    pub fn pair() -> Result<(Channel, Channel)> {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map(|(one, other)| (Channel::from_socket(one), Channel::from_socket(other)))
            .map_err(|e| Error::system("make a channel to the container's process", e))
    }

    /// An end that is there already.
    pub fn from_socket(socket: OwnedFd) -> Channel {
        Channel { socket, passed: Cell::new(false) }
    }

    /// Lets the other side go on.
    pub fn go(&self) -> Result<()> {
        self.send(b"g", &[]).map_err(|e| Error::system("talk to the container's process", e))
    }

    /// Waits until the other side says so; false if it is gone.
    pub fn wait(&self) -> bool {
        loop {
            match rustix::io::read(self.socket.as_fd(), &mut [0u8; 1]) {
                Ok(length) => return length == 1,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// The same for the first time it is called; later it has been said.
    pub fn wait_once(&self) -> bool {
        self.passed.get() || {
            self.passed.set(self.wait());
            self.passed.get()
        }
    }

    /// Tells the parent which process is the child.
    pub fn tell_child(&self, pid: u32) -> io::Result<()> {
        let pid = pid.to_ne_bytes();
        self.send(&[b'p', pid[0], pid[1], pid[2], pid[3]], &[])
    }

    /// Asks for the hooks outside, and waits for them.
    pub fn ask_for_hooks(&self) -> bool {
        self.send(b"h", &[]).is_ok() && self.wait()
    }

    /// Hands the terminal over.
    pub fn tell_terminal(&self, terminal: &Terminal) -> Result<()> {
        self.send(b"t", &[terminal.controller(), terminal.peer()])
            .map_err(|e| Error::system("hand the terminal over", e))
    }

    /// Says that all is ready; false if nobody listens any more.
    pub fn tell_created(&self) -> bool {
        self.send(b"c", &[]).is_ok()
    }

    /// Tells an error; returns its exit code.
    pub fn tell_error(&self, error: &Error) -> u8 {
        let code = error.exit_code();
        let mut message = error.to_string();
        // Half of the room is for the hint, and for what JSON makes of odd characters.
        message.truncate(message.floor_char_boundary_of(LONGEST / 4));
        let text = serde_json::to_vec(&Report { message, hint: error.hint(), code }).unwrap_or_default();
        let _ = self.send(&text, &[]);
        code
    }

    /// The next message.
    pub fn receive(&self) -> Message {
        let mut buffer = vec![0; LONGEST];
        let (length, mut descriptors) = match self.receive_raw(&mut buffer) {
            Ok(received) => received,
            Err(_) => return Message::Closed,
        };
        match &buffer[..length] {
            [] => Message::Closed,
            [b'p', pid @ ..] => Message::Child(u32::from_ne_bytes(pid.try_into().unwrap_or_default())),
            b"h" => Message::Hooks,
            b"c" => Message::Created,
            b"t" => match (descriptors.pop(), descriptors.pop()) {
                (Some(peer), Some(controller)) => Message::Terminal(Terminal::of(controller, peer)),
                _ => Message::Closed,
            },
            text => Message::Failed(match serde_json::from_slice(text) {
                Ok(Report { message, hint, code }) => Error::Reported { message, hint, code },
                Err(_) => Error::Reported {
                    message: "the container's process failed and could not say why".to_owned(),
                    hint: None,
                    code: 125,
                },
            }),
        }
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                answer => return answer.map(drop).map_err(io::Error::from),
            }
        }
    }

    fn receive_raw(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                // An other side that has ended with something unread is told once, and before what it has said.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                answer => break answer?.bytes,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        Ok((length, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `str::floor_char_boundary`, which is newer than our oldest compiler.
trait Cut {
    fn floor_char_boundary_of(&self, at: usize) -> usize;
}

impl Cut for String {
    fn floor_char_boundary_of(&self, at: usize) -> usize {
        (0..=at.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Channel, Message};
    use crate::error::Error;

    #[test]
    fn what_a_child_said_before_it_ended_with_something_unread_is_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        ours.go().unwrap();
        theirs.tell_error(&Error::bad_spec("root.path", "is missing"));
        drop(theirs);
        match ours.receive() {
            Message::Failed(error) => assert!(error.to_string().contains("root.path"), "{error}"),
            _ => panic!("the error is lost"),
        }
    }
}
