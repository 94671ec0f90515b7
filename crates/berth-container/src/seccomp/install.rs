//! Filters put in force, and agents that answer calls.
#![allow(unsafe_code)] // seccomp(2) with a pointer to the program: no safe wrapper exists.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};

use super::{FLAG_NEW_LISTENER, FLAG_TSYNC, FLAG_TSYNC_ESRCH, Filter, Listener};
use crate::error::{Error, Result};
use crate::oci;

/// Whose filter it is, as an agent learns it.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// The container's id.
    pub id: String,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// The annotations of its configuration.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A connection to an agent, made while its socket can still be seen.
#[derive(Debug)]
pub struct Agent {
    socket: OwnedFd,
    /// The host's /proc, which knows under which number this process is known there.
    proc: RefCell<Option<OwnedFd>>,
    pid: Cell<Option<u32>>,
}

impl Agent {
    /// Connects to it.
    pub fn connect(listener: &Listener) -> Result<Agent> {
        let connected = || {
            let address = SocketAddrUnix::new(listener.path.as_os_str().as_bytes())?;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            connect(&socket, &address)?;
            Ok::<_, rustix::io::Errno>(socket)
        };
        let socket = connected().map_err(|e| Error::System {
            action: format!("connect to the seccomp agent at {}", listener.path.display()),
            source: e.into(),
            hint: Some("the agent must listen there (`linux.seccomp.listenerPath`) before the container starts".into()),
        })?;
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok();
        Ok(Agent { socket, proc: RefCell::new(proc), pid: Cell::new(None) })
    }

    /// Asks for this process' number on the host, and lets go of what it was asked from.
    pub fn settle(&self) {
        let Some(proc) = self.proc.take() else { return };
        let link = rustix::fs::readlinkat(&proc, c"self", Vec::new()).ok();
        self.pid.set(link.and_then(|link| link.to_str().ok()?.parse().ok()));
    }

    /// "The Container Process State" of the specification.
    fn message(&self, listener: &Listener, container: &Container) -> Vec<u8> {
        let pid = self.pid.get().unwrap_or_else(std::process::id);
        let mut message = serde_json::json!({
            "ociVersion": oci::VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": {
                "ociVersion": oci::VERSION,
                "id": container.id,
                "status": "creating",
                "pid": pid,
                "bundle": container.bundle,
                "annotations": container.annotations,
            },
        });
        if let Some(metadata) = &listener.metadata {
            message["metadata"] = metadata.as_str().into();
        }
        message.to_string().into_bytes()
    }

    /// Sends it with the descriptor, by sendmsg(2) alone: that call is known not to wait for the agent.
    fn send(&self, message: &[u8], fd: &OwnedFd) -> io::Result<()> {
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let mut rest = message;
        while !rest.is_empty() {
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    rest = &rest[sent.min(rest.len())..];
                    control.clear();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Agent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Filter {
    /// Puts the filter on this process and all that it will start, for good, and hands the descriptor to the agent.
    ///
    /// Needs no-new-privileges, or `CAP_SYS_ADMIN` in the user namespace.
    pub fn install(&self, agent: Option<&Agent>, container: &Container) -> Result<()> {
        let agent = match (&self.listener, agent) {
            (Some(listener), Some(agent)) => Some((agent, agent.message(listener, container))),
            _ => None,
        };
        let listener = set_filter(&self.program, self.flags).map_err(|source| Error::System {
            action: "install the system call filter".to_owned(),
            hint: match source.raw_os_error() {
                Some(libc::EACCES) => {
                    Some("without CAP_SYS_ADMIN a filter needs `process.noNewPrivileges` to be true".to_owned())
                }
                Some(libc::EINVAL) => Some("the kernel may be too old for a flag in `linux.seccomp.flags`".to_owned()),
                Some(libc::EBUSY) => {
                    Some("another agent listens to this process already, the kernel allows one".to_owned())
                }
                _ => None,
            },
            source,
        })?;
        match (listener, agent) {
            (Some(fd), Some((agent, message))) => {
                agent.send(&message, &fd).map_err(|e| Error::system("hand the filter to the seccomp agent", e))
            }
            _ => Ok(()),
        }
    }
}

/// The listener's descriptor, if the flags ask for one; the kernel makes it close on exec.
fn set_filter(program: &[libc::sock_filter], flags: u32) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` describes a live slice, which the kernel only reads.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::c_ulong::from(flags), &raw const program)
    };
    match answer {
        0.. if flags & FLAG_NEW_LISTENER != 0 => {
            // SAFETY: with this flag the answer is a new descriptor, which nobody else owns.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(answer as i32) }))
        }
        0 => Ok(None),
        // A thread that could not follow: there is none beside this one.
        1.. if flags & FLAG_TSYNC != 0 && flags & FLAG_TSYNC_ESRCH == 0 => {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether this kernel knows a flag of seccomp(2).
pub(crate) fn kernel_knows(flag: u32) -> bool {
    // It looks at the flags first and at the program then, which is nowhere. Where a flag depends on another, it wants
    // both.
    let needed = if flag == super::FLAG_WAIT_KILLABLE_RECV { FLAG_NEW_LISTENER } else { 0 };
    // SAFETY: the kernel finds a null pointer and answers EFAULT; nothing is installed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flag | needed),
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
