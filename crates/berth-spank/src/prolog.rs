//! A site's TaskProlog in a container.
//!
//! Slurm runs it (and `srun --task-prolog`) after a task has joined its container. Since 23.11 it does so by its own
//! file: slurmstepd keeps a descriptor of itself, and executes that with the words `slurm_script_launcher PATH ARG0 …`.
//! An image has neither slurmstepd's loader nor its libraries, so the task would end with 127. In a task, which has
//! descriptors of its own, a program that needs neither takes that file's place: it becomes PATH, as slurmstepd would.
//! (`_run_command_child_exec` and `run_command_launcher` of Slurm's `run_command.c`, 24.11.)

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// slurmstepd opens its file early, so the number is small.
const LAST: RawFd = 127;

/// Puts the program there, where Slurm has such a descriptor. What goes wrong is not told: then it stays as it was.
pub fn prepare() {
    let Some(program) = PROGRAM else { return };
    // What is asked for by number cannot be someone else's: a task has one thread.
    let Some(descriptor) = (3..=LAST).find(|descriptor| is_own_file(*descriptor)) else { return };
    if let Ok(file) = executable(program) {
        // SAFETY: two numbers of open descriptors; it stays closed for what the task executes, as Slurm's own was.
        unsafe { libc::dup3(file.as_raw_fd(), descriptor, libc::O_CLOEXEC) };
    }
}

/// Whether it is a descriptor without rights to read or write (`O_PATH`) of the program that runs here.
fn is_own_file(descriptor: RawFd) -> bool {
    // SAFETY: numbers only.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags < 0 || flags & libc::O_PATH == 0 {
        return false;
    }
    // SAFETY: all zeroes is a value of this plain data.
    let (mut held, mut own): (libc::stat, libc::stat) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: room for what is asked for, and a C string.
    let asked = unsafe {
        libc::fstat(descriptor, &raw mut held) == 0 && libc::stat(c"/proc/self/exe".as_ptr(), &raw mut own) == 0
    };
    asked && (held.st_dev, held.st_ino) == (own.st_dev, own.st_ino)
}

/// A file in memory that can be executed.
fn executable(content: &[u8]) -> io::Result<OwnedFd> {
    /// From Linux 6.3 on, where a host may have files without it not executable.
    const MFD_EXEC: libc::c_uint = 0x10;
    let make = |flags| {
        // SAFETY: a C string and flags.
        match unsafe { libc::memfd_create(c"task-prolog".as_ptr(), libc::MFD_CLOEXEC | flags) } {
            new if new < 0 => Err(io::Error::last_os_error()),
            // SAFETY: new and nobody else's.
            new => Ok(unsafe { OwnedFd::from_raw_fd(new) }),
        }
    };
    let file = make(MFD_EXEC).or_else(|_| make(0))?;
    // SAFETY: a slice with its length.
    let written = unsafe { libc::write(file.as_raw_fd(), content.as_ptr().cast(), content.len()) };
    if usize::try_from(written) != Ok(content.len()) {
        return Err(io::ErrorKind::WriteZero.into());
    }
    // A file that is open for writing cannot be executed.
    std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map(OwnedFd::from)
}

/// `setpgid(0, 0); execve(argv[2], &argv[3], envp); _exit(127)`: that, behind the two headers that the kernel wants of a
/// program. Other processors have none yet.
#[cfg(target_arch = "x86_64")]
const PROGRAM: Option<&[u8]> = Some(
    b"\
    \x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\
    \x02\0\x3e\0\x01\0\0\0\
    \x78\0\x40\0\0\0\0\0\
    \x40\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\
    \0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\
    \x01\0\0\0\x05\0\0\0\
    \0\0\0\0\0\0\0\0\
    \0\0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\
    \xa9\0\0\0\0\0\0\0\xa9\0\0\0\0\0\0\0\
    \0\x10\0\0\0\0\0\0\
    \x31\xff\x31\xf6\xb8\x6d\0\0\0\x0f\x05\
    \x48\x8b\x7c\x24\x18\
    \x48\x8d\x74\x24\x20\
    \x48\x8b\x04\x24\
    \x48\x8d\x54\xc4\x10\
    \xb8\x3b\0\0\0\x0f\x05\
    \xbf\x7f\0\0\0\
    \xb8\x3c\0\0\0\x0f\x05",
);
#[cfg(not(target_arch = "x86_64"))]
const PROGRAM: Option<&[u8]> = None;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn call(words: &[&str]) -> std::process::Output {
        let file = executable(PROGRAM.unwrap()).unwrap();
        let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        command.arg0("/usr/sbin/slurmstepd").arg("slurm_script_launcher").args(words);
        command.env_clear().env("KEPT", "yes").output().unwrap()
    }

    #[test]
    fn the_program_becomes_what_it_is_told_with_words_and_environment() {
        let said = call(&["/bin/sh", "name", "-c", "echo $0 $KEPT \"$1\"; exit 5", "zero", "a b"]);
        assert_eq!((said.status.code(), &*said.stdout), (Some(5), &b"zero yes a b\n"[..]));
    }

    #[test]
    fn a_program_that_is_not_there_is_127() {
        assert_eq!(call(&["/no/such", "such"]).status.code(), Some(127));
    }

    #[test]
    fn only_a_descriptor_without_rights_of_this_program_is_taken_for_slurms() {
        let exe = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(!is_own_file(exe.as_raw_fd()));
        // SAFETY: a C string and flags.
        let open = |path: &std::ffi::CStr| unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        let (own, other) = (open(c"/proc/self/exe"), open(c"/proc/self/status"));
        assert!(is_own_file(own) && !is_own_file(other));
    }
}
