//! Directories and files of control groups.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};

/// More than any file of a group says.
const MAX_FILE: u64 = 16 << 20;

/// More groups than this below a container's are not looked at.
const MAX_GROUPS: usize = 65_536;

/// How deep groups may lie below a container's.
const MAX_DEPTH: usize = 256;

/// How long the kernel is given for what it does later: processes to vanish, to stop, to go on.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Magic numbers of the two file systems.
const MAGICS: [u64; 2] = [0x0027_e0eb, 0x6367_7270];

/// Writes a file of a group in one piece, which is how the kernel wants it.
pub(super) fn write(directory: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(directory.join(file))
        .and_then(|mut opened| opened.write_all(value.as_bytes()))
}

/// Reads a file of a group.
pub(super) fn read(directory: &Path, file: &str) -> io::Result<String> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(directory.join(file))?;
    let mut text = String::new();
    opened.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Refuses a directory that another mount has come to hide.
pub(super) fn check_is_cgroup(mount_point: &Path) -> io::Result<()> {
    let magic = rustix::fs::statfs(mount_point)?.f_type as u64;
    if MAGICS.contains(&magic) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOENT)) }
}

/// Makes a group and those above it up to the mount point. Calls `made` on every directory that was made, from the top.
/// Whether the group itself was made.
pub(super) fn make(
    mount_point: &Path,
    directory: &Path,
    made: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    let Ok(relative) = directory.strip_prefix(mount_point) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let mut at = mount_point.to_owned();
    let mut was_made = false;
    for name in relative {
        at.push(name);
        was_made = match rustix::fs::mkdir(&at, rustix::fs::Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                made(&at)?;
                true
            }
            Err(rustix::io::Errno::EXIST) => false,
            // A read-only mount says so even where the group is there.
            Err(error) if at.is_dir() && error == rustix::io::Errno::ROFS => false,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(was_made)
}

/// A group and all below it, each before what is above it.
pub(super) fn tree(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![(top.to_owned(), 0)];
    let mut next = 0;
    while let Some((directory, depth)) = found.get(next).cloned() {
        next += 1;
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed meanwhile.
            Err(error) if next > 1 && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let Ok(entry) = entry else { break };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if depth >= MAX_DEPTH || found.len() >= MAX_GROUPS {
                    return Err(io::Error::other("too many control groups below it"));
                }
                found.push((entry.path(), depth + 1));
            }
        }
    }
    Ok(found.into_iter().rev().map(|(directory, _)| directory).collect())
}

/// All processes in a group and below it.
pub(super) fn processes(top: &Path) -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for directory in tree(top)? {
        let text = match read(&directory, "cgroup.procs") {
            // Threads of a process that is elsewhere below, and already counted there.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
            Err(error) if is_gone(&error) && directory != top => continue,
            text => text?,
        };
        all.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|&pid| pid != 0));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Whether a group was removed while it was used.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Whether the kernel, or a read-only mount, does not let this user.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

/// Removes a group and all below it. Killed processes leave their group later than the kill returns, so a busy one is tried
/// again for a while.
pub(super) fn remove(top: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        match remove_once(top) {
            Ok(()) => return Ok(()),
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) && Instant::now() < end =>
            {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(error) => return Err(Error::io("remove the control group", top, error)),
        }
    }
}

pub(super) fn remove_once(top: &Path) -> io::Result<()> {
    // Most have nothing below them.
    match rustix::fs::rmdir(top) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    for directory in tree(top)? {
        match rustix::fs::rmdir(&directory) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until `cgroup.events` says so: the kernel tells of changes by poll(2).
pub(super) fn wait_for_event(directory: &Path, wanted: &str) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let path = directory.join("cgroup.events");
    let mut events = File::open(&path)?;
    loop {
        let mut text = String::new();
        io::Seek::rewind(&mut events)?;
        (&events).take(MAX_FILE).read_to_string(&mut text)?;
        if text.lines().any(|line| line == wanted) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
