//! What is tried in a process of its own: `berth doctor --try WORD DIR`, as the person for whom it is tried.
//!
//! A process with more than one thread gets no new user namespace, and one that is in a new namespace does not come back.

#![allow(unsafe_code)] // unshare and prctl.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::fs::XattrFlags;
use rustix::mount::MountFlags;

use super::Attempt;

/// Words of the hidden option, and what is tried for each.
const WORDS: [(&str, Attempt); 5] = [
    ("namespace", Attempt::UserNamespace),
    ("overlay", Attempt::Overlay),
    ("fuse", Attempt::Fuse),
    ("locks", Attempt::Locks),
    ("attributes", Attempt::Attributes),
];

/// The word of an attempt; those that berth's own verbs make have none.
pub fn word(attempt: Attempt) -> Option<&'static str> {
    WORDS.iter().find(|(_, what)| *what == attempt).map(|(word, _)| *word)
}

/// Tries what a word means.
///
/// # Errors
/// Why it does not work.
pub fn attempt(word: &str, place: &Path) -> io::Result<()> {
    match WORDS.iter().find(|(name, _)| *name == word).map(|(_, what)| what) {
        Some(Attempt::UserNamespace) => namespace(),
        Some(Attempt::Overlay) => overlay(place),
        Some(Attempt::Fuse) => fuse(place),
        Some(Attempt::Locks) => locks(place),
        Some(Attempt::Attributes) => attributes(place),
        _ => Err(io::Error::other("there is nothing of that name to try")),
    }
}

/// A user and a mount namespace in which the caller is root.
fn namespace() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: unshare takes flags only, and this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // A process that changed its ids is not its own in /proc until it is said to be.
    // SAFETY: prctl with these arguments takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// An overlay of folders in memory, written to.
fn overlay(place: &Path) -> io::Result<()> {
    namespace()?;
    rustix::mount::mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)?;
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(place.join(name))?;
    }
    fs::write(place.join("lower/file"), "below")?;
    let dir = place.display();
    let options = format!("userxattr,lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let merged = place.join("merged");
    rustix::mount::mount("overlay", &merged, "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    fs::write(merged.join("file"), "above")
}

/// The device opened, and a file system mounted by it, that nobody serves.
fn fuse(device: &Path) -> io::Result<()> {
    // A mount has to be made by whom the device was opened by.
    namespace()?;
    let opened = File::options().read(true).write(true).open(device)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&opened));
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    // What it hides is hidden in this namespace only.
    let place = device.parent().unwrap_or(Path::new("/"));
    rustix::mount::mount("berth", place, "fuse", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(|error| {
            io::Error::other(format!("a FUSE file system cannot be mounted by it: {}", io::Error::from(error)))
        })
}

/// A lock, and a second one that has to be refused.
fn locks(place: &Path) -> io::Result<()> {
    let path = place.join(format!(".berth-doctor-{}", std::process::id()));
    let result = (|| {
        let file = match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => file,
            // Where nothing can be written, that is another finding.
            Err(error) if writing_is_refused(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let other = File::open(&path)?;
        match rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Err(io::Error::other("two have the lock at once")),
            Err(_) => Ok(()),
        }
    })();
    // Left behind it would be an empty file with a telling name.
    let _ = fs::remove_file(path);
    result
}

/// An attribute of users.
fn attributes(place: &Path) -> io::Result<()> {
    let path = place.join(format!(".berth-doctor-{}-x", std::process::id()));
    match File::options().write(true).create_new(true).open(&path) {
        Ok(_) => {}
        Err(error) if writing_is_refused(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    let result = rustix::fs::setxattr(&path, "user.overlay.opaque", b"y", XattrFlags::empty());
    // As above.
    let _ = fs::remove_file(path);
    Ok(result?)
}

fn writing_is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOSPC | libc::EDQUOT))
}
