//! `tmpcopyup`: a tmpfs that begins with what the image has at its place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat, openat, readlinkat,
    sendfile, statat, symlinkat,
};
use rustix::io::Errno;

/// Directories below each other; deeper ones have no business in a tmpfs.
const DEEPEST: usize = 100;

/// Copies directories, files and links; devices and the like are left out. Nothing is followed.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    copy_directory(from, to, DEEPEST)
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(Errno::NAMETOOLONG.into());
    }
    let from: OwnedFd = openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let inner = openat(
                    to,
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                copy_directory(openat(&from, name, flags, Mode::empty())?.as_fd(), inner.as_fd(), depth - 1)?;
                own(to, name, &stat);
                fchmod(&inner, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(&from, name, flags, Mode::empty())?;
                // It may have become something else meanwhile.
                if FileType::from_raw_mode(fstat(&source)?.st_mode) != FileType::RegularFile {
                    continue;
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
                while sendfile(&file, &source, None, 1 << 30)? > 0 {}
                own(to, name, &stat);
                fchmod(&file, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(&from, name, Vec::new())?, to, name)?;
                own(to, name, &stat);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Owners that have no id in this user namespace cannot be given anything: then it is ours.
fn own(directory: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &Stat) {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let _ = chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
}
