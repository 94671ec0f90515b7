//! System calls that neither `rustix` nor `std` offers.
#![allow(unsafe_code)] // The border to the kernel: each block says why it is sound.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Attributes of a mount, `MOUNT_ATTR_*` of `linux/mount.h` (libc has them for few targets).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits and file capabilities do nothing.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes do nothing.
    pub const NODEV: u64 = 0x4;
    /// No program may be started from here.
    pub const NOEXEC: u64 = 0x8;
    /// All bits of the access time setting, which is a value and not a set.
    pub const ATIME: u64 = 0x70;
    /// Access times are not written.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always written.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not written.
    pub const NODIRATIME: u64 = 0x80;
    /// Owners are seen through the map of a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
    /// A user namespace, for id-mapped mounts.
    pub userns_fd: u64,
}

/// Changes the mount that `fd` is the root of and, if `recursive`, those below it.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` is a live `struct mount_attr` and its exact size is given.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kind of a namespace by its file, as its `CLONE_NEW*` flag; an error if the file is no namespace.
pub fn namespace_type(file: BorrowedFd<'_>) -> io::Result<u32> {
    /// `NS_GET_NSTYPE` of `linux/nsfs.h`.
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703_u32 as libc::Ioctl;
    // Other files may understand the number as something else.
    if file_system(file)? != NSFS_MAGIC {
        return Err(io::Error::from_raw_os_error(libc::ENOTTY));
    }
    // SAFETY: this request takes no argument.
    match unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) } {
        -1 => Err(io::Error::last_os_error()),
        kind => Ok(kind as u32),
    }
}

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;
/// `PROC_SUPER_MAGIC`.
const PROC_MAGIC: i64 = 0x9fa0;

/// The number by which the kernel tells file systems (`linux/magic.h`).
pub fn file_system(file: BorrowedFd<'_>) -> io::Result<i64> {
    #[allow(clippy::unnecessary_cast)] // The type differs between C libraries.
    Ok(rustix::fs::fstatfs(file)?.f_type as i64)
}

/// Whether this is a file of a proc file system, not of an impostor.
pub fn is_procfs(file: BorrowedFd<'_>) -> bool {
    file_system(file).is_ok_and(|kind| kind == PROC_MAGIC)
}

/// Forks. Sound only because this crate runs in a process with one thread: nobody else can hold a lock.
///
/// Returns the child's process id in the parent, `None` in the child.
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: fork(2) has no memory preconditions; the single-thread rule of the crate keeps the child's heap usable.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as u32)),
    }
}

/// Forks a child of this process's *parent*. The same rule holds as for [`fork`].
pub fn fork_sibling() -> io::Result<Option<u32>> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack given, clone(2) behaves as fork(2): the child gets a copy of everything.
    match unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_long, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as u32)),
    }
}

/// Forks a child into new namespaces (`CLONE_NEW…`). The same rule holds as for [`fork`].
pub fn fork_into(namespaces: u64) -> io::Result<Option<u32>> {
    let flags = namespaces as libc::c_long | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: as for `fork_sibling`.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as u32)),
    }
}

/// Leaves at once: no destructors, no exit handlers, no buffers written. What a forked child must use.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Becomes `program`; returns only to say why not. `args` and `env` end with a null pointer.
pub fn execve(program: &CStr, args: &PointerList<'_>, env: &PointerList<'_>) -> io::Error {
    // SAFETY: the pointers come from live `CStr`s, which the lists borrow, and each list ends with a null pointer.
    unsafe { libc::execve(program.as_ptr(), args.0.as_ptr(), env.0.as_ptr()) };
    io::Error::last_os_error()
}

/// Becomes the program that is open as `program`, with the present environment; returns only to say why not.
pub fn execute_again(program: BorrowedFd<'_>, args: &PointerList<'_>) -> io::Error {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: the C library keeps `environ` a valid list ended by a null pointer, and nobody changes it meanwhile, since
    // there is one thread; the arguments come from live strings and end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.0.as_ptr(),
            environ,
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Pointers to strings, ended by a null pointer, as execve(2) wants them.
#[derive(Debug)]
pub struct PointerList<'a>(Vec<*const libc::c_char>, std::marker::PhantomData<&'a CStr>);

impl<'a> PointerList<'a> {
    /// The list of these strings.
    pub fn new(strings: impl IntoIterator<Item = &'a CStr>) -> PointerList<'a> {
        let pointers = strings.into_iter().map(CStr::as_ptr).chain([std::ptr::null()]).collect();
        PointerList(pointers, std::marker::PhantomData)
    }
}

/// Closes all descriptors from `first` on but these; numbers below mean nothing. Values in memory may believe to own what
/// is closed: the process must end without using them, or call [`fill_descriptors`].
pub fn close_all_but(first: u32, kept: &mut [RawFd]) -> io::Result<()> {
    let close = |first: u32, last: u32| {
        if first > last {
            return Ok(());
        }
        // SAFETY: the caller promises never to use an owner of these descriptors again.
        let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    kept.sort_unstable();
    let mut first = first;
    for kept in kept.iter().filter_map(|kept| u32::try_from(*kept).ok()) {
        if kept >= first {
            if kept > first {
                close(first, kept - 1)?;
            }
            first = kept + 1;
        }
    }
    close(first, u32::MAX)
}

/// Makes a copy of a descriptor with this number, which an `execve` leaves open. What had the number is closed.
pub fn put_descriptor(descriptor: RawFd, number: u32) -> io::Result<()> {
    // SAFETY: the caller owns nothing with that number that it will use again.
    let answer = unsafe { libc::dup2(descriptor, number as libc::c_int) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps all signals away that can be, from this process and what it executes.
pub fn block_signals() {
    // SAFETY: `all` is initialised by sigfillset before it is read; no old mask is asked for.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// Opens something for each free number that was in use before [`close_all_but`], as far as one program goes, so that its
/// former owners find something to close.
pub fn fill_descriptors() {
    const HIGHEST: RawFd = 255;
    loop {
        // SAFETY: dup(2) takes an integer; nobody owns the copy until the process ends.
        let copy = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
        if !(0..HIGHEST).contains(&copy) {
            return;
        }
    }
}

/// Undoes what Rust's runtime and a caller may have done to signals: SIGPIPE acts again (`all`: every signal does), and
/// nothing is blocked.
pub fn reset_signals(all: bool) {
    // SAFETY: `set` is initialised by sigemptyset before it is read, and SIG_DFL is a valid disposition for every signal
    // but SIGKILL and SIGSTOP, where the call fails and nothing happens.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if all {
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Sets real, effective and saved group id.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: setresgid(2) takes integers only.
    if unsafe { libc::setresgid(gid, gid, gid) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets real, effective and saved user id.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: setresuid(2) takes integers only.
    if unsafe { libc::setresuid(uid, uid, uid) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this is root of the host, and not of a user namespace.
pub fn is_root_of_the_host() -> bool {
    rustix::process::geteuid().is_root()
        && std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// Sets the supplementary groups.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one live slice; gid_t is u32.
    if unsafe { libc::setgroups(groups.len(), groups.as_ptr()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the execution domain.
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: personality(2) takes an integer only.
    if unsafe { libc::personality(domain as libc::c_ulong) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a resource limit by its `RLIMIT_*` number.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is live and fully initialised; the old limit is not asked for.
    if unsafe { libc::prlimit64(0, resource as _, &raw const limit, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The limits in force of a resource, by its `RLIMIT_*` number: soft and hard.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit is given; the kernel writes the old one to a live structure.
    if unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut limit) } == 0 {
        Ok((limit.rlim_cur, limit.rlim_max))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Installs a system call filter for this process and what it starts. Needs no-new-privs, or CAP_SYS_ADMIN.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` describes a live slice, which the kernel only reads.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Replaces the session keyring by a new one of this name. A kernel without keyrings, or a policy against them, leaves
/// nothing that could be shared. Nor does it fail where the user has as many keys as the kernel grants (200, and those of
/// containers that have ended count for a while): a job of many short steps is not to end for that, and what the keyring
/// holds is the same user's.
pub fn join_session_keyring(name: &CStr) -> io::Result<()> {
    /// As in `linux/keyctl.h`.
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a live string ended by NUL, which the kernel copies.
    if unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) } != -1 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EDQUOT)) => {
            Ok(())
        }
        error => Err(error),
    }
}

/// Brings the loopback interface of the current network namespace up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket(2) takes integers; the descriptor is new and owned from here on.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) {
            -1 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    // SAFETY: an all-zero `ifreq` is valid, its name is shorter than the field and NUL-terminated, and the flags are the
    // member of the union that SIOCSIFFLAGS reads.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// `struct sched_attr` of sched_setattr(2), its first version.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedAttr {
    /// Size of the structure.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Static priority.
    pub priority: u32,
    /// Nanoseconds.
    pub runtime: u64,
    /// Nanoseconds.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// Sets the scheduling policy of this thread.
pub fn set_scheduler(attributes: &SchedAttr) -> io::Result<()> {
    // SAFETY: the structure is live, of the kernel's layout, and says its own size.
    if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the I/O priority of this process: class in the bits from 13 on, priority below.
pub fn set_io_priority(priority: u32) -> io::Result<()> {
    /// `IOPRIO_WHO_PROCESS` of `linux/ioprio.h`.
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set(2) takes integers only.
    if unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes all descriptors from `first` on, also those that values in memory believe to own: for a process that will only
/// leave by [`exit_now`].
pub fn close_from(first: u32) {
    // SAFETY: the caller promises never to use or drop an owner of these descriptors again.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Sends a signal; that the process is gone is no error to anybody.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes integers only.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Sends a signal to the process behind a pidfd. Unlike `rustix`'s, any number will do, real-time signals too.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), rustix::io::Errno> {
    // SAFETY: no siginfo is given; the other arguments are integers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null_mut::<libc::siginfo_t>(),
            0,
        )
    };
    if answer == 0 {
        return Ok(());
    }
    Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO))
}

/// Signals blocked and read from a descriptor instead. Dropping it restores what was blocked before.
#[derive(Debug)]
pub struct SignalMask {
    fd: OwnedFd,
    before: libc::sigset_t,
}

/// A signal read from a [`SignalMask`].
#[derive(Debug, Clone, Copy)]
pub struct ReceivedSignal {
    /// Its number.
    pub number: i32,
    /// Sent by the kernel, which for the forwarded signals means: by the terminal.
    pub from_terminal: bool,
}

impl SignalMask {
    /// Blocks SIGCHLD and all signals that a supervisor passes on: everything but those that the process's own faults
    /// raise, SIGPIPE, SIGURG, and the two by which a terminal stops background jobs.
    pub fn block_forwarded() -> io::Result<SignalMask> {
        const LEFT: [i32; 10] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGSYS,
            libc::SIGPIPE,
            libc::SIGURG,
            libc::SIGTTIN,
            libc::SIGTTOU,
        ];
        // SAFETY: both sets are initialised (sigfillset, sigprocmask) before they are read; the descriptor is new and
        // owned from here on.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            for signal in LEFT {
                libc::sigdelset(&raw mut set, signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(SignalMask { fd: OwnedFd::from_raw_fd(fd), before })
        }
    }

    /// The next signal, if one has come.
    pub fn next(&self) -> Option<ReceivedSignal> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(length) if length == buffer.len() => {
                // SAFETY: the kernel wrote a whole structure, which has no invalid bit patterns; the read is unaligned.
                let info = unsafe { buffer.as_ptr().cast::<libc::signalfd_siginfo>().read_unaligned() };
                Some(ReceivedSignal { number: info.ssi_signo as i32, from_terminal: info.ssi_code == libc::SI_KERNEL })
            }
            _ => None,
        }
    }
}

impl AsFd for SignalMask {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set came from sigprocmask itself.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}
