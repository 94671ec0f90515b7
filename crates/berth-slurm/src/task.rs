//! What a task does to get into the step's container: it meets the others, one of them calls `berth step`, and each joins
//! what that has made. The plugin's tasks do this, and those of `berth srun`.
//!
//! System calls only, with strings that were made before: this runs between fork and exec, in slurmstepd too.

#![allow(unsafe_code)] // the border to the system, each call with its reason

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::answer::{FAILED, JOINED, MAX_TEXT, MAX_WAY, TOKEN, WAY, Way};

/// Where `berth step` expects the socket for the answers.
const SOCKET: RawFd = 3;

/// Variables of the job that would change what the command does before it has read its options. They are of no use in
/// a container either, except where `--container-env` names them.
const WITHHELD: [&str; 4] = ["LD_", "GLIBC_TUNABLES", "GCONV_PATH", "MALLOC_"];

/// The socket at which the tasks of a step meet: with a token in it for one of them, and the other end.
pub fn meeting() -> io::Result<OwnedFd> {
    let (ours, theirs) = socket_pair()?;
    send_descriptor(&theirs, TOKEN, &theirs)?;
    Ok(ours)
}

/// In a task: joins the container. Who gets the token is told to `call` `berth step` with the socket for its answers.
///
/// # Errors
/// What is to be told, with all its lines.
pub fn enter(socket: &OwnedFd, call: impl FnOnce(OwnedFd) -> Result<(), String>) -> Result<Way, String> {
    // Who waits here for an image when slurmstepd dies would be nobody's task.
    let before = die_with_parent(libc::SIGKILL);
    let read = |e: io::Error| format!("berth: cannot read from the tasks' socket: {e}");
    let mut message = receive(socket).map_err(read)?;
    if message.first() == Some(&TOKEN) {
        let end = message.descriptors.pop().ok_or("berth: the tasks' token has no socket")?;
        call(end)?;
        message = receive(socket).map_err(read)?;
    }
    match message.first() {
        Some(&WAY) => {
            let mut descriptors = message.descriptors.into_iter();
            let (Some(process), Some(way)) = (descriptors.next(), descriptors.next()) else {
                return Err("berth: `berth step` sent no way into the container".to_owned());
            };
            let way = read_way(way)?;
            join(&process, &way)?;
            // From here on all is as for any other task.
            die_with_parent(before);
            // Whoever waits for it may have gone: then nobody has to be told.
            let _ = send(socket, &[JOINED]);
            Ok(way)
        }
        Some(&FAILED) => Err(String::from_utf8_lossy(&message.bytes[1..]).into_owned()),
        _ => Err("pyxis: a previous task terminated unexpectedly during container setup".to_owned()),
    }
}

/// Why `berth step` could not be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// It is not there, or cannot be run.
    Missing,
    /// Something else, in words.
    Failed(String),
}

/// Calls `berth step`, which leaves a process behind that answers at the socket's other end.
pub fn call(words: &[CString], environment: &[CString], end: OwnedFd) -> Result<(), Call> {
    let program = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let code = run(words, environment, Some(end), None)
        .map_err(|e| Call::Failed(format!("berth: cannot call {program}: {e}")))?;
    match code {
        // What went wrong is in the answers.
        0 => Ok(()),
        NOT_FOUND | NOT_EXECUTABLE => Err(Call::Missing),
        // The person has read its own words.
        code => Err(Call::Failed(format!("pyxis: couldn't start container: `berth step` ended with exit code {code}"))),
    }
}

/// Whether a variable of the job, `NAME=VALUE`, is kept from `berth step`.
pub fn is_withheld(entry: &[u8]) -> bool {
    let Some((name, _)) = split(entry) else { return true };
    WITHHELD.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// A change of a task's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A variable and its value.
    Set(Vec<u8>, Vec<u8>),
    /// A variable.
    Unset(Vec<u8>),
}

/// What the container's environment has that the job's has not, and the other way round, in order. `asked` tells the names
/// of `--container-env`.
pub fn changes<'a>(
    environment: impl Iterator<Item = &'a [u8]>,
    asked: impl Fn(&[u8]) -> bool,
    way: &Way,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut values: Vec<(&[u8], &[u8])> = Vec::new();
    for entry in environment {
        let Some((name, value)) = split(entry) else { continue };
        if is_withheld(entry) && !asked(name) {
            changes.push(Change::Unset(name.to_vec()));
        } else {
            values.push((name, value));
        }
    }
    changes.extend(way.unset.iter().cloned().map(Change::Unset));
    for (name, value) in way.set.iter().filter_map(|entry| split(entry)) {
        changes.push(Change::Set(name.to_vec(), value.to_vec()));
        values.push((name, value));
    }
    // Several tasks of a node may each want a GPU or a rank; what pyxis gives PyTorch is the task's own.
    let gone = |name: &[u8]| way.unset.iter().any(|unset| unset == name);
    let find =
        |wanted: &[u8]| values.iter().rev().find(|(name, _)| *name == wanted && !gone(name)).map(|(_, value)| *value);
    if find(b"PYTORCH_VERSION").is_some() {
        for (name, of) in [("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID")] {
            if let Some(value) = find(of.as_bytes()) {
                changes.push(Change::Set(name.as_bytes().to_vec(), value.to_vec()));
            }
        }
    }
    changes
}

fn split(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = entry.iter().position(|&byte| byte == b'=')?;
    Some((&entry[..at], &entry[at + 1..]))
}

/// Has the kernel send a signal to this process when the one that has started it ends; none with 0. Gives the signal that
/// it was before.
pub fn die_with_parent(signal: libc::c_int) -> libc::c_int {
    let mut before: libc::c_int = 0;
    // SAFETY: room for the number that is asked for, and a number.
    unsafe {
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut before, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
    }
    before
}

/// Moves the task into the container.
pub fn join(process: &OwnedFd, way: &Way) -> Result<(), String> {
    // SAFETY: a descriptor that is open, and flags.
    if unsafe { libc::setns(process.as_raw_fd(), way.namespaces as i32) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!("pyxis: couldn't join the container's namespaces: {error}"));
    }
    let cwd = CString::new(way.cwd.as_slice()).map_err(|_| "berth: the working directory has a NUL byte")?;
    // SAFETY: a C string.
    if unsafe { libc::chdir(cwd.as_ptr()) } != 0 {
        let error = io::Error::last_os_error();
        return Err(format!("pyxis: couldn't chdir to {}: {error}", String::from_utf8_lossy(&way.cwd)));
    }
    let refused = |what: &str| Err(format!("berth: cannot {what}: {}", io::Error::last_os_error()));
    if way.no_new_privileges || !way.filter.is_empty() {
        // SAFETY: numbers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return refused("give up further privileges");
        }
    }
    if !way.filter.is_empty() {
        let size = size_of::<libc::sock_filter>();
        // Copied, as the bytes need not be aligned.
        let mut instructions: Vec<libc::sock_filter> = way
            .filter
            .chunks_exact(size)
            .map(|bytes| libc::sock_filter {
                code: u16::from_ne_bytes([bytes[0], bytes[1]]),
                jt: bytes[2],
                jf: bytes[3],
                k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            })
            .collect();
        let program = libc::sock_fprog { len: instructions.len() as u16, filter: instructions.as_mut_ptr() };
        // SAFETY: the program and its instructions live during the call; the kernel checks them.
        let rc = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) };
        if rc != 0 {
            return refused("install the filter of --container-remap-root");
        }
    }
    Ok(())
}

fn read_way(file: OwnedFd) -> Result<Way, String> {
    let wrong = || "berth: cannot read the way into the container".to_owned();
    // All tasks share one file and its position: each reads through a descriptor of its own.
    let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| format!("{}: {e}", wrong()))?;
    let mut bytes = Vec::new();
    file.take(MAX_WAY).read_to_end(&mut bytes).map_err(|e| format!("{}: {e}", wrong()))?;
    Way::decode(&bytes).ok_or_else(wrong)
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: room for two descriptors.
    let rc =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// Room for the descriptors of a message; aligned as the kernel's header is.
#[repr(C)]
union Control {
    _header: libc::cmsghdr,
    bytes: [u8; 64],
}

/// Most descriptors of a message.
const MOST: usize = 4;

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: a slice with its length.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn send_descriptor(socket: &OwnedFd, byte: u8, descriptor: &OwnedFd) -> io::Result<()> {
    let mut byte = byte;
    let mut vector = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: all zeroes is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: the room of one descriptor is less than that of `control`, which is aligned for the header.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A message that was read; without bytes where the other end is closed.
struct Received {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Received {
    fn first(&self) -> Option<&u8> {
        self.bytes.first()
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Received> {
    let mut bytes = vec![0; MAX_TEXT + 1];
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: all zeroes is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let length = loop {
        // SAFETY: the message's parts live during the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    bytes.truncate(length);
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled in the headers, and the descriptors are new and nobody else's.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let room = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for index in 0..(room / size_of::<RawFd>()).min(MOST) {
                    let descriptor = libc::CMSG_DATA(header).cast::<RawFd>().add(index).read_unaligned();
                    descriptors.push(OwnedFd::from_raw_fd(descriptor));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { bytes, descriptors })
}

/// Pointers to strings, with the null pointer at the end that the kernel wants.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Becomes a program, named by the first word; comes back only with the error.
pub fn execute(words: &[CString], environment: &[CString]) -> io::Error {
    let (words, environment) = (pointers(words), pointers(environment));
    // SAFETY: both lists end with a null pointer, and their strings live.
    unsafe { libc::execve(words[0], words.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Exit codes, as a shell has them, for a program that is not there and one that cannot be run. `berth step` has others.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Runs a program and gives its exit code (128 and the signal, for one that was killed). It has nothing on standard input
/// and this process' standard error for both outputs, `socket` as descriptor 3, and nothing else that is open here; with a
/// socket, it ends when this process does. As root, it is run as the user and group of `identity`.
pub fn run(
    words: &[CString],
    environment: &[CString],
    socket: Option<OwnedFd>,
    identity: Option<(libc::uid_t, libc::gid_t)>,
) -> io::Result<i32> {
    let (words, environment) = (pointers(words), pointers(environment));
    let own = std::process::id();
    // SAFETY: between fork and exec the child calls only what is safe there: other threads may have held locks.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: system calls with numbers, and strings that were made before the fork.
        unsafe {
            let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            libc::dup2(nothing, 0);
            libc::dup2(2, 1);
            let mut first_closed = SOCKET;
            if let Some(socket) = &socket {
                // Without its task nobody wants what it fetches.
                die_with_parent(libc::SIGKILL);
                if libc::getppid() as u32 != own {
                    libc::_exit(NOT_EXECUTABLE);
                }
                if socket.as_raw_fd() == SOCKET {
                    libc::fcntl(SOCKET, libc::F_SETFD, 0);
                } else {
                    libc::dup2(socket.as_raw_fd(), SOCKET);
                }
                first_closed += 1;
            }
            libc::syscall(libc::SYS_close_range, first_closed, u32::MAX, 0);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if let Some((uid, gid)) = identity
                && (libc::setgroups(0, std::ptr::null()) != 0
                    || libc::setresgid(gid, gid, gid) != 0
                    || libc::setresuid(uid, uid, uid) != 0)
            {
                libc::_exit(NOT_EXECUTABLE);
            }
            libc::execve(words[0], words.as_ptr(), environment.as_ptr());
            let is_missing = std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT);
            libc::_exit(if is_missing { NOT_FOUND } else { NOT_EXECUTABLE });
        }
    }
    drop(socket);
    let mut status = 0;
    loop {
        // SAFETY: our own child.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}
