//! The overlay of an image's layers and what a container changes.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, mount, move_mount};
use rustix::process::chdir;

use super::{Generated, Lower, UpperPlan};
use crate::error::{Error, Result};

/// Directories of which every machine has at least one; the first that is there is the stage.
const STAGES: &[&CStr] = &[c"/tmp", c"/run", c"/usr", c"/etc"];

/// An overlay on its stage, ready to be mounted.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    name: &'a CStr,
    lowers: &'a [Lower],
    upper: &'a UpperPlan,
    stage: OwnedFd,
    pub(super) stage_path: &'static CStr,
    /// Layers and directories for changes: the options name them by number.
    _open: Vec<OwnedFd>,
    options: CString,
    /// Layers belong to a user who has no id here.
    pub(super) foreign: bool,
}

/// What the kernel shows as the owner of a file whose owner has no id in the user namespace
/// (`/proc/sys/kernel/overflowuid`, which nobody changes).
const NO_ID: u32 = 65534;

impl<'a> Overlay<'a> {
    pub(super) fn prepare(
        name: &'a CStr,
        lowers: &'a [Lower],
        generated: &[Generated],
        upper: &'a UpperPlan,
    ) -> Result<Overlay<'a>> {
        let open = |path: &CStr| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| Error::io("open the layer", Path::new(&*path.to_string_lossy()), e))
        };
        // Everything of the host is opened before the stage hides a part of it.
        let mut opened: Vec<OwnedFd> = lowers
            .iter()
            .filter(|lower| lower.mounted.is_none())
            .map(|lower| open(&lower.path))
            .collect::<Result<_>>()?;
        let foreign = opened.iter().any(|layer| rustix::fs::fstat(layer).is_ok_and(|stat| stat.st_uid == NO_ID));
        let on_disk = match upper {
            UpperPlan::Dir { upper, work } => Some((open(upper)?, open(work)?)),
            UpperPlan::Memory { .. } => None,
        };
        let (stage, stage_path) = mount_stage(match upper {
            UpperPlan::Memory { size } => *size,
            UpperPlan::Dir { .. } => None,
        })?;
        let make = |name: &CStr| {
            mkdirat(&stage, name, Mode::from_raw_mode(0o755))
                .map_err(|e| Error::Rootfs { reason: format!("cannot make a directory in memory: {e}"), hint: None })
        };
        make(c"root")?;
        let mut options = String::from("userxattr,lowerdir=");
        if !generated.is_empty() || foreign {
            make(c"lower")?;
            let _ = write!(options, "{}/lower:", stage.as_raw_fd());
        }
        let mut directories = opened.iter().rev();
        for (number, lower) in lowers.iter().enumerate().rev() {
            let _ = match &lower.mounted {
                None => write!(options, "{}:", directories.next().map_or(-1, AsRawFd::as_raw_fd)),
                Some(mount) => {
                    attach_layer(mount, &stage, number)?;
                    write!(options, "{}/{number}:", stage.as_raw_fd())
                }
            };
        }
        options.pop();
        match on_disk {
            Some((upper, work)) => {
                let _ = write!(options, ",upperdir={},workdir={}", upper.as_raw_fd(), work.as_raw_fd());
                opened.extend([upper, work]);
            }
            None => {
                make(c"upper")?;
                make(c"work")?;
                let _ = write!(options, ",upperdir={0}/upper,workdir={0}/work", stage.as_raw_fd());
            }
        }
        let options = CString::new(options).map_err(|_| Error::bad_spec("rootfs", "a path contains a NUL byte"))?;
        let overlay = Overlay { name, lowers, upper, stage, stage_path, _open: opened, options, foreign };
        if !generated.is_empty() {
            let layer = overlay.lower()?;
            for file in generated {
                file.write(layer.as_fd())
                    .map_err(|e| Error::io("write the generated file", Path::new(&*file.path.to_string_lossy()), e))?;
            }
        }
        Ok(overlay)
    }

    /// The layer of what is not the image's: generated files, mount points.
    pub(super) fn lower(&self) -> Result<OwnedFd> {
        openat(&self.stage, c"lower", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io("open", "the layer of generated files", e))
    }

    /// The mount point, relative to `/proc/self/fd`.
    pub(super) fn target(&self) -> String {
        format!("{}/root", self.stage.as_raw_fd())
    }

    pub(super) fn mount(&self) -> Result<OwnedFd> {
        // Layers are named by descriptor, relative to this directory: no escaping of `:` and `,`, and hundreds of them
        // fit into the one page that mount(2) takes.
        chdir(c"/proc/self/fd").map_err(|e| Error::Rootfs { reason: format!("/proc/self/fd: {e}"), hint: None })?;
        mount(self.name, self.target().as_str(), c"overlay", MountFlags::empty(), Some(self.options.as_c_str()))
            .map_err(|e| overlay_error(e, self.lowers, self.upper))?;
        openat(&self.stage, c"root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::Rootfs { reason: format!("cannot open the overlay: {e}"), hint: None })
    }
}

/// Puts a layer that is a mount to its place on the stage.
fn attach_layer(mount: &OwnedFd, stage: &OwnedFd, number: usize) -> Result<()> {
    let failed = |e: Errno| Error::Rootfs { reason: format!("cannot mount layer {number}: {e}"), hint: None };
    let name = number.to_string();
    mkdirat(stage, &*name, Mode::from_raw_mode(0o755)).map_err(failed)?;
    move_mount(mount, c"", stage, &*name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed)
}

/// Mounts the tmpfs; returns its top directory and where that is.
fn mount_stage(size: Option<u64>) -> Result<(OwnedFd, &'static CStr)> {
    let data = match size {
        Some(size) => Cow::Owned(CString::new(format!("size={size},mode=755")).unwrap_or_default()),
        None => Cow::Borrowed(c"mode=755"),
    };
    for stage in STAGES {
        match mount(c"berth", *stage, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(&*data)) {
            Ok(()) => {
                return rustix::fs::open(*stage, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .map(|fd| (fd, *stage))
                    .map_err(|e| Error::Rootfs { reason: format!("cannot open the tmpfs: {e}"), hint: None });
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                return Err(Error::Rootfs { reason: format!("cannot mount a tmpfs: {error}"), hint: None });
            }
        }
    }
    Err(Error::Rootfs { reason: "this machine has none of /tmp, /run, /usr, /etc".to_owned(), hint: None })
}

/// Overlayfs says why only in the kernel's log, which a user cannot read: works it out.
fn overlay_error(error: Errno, lowers: &[Lower], upper: &UpperPlan) -> Error {
    let (reason, hint) = match (error, upper) {
        (Errno::PERM | Errno::NODEV, _) => (
            format!("overlay mount: {error}"),
            Some("ordinary users may mount overlays since Linux 5.11, where the module `overlay` is loaded".to_owned()),
        ),
        (Errno::INVAL, UpperPlan::Dir { upper, .. }) => (
            format!("the file system of {} cannot hold the changes of an overlay", upper.to_string_lossy()),
            Some("NFS, Lustre and FUSE cannot: use a local directory, or let the changes go to memory".to_owned()),
        ),
        (Errno::BUSY, UpperPlan::Dir { upper, .. }) => (
            format!("{} is in use by another container", upper.to_string_lossy()),
            Some("join that container, or end it first".to_owned()),
        ),
        (Errno::STALE, UpperPlan::Dir { upper, .. }) => (
            format!("{} was used with other layers before", upper.to_string_lossy()),
            Some(
                "the changes belong to the image they were made on: remove the container and make it again".to_owned(),
            ),
        ),
        (Errno::LOOP, _) => (
            "overlays are nested too deeply".to_owned(),
            Some("an overlay can lie on at most one other: keep the image store on a plain file system".to_owned()),
        ),
        _ => (format!("overlay of {} layers: {error}", lowers.len()), None),
    };
    Error::Rootfs { reason, hint }
}
