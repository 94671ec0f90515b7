//! Mount points that an image lacks, made in a layer below the changes: see [`super::rootfs::Root::add_mount_points`].

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, readlink, statat};
use rustix::io::Errno;

use super::mounts::resolve;

/// A place for a mount, that is not there.
#[derive(Debug)]
pub struct MountPoint {
    /// Path in the root, without the leading slash.
    pub path: Vec<u8>,
    /// For a directory, or for a file.
    pub directory: bool,
}

impl MountPoint {
    /// Makes it in `layer`, with the directories on the way that `root` has already, so that the two merge.
    pub fn make(&self, root: BorrowedFd<'_>, layer: BorrowedFd<'_>) -> io::Result<()> {
        let names: Vec<&[u8]> = self.path.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect();
        // The innermost directory that is there, under its real name: links on the way are the image's.
        let mut there = names.len();
        let real = loop {
            let prefix = CString::new(names[..there].join(&b'/'))?;
            let found = if there == 0 { root.try_clone_to_owned() } else { resolve(root, &prefix).map_err(Into::into) };
            match found {
                Ok(fd) => break real_path(root, &fd)?,
                Err(_) if there > 0 => there -= 1,
                Err(error) => return Err(error),
            }
        };
        let mut path = Vec::new();
        for name in real.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            push(&mut path, name);
            let mode = statat(root, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?.st_mode & 0o7777;
            // Ours to write into, whatever the image's mode.
            make_directory(layer, &path, mode | 0o700)?;
        }
        let missing = &names[there..];
        for (index, name) in missing.iter().enumerate() {
            push(&mut path, name);
            if index + 1 < missing.len() || self.directory {
                make_directory(layer, &path, 0o755)?;
            } else {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(layer, path.as_slice(), flags, Mode::from_raw_mode(0o644))?;
            }
        }
        Ok(())
    }
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

fn make_directory(layer: BorrowedFd<'_>, path: &[u8], mode: u32) -> io::Result<()> {
    match mkdirat(layer, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where a descriptor's directory is, relative to the root.
fn real_path(root: BorrowedFd<'_>, directory: &OwnedFd) -> io::Result<Vec<u8>> {
    let path = |number: i32| Ok::<_, io::Error>(readlink(format!("/proc/self/fd/{number}"), Vec::new())?.into_bytes());
    let (top, inside) = (path(root.as_raw_fd())?, path(directory.as_raw_fd())?);
    inside.strip_prefix(top.as_slice()).map(<[u8]>::to_vec).ok_or_else(|| io::Error::from(Errno::XDEV))
}
