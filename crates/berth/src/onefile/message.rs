//! What a server tells a client: one message, with the mount or with the reason why there is none.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::name::IDENTITY;

/// The longest reason, in bytes.
const MAX_TEXT: usize = 4096;
const MOUNT: u8 = 0;
const FAILED: u8 = 1;

/// See the module.
#[derive(Debug)]
pub enum Answer {
    /// A copy of the mount.
    Mount {
        /// It.
        mount: OwnedFd,
        /// Its device number: major, minor.
        device: (u32, u32),
        /// The file that is served.
        identity: [u8; IDENTITY],
    },
    /// Lines for the person.
    Failed(Vec<String>),
}

/// Sends a mount.
pub fn send_mount(
    to: &OwnedFd,
    mount: BorrowedFd<'_>,
    device: (u32, u32),
    identity: [u8; IDENTITY],
) -> rustix::io::Result<()> {
    let mut text = [0; 8 + IDENTITY];
    text[..4].copy_from_slice(&device.0.to_ne_bytes());
    text[4..8].copy_from_slice(&device.1.to_ne_bytes());
    text[8..].copy_from_slice(&identity);
    send(to, MOUNT, &text, &[mount])
}

/// Sends a reason.
pub fn send_failed(to: &OwnedFd, lines: &[String]) -> rustix::io::Result<()> {
    let text = lines.join("\n");
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    send(to, FAILED, &text.as_bytes()[..end], &[])
}

fn send(to: &OwnedFd, kind: u8, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let bytes = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(text)];
    // Nobody waits for a client that does not read: the one message always has room.
    sendmsg(to, &bytes, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// Waits for the answer. `None`: whoever was to give it is gone.
pub fn receive(from: &OwnedFd) -> rustix::io::Result<Option<Answer>> {
    let mut bytes = [0; 1 + MAX_TEXT];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let length = loop {
        match recvmsg(from.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error),
        }
    };
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mount = descriptors.next().and_then(|mut descriptors| descriptors.next());
    match (&bytes[..length], mount) {
        ([], _) => Ok(None),
        ([FAILED, text @ ..], _) => {
            Ok(Some(Answer::Failed(String::from_utf8_lossy(text).lines().map(str::to_owned).collect())))
        }
        ([MOUNT, text @ ..], Some(mount)) if text.len() == 8 + IDENTITY => {
            let number = |at: usize| text[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
            let mut identity = [0; IDENTITY];
            identity.copy_from_slice(&text[8..]);
            Ok(Some(Answer::Mount { mount, device: (number(0), number(4)), identity }))
        }
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn what_is_sent_is_received() {
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (server, client) = pair();
        let file = tempfile::tempfile().unwrap();
        send_mount(&server, file.as_fd(), (0, 57), [7; IDENTITY]).unwrap();
        match receive(&client).unwrap() {
            Some(Answer::Mount { mount, device: (0, 57), identity }) => {
                assert_eq!(identity, [7; IDENTITY]);
                assert_eq!(rustix::fs::fstat(&mount).unwrap().st_ino, rustix::fs::fstat(&file).unwrap().st_ino);
            }
            other => panic!("{other:?}"),
        }
        send_failed(&server, &["one".to_owned(), "ü".repeat(5000)]).unwrap();
        match receive(&client).unwrap() {
            Some(Answer::Failed(lines)) => assert_eq!(lines[0], "one"),
            other => panic!("{other:?}"),
        }
        drop(server);
        assert!(receive(&client).unwrap().is_none());
        let (server, client) = pair();
        send(&server, MOUNT, &[0; 8 + IDENTITY], &[]).unwrap();
        assert_eq!(receive(&client).unwrap_err(), Errno::PROTO, "a mount without a mount");
    }
}
