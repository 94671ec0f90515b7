//! The socket to the tasks.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use berth_slurm::answer::{FAILED, MAX_TEXT, WAY, Way};
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::CommandError;

/// The descriptor that the plugin has put it on.
const SOCKET: RawFd = 3;

/// Answers on their way at a time: the kernel bounds how many descriptors a user may have in flight.
const IN_FLIGHT: u32 = 64;

/// See the module.
pub struct Answers {
    socket: OwnedFd,
    tasks: u32,
}

impl Answers {
    /// Takes over what the plugin has left.
    pub fn inherit(tasks: u32) -> Result<Answers, CommandError> {
        // SAFETY: nothing else in this program knows the number; whether it is open is asked next.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(SOCKET) };
        match rustix::net::sockopt::socket_type(&socket) {
            Ok(kind) if kind == rustix::net::SocketType::SEQPACKET => {}
            _ => {
                std::mem::forget(socket);
                return Err(CommandError::usage(
                    "`berth step` is for Slurm's tasks: descriptor 3 is no socket of theirs",
                )
                .with_hint("`srun --container-image=IMAGE COMMAND` calls it"));
            }
        }
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| CommandError::io("use", "the tasks' socket", e))?;
        Ok(Answers { socket, tasks: tasks.max(1) })
    }

    /// Hung up when no task is left.
    pub fn tasks(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Tells each task why there is no container: the first in all words, the others that one was told.
    pub fn failed(&self, lines: &[String]) {
        let mut text = lines.join("\n");
        let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        let others = "pyxis: container was not started successfully by another task".to_owned();
        for task in 0..self.tasks {
            let text = if task == 0 { &text } else { &others };
            if self.send(FAILED, text.as_bytes(), &[]).is_err() {
                return;
            }
        }
    }

    /// Shows each task the way, and waits until every one has gone it or died.
    pub fn succeeded(&self, process: &OwnedFd, way: &Way) {
        let file = match way_file(way) {
            Ok(file) => file,
            Err(error) => return self.failed(&error.lines()),
        };
        let mut joined = 0;
        for task in 0..self.tasks {
            while task - joined >= IN_FLIGHT {
                if !self.one_joined() {
                    return;
                }
                joined += 1;
            }
            if self.send(WAY, &[], &[process.as_fd(), file.as_fd()]).is_err() {
                return;
            }
        }
        while joined < self.tasks && self.one_joined() {
            joined += 1;
        }
    }

    fn send(&self, kind: u8, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let bytes = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(text)];
        loop {
            match sendmsg(&self.socket, &bytes, &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Waits until a task says that it has joined. False when no task is left that could.
    fn one_joined(&self) -> bool {
        let mut byte = [0];
        let mut control = RecvAncillaryBuffer::default();
        loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()) {
                Ok(message) => return message.bytes > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The way as a file in memory, to be read by all.
fn way_file(way: &Way) -> Result<OwnedFd, CommandError> {
    let failed = |e: rustix::io::Errno| CommandError::io("write", "the way into the container", e);
    let file = rustix::fs::memfd_create("berth-way", MemfdFlags::CLOEXEC).map_err(failed)?;
    let bytes = way.encode();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).map_err(failed)?;
        rest = &rest[written..];
    }
    Ok(file)
}
