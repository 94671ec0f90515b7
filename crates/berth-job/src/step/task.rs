//! A task: from the fork to the command.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::environment::Environment;

/// What a task has for standard input, output and error.
#[derive(Debug)]
pub struct Streams {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub error: OwnedFd,
}

/// Gives the signals back the meaning that they have in a new program.
#[allow(unsafe_code)]
pub fn reset_signals() {
    // SAFETY: numbers, and a set that is filled in first.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for signal in [libc::SIGTTOU, libc::SIGTTIN, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Forks. `None` in the child.
#[allow(unsafe_code)]
pub fn fork() -> io::Result<Option<u32>> {
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        child => Ok(Some(child as u32)),
    }
}

/// Waits for a child; gives wait(2)'s status.
#[allow(unsafe_code)]
pub fn wait(pid: u32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: room for a status.
    (unsafe { libc::waitpid(pid as i32, &raw mut status, 0) } == pid as i32).then_some(status)
}

/// Ends at once, without what is left of the parent's.
#[allow(unsafe_code)]
pub fn exit(code: i32) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(code) }
}

/// In the child: takes the streams. With `terminal`, the input is the controlling terminal of a session of its own.
#[allow(unsafe_code)]
pub fn take_streams(streams: &Streams, terminal: bool) {
    // SAFETY: numbers and descriptors that are open.
    unsafe {
        if terminal {
            libc::setsid();
            libc::ioctl(streams.input.as_raw_fd(), libc::TIOCSCTTY, 0);
        } else {
            libc::setpgid(0, 0);
        }
        libc::dup2(streams.input.as_raw_fd(), 0);
        libc::dup2(streams.output.as_raw_fd(), 1);
        libc::dup2(streams.error.as_raw_fd(), 2);
    }
}

/// Has the kernel kill this process when its parent ends, which must still be `parent`.
#[allow(unsafe_code)]
pub fn die_with(parent: u32) {
    // SAFETY: numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() as u32 != parent {
            exit(1);
        }
    }
}

/// Binds this process to CPUs.
#[allow(unsafe_code)]
pub fn bind(cpus: &[u32]) {
    // SAFETY: the set is filled in first, and CPUs beyond its size are left out.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < libc::CPU_SETSIZE as u32) {
            libc::CPU_SET(cpu as usize, &mut set);
        }
        // A CPU that has gone meanwhile is no reason not to run.
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Goes to the directory, or, as Slurm does, to /tmp with a word about it.
pub fn enter_directory(directory: &Path, node: &str) {
    if let Err(error) = std::env::set_current_dir(directory) {
        eprintln!(
            "slurmstepd-{node}: error: couldn't chdir to `{}': {}: going to /tmp instead",
            directory.display(),
            reason(&error)
        );
        let _ = std::env::set_current_dir("/tmp");
    }
}

/// An error of the system without its number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Becomes the command; comes back only with the error. A name without a slash is looked for in PATH.
pub fn become_command(words: &[OsString], environment: &Environment) -> io::Error {
    let Some(program) = words.first() else { return io::ErrorKind::InvalidInput.into() };
    execute(&candidates(program, environment), words, environment)
}

/// Becomes the program at a path.
pub fn become_program(path: &str, words: &[OsString], environment: &Environment) -> io::Error {
    execute(&[path.into()], words, environment)
}

#[allow(unsafe_code)]
fn execute(candidates: &[OsString], words: &[OsString], environment: &Environment) -> io::Error {
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).ok();
    let arguments: Vec<CString> = words.iter().filter_map(|word| c_string(word)).collect();
    let variables = environment.entries();
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments_, variables_) = (pointers(&arguments), pointers(&variables));
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates {
        let Some(path) = c_string(candidate) else { continue };
        // SAFETY: both lists end with a null pointer, and their strings live.
        unsafe { libc::execve(path.as_ptr(), arguments_.as_ptr(), variables_.as_ptr()) };
        let this = io::Error::last_os_error();
        match this.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // Another directory may have one that can be run.
            Some(libc::EACCES) => error = this,
            _ => return this,
        }
    }
    error
}

fn candidates(program: &OsStr, environment: &Environment) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let Some(path) = environment.get("PATH") else { return vec![program.to_owned()] };
    std::env::split_paths(path).map(|directory| directory.join(program).into_os_string()).collect()
}
