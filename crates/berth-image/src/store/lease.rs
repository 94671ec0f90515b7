//! Leases: which images are in use.
//!
//! A lease is an empty file whose name says all: `leases/IMAGE,HOST,BOOT,PID,START`. It is made before the layers are
//! opened and removed at the end; where the process becomes the container's command by `exec` nobody is left to remove
//! it, and it is found dead by the process' start time, or by the boot id after a restart. Making one is a single system
//! call, also on a network file system.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::layout::Layout;
use super::lock::Kind;
use super::record::ImageRecord;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// A lease of another host is believed for this long: its processes cannot be looked at from here.
const FOREIGN: Duration = Duration::from_secs(30 * 24 * 3600);
/// After this time a use is worth another write to the record's time.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

/// A lease. Dropping it ends it.
#[derive(Debug)]
pub struct Lease {
    path: Option<PathBuf>,
}

impl Lease {
    pub(super) fn take(layout: &Layout, image: &ImageRecord) -> Result<Lease> {
        let Some(process) = Process::current() else { return Ok(Lease { path: None }) };
        let name = format!("{},{}", image.digest.hex(), process.name());
        let path = layout.leases().join(name);
        // Collection waits until the lease stands, or has finished before we look whether the layers are there.
        let _shared = match layout.gc_lock(Kind::Shared) {
            Ok(lock) => lock,
            Err(error) if read_only(&error) => return Ok(Lease { path: None }),
            Err(error) => return Err(error),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => {}
            Err(Errno::ROFS | Errno::ACCESS) => return Ok(Lease { path: None }),
            Err(error) => return Err(Error::io("create", &path, error)),
        }
        touch(&layout.image(&image.digest));
        if process.pid % 64 == 0 {
            // Containers that were started by `exec` leave their leases; somebody has to sweep now and then.
            let _ = live(layout);
        }
        Ok(Lease { path: Some(path) })
    }

    /// Lets the lease stand when this process ends: it becomes the container's command by `exec` and keeps its number.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn read_only(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if matches!(source.raw_os_error(), Some(libc::EROFS | libc::EACCES)))
}

/// Notes that an image was used, in the record's time stamp.
fn touch(path: &Path) {
    let Ok(modified) = std::fs::metadata(path).and_then(|m| m.modified()) else { return };
    if modified.elapsed().is_ok_and(|age| age > TOUCH_AFTER)
        && let Ok(file) = std::fs::File::open(path)
    {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// A process, so that a later one with the same number is told apart.
struct Process {
    host: String,
    boot: String,
    pid: u32,
    start: u64,
}

impl Process {
    fn current() -> Option<Process> {
        let pid = std::process::id();
        Some(Process { host: host(), boot: boot_id()?, pid, start: start_time(pid)? })
    }

    fn name(&self) -> String {
        format!("{},{},{},{}", self.host, self.boot, self.pid, self.start)
    }

    fn lives(&self) -> bool {
        boot_id().is_some_and(|boot| boot == self.boot) && start_time(self.pid) == Some(self.start)
    }
}

pub(super) fn host() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect()
}

/// Which start of this machine we live in; read once.
pub(super) fn boot_id() -> Option<String> {
    static ID: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let read = || Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned());
    ID.get_or_init(read).clone()
}

/// Field 22 of `/proc/PID/stat`, clock ticks since boot. The command's name before it may hold anything.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|&b| b == b')')?;
    std::str::from_utf8(&stat[after + 1..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Images in use, with words for who uses them; dead leases are removed on the way.
pub(super) fn live(layout: &Layout) -> Result<HashMap<String, Vec<String>>> {
    let dir = layout.leases();
    let mut images: HashMap<String, Vec<String>> = HashMap::new();
    let own_host = host();
    for entry in std::fs::read_dir(&dir).map_err(|e| Error::io("read", &dir, e))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split(',');
        let (Some(image), Some(host), Some(boot), Some(pid), Some(start)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (Ok(pid), Ok(start)) = (pid.parse(), start.parse()) else { continue };
        let process = Process { host: host.to_owned(), boot: boot.to_owned(), pid, start };
        let alive = if process.host == own_host {
            process.lives()
        } else {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            age.is_none_or(|age| age < FOREIGN)
        };
        if alive {
            let words = format!("process {} on {}", process.pid, process.host);
            images.entry(image.to_owned()).or_default().push(words);
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(images)
}

/// Who uses one image.
pub(super) fn users(layout: &Layout, image: &Digest) -> Result<Vec<String>> {
    Ok(live(layout)?.remove(image.hex()).unwrap_or_default())
}
