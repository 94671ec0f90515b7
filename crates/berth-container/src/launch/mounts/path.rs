//! Paths in a root that belongs to somebody else: resolved inside it, whatever its links say.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, mkdirat, openat, openat2, readlinkat, statat,
    statx,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A path in the container, without the leading slash.
#[derive(Debug)]
pub struct Target(pub CString);

impl Target {
    /// Takes a path of a configuration; a relative one starts from the root.
    pub fn new(path: &Path, field: impl Fn() -> String) -> Result<Target> {
        let mut relative = PathBuf::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => relative.push(name),
                Component::ParentDir => {
                    return Err(Error::bad_spec(field(), format!("`{}` has a `..`", path.display())));
                }
                _ => {}
            }
        }
        if relative.as_os_str().is_empty() {
            return Err(Error::bad_spec(field(), "the root itself cannot be a mount point"));
        }
        Ok(Target(super::super::c_string(relative.as_os_str(), field)?))
    }

    /// As people write it.
    pub fn shown(&self) -> PathBuf {
        Path::new("/").join(&*self.0.to_string_lossy())
    }

    /// What follows `directory/`, if it is below.
    pub fn below(&self, directory: &[u8]) -> Option<&CStr> {
        let bytes = self.0.as_bytes_with_nul();
        let rest = bytes.strip_prefix(directory)?.strip_prefix(b"/")?;
        CStr::from_bytes_with_nul(rest).ok()
    }
}

/// Opens a path inside `root`, whatever its links say.
pub fn resolve(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve_as(root, path, ResolveFlags::NO_MAGICLINKS)
}

/// Opens a path inside `root` that has no links.
pub fn resolve_without_links(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    resolve_as(root, path, ResolveFlags::NO_SYMLINKS)
}

fn resolve_as(root: BorrowedFd<'_>, path: &CStr, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    loop {
        // EAGAIN: a `..` on the way met a rename or a mount somewhere in the system, so that the kernel could not tell
        // whether it stayed inside.
        match openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how | ResolveFlags::IN_ROOT) {
            Err(Errno::AGAIN) => rustix::thread::sched_yield(),
            other => return other,
        }
    }
}

/// `mkdir -p` inside `root`; returns the innermost.
pub fn make_directories(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
    if let Ok(found) = resolve(root, c(path)?.as_c_str()) {
        return Ok(found);
    }
    let mut prefix: Vec<u8> = Vec::with_capacity(path.len());
    let mut directory = root.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(name);
        directory = match resolve(root, c(&prefix)?.as_c_str()) {
            Err(Errno::NOENT) => {
                // The name goes into the directory that its parents really lead to, which is inside the root. Another
                // container may make the same one at the same time.
                match mkdirat(&directory, c(name)?.as_c_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) if resolve(root, c(&prefix)?.as_c_str()).is_ok() => {}
                    Err(error) => return Err(error),
                }
                resolve(root, c(&prefix)?.as_c_str())?
            }
            other => other?,
        };
    }
    Ok(directory)
}

/// So many links are followed to the place of a mount point.
pub const LINKS: usize = 8;

/// Makes a directory or an empty file inside `root`, with the directories on the way.
pub fn make_target(root: BorrowedFd<'_>, path: &[u8], directory: bool) -> Result<OwnedFd, Errno> {
    if directory {
        return make_directories(root, path);
    }
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let (parent, name) = split(&path);
    let parent = match parent {
        Some(parent) => make_directories(root, parent)?,
        None => root.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
    resolve(parent.as_fd(), name)
}

/// Where the link at `path` leads, as a path in `root`; [`Errno::EXIST`] if it is not the path's last name that is a link.
pub fn follow(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let (parent, name) = split(&path);
    let directory = match parent {
        Some(parent) => resolve(root, CString::new(parent).map_err(|_| Errno::INVAL)?.as_c_str())?,
        None => root.try_clone_to_owned().map_err(|_| Errno::MFILE)?,
    };
    let text = readlinkat(&directory, name, Vec::new()).map_err(|_| Errno::EXIST)?.into_bytes();
    match (text.first(), parent) {
        (Some(b'/'), _) | (_, None) => Ok(text),
        (_, Some(parent)) => Ok([parent, b"/", &text].concat()),
    }
}

/// Splits off the last name.
pub fn split(path: &CStr) -> (Option<&[u8]>, &CStr) {
    let bytes = path.to_bytes_with_nul();
    match path.to_bytes().iter().rposition(|byte| *byte == b'/') {
        // The rest of a C string after one of its bytes is a C string.
        Some(slash) => (Some(&bytes[..slash]), CStr::from_bytes_with_nul(&bytes[slash + 1..]).unwrap_or(path)),
        None => (None, path),
    }
}

/// Whether it is a directory.
pub fn is_directory(fd: BorrowedFd<'_>) -> bool {
    statat(fd, c"", AtFlags::EMPTY_PATH).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether it is the top of a mount.
pub fn is_mount_root(fd: BorrowedFd<'_>) -> bool {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// A path for system calls that know no descriptors; it leads to the file itself.
pub fn by_number(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
