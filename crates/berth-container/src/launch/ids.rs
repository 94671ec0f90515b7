//! The ids in a new user namespace.
//!
//! An ordinary user may map one id, their own, and write that map without help. Ranges need the set-user-id programs
//! `newuidmap` and `newgidmap`, which must be called from outside the new namespace; so does the superuser's map of all
//! ids. For those two a child is forked before the namespace is made: it waits, writes, and is gone before the command
//! starts.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use super::namespaces::{refused_by_policy, unshare};
use super::sys;
use crate::error::{Error, Result};
use crate::oci::IdMap;
use crate::subid;

/// How ids get into a new user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMapping {
    /// One's own user and group, each as one id inside: written by the process itself.
    Single {
        /// Own user id, inside.
        inside_uid: u32,
        /// Own group id, inside.
        inside_gid: u32,
    },
    /// Ranges: written by the superuser directly, for others by `newuidmap` and `newgidmap`.
    Ranges {
        /// User ids.
        uids: Vec<IdMap>,
        /// Group ids.
        gids: Vec<IdMap>,
    },
}

impl IdMapping {
    /// Chooses by what the maps say and who asks. The superuser's single id is written like a range: from outside, so that
    /// groups can still be set inside.
    pub fn choose(uids: &[IdMap], gids: &[IdMap], euid: u32, egid: u32) -> IdMapping {
        match (uids, gids) {
            ([uid], [gid])
                if euid != 0 && uid.size == 1 && gid.size == 1 && uid.host_id == euid && gid.host_id == egid =>
            {
                IdMapping::Single { inside_uid: uid.container_id, inside_gid: gid.container_id }
            }
            _ => IdMapping::Ranges { uids: uids.to_vec(), gids: gids.to_vec() },
        }
    }
}

/// One's own ids. Groups must be given up first: else the map could be used to drop a group that a file denies access to.
pub fn write_single_map(inside_uid: u32, uid: u32, inside_gid: u32, gid: u32) -> Result<()> {
    let steps: [(&str, &str, String); 3] = [
        ("groups", "/proc/self/setgroups", "deny".to_owned()),
        ("user ids", "/proc/self/uid_map", format!("{inside_uid} {uid} 1")),
        ("group ids", "/proc/self/gid_map", format!("{inside_gid} {gid} 1")),
    ];
    for (ids, path, text) in steps {
        write_file(path, text.as_bytes()).map_err(|source| Error::IdMapping {
            ids: if ids == "groups" { "group ids" } else { ids },
            reason: format!("{path}: {source}"),
            hint: map_hint(&source),
        })?;
    }
    Ok(())
}

/// One write to a file of /proc: such files take a value in one piece.
pub fn write_file(path: &str, content: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content)?;
    Ok(())
}

/// A child outside of the new user namespace that writes the maps of its parent.
pub struct MapWriter {
    child: u32,
    go: OwnedFd,
    answer: OwnedFd,
}

impl MapWriter {
    /// Forks it, to wait for the namespace.
    pub fn start(uids: &[IdMap], gids: &[IdMap], directly: bool) -> Result<MapWriter> {
        let pipe = || {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::system("make a pipe for the id mapping", e))
        };
        let ((wait, go), (answer, report)) = (pipe()?, pipe()?);
        let parent = std::process::id();
        match sys::fork().map_err(|e| Error::system("fork the writer of the id mapping", e))? {
            Some(child) => Ok(MapWriter { child, go, answer }),
            None => {
                drop((go, answer));
                // No byte means that the parent is gone or has no namespace: nothing to do.
                if File::from(wait).read(&mut [0]).unwrap_or(0) == 1 {
                    let written = if directly {
                        write_maps(parent, uids, gids).map_err(|(ids, reason)| (ids, reason, String::new()))
                    } else {
                        // It says what ids it is about by itself.
                        subid::write_maps(parent, uids, gids).map_err(|e| (e.ids(), e.to_string(), e.hint()))
                    };
                    if let Err((ids, reason, hint)) = written {
                        let _ = write!(File::from(report), "{ids}\n{reason}\n{hint}");
                        sys::exit_now(1);
                    }
                }
                sys::exit_now(0)
            }
        }
    }

    /// Has the maps written, and waits for that.
    pub fn finish(self) -> Result<()> {
        let mut text = String::new();
        let told = File::from(self.go).write_all(b"g");
        let heard = File::from(self.answer).take(4096).read_to_string(&mut text);
        let child = rustix::process::Pid::from_raw(self.child as i32);
        let waited = waitpid(child, WaitOptions::empty());
        told.and(heard.map(drop)).map_err(|e| Error::system("talk to the writer of the id mapping", e))?;
        let mut lines = text.splitn(3, '\n');
        if let (Some(ids), Some(reason), hint) = (lines.next(), lines.next(), lines.next()) {
            let ids = ["group ids", "subordinate ids"].into_iter().find(|known| *known == ids).unwrap_or("user ids");
            let hint = hint.filter(|hint| !hint.is_empty()).map(str::to_owned);
            return Err(Error::IdMapping { ids, reason: reason.to_owned(), hint });
        }
        match waited {
            Ok(Some((_, status))) if status.exit_status() == Some(0) => Ok(()),
            _ => Err(Error::IdMapping { ids: "user ids", reason: "the writer of the map died".to_owned(), hint: None }),
        }
    }
}

/// What failed: which ids, and why.
type MapFailure = (&'static str, String);

fn map_text(ranges: &[IdMap]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.container_id, range.host_id, range.size);
        text
    })
}

fn write_maps(pid: u32, uids: &[IdMap], gids: &[IdMap]) -> Result<(), MapFailure> {
    for (ids, file, ranges) in [("user ids", "uid_map", uids), ("group ids", "gid_map", gids)] {
        let path = format!("/proc/{pid}/{file}");
        write_file(&path, map_text(ranges).as_bytes()).map_err(|e| (ids, format!("{path}: {e}")))?;
    }
    Ok(())
}

/// A user namespace with these maps and nobody in it: for id-mapped mounts.
pub fn user_namespace(uids: &[IdMap], gids: &[IdMap]) -> Result<OwnedFd> {
    let failed = |e: io::Error| Error::system("make a user namespace for an id-mapped mount", e);
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
    let ((ready, ready_writer), (stay, stay_writer)) = (pipe()?, pipe()?);
    let Some(child) = sys::fork().map_err(failed)? else {
        drop((ready, stay_writer));
        if unshare(UnshareFlags::NEWUSER).is_ok() {
            let _ = rustix::io::write(&ready_writer, b"r");
            let _ = File::from(stay).read(&mut [0]);
        }
        sys::exit_now(0)
    };
    drop((ready_writer, stay));
    let made = File::from(ready).read(&mut [0]).map_err(failed).and_then(|count| {
        if count == 0 {
            return Err(failed(io::Error::from_raw_os_error(libc::EPERM)));
        }
        write_maps(child, uids, gids).map_err(|(ids, reason)| Error::IdMapping { ids, reason, hint: None })?;
        rustix::fs::open(format!("/proc/{child}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(e.into()))
    });
    drop(stay_writer);
    let _ = waitpid(rustix::process::Pid::from_raw(child as i32), WaitOptions::empty());
    made
}

fn map_hint(error: &io::Error) -> Option<String> {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => refused_by_policy().or_else(|| {
            Some("the kernel let the namespace be made but not used: a security module (AppArmor, SELinux) may confine this program".to_owned())
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(container_id: u32, host_id: u32, size: u32) -> IdMap {
        IdMap { container_id, host_id, size }
    }

    #[test]
    fn ones_own_id_needs_no_helper_and_anything_else_does() {
        let own = IdMapping::choose(&[map(0, 1000, 1)], &[map(0, 100, 1)], 1000, 100);
        assert_eq!(own, IdMapping::Single { inside_uid: 0, inside_gid: 0 });
        for (uids, gids) in [
            (vec![map(0, 1001, 1)], vec![map(0, 100, 1)]),
            (vec![map(0, 1000, 2)], vec![map(0, 100, 1)]),
            (vec![map(0, 1000, 1), map(1, 100_000, 65536)], vec![map(0, 100, 1)]),
        ] {
            assert!(matches!(IdMapping::choose(&uids, &gids, 1000, 100), IdMapping::Ranges { .. }));
        }
    }

    #[test]
    fn the_superusers_single_id_is_written_from_outside_so_that_groups_can_be_set() {
        assert!(matches!(IdMapping::choose(&[map(0, 0, 1)], &[map(0, 0, 1)], 0, 0), IdMapping::Ranges { .. }));
    }
}
