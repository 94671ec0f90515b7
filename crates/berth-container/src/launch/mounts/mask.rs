//! Masked paths: an empty directory or `/dev/null` over what a container must not see.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, fstat, makedev};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::path::is_directory;
use super::{clone_tree, mount_at, put};

/// What lies over masked paths: made once, and shown at each.
#[derive(Debug, Default)]
pub struct Masks {
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

impl Masks {
    /// Hides what is open as `target`.
    pub fn hide(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if is_directory(target) {
            return self.hide_directory(target);
        }
        let null = match &mut self.null {
            Some(null) => null,
            none => none.insert(null_device()?),
        };
        put(&clone_tree(null.as_fd(), c"", false)?, target)
    }

    /// A file system costs more than a mount of one that is there.
    fn hide_directory(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if let Some(empty) = &self.empty {
            return put(&clone_tree(empty.as_fd(), c"", false)?, target);
        }
        match empty_directory() {
            Ok(empty) => {
                put(&empty, target)?;
                self.empty = Some(empty);
                Ok(())
            }
            // Where the newer calls are filtered away.
            Err(_) => {
                let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                mount_at(target, c"tmpfs", flags, c"nr_blocks=1,nr_inodes=2")
            }
        }
    }
}

/// The host's, which must be the real one: a file that can be written would be a channel, or worse.
fn null_device() -> Result<OwnedFd, Errno> {
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&null)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == makedev(1, 3) {
        Ok(null)
    } else {
        Err(Errno::NODEV)
    }
}

fn empty_directory() -> Result<OwnedFd, Errno> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"nr_blocks", c"1")?;
    fsconfig_set_string(context.as_fd(), c"nr_inodes", c"2")?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
