//! Removal of a file tree that a container made: directories without permissions, any depth, files of subordinate ids.
//!
//! No recursion: a directory inside a directory is renamed to the top of the tree first, so neither the length of paths,
//! nor the number of open files, nor the stack depends on the depth.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmodat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::{WaitOptions, waitpid};

use crate::error::{Error, Result};
use crate::launch;
use crate::oci::{Linux, Namespace, NamespaceKind, Spec};

/// Removes `top` and everything below it; that it is not there is no error. If own ids don't suffice, the user namespace
/// of `spec` is used.
pub fn tree(top: &Path, spec: Option<&Spec>) -> Result<()> {
    match remove(top) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error @ (Errno::ACCESS | Errno::PERM)) => match spec.and_then(id_space) {
            Some(spec) => remove_with_ids(top, &spec),
            None => Err(Error::io("remove", top, error)),
        },
        Err(error) => Err(Error::io("remove", top, error)),
    }
}

fn remove(top: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, top, flags, Mode::empty())?;
    let mut moved = 0;
    while empty_once(directory.as_fd(), &mut moved)? {}
    unlinkat(CWD, top, AtFlags::REMOVEDIR)
}

/// One pass over the top; false when nothing was there.
fn empty_once(top: BorrowedFd<'_>, moved: &mut u64) -> Result<bool, Errno> {
    let mut any = false;
    for entry in Dir::read_from(top)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        any = true;
        if let Some(inner) = unlink_or_open(top, name)? {
            for entry in Dir::read_from(&inner)? {
                let entry = entry?;
                let name = entry.file_name();
                if name != c"." && name != c".." && unlink_or_open(inner.as_fd(), name)?.is_some() {
                    *moved += 1;
                    renameat(&inner, name, top, format!(".{moved}.moved"))?;
                }
            }
            unlinkat(top, name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(any)
}

/// Removes a file or an empty directory; opens any other directory, with all permissions.
fn unlink_or_open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map(Some)
}

/// A configuration with nothing but the container's user namespace, if it has one with more than one id.
fn id_space(spec: &Spec) -> Option<Spec> {
    let linux = spec.linux.as_ref()?;
    let more = linux.uid_mappings.iter().map(|map| u64::from(map.size)).sum::<u64>() > 1;
    more.then(|| Spec {
        linux: Some(Linux {
            namespaces: vec![Namespace::new(NamespaceKind::User), Namespace::new(NamespaceKind::Mount)],
            uid_mappings: linux.uid_mappings.clone(),
            gid_mappings: linux.gid_mappings.clone(),
            ..Linux::default()
        }),
        ..Spec::default()
    })
}

/// Removes as the superuser of the container's user namespace, in a child, because nobody leaves a user namespace.
fn remove_with_ids(top: &Path, spec: &Spec) -> Result<()> {
    let child = launch::in_child(|| {
        let entered = launch::enter_namespaces(spec).map_err(|error| error.to_string());
        match entered.and_then(|()| remove(top).map_err(|error| error.to_string())) {
            Ok(()) => 0,
            Err(_) => 1,
        }
    })?;
    let ended = waitpid(rustix::process::Pid::from_raw(child as i32), WaitOptions::empty());
    match ended {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(Error::io("remove", top, io::Error::from_raw_os_error(libc::EACCES))),
    }
}
