//! New namespaces, and existing ones that are joined.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::ids::{IdMapping, MapWriter, write_file, write_single_map};
use super::sys;
use crate::error::{Error, Result};
use crate::oci::{NamespaceKind, Spec};

/// One row a kind: the flag for unshare(2) and setns(2), and the name in messages.
pub const KINDS: &[(NamespaceKind, UnshareFlags, &str)] = &[
    (NamespaceKind::User, UnshareFlags::NEWUSER, "user"),
    (NamespaceKind::Mount, UnshareFlags::NEWNS, "mount"),
    (NamespaceKind::Pid, UnshareFlags::NEWPID, "pid"),
    (NamespaceKind::Ipc, UnshareFlags::NEWIPC, "ipc"),
    (NamespaceKind::Uts, UnshareFlags::NEWUTS, "uts"),
    (NamespaceKind::Network, UnshareFlags::NEWNET, "network"),
    (NamespaceKind::Cgroup, UnshareFlags::NEWCGROUP, "cgroup"),
    (NamespaceKind::Time, UnshareFlags::NEWTIME, "time"),
];

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
        let outcome = unshare_when_alone(new);
        outcome.map_err(|source| Namespaces::refused(new, source))
    }
}

/// Threads that were waited for, such as those of a fetch, may be seen by the kernel a moment longer.
fn unshare_when_alone(new: UnshareFlags) -> io::Result<()> {
    match unshare(new) {
        Err(error)
            if new.contains(UnshareFlags::NEWUSER) && error.raw_os_error() == Some(libc::EINVAL) && is_alone_soon() =>
        {
            unshare(new)
        }
        outcome => outcome,
    }
}

/// Makes this process, which must have one thread, root of a new user namespace in which its own ids are the only ones: what is
/// its own it may read and change then, whatever the modes say. It stays in it.
pub fn become_own_root() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let new = UnshareFlags::NEWUSER;
    unshare_when_alone(new).map_err(|source| Namespaces::refused(new, source))?;
    write_single_map(0, uid, 0, gid)
}

/// Waits until this process has one thread, if that comes to be within a second; says whether it waited at all and so.
fn is_alone_soon() -> bool {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
    let threads = || std::fs::read_dir("/proc/self/task").map_or(0, |entries| entries.count());
    for _ in 0..1000 {
        if threads() == 1 {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
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

/// The flag of a kind.
pub fn flag_of(kind: NamespaceKind) -> UnshareFlags {
    KINDS.iter().find(|row| row.0 == kind).map_or(UnshareFlags::empty(), |row| row.1)
}

#[allow(unsafe_code)]
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: only CLONE_FILES would break I/O safety, and no row of the table has it.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// "user, mount and pid".
pub fn in_words(flags: UnshareFlags) -> String {
    let names: Vec<&str> = KINDS.iter().filter(|row| flags.contains(row.1)).map(|row| row.2).collect();
    match names.as_slice() {
        [] => "(none)".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Reads a setting of the kernel.
fn setting(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The settings by which distributions forbid user namespaces to ordinary users, in the kernel's order of asking.
pub fn refused_by_policy() -> Option<String> {
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
