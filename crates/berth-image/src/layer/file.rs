//! Small operations on files of a tree.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Timespec, Timestamps};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

/// Where a descriptor's directory is.
pub(super) fn real_path(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::readlink(path, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// What stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    Directory,
    Symlink,
    Whiteout,
    Other,
}

pub(super) fn present(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Present>, Errno> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Present::Directory,
        FileType::Symlink => Present::Symlink,
        FileType::CharacterDevice if stat.st_rdev == 0 => Present::Whiteout,
        _ => Present::Other,
    }))
}

pub(crate) fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn uid(id: u64) -> Option<rustix::fs::Uid> {
    u32::try_from(id).ok().filter(|&id| id != u32::MAX).map(rustix::fs::Uid::from_raw)
}

pub(crate) fn gid(id: u64) -> Option<rustix::fs::Gid> {
    u32::try_from(id).ok().filter(|&id| id != u32::MAX).map(rustix::fs::Gid::from_raw)
}

pub(super) fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn pwrite_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn hash_zeros(hasher: &mut Xxh3, mut count: u64) {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let take = count.min(ZEROS.len() as u64) as usize;
        hasher.update(&ZEROS[..take]);
        count -= take as u64;
    }
}
