//! The process that serves an image in one file to a container.
//!
//! It is made before there is any namespace, so it sees the host and is nobody's child; the mount is made in the
//! container's namespaces, and the connection to the kernel comes from there through a socket. It ends when the mount does,
//! which is when the last process of the container has ended, however that happened; or when the container never came to be.

use std::fs::File;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use berth_container::launch::ImageMount;
use berth_container::launch::orphan;
use berth_fuse::Owners;
use berth_fuse::Server;
use berth_fuse::mount;
use rustix::net::AddressFamily;
use rustix::net::RecvAncillaryBuffer;
use rustix::net::RecvAncillaryMessage;
use rustix::net::RecvFlags;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;
use rustix::net::SocketFlags;
use rustix::net::SocketType;
use rustix::net::socketpair;

use crate::CommandError;
use crate::lower::image::Image;
use crate::lower::image::OneFile;

/// Fewest and most threads that serve one image: reading waits for the disk more often than for a core.
const THREADS: std::ops::RangeInclusive<usize> = 4..=16;

/// Starts the server of an image in one file, and gives what mounts it; `None` for other images. Call this while the process
/// has one thread.
pub fn serve(image: &Image) -> Result<Option<ImageMount>, CommandError> {
    let Some(OneFile { file, .. }) = &image.file else { return Ok(None) };
    // Tables of mounts show it.
    let name = image.name.as_str();
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| CommandError::failure(format!("cannot make a pair of sockets: {error}")))?;
    let shown = name.to_owned();
    let kept = file.try_clone().map_err(|error| CommandError::io("open", name, error))?;
    orphan(&[theirs.as_fd(), kept.as_fd()], || work(&theirs, file_of(&kept), &shown))?;
    let name = name.to_owned();
    Ok(Some(ImageMount::new(move || {
        let mounted = mount::mount(Path::new(mount::DEVICE), &name).map_err(|error| explain(&error))?;
        // Whoever unpacked the image would own all of it: so does the user here, by the id that it has inside.
        let owner = [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()];
        send(&ours, owner, &mounted.connection).map_err(|error| format!("the server of the image is gone: {error}"))?;
        Ok(mounted.mount)
    })))
}

fn explain(error: &mount::Error) -> String {
    match error {
        mount::Error::Device { .. } => {
            format!("{error}; images in one file need it, so the site must open it to users (mode 666)")
        }
        _ => error.to_string(),
    }
}

fn file_of(file: &File) -> Option<File> {
    file.try_clone().ok()
}

/// The server's whole life.
fn work(socket: &OwnedFd, file: Option<File>, name: &str) {
    let _ = rustix::thread::set_name(c"berth-image");
    let Some(tree) = file.and_then(|file| berth_imagefile::open(file, name).ok()) else { return };
    let Some(([uid, gid], connection)) = receive(socket) else { return };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let server = Server::new(tree, connection, Owners::All(uid, gid));
    server.serve((2 * cores).clamp(*THREADS.start(), *THREADS.end()));
}

fn send(socket: &OwnedFd, owner: [u32; 2], connection: &OwnedFd) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [connection.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let bytes = owner.map(u32::to_ne_bytes).concat();
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> Option<([u32; 2], OwnedFd)> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received.ok()?,
        }
    };
    let connection = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })?;
    let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_ne_bytes).ok();
    (received.bytes == 8).then_some(([word(0)?, word(4)?], connection))
}
