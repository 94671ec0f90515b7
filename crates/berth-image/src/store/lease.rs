//! Leases: which images are in use.
//!
//! A start holds the store's lock, shared, from when it reads the image's record until the container's file systems are
//! mounted: the descriptor closes with the `exec`. From then on the mount itself tells that the image is in use. Its
//! source in `/proc/PID/mountinfo` ends in `,image=HEX` (see [`mount_mark`]), and collection reads those of all
//! processes. So a lease costs a start one open file, and ends with the last process of the container, however that ends.
//!
//! Processes of other hosts cannot be looked at. In a store on a network file system a start leaves a file too, whose
//! name says all: `leases/IMAGE,HOST,BOOT,PID,START`. Where the process becomes the command nobody is left to remove it,
//! and it is found dead by the process' start time, or by the boot id after a restart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::layout::Layout;
use super::lock::{Kind, Lock};
use super::record::ImageRecord;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// A lease of another host is believed for this long: its processes cannot be looked at from here.
const FOREIGN: Duration = Duration::from_secs(30 * 24 * 3600);
/// After this time a use is worth another write to the record's time.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

/// What stands between the name of a container's root mount and the image's digest. Digests are hexadecimal: nothing in
/// mountinfo needs escaping.
const MARK: &str = ",image=";

/// What the source of a container's root mount must end in, so that its image is known to be in use.
pub fn mount_mark(image: &Digest) -> String {
    format!("{MARK}{}", image.hex())
}

/// How it is known what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InUse {
    /// By the mounts of this host's processes.
    Mounts,
    /// By files too: other hosts use the store.
    Files,
}

impl InUse {
    /// By files unless the store's file system is known to be this host's own.
    fn of(root: &Path) -> InUse {
        /// ext, xfs, btrfs, tmpfs, ramfs, overlayfs, zfs, f2fs, bcachefs: `linux/magic.h`, `statfs(2)`.
        const LOCAL: [i64; 9] = [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x8584_58f6,
            0x794c_7630,
            0x2fc1_2fc1,
            0xf2f5_2010,
            0xca45_1a4e,
        ];
        // The field's type differs between architectures; the numbers have 32 bits.
        #[allow(clippy::unnecessary_cast)]
        match rustix::fs::statfs(root) {
            Ok(statfs) if LOCAL.contains(&(statfs.f_type as i64 & 0xffff_ffff)) => InUse::Mounts,
            _ => InUse::Files,
        }
    }
}

/// A lease. Dropping it ends it.
#[derive(Debug)]
pub struct Lease {
    lock: Option<Lock>,
    path: Option<PathBuf>,
}

impl Lease {
    /// `holder` is the process by whose life the image is in use, where that is not this one.
    pub(super) fn take(
        layout: &Layout,
        image: &ImageRecord,
        in_use: Option<InUse>,
        holder: Option<u32>,
    ) -> Result<Lease> {
        // Collection waits until the lease stands, or has finished before we look whether the layers are there.
        let lock = match layout.gc_lock(Kind::Shared) {
            Ok(lock) => Some(lock),
            Err(error) if read_only(&error) => return Ok(Lease { lock: None, path: None }),
            Err(error) => return Err(error),
        };
        touch(&layout.image(&image.digest));
        if in_use.unwrap_or_else(|| InUse::of(layout.root())) == InUse::Mounts {
            return Ok(Lease { lock, path: None });
        }
        let holder = holder.unwrap_or_else(std::process::id);
        let Some(process) = Process::of(holder) else { return Ok(Lease { lock, path: None }) };
        let path = layout.leases().join(format!("{},{}", image.digest.hex(), process.name()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => {}
            Err(Errno::ROFS | Errno::ACCESS) => return Ok(Lease { lock, path: None }),
            Err(error) => return Err(Error::io("create", &path, error)),
        }
        if process.pid % 64 == 0 {
            // Containers that were started by `exec` leave their leases; somebody has to sweep now and then.
            let _ = live(layout);
        }
        // The file says it all: nobody has to wait for the start.
        Ok(Lease { lock: None, path: Some(path) })
    }

    /// Says that this process becomes the container's command: the lock lasts until its `exec`, the file until somebody
    /// finds it dead.
    pub fn keep(mut self) {
        self.path = None;
        // Closed by the kernel: all descriptors but those that the command inherits are close-on-exec.
        std::mem::forget(self.lock.take());
    }

    /// Says that the container's process was forked. It inherited the lock and holds it until its own `exec`; from then on
    /// its mounts tell.
    pub fn forked(&mut self) {
        self.lock = None;
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
    fn of(pid: u32) -> Option<Process> {
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

/// Images that processes of this host have mounted. A process whose mounts we may not see is somebody else's, and could
/// not have its root in a store of ours.
fn mounted() -> HashMap<String, Vec<String>> {
    let mut images: HashMap<String, Vec<String>> = HashMap::new();
    let host = host();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(mounts) = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { continue };
        let mut here: Vec<&str> = mounts.lines().filter_map(marked_image).collect();
        here.sort_unstable();
        here.dedup();
        for image in here {
            images.entry(image.to_owned()).or_default().push(format!("process {pid} on {host}"));
        }
    }
    images
}

/// The image whose mark the source of a line of mountinfo bears: `… - TYPE SOURCE OPTIONS`.
fn marked_image(line: &str) -> Option<&str> {
    let source = line.split_once(" - overlay ")?.1.split(' ').next()?;
    source.split_once(MARK).map(|(_, image)| image)
}

/// Images in use, with words for who uses them; dead leases are removed on the way.
pub(super) fn live(layout: &Layout) -> Result<HashMap<String, Vec<String>>> {
    let dir = layout.leases();
    let mut images = mounted();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_mount_is_found_in_its_line_and_nowhere_else() {
        let line = |source: &str| format!("36 35 0:45 / / rw,relatime - overlay {source} rw,lowerdir=a,upperdir=b");
        assert_eq!(marked_image(&line("berth:name:1,image=abc")), Some("abc"));
        assert_eq!(marked_image(&line("berth")), None);
        assert_eq!(marked_image("36 35 0:45 / /,image=abc rw - tmpfs x,image=abc rw"), None);
    }
}
