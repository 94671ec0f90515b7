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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::sys;
use crate::error::{Error, Result};
use crate::oci::{IdMap, NamespaceKind, Spec};
use crate::subid;

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
    /// Chooses by what the maps say and who asks. The superuser's single id is written like a range: from outside, so that
    /// groups can still be set inside.
    fn choose(uids: &[IdMap], gids: &[IdMap], euid: u32, egid: u32) -> IdMapping {
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

/// Which namespaces are made and joined.
#[derive(Debug)]
pub struct Namespaces {
    /// Made new.
    pub new: UnshareFlags,
    /// Joined first: flag, file.
    join: Vec<(ThreadNameSpaceType, CString)>,
    /// Set for a new user namespace.
    mapping: Option<IdMapping>,
    /// Lines for `/proc/self/timens_offsets`.
    time_offsets: String,
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
            let field = || format!("linux.namespaces[{index}]");
            if linux.namespaces[..index].iter().any(|before| before.kind == namespace.kind) {
                return Err(Error::bad_spec(field(), format!("a second {} namespace", in_words(flag))));
            }
            match namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty()) {
                None => new |= flag,
                Some(path) => {
                    let path = super::c_string(path.as_os_str(), || format!("{}.path", field()))?;
                    join.push((ThreadNameSpaceType::from_bits_retain(flag.bits()), path));
                }
            }
        }
        let time_offsets = time_offsets(linux, new.contains(UnshareFlags::NEWTIME))?;
        let joined = |flag: UnshareFlags| join.iter().any(|(joined, _)| joined.bits() == flag.bits());
        if !new.contains(UnshareFlags::NEWNS) && !joined(UnshareFlags::NEWNS) {
            return Err(Error::bad_spec("linux.namespaces", "a mount namespace is needed"));
        }
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
        // A user namespace comes first, because the capabilities to join the others come from it; a mount namespace last.
        join.sort_by_key(|(flag, _)| match UnshareFlags::from_bits_retain(flag.bits()) {
            UnshareFlags::NEWUSER => 0,
            UnshareFlags::NEWNS => 2,
            _ => 1,
        });
        Ok(Namespaces { new, join, mapping, time_offsets, euid, egid })
    }

    /// Whether the kernel lets the container set supplementary groups.
    pub fn may_set_groups(&self) -> bool {
        match &self.mapping {
            Some(IdMapping::Single { .. }) => false,
            Some(IdMapping::Ranges { .. }) => true,
            None => self.euid == 0 || self.has_user(),
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
        if !self.join.is_empty() {
            self.join()?;
        }
        let first = self.new - UnshareFlags::NEWCGROUP;
        match &self.mapping {
            Some(IdMapping::Single { inside_uid, inside_gid }) => {
                self.unshare(first)?;
                write_single_map(*inside_uid, self.euid, *inside_gid, self.egid)?;
            }
            Some(IdMapping::Ranges { uids, gids }) => {
                let helper = MapWriter::start(uids, gids, self.euid == 0)?;
                self.unshare(first)?;
                helper.finish()?;
            }
            None => self.unshare(first)?,
        }
        if !self.time_offsets.is_empty() {
            write_file("/proc/self/timens_offsets", self.time_offsets.as_bytes())
                .map_err(|e| Error::io("set the clocks' offsets in", "/proc/self/timens_offsets", e))?;
        }
        match &self.mapping {
            Some(IdMapping::Ranges { .. }) => become_mapped(),
            _ => Ok(()),
        }
    }

    /// The namespaces with which a child can be born, rather than moved into: all that are entered here, where none is
    /// joined and nobody else has to write the ids. [`Namespaces::settle`] does what is left to do for it. The superuser
    /// gives up too much power with a user namespace for anything to be done in it first.
    pub fn at_birth(&self) -> Option<UnshareFlags> {
        let simple = self.join.is_empty()
            && (self.euid != 0 || self.mapping.is_none())
            && !self.new.contains(UnshareFlags::NEWTIME)
            && !matches!(self.mapping, Some(IdMapping::Ranges { .. }));
        simple.then(|| self.new - UnshareFlags::NEWCGROUP)
    }

    /// For a child that was born into its namespaces: maps its ids.
    pub fn settle(&self) -> Result<()> {
        match &self.mapping {
            Some(IdMapping::Single { inside_uid, inside_gid }) => {
                write_single_map(*inside_uid, self.euid, *inside_gid, self.egid)
            }
            _ => Ok(()),
        }
    }

    /// Why a child could not be born into its namespaces.
    pub fn refused(new: UnshareFlags, source: io::Error) -> Error {
        let hint = namespace_hint(&source, new);
        Error::Namespaces { namespaces: in_words(new), source, hint }
    }

    fn join(&self) -> Result<()> {
        // All are opened before any is joined: it may hide the others' files.
        let opened: Vec<_> = self.join.iter().map(|(flag, path)| open_namespace(*flag, path)).collect::<Result<_>>()?;
        let user = |flag: ThreadNameSpaceType| flag.bits() == UnshareFlags::NEWUSER.bits();
        let mut joined = vec![false; opened.len()];
        // The superuser loses the power over the host's namespaces with the first step into a user namespace, so those
        // that need it come before.
        let with_user = self.join.iter().any(|(flag, _)| user(*flag));
        if with_user && self.euid == 0 {
            for (((flag, _), file), joined) in self.join.iter().zip(&opened).zip(&mut joined) {
                let children = flag.bits() == UnshareFlags::NEWPID.bits() || flag.bits() == UnshareFlags::NEWNS.bits();
                if !user(*flag) && !children {
                    *joined = rustix::thread::move_into_thread_name_spaces(file.as_fd(), *flag).is_ok();
                }
            }
        }
        for (((flag, path), file), joined) in self.join.iter().zip(&opened).zip(joined) {
            if joined {
                continue;
            }
            rustix::thread::move_into_thread_name_spaces(file.as_fd(), *flag)
                .map_err(|e| Error::io("join the namespace", shown(path), e))?;
            if user(*flag) {
                become_mapped()?;
            }
        }
        Ok(())
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
        unshare(new).map_err(|source| Namespaces::refused(new, source))
    }
}

fn shown(path: &CString) -> &Path {
    Path::new(path.to_str().unwrap_or("?"))
}

/// Opens the file of a namespace, and nothing else: it must be one, of this kind.
fn open_namespace(flag: ThreadNameSpaceType, path: &CString) -> Result<OwnedFd> {
    let file = rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open the namespace", shown(path), e))?;
    let refuse = |what: String| Error::io("join the namespace", shown(path), io::Error::other(what));
    match sys::namespace_type(file.as_fd()) {
        Ok(found) if found == flag.bits() => Ok(file),
        Ok(found) => Err(refuse(format!(
            "it is a {} namespace, not a {} one",
            in_words(UnshareFlags::from_bits_retain(found)),
            in_words(UnshareFlags::from_bits_retain(flag.bits()))
        ))),
        Err(_) => Err(refuse("it is no namespace".to_owned())),
    }
}

/// The kernel's answer for an id that has none in the present user namespace.
const NO_ID: u32 = 65534;

/// In a user namespace that lacks the own ids nothing can be created: there the process becomes root, which everything
/// that is made for the container belongs to.
fn become_mapped() -> Result<()> {
    let failed = |e: io::Error| Error::system("become root in the user namespace", e);
    if rustix::process::getegid().as_raw() == NO_ID {
        // Groups of the host do not follow; where they must not be given up, they stay.
        let _ = sys::set_groups(&[]);
        sys::set_gid(0).map_err(failed)?;
    }
    if rustix::process::geteuid().as_raw() == NO_ID {
        sys::set_uid(0).map_err(failed)?;
    }
    Ok(())
}

/// Lines of `/proc/self/timens_offsets`.
fn time_offsets(linux: &crate::oci::Linux, new: bool) -> Result<String> {
    if linux.time_offsets.is_empty() {
        return Ok(String::new());
    }
    if !new {
        return Err(Error::bad_spec("linux.timeOffsets", "need a new time namespace"));
    }
    linux.time_offsets.iter().try_fold(String::new(), |mut text, (clock, offset)| {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::bad_spec("linux.timeOffsets", format!("unknown clock `{clock}`")));
        }
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
        Ok(text)
    })
}

/// A kernel parameter: its path below `/proc/sys`, and its value.
#[derive(Debug)]
pub struct Sysctl {
    path: CString,
    value: String,
}

/// Kernel parameters as files; only those that belong to a namespace of the container, never the host's.
pub fn sysctls(spec: &Spec) -> Result<Vec<Sysctl>> {
    /// Prefixes, and the namespace that makes them the container's own.
    const OWNERS: &[(&str, NamespaceKind)] = &[
        ("net/", NamespaceKind::Network),
        ("fs/mqueue/", NamespaceKind::Ipc),
        ("kernel/msgmax", NamespaceKind::Ipc),
        ("kernel/msgmnb", NamespaceKind::Ipc),
        ("kernel/msgmni", NamespaceKind::Ipc),
        ("kernel/msg_next_id", NamespaceKind::Ipc),
        ("kernel/sem", NamespaceKind::Ipc),
        ("kernel/sem_next_id", NamespaceKind::Ipc),
        ("kernel/shmall", NamespaceKind::Ipc),
        ("kernel/shmmax", NamespaceKind::Ipc),
        ("kernel/shmmni", NamespaceKind::Ipc),
        ("kernel/shm_next_id", NamespaceKind::Ipc),
        ("kernel/shm_rmid_forced", NamespaceKind::Ipc),
        ("kernel/domainname", NamespaceKind::Uts),
        ("kernel/hostname", NamespaceKind::Uts),
        ("user/", NamespaceKind::User),
    ];
    let mut files = Vec::new();
    for (name, value) in spec.linux.iter().flat_map(|linux| &linux.sysctl) {
        let field = || format!("linux.sysctl[{name}]");
        let path = sysctl_path(name);
        let owner = OWNERS
            .iter()
            .find(|(prefix, _)| if prefix.ends_with('/') { path.starts_with(prefix) } else { path == *prefix })
            .map(|row| row.1);
        match owner {
            Some(kind) if super::has(spec, kind) => {}
            Some(kind) => {
                let words = in_words(flag_of(kind));
                return Err(Error::bad_spec(field(), format!("would be the host's: it needs a {words} namespace")));
            }
            None => return Err(Error::bad_spec(field(), "does not belong to a namespace of this container")),
        }
        // The specification has fields for the two names; a second value would contradict them.
        if path == "kernel/hostname" && spec.hostname.as_ref().is_some_and(|hostname| hostname != value) {
            return Err(Error::bad_spec(field(), "contradicts `hostname`"));
        }
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Error::bad_spec(field(), "is no name of a kernel parameter"));
        }
        files.push(Sysctl { path: super::c_string(path.as_ref(), field)?, value: value.clone() });
    }
    Ok(files)
}

/// As sysctl(8): the separator is whichever of `.` and `/` comes first, and the other is a part of a name
/// (`net/ipv4/conf/eth0.1/forwarding`, `net.ipv4.conf.eth0/1.forwarding`).
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Writes them, to the host's /proc/sys, which shows the namespaces of who looks.
pub fn set_sysctls(sysctls: &[Sysctl]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let failed = |sysctl: Option<&Sysctl>, e: io::Error| {
        let path = sysctl.map_or("", |sysctl| sysctl.path.to_str().unwrap_or("?"));
        Error::io("set the kernel parameter", Path::new("/proc/sys").join(path), e)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(c"/proc/sys", flags, Mode::empty()).map_err(|e| failed(None, e.into()))?;
    if !sys::is_procfs(top.as_fd()) {
        return Err(failed(None, io::Error::other("/proc is not a proc file system")));
    }
    for sysctl in sysctls {
        write_sysctl(top.as_fd(), sysctl).map_err(|e| failed(Some(sysctl), e))?;
    }
    Ok(())
}

fn write_sysctl(top: BorrowedFd<'_>, sysctl: &Sysctl) -> io::Result<()> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(top, &sysctl.path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how)?;
    let written = rustix::io::write(&file, sysctl.value.as_bytes())?;
    if written == sysctl.value.len() { Ok(()) } else { Err(io::Error::other("the value is too long")) }
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

    fn finish(self) -> Result<()> {
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
    fn the_superusers_single_id_is_written_from_outside_so_that_groups_can_be_set() {
        assert!(matches!(IdMapping::choose(&[map(0, 0, 1)], &[map(0, 0, 1)], 0, 0), IdMapping::Ranges { .. }));
    }

    #[test]
    fn kernel_parameters_take_both_separators() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn kernel_parameters_of_the_host_are_refused() {
        let spec = |name: &str, kinds: &[NamespaceKind]| Spec {
            linux: Some(crate::oci::Linux {
                namespaces: kinds.iter().map(|&kind| crate::oci::Namespace::new(kind)).collect(),
                sysctl: [(name.to_owned(), "1".to_owned())].into(),
                ..crate::oci::Linux::default()
            }),
            ..Spec::default()
        };
        for (name, kind) in [
            ("net.ipv4.ip_forward", NamespaceKind::Network),
            ("net/ipv4/ip_forward", NamespaceKind::Network),
            ("kernel.shmmax", NamespaceKind::Ipc),
            ("fs.mqueue.msg_max", NamespaceKind::Ipc),
            ("kernel.domainname", NamespaceKind::Uts),
        ] {
            assert!(sysctls(&spec(name, &[kind])).is_ok(), "{name}");
            assert!(sysctls(&spec(name, &[NamespaceKind::Mount])).is_err(), "{name}");
        }
        let all = KINDS.iter().map(|row| row.0).collect::<Vec<_>>();
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net.../kernel.panic",
            "net/../kernel/panic",
            "kernel.shmmaxx",
            "net",
            "",
        ] {
            assert!(sysctls(&spec(name, &all)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_kind_of_namespace_is_asked_for_once() {
        let twice = [NamespaceKind::Mount, NamespaceKind::Uts, NamespaceKind::Uts].map(crate::oci::Namespace::new);
        let linux = crate::oci::Linux { namespaces: twice.to_vec(), ..crate::oci::Linux::default() };
        let error = Namespaces::plan(&Spec { linux: Some(linux), ..Spec::default() }, 0, 0).unwrap_err();
        assert!(error.to_string().contains("a second uts namespace"), "{error}");
    }

    #[test]
    fn messages_name_the_namespaces() {
        assert_eq!(in_words(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWPID), "user, mount and pid");
        assert_eq!(in_words(UnshareFlags::NEWNET), "network");
    }
}
