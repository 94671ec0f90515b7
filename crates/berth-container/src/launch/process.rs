//! What the command runs with: ids, limits, capabilities, filter.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::filter::Profile;
use super::sys;
use crate::error::{Error, Result};
use crate::oci::{Capabilities, Process, Scheduler, User};

/// Names and numbers of resource limits.
#[rustfmt::skip]
const RLIMITS: &[(&str, u32)] = &[
    ("RLIMIT_AS",         libc::RLIMIT_AS),
    ("RLIMIT_CORE",       libc::RLIMIT_CORE),
    ("RLIMIT_CPU",        libc::RLIMIT_CPU),
    ("RLIMIT_DATA",       libc::RLIMIT_DATA),
    ("RLIMIT_FSIZE",      libc::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS",      libc::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK",    libc::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE",   libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE",       libc::RLIMIT_NICE),
    ("RLIMIT_NOFILE",     libc::RLIMIT_NOFILE),
    ("RLIMIT_NPROC",      libc::RLIMIT_NPROC),
    ("RLIMIT_RSS",        libc::RLIMIT_RSS),
    ("RLIMIT_RTPRIO",     libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME",     libc::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK",      libc::RLIMIT_STACK),
];

/// Capabilities by their number in `linux/capability.h`.
pub(crate) const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Policies of sched_setattr(2).
const POLICIES: &[(&str, u32)] = &[
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// Flags of sched_setattr(2).
const SCHED_FLAGS: &[(&str, u64)] = &[
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Classes of ioprio_set(2).
const IO_CLASSES: &[(&str, u32)] = &[("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

fn look_up<T: Copy>(table: &[(&str, T)], name: &str, field: &str) -> Result<T> {
    table
        .iter()
        .find(|row| row.0 == name)
        .map(|row| row.1)
        .ok_or_else(|| Error::bad_spec(field, format!("unknown name `{name}`")))
}

/// What the command runs with, ready to be put in force.
#[derive(Debug)]
pub struct Attributes {
    uid: u32,
    gid: u32,
    /// `None` keeps the groups.
    groups: Option<Vec<u32>>,
    umask: Option<Mode>,
    rlimits: Vec<(&'static str, u32, u64, u64)>,
    capabilities: Option<CapabilityPlan>,
    no_new_privileges: bool,
    filter: Vec<libc::sock_filter>,
    personality: Option<u64>,
    scheduler: Option<sys::SchedAttr>,
    io_priority: Option<u32>,
}

#[derive(Debug)]
struct CapabilityPlan {
    bounding: u64,
    ambient: u64,
    sets: CapabilitySets,
}

/// The bits of known names. Unknown ones are left out: they are capabilities of a kernel to come, and what cannot be
/// given is not missed; [`unknown_capabilities`] tells them.
fn capability_bits(names: &[String]) -> u64 {
    names.iter().filter_map(|name| CAPABILITIES.iter().position(|known| known == name)).fold(0, |bits, n| bits | 1 << n)
}

/// Names in a process' capability sets that mean nothing here; for a warning.
pub fn unknown_capabilities(capabilities: &Capabilities) -> impl Iterator<Item = &str> {
    let Capabilities { bounding, effective, inheritable, permitted, ambient } = capabilities;
    [bounding, effective, inheritable, permitted, ambient]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .filter(|name| !CAPABILITIES.contains(name))
}

impl CapabilityPlan {
    fn plan(capabilities: &Capabilities) -> CapabilityPlan {
        let set = |names: &[String]| CapabilitySet::from_bits_retain(capability_bits(names));
        CapabilityPlan {
            bounding: capability_bits(&capabilities.bounding),
            ambient: capability_bits(&capabilities.ambient),
            sets: CapabilitySets {
                effective: set(&capabilities.effective),
                permitted: set(&capabilities.permitted),
                inheritable: set(&capabilities.inheritable),
            },
        }
    }

    fn drop_bounding(&self) -> io::Result<()> {
        for number in 0..64 {
            if self.bounding & (1 << number) == 0 {
                match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
                {
                    // The kernel's last capability was before this one.
                    Err(rustix::io::Errno::INVAL) => break,
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Nobody can be given what this process does not have: in a user namespace, or called by somebody with less than
    /// everything, that is left out, as other runtimes do. So are ambient capabilities that the other sets lack.
    fn apply(&self) -> io::Result<()> {
        let now = rustix::thread::capabilities(None)?.permitted;
        let permitted = now & self.sets.permitted;
        let have = CapabilitySets {
            permitted,
            effective: self.sets.effective & permitted,
            // Of what this process has, not of what it keeps: a program with file capabilities may get them back.
            inheritable: self.sets.inheritable & now & CapabilitySet::from_bits_retain(self.bounding),
        };
        rustix::thread::set_capabilities(None, have)?;
        rustix::thread::clear_ambient_capability_set()?;
        let ambient = self.ambient & (have.permitted & have.inheritable).bits();
        for number in (0..64).filter(|number| ambient & (1 << number) != 0) {
            rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)?;
        }
        Ok(())
    }
}

impl Attributes {
    /// Computes them from the configuration.
    pub fn plan(
        process: &Process,
        personality: Option<&str>,
        may_set_groups: bool,
        options: &super::Options,
    ) -> Result<Attributes> {
        let User { uid, gid, additional_gids, .. } = &process.user;
        // The kernel's word for "leave it as it is".
        if [uid, gid].into_iter().chain(additional_gids).any(|id| *id == u32::MAX) {
            return Err(Error::bad_spec("process.user", format!("{} is no id", u32::MAX)));
        }
        let groups = match (may_set_groups, options.keep_groups) {
            (true, false) => Some(process.user.additional_gids.clone()),
            _ => None,
        };
        let rlimits = process
            .rlimits
            .iter()
            .map(|limit| {
                let row = RLIMITS
                    .iter()
                    .find(|row| row.0 == limit.kind)
                    .ok_or_else(|| Error::bad_spec("process.rlimits", format!("unknown name `{}`", limit.kind)))?;
                Ok((row.0, row.1, limit.soft, limit.hard))
            })
            .collect::<Result<_>>()?;
        let io_priority = match &process.io_priority {
            Some(priority) if !(0..=7).contains(&priority.priority) => {
                return Err(Error::bad_spec("process.ioPriority.priority", "must be 0 to 7"));
            }
            Some(priority) => {
                let class = look_up(IO_CLASSES, &priority.class, "process.ioPriority.class")?;
                Some(class << 13 | priority.priority as u32)
            }
            None => None,
        };
        Ok(Attributes {
            uid: process.user.uid,
            gid: process.user.gid,
            groups,
            umask: process.user.umask.map(|umask| Mode::from_raw_mode(umask & 0o777)),
            rlimits,
            capabilities: process.capabilities.as_ref().map(CapabilityPlan::plan),
            no_new_privileges: process.no_new_privileges || !options.filter.is_empty(),
            filter: options.filter.clone(),
            personality: match personality {
                None => None,
                Some("LINUX") => Some(0),
                Some("LINUX32") => Some(8),
                Some(other) => {
                    return Err(Error::bad_spec("linux.personality.domain", format!("unknown name `{other}`")));
                }
            },
            scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
            io_priority,
        })
    }

    /// Whether the command runs with no-new-privileges.
    pub fn no_new_privileges(&self) -> bool {
        self.no_new_privileges
    }

    /// Raises what must be raised: whoever made the container learns that it cannot be done, and not who starts it. The
    /// limits themselves come later, as they hold for what is still to be done here, too.
    pub fn try_limits(&self) -> Result<()> {
        for limit in &self.rlimits {
            let (soft, hard) = sys::rlimit(limit.1).map_err(|source| limit_error(limit, source))?;
            if limit.3 > hard {
                sys::set_rlimit(limit.1, soft, limit.3).map_err(|source| limit_error(limit, source))?;
            }
        }
        Ok(())
    }

    /// Puts everything in force; the command must follow at once.
    pub fn apply(&self, profile: &Profile) -> Result<()> {
        let wrap = |what: &str| {
            let action = what.to_owned();
            move |source: io::Error| Error::system(action, source)
        };
        for limit in &self.rlimits {
            sys::set_rlimit(limit.1, limit.2, limit.3).map_err(|source| limit_error(limit, source))?;
        }
        if let Some(domain) = self.personality {
            sys::set_personality(domain).map_err(wrap("set the execution domain"))?;
        }
        if let Some(attributes) = &self.scheduler {
            sys::set_scheduler(attributes).map_err(wrap("set the scheduling policy"))?;
        }
        if let Some(priority) = self.io_priority {
            sys::set_io_priority(priority).map_err(wrap("set the I/O priority"))?;
        }
        if let Some(umask) = self.umask {
            rustix::process::umask(umask);
        }
        profile.before_capabilities()?;
        if let Some(capabilities) = &self.capabilities {
            capabilities.drop_bounding().map_err(wrap("drop capabilities from the bounding set"))?;
        }
        self.become_user()?;
        if let Some(capabilities) = &self.capabilities {
            capabilities.apply().map_err(wrap("set the capabilities"))?;
        }
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(|e| Error::system("set no-new-privileges", e))?;
        }
        if !self.filter.is_empty() {
            sys::install_filter(&self.filter).map_err(wrap("install the system call filter"))?;
        }
        Ok(())
    }

    /// Gives a terminal, pipe or socket to the user who is about to run: opening it again by `/dev/stderr` needs that.
    pub fn own(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let kind = stat.st_mode & libc::S_IFMT;
        let shared = kind == libc::S_IFCHR && stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid == self.uid || shared || kind == libc::S_IFREG || kind == libc::S_IFBLK {
            return Ok(());
        }
        Ok(rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(self.uid)), None)?)
    }

    /// The same for the three standard files, as far as the kernel lets it be done.
    pub fn own_standard_files(&self) {
        if rustix::process::getuid().is_root() && self.uid != 0 {
            for file in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
                let _ = self.own(file);
            }
        }
    }

    fn become_user(&self) -> Result<()> {
        if let Some(groups) = &self.groups {
            match sys::set_groups(groups) {
                // A user namespace with a single id forbids it for good: the caller's groups stay, as other runtimes do.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) && groups_are_fixed() => Ok(()),
                other => other.map_err(|e| Error::system("set the supplementary groups", e)),
            }?;
        }
        let hint = |source: io::Error, what: &str, id: u32| {
            Error::System {
            action: format!("become {what} {id}"),
            hint: (source.raw_os_error() == Some(libc::EINVAL) || source.raw_os_error() == Some(libc::EPERM))
                .then(|| format!("{what} {id} is not mapped into the container: run as yourself, or with subordinate ids (`--subid`)")),
            source,
        }
        };
        if rustix::process::getgid().as_raw() != self.gid {
            sys::set_gid(self.gid).map_err(|e| hint(e, "group", self.gid))?;
        }
        if rustix::process::getuid().as_raw() != self.uid {
            // The explicit sets that follow need what a change away from root would drop.
            if self.capabilities.is_some() {
                rustix::thread::set_keep_capabilities(true).map_err(|e| Error::system("keep capabilities", e))?;
            }
            sys::set_uid(self.uid).map_err(|e| hint(e, "user", self.uid))?;
        }
        Ok(())
    }
}

fn limit_error((name, _, soft, hard): &(&str, u32, u64, u64), source: io::Error) -> Error {
    let hint = "without CAP_SYS_RESOURCE a limit cannot be raised above the hard limit of the calling process";
    Error::System {
        action: format!("set the limit {name} to {soft}:{hard}"),
        hint: (source.raw_os_error() == Some(libc::EPERM)).then(|| hint.to_owned()),
        source,
    }
}

/// Whether this user namespace has given up setgroups(2).
fn groups_are_fixed() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text == b"deny\n")
}

/// What is written to the host's /proc, before the root is switched.
#[derive(Debug)]
pub struct Host {
    oom_score_adj: Option<i32>,
    label: Option<Label>,
}

/// What a security module makes of the command.
#[derive(Debug)]
struct Label {
    /// Files that take it; the first that is there does.
    files: &'static [&'static CStr],
    text: String,
}

impl Host {
    /// Computes it from the configuration.
    pub fn plan(process: &Process) -> Result<Host> {
        if let Some(score) = process.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            return Err(Error::bad_spec("process.oomScoreAdj", format!("{score} is not in -1000 to 1000")));
        }
        let label = match (&process.apparmor_profile, &process.selinux_label) {
            (Some(profile), _) if !profile.is_empty() => Some(Label {
                files: &[c"/proc/thread-self/attr/apparmor/exec", c"/proc/thread-self/attr/exec"],
                text: format!("exec {profile}"),
            }),
            (_, Some(label)) if !label.is_empty() => {
                Some(Label { files: &[c"/proc/thread-self/attr/exec"], text: label.clone() })
            }
            _ => None,
        };
        Ok(Host { oom_score_adj: process.oom_score_adj, label })
    }

    /// Sets how likely the kernel ends the process when memory runs out. Comes before the process changes: what it may
    /// write of itself depends on its ids.
    pub fn set_oom_score(&self) -> Result<()> {
        const FILE: &CStr = c"/proc/self/oom_score_adj";
        let Some(score) = self.oom_score_adj else { return Ok(()) };
        match write_proc(FILE, &score.to_string()) {
            // To lower it takes CAP_SYS_RESOURCE, which an ordinary user lacks, root in a user namespace included; a
            // container that is a little more likely to be ended is better than none, as other runtimes decide.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
            other => other.map_err(|e| Error::io("write", "/proc/self/oom_score_adj", e)),
        }
    }

    /// Sets the label, which takes effect with the next execve(2), which is the command's.
    pub fn apply(&self) -> Result<()> {
        let Some(label) = &self.label else { return Ok(()) };
        let mut outcome = Ok(());
        for file in label.files {
            outcome = write_proc(file, &label.text).map_err(|source| Error::System {
                action: format!("set the security label `{}`", label.text),
                hint: matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)).then(|| {
                    "the security module of this machine (AppArmor, SELinux) is off or does not know it".to_owned()
                }),
                source,
            });
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// Writes to a file of a real /proc, not to one that pretends.
fn write_proc(path: &CStr, text: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !sys::is_procfs(file.as_fd()) {
        return Err(io::Error::other("/proc is not a proc file system"));
    }
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

fn scheduler(scheduler: &Scheduler) -> Result<sys::SchedAttr> {
    let flags = scheduler
        .flags
        .iter()
        .try_fold(0, |flags, name| Ok::<u64, Error>(flags | look_up(SCHED_FLAGS, name, "process.scheduler.flags")?))?;
    Ok(sys::SchedAttr {
        size: size_of::<sys::SchedAttr>() as u32,
        policy: look_up(POLICIES, &scheduler.policy, "process.scheduler.policy")?,
        flags,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority)
            .map_err(|_| Error::bad_spec("process.scheduler.priority", "must not be negative"))?,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}
