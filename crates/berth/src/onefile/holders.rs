//! Who has an image mounted, by the kernel's tables.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, openat};

use super::mount_mark;

/// The largest table of mounts that is read, in bytes.
const MAX_TABLE: u64 = 4 << 20;

/// A directory of processes, `/proc`, and the image's mount.
#[derive(Debug)]
pub struct Holders {
    proc: OwnedFd,
    device: (u32, u32),
}

impl Holders {
    /// `proc` is `/proc`; `device` is the device number of the image's mount.
    pub fn new(proc: OwnedFd, device: (u32, u32)) -> Holders {
        Holders { proc, device }
    }

    /// Whether a process has it mounted, or a root that is marked with it.
    pub fn has(&self, pid: u32) -> bool {
        let table = |proc: BorrowedFd<'_>| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let file = openat(proc, format!("{pid}/mountinfo"), flags, Mode::empty()).ok()?;
            // Room for what such a table usually has: few reads instead of many.
            let mut text = Vec::with_capacity(16 << 10);
            std::fs::File::from(file).take(MAX_TABLE).read_to_end(&mut text).ok()?;
            Some(text)
        };
        table(self.proc.as_fd()).is_some_and(|table| is_in(&String::from_utf8_lossy(&table), self.device))
    }

    /// Up to `most` processes that have it, this one not counted.
    pub fn find(&self, most: usize) -> Vec<u32> {
        let own = std::process::id();
        let Ok(entries) = Dir::read_from(&self.proc) else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok())
            .filter(|&pid: &u32| pid != own && self.has(pid))
            .take(most)
            .collect()
    }
}

/// Whether a table of mounts has the device, or a root mount that is marked with it.
fn is_in(table: &str, device: (u32, u32)) -> bool {
    let mark = mount_mark(device);
    let number = format!("{}:{}", device.0, device.1);
    table.lines().any(|line| {
        let Some((front, back)) = line.split_once(" - ") else { return false };
        let source = back.split(' ').nth(1).unwrap_or_default();
        let marked = source.strip_suffix(mark.as_str()).is_some() || source.contains(&format!("{mark},"));
        front.split(' ').nth(2) == Some(number.as_str()) || marked
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number_and_by_the_mark_of_a_root() {
        let line = |device: &str, source: &str| format!("36 35 {device} / / rw,relatime - overlay {source} rw\n");
        for (text, expected) in [
            (line("0:57", "x"), true),
            (line("0:5", "x"), false),
            (line("0:570", "x"), false),
            (line("0:60", "berth,file=0:57"), true),
            (line("0:60", "berth:box:1,job=7.0,file=0:57"), true),
            (line("0:60", "berth,file=0:57,more"), true),
            (line("0:60", "berth,file=0:571"), false),
            (line("0:60", "berth"), false),
            ("garbage".to_owned(), false),
        ] {
            assert_eq!(is_in(&text, (0, 57)), expected, "{text}");
        }
    }
}
