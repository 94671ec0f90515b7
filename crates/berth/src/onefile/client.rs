//! Getting an image mounted: from its server, which is started where there is none.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use berth_container::launch::apart;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, socketpair, sockopt,
};

use super::message::{self, Answer};
use super::name::{Identity, socket_name};
use super::server::TITLE;
use crate::CommandError;

/// Clients that may wait for a server that has not come to them yet.
const BACKLOG: i32 = 1024;
/// How often a server may be found to be just coming or going before something else must be wrong: on a busy machine the
/// one who has taken the name may have to wait before it listens.
const ATTEMPTS: usize = 3000;
/// A name is taken a moment before it can be connected to.
const MOMENT: Duration = Duration::from_millis(1);

/// An image's mount, at no place yet.
#[derive(Debug)]
pub struct Mounted {
    /// It.
    pub mount: OwnedFd,
    /// Its device number, which [`super::mount_mark`] makes known.
    pub device: (u32, u32),
}

/// Mounts the image. `path` is what it is called.
pub fn mount(file: File, path: &Path) -> Result<Mounted, CommandError> {
    let failed = |e: Errno| CommandError::io("mount", path, e);
    let identity = Identity::of(&file).map_err(|e| CommandError::io("read", path, e))?;
    let name = socket_name(identity)?;
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(failed)?;
    for _ in 0..ATTEMPTS {
        let client = new_socket().map_err(failed)?;
        match connect(&client, &address) {
            Ok(()) => {}
            Err(Errno::CONNREFUSED) => {
                let door = new_socket().map_err(failed)?;
                match bind(&door, &address) {
                    Ok(()) => {}
                    // Somebody else was faster, and will listen in a moment.
                    Err(Errno::ADDRINUSE) => {
                        std::thread::sleep(MOMENT);
                        continue;
                    }
                    Err(error) => return Err(failed(error)),
                }
                listen(&door, BACKLOG).map_err(failed)?;
                // Before it is started: if it cannot serve, it tells those who wait, and is gone.
                connect(&client, &address).map_err(failed)?;
                start(&file, &door, path)?;
            }
            Err(Errno::INTR) => continue,
            Err(error) => return Err(failed(error)),
        }
        if !is_ours(&client) {
            break;
        }
        match message::receive(&client).map_err(failed)? {
            Some(Answer::Mount { mount, device, identity: served }) if served == identity.to_bytes() => {
                return Ok(keep(client, mount, device));
            }
            // Another image with the same checksum.
            Some(Answer::Mount { .. }) => break,
            Some(Answer::Failed(lines)) => return Err(refused(lines)),
            // It had nothing left to do, and we came too late.
            None => {}
        }
    }
    apart(&file, path, identity)
}

/// A server for this container alone: the name is taken by somebody else.
fn apart(file: &File, path: &Path, identity: Identity) -> Result<Mounted, CommandError> {
    let failed = |e: Errno| CommandError::io("mount", path, e);
    let (client, door) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
    start(file, &door, path)?;
    drop(door);
    match message::receive(&client).map_err(failed)? {
        Some(Answer::Mount { mount, device, identity: served }) if served == identity.to_bytes() => {
            Ok(keep(client, mount, device))
        }
        Some(Answer::Failed(lines)) => Err(refused(lines)),
        _ => Err(CommandError::failure(format!(
            "cannot mount {}: the process that serves it ended at once",
            path.display()
        ))),
    }
}

/// The connection says that the image is in use. It is left to the kernel: it ends with the `exec` of the command, in this
/// process or in those that it forks, or with them.
fn keep(connection: OwnedFd, mount: OwnedFd, device: (u32, u32)) -> Mounted {
    std::mem::forget(connection);
    Mounted { mount, device }
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Whether it is this user who listens.
fn is_ours(client: &OwnedFd) -> bool {
    sockopt::socket_peercred(client).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

fn start(file: &File, door: &OwnedFd, path: &Path) -> Result<(), CommandError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let title = CString::new(format!("{TITLE}{name}")).unwrap_or_default();
    Ok(apart::start_apart(&[title], &[file.as_fd(), door.as_fd()])?)
}

fn refused(lines: Vec<String>) -> CommandError {
    let mut lines = lines.into_iter();
    let message = lines.next().unwrap_or_else(|| "the image cannot be mounted".to_owned());
    let hint: Vec<String> = lines.collect();
    let error = CommandError::failure(message);
    if hint.is_empty() { error } else { error.with_hint(hint.join("\n")) }
}
