//! Mounting what is served.
//!
//! The mount is made detached, as a descriptor, and put to its place later: in whichever namespace, by whichever process
//! has the descriptor. Whoever makes it must be root of its user namespace; that of a user who made one is enough
//! (Linux 4.18). `/dev/fuse` must be open to the user.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::FsMountFlags;
use rustix::mount::FsOpenFlags;
use rustix::mount::MountAttrFlags;
use rustix::mount::MoveMountFlags;

/// Where the kernel's side of FUSE is.
pub const DEVICE: &str = "/dev/fuse";

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device cannot be opened.
    #[error("cannot open {path}: {source}")]
    Device {
        /// Which.
        path: String,
        /// The system's answer.
        source: Errno,
    },
    /// The kernel makes no mount.
    #[error("cannot mount a FUSE file system ({step}): {source}")]
    Mount {
        /// What was asked of it.
        step: &'static str,
        /// The system's answer.
        source: Errno,
    },
}

/// A mount that is not yet at a place, and what its server reads from.
#[derive(Debug)]
pub struct Mounted {
    /// The connection to the kernel, for [`Server::new`](crate::Server::new).
    pub connection: OwnedFd,
    /// The mount. It is gone when this and the last place where it was put are.
    pub mount: OwnedFd,
}

/// Who may use a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Processes whose user and group are those of the one who mounts, in whichever user namespace they are. Overlayfs
    /// reads its layers as the one who mounted it, so whoever is in a container of that user may read there too.
    Owner,
    /// All processes of the user namespace in which it is mounted, and of those below it. Others may not: a container has
    /// its user namespace beside it.
    Namespace,
}

/// Makes a mount. `device` is usually [`DEVICE`]; `source` is what tables of mounts show.
pub fn mount(device: &Path, source: &str, access: Access) -> Result<Mounted, Error> {
    let connection = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::Device { path: device.display().to_string(), source })?;
    let at = |step: &'static str| move |source| Error::Mount { step, source };
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
    let set = |key: &'static str, value: &str| {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value).map_err(at(key))
    };
    // A comma would end the option in tables of mounts.
    set("source", &source.replace([',', '\n', '\0'], "_"))?;
    set("subtype", "berth")?;
    set("fd", &connection.as_raw_fd().to_string())?;
    set("rootmode", "40755")?;
    set("user_id", &rustix::process::geteuid().as_raw().to_string())?;
    set("group_id", &rustix::process::getegid().as_raw().to_string())?;
    // The kernel checks permissions by mode and owner.
    let others = (access == Access::Namespace).then_some("allow_other");
    for key in ["default_permissions", "ro"].into_iter().chain(others) {
        rustix::mount::fsconfig_set_flag(context.as_fd(), key).map_err(at(key))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(at("create"))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))?;
    Ok(Mounted { connection, mount })
}

/// Puts a mount to a place.
pub fn attach(mount: BorrowedFd<'_>, place: &Path) -> Result<(), Error> {
    rustix::mount::move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|source| Error::Mount { step: "move_mount", source })
}
