//! Removing trees that were written by others: without following links, also where directories forbid it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes the directory `name` in `parent` and everything in it. What is not there is no error.
pub fn tree_at(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR) => return Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
        Err(_) => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // Images have directories that even their owner may not read. `name` cannot be a link here: opening says
            // ELOOP then, not EACCES.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, flags, Mode::empty())?
        }
        other => other?,
    };
    let mut made_writable = false;
    loop {
        let mut again = false;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if matches!(child, b"." | b"..") {
                continue;
            }
            let removed = if entry.file_type() == FileType::Directory {
                tree_at(directory.as_fd(), child)
            } else {
                rustix::fs::unlinkat(&directory, child, AtFlags::empty()).map_err(Into::into)
            };
            match removed {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) if error.raw_os_error() == Some(libc::EACCES) && !made_writable => again = true,
                Err(error) => return Err(error),
            }
            if again {
                break;
            }
        }
        if !again {
            break;
        }
        rustix::fs::fchmod(&directory, Mode::RWXU)?;
        made_writable = true;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// [`tree_at`] by path.
pub fn tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    tree_at(parent.as_fd(), name.as_encoded_bytes())
}
