//! New namespaces, and the ids in them.
//!
//! An ordinary user may map one id, their own, and write that map without help. Ranges need the set-user-id programs
//! `newuidmap` and `newgidmap`, which must be called from outside the new namespace; so does the superuser's map of all
//! ids. For those two a child is forked before the namespace is made: it waits, writes, and is gone before the command
//! starts.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::sys;
use crate::error::{Error, Result};
use crate::oci::{IdMap, NamespaceKind, Spec};

/// One row a kind: the flag for unshare(2) and setns(2), and the name in messages.
const KINDS: &[(NamespaceKind, UnshareFlags, &str)] = &[
    (NamespaceKind::User, UnshareFlags::NEWUSER, "user"),
    (NamespaceKind::Mount, UnshareFlags::NEWNS, "mount"),
    (NamespaceKind::Pid, UnshareFlags::NEWPID, "pid"),
    (NamespaceKind::Ipc, UnshareFlags::NEWIPC, "ipc"),
    (NamespaceKind::Uts, UnshareFlags::NEWUTS, "uts"),
    (NamespaceKind::Network, UnshareFlags::NEWNET, "network"),
    (NamespaceKind::Cgroup, UnshareFlags::NEWCGROUP, "cgroup"),
    (NamespaceKind::Time, UnshareFlags::NEWTIME, "time"),
];

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
    /// Chooses by what the maps say and who asks.
    fn choose(uids: &[IdMap], gids: &[IdMap], euid: u32, egid: u32) -> IdMapping {
        match (uids, gids) {
            ([uid], [gid]) if uid.size == 1 && gid.size == 1 && uid.host_id == euid && gid.host_id == egid => {
                IdMapping::Single { inside_uid: uid.container_id, inside_gid: gid.container_id }
            }
            _ => IdMapping::Ranges { uids: uids.to_vec(), gids: gids.to_vec() },
        }
    }
}

/// Which namespaces are made and joined.
#[derive(Debug)]
pub struct Namespaces {
    /// Made new.
    pub new: UnshareFlags,
    /// Joined first: flag, file.
    join: Vec<(ThreadNameSpaceType, CString)>,
    /// Set for a new user namespace.
    mapping: Option<IdMapping>,
    euid: u32,
    egid: u32,
}

impl Namespaces {
    /// Computes from the configuration what to do as this user.
    pub fn plan(spec: &Spec, euid: u32, egid: u32) -> Result<Namespaces> {
        let Some(linux) = &spec.linux else {
            return Err(Error::bad_spec("linux", "missing: a container needs at least a new mount namespace"));
        };
        let mut new = UnshareFlags::empty();
        let mut join = Vec::new();
        for (index, namespace) in linux.namespaces.iter().enumerate() {
            let flag = flag_of(namespace.kind);
            match &namespace.path {
                None => new |= flag,
                Some(path) => {
                    let field = || format!("linux.namespaces[{index}].path");
                    let path = super::c_string(path.as_os_str(), field)?;
                    join.push((ThreadNameSpaceType::from_bits_retain(flag.bits()), path));
                }
            }
        }
        let joined = |kind| linux.namespaces.iter().any(|n| n.kind == kind && n.path.is_some());
        if !new.contains(UnshareFlags::NEWNS) && !joined(NamespaceKind::Mount) {
            return Err(Error::bad_spec("linux.namespaces", "a mount namespace is needed"));
        }
        // A user namespace is joined first, because the capabilities to join the others come from it.
        join.sort_by_key(|(flag, _)| flag.bits() != UnshareFlags::NEWUSER.bits());
        let mapping = if new.contains(UnshareFlags::NEWUSER) {
            if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
                return Err(Error::bad_spec(
                    "linux.uidMappings",
                    "a new user namespace needs uidMappings and gidMappings",
                ));
            }
            Some(IdMapping::choose(&linux.uid_mappings, &linux.gid_mappings, euid, egid))
        } else {
            None
        };
        Ok(Namespaces { new, join, mapping, euid, egid })
    }

    /// Whether the kernel lets the container set supplementary groups.
    pub fn may_set_groups(&self) -> bool {
        match &self.mapping {
            Some(IdMapping::Single { .. }) => false,
            Some(IdMapping::Ranges { .. }) => true,
            None => self.euid == 0,
        }
    }

    /// Whether some of them hold for children only.
    pub fn need_child(&self) -> bool {
        let joined = self
            .join
            .iter()
            .fold(UnshareFlags::empty(), |all, (flag, _)| all | UnshareFlags::from_bits_retain(flag.bits()));
        (self.new | joined).intersects(UnshareFlags::NEWPID | UnshareFlags::NEWTIME)
    }

    /// Whether a user namespace is part of it.
    pub fn has_user(&self) -> bool {
        self.new.contains(UnshareFlags::NEWUSER)
            || self.join.iter().any(|(flag, _)| flag.bits() == UnshareFlags::NEWUSER.bits())
    }

    /// Moves the process into the namespaces, but for a new cgroup namespace. A new pid or time namespace holds for
    /// children only.
    pub fn enter(&self) -> Result<()> {
        for (flag, path) in &self.join {
            let shown = std::path::Path::new(path.to_str().unwrap_or("?"));
            let file = rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::io("open the namespace", shown, e))?;
            rustix::thread::move_into_thread_name_spaces(file.as_fd(), *flag)
                .map_err(|e| Error::io("join the namespace", shown, e))?;
        }
        let first = self.new - UnshareFlags::NEWCGROUP;
        match &self.mapping {
            Some(IdMapping::Single { inside_uid, inside_gid }) => {
                self.unshare(first)?;
                write_single_map(*inside_uid, self.euid, *inside_gid, self.egid)
            }
            Some(IdMapping::Ranges { uids, gids }) => {
                let helper = MapWriter::start(uids, gids, self.euid == 0)?;
                self.unshare(first)?;
                helper.finish()
            }
            None => self.unshare(first),
        }
    }

    /// Makes the new cgroup namespace, whose root is the cgroup in which the process is now: so this comes after it was
    /// put there.
    pub fn enter_cgroup(&self) -> Result<()> {
        self.unshare(self.new & UnshareFlags::NEWCGROUP)
    }

    fn unshare(&self, new: UnshareFlags) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        unshare(new).map_err(|source| {
            let hint = namespace_hint(&source, new);
            Error::Namespaces { namespaces: in_words(new), source, hint }
        })
    }
}

/// The flag of a kind.
pub fn flag_of(kind: NamespaceKind) -> UnshareFlags {
    KINDS.iter().find(|row| row.0 == kind).map_or(UnshareFlags::empty(), |row| row.1)
}

#[allow(unsafe_code)]
fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only CLONE_FILES would break I/O safety, and no row of the table has it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// "user, mount and pid".
fn in_words(flags: UnshareFlags) -> String {
    let names: Vec<&str> = KINDS.iter().filter(|row| flags.contains(row.1)).map(|row| row.2).collect();
    match names.as_slice() {
        [] => "(none)".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// One's own ids. Groups must be given up first: else the map could be used to drop a group that a file denies access to.
fn write_single_map(inside_uid: u32, uid: u32, inside_gid: u32, gid: u32) -> Result<()> {
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
fn write_file(path: &str, content: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content)?;
    Ok(())
}

/// A child outside of the new user namespace that writes the maps of its parent.
struct MapWriter {
    child: u32,
    go: OwnedFd,
    answer: OwnedFd,
}

impl MapWriter {
    fn start(uids: &[IdMap], gids: &[IdMap], directly: bool) -> Result<MapWriter> {
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
                    let written =
                        if directly { write_maps(parent, uids, gids) } else { call_helpers(parent, uids, gids) };
                    if let Err((ids, reason)) = written {
                        let _ = write!(File::from(report), "{ids}\n{reason}");
                        sys::exit_now(1);
                    }
                }
                sys::exit_now(0)
            }
        }
    }

    fn finish(self) -> Result<()> {
        let mut text = String::new();
        let told = File::from(self.go).write_all(b"g");
        let heard = File::from(self.answer).take(4096).read_to_string(&mut text);
        let child = rustix::process::Pid::from_raw(self.child as i32);
        let waited = waitpid(child, WaitOptions::empty());
        told.and(heard.map(drop)).map_err(|e| Error::system("talk to the writer of the id mapping", e))?;
        if let Some((ids, reason)) = text.split_once('\n') {
            let ids = if ids == "group ids" { "group ids" } else { "user ids" };
            let hint = range_hint(ids, reason);
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

fn call_helpers(pid: u32, uids: &[IdMap], gids: &[IdMap]) -> Result<(), MapFailure> {
    for (ids, program, ranges) in [("user ids", "newuidmap", uids), ("group ids", "newgidmap", gids)] {
        let numbers = ranges.iter().flat_map(|r| [r.container_id, r.host_id, r.size]);
        let output = Command::new(program)
            .arg(pid.to_string())
            .args(numbers.map(|number| number.to_string()))
            .stdin(Stdio::null())
            .output()
            .map_err(|e| (ids, format!("cannot run {program}: {e}")))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err((ids, format!("{program} failed: {}", words.trim())));
        }
    }
    Ok(())
}

fn range_hint(ids: &str, reason: &str) -> Option<String> {
    if reason.starts_with("cannot run") {
        return Some("install the package `uidmap` (Debian, Ubuntu) or `shadow-utils` (Red Hat)".to_owned());
    }
    let file = if ids == "group ids" { "/etc/subgid" } else { "/etc/subuid" };
    Some(format!(
        "check your ranges in {file}, and that newuidmap and newgidmap are set-user-id or have the file capability"
    ))
}

fn map_hint(error: &io::Error) -> Option<String> {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => refused_by_policy().or_else(|| {
            Some("the kernel let the namespace be made but not used: a security module (AppArmor, SELinux) may confine this program".to_owned())
        }),
        _ => None,
    }
}

/// Reads a setting of the kernel.
fn setting(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The settings by which distributions forbid user namespaces to ordinary users, in the kernel's order of asking.
fn refused_by_policy() -> Option<String> {
    if setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Some("user namespaces are off on this machine: ask its administrator to set `sysctl kernel.unprivileged_userns_clone=1`".to_owned());
    }
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some("AppArmor forbids user namespaces to programs without a profile: ask the administrator to install berth's AppArmor profile (it needs the one rule `userns,`) or to set `sysctl kernel.apparmor_restrict_unprivileged_userns=0`".to_owned());
    }
    None
}

fn namespace_hint(error: &io::Error, flags: UnshareFlags) -> Option<String> {
    /// The kernel's limits, by namespace.
    const LIMITS: &[(UnshareFlags, &str)] = &[
        (UnshareFlags::NEWUSER, "user.max_user_namespaces"),
        (UnshareFlags::NEWNS, "user.max_mnt_namespaces"),
        (UnshareFlags::NEWPID, "user.max_pid_namespaces"),
        (UnshareFlags::NEWIPC, "user.max_ipc_namespaces"),
        (UnshareFlags::NEWUTS, "user.max_uts_namespaces"),
        (UnshareFlags::NEWNET, "user.max_net_namespaces"),
        (UnshareFlags::NEWCGROUP, "user.max_cgroup_namespaces"),
        (UnshareFlags::NEWTIME, "user.max_time_namespaces"),
    ];
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => {
            let zero = LIMITS.iter().filter(|(flag, _)| flags.intersects(*flag)).find(|(_, name)| {
                setting(&format!("/proc/sys/{}", name.replace('.', "/"))) == Some(0)
            });
            Some(match zero {
                Some((_, name)) => format!("`{name}` is 0 on this machine: ask its administrator to set `sysctl {name}=65536`"),
                None => "a limit on namespaces is used up or too low (`user.max_*_namespaces`, or 32 levels of nesting): end other containers, or ask the administrator to raise it".to_owned(),
            })
        }
        Some(libc::EPERM | libc::EACCES) => refused_by_policy().or_else(|| {
            let what = if flags.contains(UnshareFlags::NEWUSER) {
                "user namespaces are forbidden here: in a container of docker or podman, start that one with `--security-opt seccomp=unconfined`; in a chroot they are never allowed"
            } else {
                "without a new user namespace this needs the superuser"
            };
            Some(what.to_owned())
        }),
        Some(libc::EINVAL) if flags.contains(UnshareFlags::NEWUSER) => Some(
            "either the kernel has no user namespaces (CONFIG_USER_NS), or the calling process has more than one thread".to_owned(),
        ),
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
    fn messages_name_the_namespaces() {
        assert_eq!(in_words(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWPID), "user, mount and pid");
        assert_eq!(in_words(UnshareFlags::NEWNET), "network");
    }
}
