//! A step's container, seen from its tasks.
//!
//! Before slurmstepd forks the tasks it makes a pair of connected sockets, and puts one message into it: a token, with the
//! socket's other end. Each task then reads a message. Who gets the token calls `berth step`, giving it that other end, and
//! reads again. `berth step` fetches the image, builds the container, and writes one answer for each task: a process in the
//! container, whose namespaces the task joins, and what else there is to do ([`Way`]).
//!
//! So the tasks need no shared memory and no lock, nobody polls, and a task cannot wait in vain: when the token's task and
//! `berth step` have died, the other end is closed, and everybody reads its end. The container lives by the tasks in it;
//! when the last one ends, the kernel takes its namespaces and mounts apart.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use berth_slurm::answer::{FAILED, JOINED, MAX_TEXT, MAX_WAY, TOKEN, WAY, Way};
use berth_slurm::request::Request;
use berth_slurm::settings::{Scope, Settings};

use crate::Outcome;
use crate::oci;
use crate::prolog;
use crate::site;
use crate::slurm::{Item, Spank, split_variable};

/// Steps that are none of the person's own, by Slurm's numbers.
const EXTERN_STEP: u32 = 0xffff_fffc;
const BATCH_STEP: u32 = 0xffff_fffb;
const INTERACTIVE_STEP: u32 = 0xffff_fffa;

/// Where `berth step` expects the socket for the answers.
const SOCKET: RawFd = 3;

/// Variables of the job that would change what the command does before it has read its options. They are of no use in
/// a container either, except where `--container-env` names them.
const WITHHELD: [&str; 4] = ["LD_", "GLIBC_TUNABLES", "GCONV_PATH", "MALLOC_"];

/// See the module.
#[derive(Debug)]
pub struct Step {
    request: Request,
    /// What `--container` says, where the plugin serves it.
    oci: Option<String>,
    job: u32,
    number: u32,
    tasks: u32,
    forked: u32,
    /// The user's directory of named containers, where one may be needed.
    directory: Option<PathBuf>,
    socket: Option<OwnedFd>,
    /// slurmstepd, which lives as long as the step.
    daemon: u32,
}

/// What is asked for and not there yet.
pub fn refuse(request: &Request) -> Outcome {
    if let Some(path) = &request.save {
        return Err(format!(
            "pyxis: --container-save: cannot save to {path}: this version of berth writes no image files yet\n\
             berth: keep the container by its name instead: --container-name"
        ));
    }
    Ok(())
}

/// Whether a step asks for a container: one that does not is no concern of ours, whatever else is wrong.
pub fn wants_container(spank: &Spank, typed: &Request) -> bool {
    let named = |name: &str| spank.variable(name).is_some_and(|value| !value.is_empty());
    typed.wants_container()
        || ["PYXIS_CONTAINER_IMAGE", "PYXIS_CONTAINER_NAME", "PYXIS_CONTAINER_CONF"].into_iter().any(named)
        || ["SLURM_CONTAINER_IMAGE", "SLURM_CONTAINER_NAME", "SLURM_CONTAINER_CONF"].into_iter().any(named)
}

impl Step {
    /// In slurmstepd, before the tasks are forked. `None` where this step has no container.
    pub fn prepare(spank: &Spank, settings: &Settings, typed: &Request) -> Result<Option<Step>, String> {
        let number = spank.number(Item::Step).unwrap_or(EXTERN_STEP);
        if number == EXTERN_STEP {
            return Ok(None);
        }
        let request = typed.with_environment(|name| spank.variable(name)).map_err(|e| format!("pyxis: {e}"))?;
        let oci = if request.wants_container() { None } else { oci::container(spank, settings) };
        let tasks = spank.number(Item::LocalTasks).unwrap_or(0);
        if tasks == 0 || (oci.is_none() && !request.wants_container()) {
            return Ok(None);
        }
        if request.wants_container() {
            refuse(&request)?;
        }
        let cannot = |what: &str, error: io::Error| format!("berth: cannot {what}: {error}");
        let (uid, gid) = (spank.number(Item::Uid).unwrap_or(0), spank.number(Item::Gid).unwrap_or(0));
        // The name may also come from a file that the task reads; to make the directory costs nothing.
        let directory = match site::user_directory(settings, uid, gid) {
            Ok(directory) => Some(directory),
            Err(error) if request.name.is_some() => {
                return Err(cannot(
                    &format!("make a directory for named containers in {}", settings.runtime_path.display()),
                    error,
                ));
            }
            Err(_) => None,
        };
        let (ours, theirs) = socket_pair().map_err(|e| cannot("make the tasks' socket", e))?;
        send_descriptor(&theirs, TOKEN, &theirs).map_err(|e| cannot("prepare the tasks' socket", e))?;
        Ok(Some(Step {
            request,
            oci,
            job: spank.number(Item::Job).unwrap_or(0),
            number,
            tasks,
            forked: 0,
            directory,
            socket: Some(ours),
            daemon: std::process::id(),
        }))
    }

    /// In slurmstepd, for each task that was forked: after the last one only tasks have the socket, so that its end tells
    /// `berth step` that nobody waits any more.
    pub fn forked(&mut self) {
        self.forked += 1;
        if self.forked >= self.tasks {
            self.socket = None;
        }
    }

    /// In a task: joins the container. Its command will be started in it.
    pub fn enter(&mut self, spank: &Spank, settings: &Settings) -> Outcome {
        if let Some(container) = self.oci.take() {
            if oci::is_bundle(&container) {
                return Err(self.become_bundle(spank, settings, &container));
            }
            self.request.image = Some(container);
        }
        let socket = self.socket.take().ok_or("berth: the tasks' socket is gone")?;
        // Who waits here for an image when slurmstepd dies would be nobody's task.
        let before = die_with_parent(libc::SIGKILL);
        let mut message = receive(&socket).map_err(|e| format!("berth: cannot read from the tasks' socket: {e}"))?;
        if message.first() == Some(&TOKEN) {
            let end = message.descriptors.pop().ok_or("berth: the tasks' token has no socket")?;
            self.call_berth(spank, settings, end)?;
            message = receive(&socket).map_err(|e| format!("berth: cannot read from the tasks' socket: {e}"))?;
        }
        match message.first() {
            Some(&WAY) => {
                let mut descriptors = message.descriptors.into_iter();
                let (Some(process), Some(way)) = (descriptors.next(), descriptors.next()) else {
                    return Err("berth: `berth step` sent no way into the container".to_owned());
                };
                let way = read_way(way)?;
                prolog::prepare();
                join(&process, &way)?;
                // From here on all is as for any other task.
                die_with_parent(before);
                // Whoever waits for it may have gone: then nobody has to be told.
                let _ = send(&socket, &[JOINED]);
                self.change_environment(spank, &way);
                Ok(())
            }
            Some(&FAILED) => Err(String::from_utf8_lossy(&message.bytes[1..]).into_owned()),
            _ => Err("pyxis: a previous task terminated unexpectedly during container setup".to_owned()),
        }
    }

    /// Calls `berth step`, which leaves a process behind that answers.
    fn call_berth(&self, spank: &Spank, settings: &Settings, end: OwnedFd) -> Outcome {
        let program = site::berth(settings)?;
        let mut words = vec![
            program.as_os_str().as_bytes().to_vec(),
            b"step".to_vec(),
            format!("--job={}", self.job).into_bytes(),
            format!("--step={}", self.number).into_bytes(),
            format!("--tasks={}", self.tasks).into_bytes(),
            format!("--lease={}", self.daemon).into_bytes(),
        ];
        let mut flag = |on: bool, word: &str| {
            if on {
                words.push(word.as_bytes().to_vec());
            }
        };
        flag(settings.execute_entrypoint, "--default-entrypoint");
        flag(!settings.mount_home, "--default-no-home");
        flag(settings.container_scope == Scope::Job, "--job-scope");
        flag(settings.comment, "--comment");
        flag(self.number == INTERACTIVE_STEP, "--interactive");
        if let Some(directory) = &self.directory {
            words.push([b"--containers=".as_slice(), directory.as_os_str().as_bytes()].concat());
        }
        if let Some(quota) = settings.quota {
            words.push(format!("--quota={quota}").into_bytes());
        }
        if self.number == BATCH_STEP
            && let Some(script) = spank.argv().into_iter().next()
        {
            words.push([b"--script=".as_slice(), &script].concat());
        }
        words.extend(self.request.to_arguments().into_iter().map(String::into_bytes));
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let mut environment = spank.environment();
        environment.retain(|entry| !self.is_withheld(entry));
        let code = run(&words, &environment, Some(end), None)
            .map_err(|e| format!("berth: cannot call {}: {e}", program.display()))?;
        match code {
            // What went wrong is in the answers.
            0 => Ok(()),
            NOT_FOUND | NOT_EXECUTABLE => Err(format!(
                "berth: cannot run {} on this node; install it, or name it in plugstack.conf: berth=PATH",
                program.display()
            )),
            // The person has read its own words.
            code => Err(format!("pyxis: couldn't start container: `berth step` ended with exit code {code}")),
        }
    }

    /// Whether a variable of the job is kept from `berth step`.
    fn is_withheld(&self, entry: &CStr) -> bool {
        let Some((name, _)) = split_variable(entry.to_bytes()) else { return true };
        WITHHELD.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
    }

    /// What the container's environment has that the job's has not, and the other way round.
    fn change_environment(&self, spank: &Spank, way: &Way) {
        for entry in spank.environment() {
            let Some((name, _)) = split_variable(entry.to_bytes()) else { continue };
            let asked = |name: &OsStr| self.request.env_names().any(|asked| name == asked);
            if self.is_withheld(&entry) && !asked(name) {
                unset(spank, name.as_bytes());
            }
        }
        way.unset.iter().for_each(|name| unset(spank, name));
        for entry in &way.set {
            if let Some((name, value)) = split_variable(entry)
                && let (Ok(name), Ok(value)) = (CString::new(name.as_bytes()), CString::new(value.as_bytes()))
            {
                spank.set_variable(&name, &value);
            }
        }
        // Several tasks of a node may each want a GPU or a rank; what pyxis gives PyTorch is the task's own.
        if spank.variable("PYTORCH_VERSION").is_some() {
            for (name, of) in [(c"RANK", "SLURM_PROCID"), (c"LOCAL_RANK", "SLURM_LOCALID")] {
                if let Some(value) = spank.variable(of).and_then(|value| CString::new(value).ok()) {
                    spank.set_variable(name, &value);
                }
            }
        }
    }

    /// Becomes the bundle's container, where Slurm has no runtime configured. Comes back only to say why not.
    fn become_bundle(&self, spank: &Spank, settings: &Settings, bundle: &str) -> String {
        let program = match site::berth(settings) {
            Ok(program) => program,
            Err(message) => return message,
        };
        let mut words = vec![
            program.as_os_str().as_bytes().to_vec(),
            b"oci-step".to_vec(),
            format!("--job={}", self.job).into_bytes(),
            format!("--step={}", self.number).into_bytes(),
            [b"--container=".as_slice(), bundle.as_bytes()].concat(),
            b"--".to_vec(),
        ];
        words.extend(spank.argv());
        let words: Vec<CString> = words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let environment = spank.environment();
        let error = execute(&pointers(&words), &pointers(&environment));
        format!("berth: cannot call {}: {error}", program.display())
    }
}

fn unset(spank: &Spank, name: &[u8]) {
    if let Ok(name) = CString::new(name) {
        spank.unset_variable(&name);
    }
}

/// Has the kernel send a signal to this process when the one that has started it ends; none with 0. Gives the signal that
/// it was before.
fn die_with_parent(signal: libc::c_int) -> libc::c_int {
    let mut before: libc::c_int = 0;
    // SAFETY: room for the number that is asked for, and a number.
    unsafe {
        libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut before, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
    }
    before
}

/// Moves the task into the container.
fn join(process: &OwnedFd, way: &Way) -> Outcome {
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

fn execute(words: &[*const libc::c_char], environment: &[*const libc::c_char]) -> io::Error {
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
