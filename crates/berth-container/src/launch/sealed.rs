//! Keeping the own program out of a container's hands (CVE-2019-5736).
//!
//! While this process starts a command in a container, or has become part of one, `/proc/PID/exe` leads the container to
//! the program of the host. If it may write that file, it may replace what the next person runs. So a program that could
//! be written by who runs it is executed again from something that cannot:
//!
//! * by the superuser: the same file, through a read-only mount that is attached nowhere (nothing is copied);
//! * by others: a copy in memory, sealed.
//!
//! A program that belongs to root, run by somebody else, needs neither; to find that out takes two system calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{
    Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, accessat, fcntl_add_seals, fcntl_get_seals, memfd_create,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::mounts::by_number;
use super::sys::{self, MountAttr, PointerList, attr};
use crate::error::{Error, Result};

const SELF: &str = "/proc/self/exe";

/// Seals that leave nothing to change, the seals included.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// Becomes this program again, with another line and environment. Comes back only to say why not.
pub fn execute_self(words: &[CString], environment: &[CString]) -> io::Error {
    let words = PointerList::new(words.iter().map(CString::as_c_str));
    let environment = PointerList::new(environment.iter().map(CString::as_c_str));
    sys::execve(c"/proc/self/exe", &words, &environment)
}

/// Returns if nobody in a container could write this program; else executes it again from where that is so, with the
/// same arguments, environment and descriptors. Belongs at the very beginning, before anything is opened or started.
///
/// # Errors
/// If the program can be written and nothing better can be made.
pub fn ensure_sealed() -> Result<()> {
    let writable = accessat(CWD, SELF, Access::WRITE_OK, AtFlags::EACCESS);
    match writable {
        // Read-only: whoever owns it, no way of writing leads through here.
        Err(Errno::ROFS) => return named(),
        // Without /proc there is no way to the file.
        Err(Errno::NOENT) => return Ok(()),
        _ => {}
    }
    let owner = rustix::fs::stat(SELF).map_err(|e| Error::io("look at", SELF, e))?.st_uid;
    if writable.is_err() && owner != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let program = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open", SELF, e))?;
    if is_sealed(program.as_fd()) {
        return named();
    }
    let failed = |source: io::Error| Error::System {
        action: "protect berth's own program from the container".to_owned(),
        source,
        hint: Some("install it as root and run it as another user: then it needs no protection".to_owned()),
    };
    // What is executed is looked at in the same way as after, so that this cannot go round in circles.
    let protected = match read_only_view() {
        Some(view) => view,
        None => sealed_copy(program.as_fd()).map_err(failed)?,
    };
    let args: Vec<CString> =
        std::env::args_os().filter_map(|argument| CString::new(argument.into_vec()).ok()).collect();
    Err(failed(sys::execute_again(protected.as_fd(), &PointerList::new(args.iter().map(CString::as_c_str)))))
}

/// Hides this process from those of the container that it joins: they can neither trace it nor look at its files.
pub fn hide_process() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| Error::system("hide from the container", e))
}

/// The kernel calls a program that was executed by descriptor by its number: gives it its name back.
fn named() -> Result<()> {
    if let Some(path) = std::env::args_os().next() {
        let name = std::path::Path::new(&path).file_name().map(|name| name.to_owned().into_vec());
        if let Some(name) = name.and_then(|name| CString::new(name).ok()) {
            let _ = rustix::thread::set_name(&name);
        }
    }
    Ok(())
}

/// Whether this is a copy made by [`sealed_copy`].
fn is_sealed(program: BorrowedFd<'_>) -> bool {
    fcntl_get_seals(program).is_ok_and(|seals| seals.contains(SEALS))
}

/// The program through a read-only mount; `None` where this process may not mount, or the kernel cannot.
fn read_only_view() -> Option<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = open_tree(CWD, SELF, flags).ok()?;
    let change = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    sys::mount_setattr(view.as_fd(), false, &change).ok()?;
    // By its number: rustix makes no system call of an empty path.
    (accessat(CWD, by_number(&view), Access::WRITE_OK, AtFlags::EACCESS) == Err(Errno::ROFS)).then_some(view)
}

/// A copy of the program in memory that nobody can change.
fn sealed_copy(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `MFD_EXEC` of `linux/memfd.h`: kernels since 6.3 may be set to refuse to execute others.
    const EXECUTABLE: MemfdFlags = MemfdFlags::from_bits_retain(0x10);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match memfd_create("berth", flags | EXECUTABLE) {
        Err(Errno::INVAL) => memfd_create("berth", flags),
        other => other,
    }?;
    let size = rustix::fs::fstat(program)?.st_size;
    let mut left = usize::try_from(size).unwrap_or(0);
    while left > 0 {
        match rustix::fs::sendfile(&copy, program, None, left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => left -= count.min(left),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o555))?;
    fcntl_add_seals(&copy, SEALS)?;
    if is_sealed(copy.as_fd()) { Ok(copy) } else { Err(io::ErrorKind::Unsupported.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_superuser_needs_no_copy_of_the_program() {
        assert_eq!(read_only_view().is_some(), rustix::process::geteuid().is_root());
    }
}
