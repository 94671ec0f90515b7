//! Opening paths inside a directory, by the kernel's own rules.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// `openat2(2)`, again while it says `EAGAIN`: that a `..` on the way met a rename or a mount somewhere in the system, so
/// that the kernel could not tell whether it stayed inside.
pub(crate) fn open(
    root: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            other => return other,
        }
    }
}
