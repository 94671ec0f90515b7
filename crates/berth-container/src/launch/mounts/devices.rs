//! Device nodes: made where the kernel lets them be made, else the host's, bound.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, makedev, mknodat, openat,
    openat2,
};
use rustix::io::Errno;

use super::path::{self, Target};
use super::{Source, Step, clone_tree, put};
use crate::error::{Error, Result};
use crate::oci::{self, Spec};

/// What every container has in `/dev`, if it is not the host's; major and minor number.
const USUAL: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links in a private `/dev`.
const LINKS: &[(&str, &CStr)] = &[
    ("/dev/fd", c"/proc/self/fd"),
    ("/dev/stdin", c"/proc/self/fd/0"),
    ("/dev/stdout", c"/proc/self/fd/1"),
    ("/dev/stderr", c"/proc/self/fd/2"),
    ("/dev/ptmx", c"pts/ptmx"),
];

/// A device that is to be in the container.
#[derive(Debug)]
pub struct Device {
    /// The host's.
    path: CString,
    kind: FileType,
    /// Absent: whatever the host has there.
    number: Option<Dev>,
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    /// One that every container has: it may be missing on the host, and something else in the image is covered.
    usual: bool,
}

impl Device {
    fn plan(device: &oci::Device) -> Result<Device> {
        let field = || format!("linux.devices[{}]", device.path.display());
        let kind = match device.kind.as_str() {
            "c" | "u" => FileType::CharacterDevice,
            "b" => FileType::BlockDevice,
            "p" => FileType::Fifo,
            other => return Err(Error::bad_spec(field(), format!("unknown type `{other}`"))),
        };
        let number = match (device.major, device.minor) {
            _ if kind == FileType::Fifo => Some(0),
            (Some(major), Some(minor)) => {
                let part = |number: i64| {
                    u32::try_from(number).map_err(|_| Error::bad_spec(field(), format!("{number} is no device number")))
                };
                Some(makedev(part(major)?, part(minor)?))
            }
            _ => None,
        };
        let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
        Ok(Device {
            path: super::super::c_string(device.path.as_os_str(), field)?,
            kind,
            number,
            mode: Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777),
            owner: (uid != 0 || gid != 0).then(|| (Uid::from_raw(uid), Gid::from_raw(gid))),
            usual: false,
        })
    }

    fn is_this(&self, file: BorrowedFd<'_>) -> bool {
        fstat(file).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == self.kind
                && (self.kind == FileType::Fifo || self.number.is_none_or(|number| number == stat.st_rdev))
        })
    }

    /// Whether a file of the host is what was asked for; where no number was said, any device is.
    pub fn check(&self, host: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.is_this(host) || self.number.is_none() { Ok(()) } else { Err(Errno::NXIO) }
    }

    /// Makes the node, or binds the host's.
    pub fn attach(&self, step: &Step, root: BorrowedFd<'_>, refused: &mut bool) -> Result<()> {
        let Some(number) = self.number.filter(|_| self.kind == FileType::Fifo || !*refused) else {
            return self.bind(step, root);
        };
        let (parent, name) = step.parent(root)?;
        // The mode is meant as it is.
        let umask = rustix::process::umask(Mode::empty());
        let made = mknodat(&parent, name, self.kind, self.mode, number);
        rustix::process::umask(umask);
        let there = || openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match made {
            Ok(()) => {
                let Some((uid, gid)) = self.owner else { return Ok(()) };
                let node = there().map_err(|e| step.error(e.into()))?;
                if !self.is_this(node.as_fd()) {
                    return Err(step.error(Errno::STALE.into()));
                }
                chownat(&node, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(|e| step.error(e.into()))
            }
            Err(Errno::EXIST) if there().is_ok_and(|node| self.is_this(node.as_fd())) => Ok(()),
            Err(Errno::EXIST) if self.usual => self.bind(step, root),
            Err(Errno::EXIST) => Err(step.refuse("the root file system has something else there")),
            // In a user namespace nobody makes devices.
            Err(Errno::PERM) if self.kind != FileType::Fifo => {
                *refused = true;
                self.bind(step, root)
            }
            Err(error) => Err(step.error(error.into())),
        }
    }

    fn bind(&self, step: &Step, root: BorrowedFd<'_>) -> Result<()> {
        let tree = match clone_tree(CWD, &self.path, false) {
            Err(Errno::NOENT) if self.usual => return Ok(()),
            other => other.map_err(|e| step.error(e.into()))?,
        };
        self.check(tree.as_fd()).map_err(|e| step.error(e.into()))?;
        let target = match path::resolve(root, &step.target.0) {
            Err(Errno::NOENT) => step.create(root, false)?,
            other => other.map_err(|e| step.error(e.into()))?,
        };
        step.check_place(target.as_fd())?;
        put(&tree, target.as_fd()).map_err(|e| step.error(e.into()))
    }
}

/// Steps for the devices of a private `/dev` (`inside`), or for those outside of it. `bind`: the kernel would refuse to
/// make nodes.
pub fn plan(spec: &Spec, inside: bool, bind: bool, steps: &mut Vec<Step>) -> Result<()> {
    let asked = spec.linux.iter().flat_map(|linux| &linux.devices);
    let asked = || asked.clone().filter(|device| device.path.starts_with("/dev") == inside);
    let field = || "linux.devices".to_owned();
    let mut push = |path: &Path, device: Device| {
        let optional = device.usual;
        let target = Target::new(path, field)?;
        steps.push(if bind && device.kind != FileType::Fifo {
            let source = Source::Tree { path: device.path.clone(), recursive: false };
            Step { optional, device: Some(device), ..Step::new(source, target) }
        } else {
            Step { optional, ..Step::new(Source::Device(device), target) }
        });
        Ok::<(), Error>(())
    };
    if inside {
        for &(name, major, minor) in USUAL {
            let path = PathBuf::from("/dev").join(name);
            // What a configuration says about one of them holds.
            if asked().any(|device| device.path == path) {
                continue;
            }
            let device = Device {
                path: super::super::c_string(path.as_os_str(), field)?,
                kind: FileType::CharacterDevice,
                number: Some(makedev(major, minor)),
                mode: Mode::from_raw_mode(0o666),
                owner: None,
                usual: true,
            };
            push(&path, device)?;
        }
    }
    for device in asked() {
        push(&device.path, Device::plan(device)?)?;
    }
    if inside {
        for (path, text) in LINKS {
            let target = Target::new(Path::new(path), field)?;
            steps.push(Step { optional: true, ..Step::new(Source::Link((*text).to_owned()), target) });
        }
    }
    Ok(())
}

/// Lays a terminal over `/dev/console` of the container, in whose root this process is already.
pub fn bind_console(terminal: BorrowedFd<'_>) -> Result<()> {
    let fail = |e: Errno| Error::Mount {
        what: "the terminal".to_owned(),
        target: PathBuf::from("/dev/console"),
        reason: e.to_string(),
        hint: None,
    };
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
    let open = |path: &CStr, flags: OFlags| loop {
        // The kernel takes a mode only where something may be made.
        let mode = if flags.contains(OFlags::CREATE) { 0o600 } else { 0 };
        match openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode), how) {
            Err(Errno::AGAIN) => {}
            answer => break answer,
        }
    };
    let target: OwnedFd = match open(c"/dev/console", OFlags::PATH) {
        Err(Errno::NOENT) => {
            open(c"/dev/console", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map_err(fail)?;
            open(c"/dev/console", OFlags::PATH)
        }
        answer => answer,
    }
    .map_err(fail)?;
    let tree = clone_tree(terminal, c"", false).map_err(fail)?;
    put(&tree, target.as_fd()).map_err(fail)
}
