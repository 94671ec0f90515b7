//! From a bundle to a process.
//!
//! [`Plan::new`] computes everything that can be computed: strings for the kernel, flags, the order of mounts.
//! [`Plan::execute`] then only makes system calls, in the order in which its steps read. In the default
//! mode the calling process *becomes* the command: exit code and signals are the kernel's own business.

mod affinity;
mod channel;
mod exec;
mod filter;
pub mod hold;
pub mod hooks;
mod ids;
mod image_mount;
pub mod join;
mod mount_points;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rootfs;
pub mod sealed;
mod supervise;
pub(crate) mod sys;
mod sysctl;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::thread::UnshareFlags;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::oci::{NamespaceKind, Process, Spec};
use crate::{oci, seccomp};

pub use exec::DEFAULT_PATH;
pub use hooks::Identity;
pub use ids::IdMapping;
pub use image_mount::ImageMount;
pub use image_mount::orphan;
pub use process::unknown_capabilities;
pub use supervise::Attendance;

pub(crate) use channel::{Channel, Message};
pub(crate) use options::words as mount_options;
pub(crate) use process::CAPABILITIES;
pub(crate) use sys::send_signal;

use crate::terminal::Terminal;

/// Who is told of a process that was started.
pub trait Observer {
    /// The process that will be the command is there and has done nothing yet: the place to write it down, and to move it
    /// elsewhere. If this fails, nothing is started.
    fn created(&mut self, pid: u32) -> Result<()>;

    /// The command was executed, or waits for its start. If this fails, it is killed.
    fn ready(&mut self, _pid: u32) -> Result<()> {
        Ok(())
    }
}

impl<F: FnMut(u32) -> Result<()>> Observer for F {
    fn created(&mut self, pid: u32) -> Result<()> {
        self(pid)
    }
}

/// What became of a command that has a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with this exit code, 128 + N for signal N.
    Ended(u8),
    /// It was left alone, as asked for; this is its process id.
    Left(u32),
}

/// What a bundle does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A system call filter of ours; implies no-new-privileges.
    pub filter: Vec<libc::sock_filter>,
    /// The configuration's filter for a process that joins. A new container has that of its configuration.
    pub profile: Option<seccomp::Filter>,
    /// A directory of the user's own where compiled filters are kept: see [`seccomp::compile_kept`].
    pub kept_filters: Option<PathBuf>,
    /// Keep the caller's supplementary groups, where the kernel would let us set others. Groups that have no id inside
    /// show as `nogroup` there, and still open what they open outside.
    pub keep_groups: bool,
    /// Make the working directory if it is not there.
    pub create_cwd: bool,
    /// How many descriptors after the first three the command inherits.
    pub preserve_fds: u32,
    /// Wait for the command, rather than becoming it. New pid and time namespaces, and terminals, imply it.
    pub supervise: bool,
    /// Source of the overlay, as `/proc/PID/mountinfo` shows it: [`crate::state`] finds a container's processes by what
    /// stands before the first comma; absent means `berth`.
    pub label: Option<String>,
    /// Put a process before the command that reaps orphans and passes signals on. Implies `supervise`.
    pub init: bool,
    /// The container's id and bundle, as hooks learn them.
    pub identity: Option<Identity>,
    /// Give the command a session keyring of its own, of this name: the caller's holds its secrets.
    pub keyring: Option<String>,
    /// Make the root file system the root by chroot(2), where it is an initial ramdisk that cannot be pivoted from.
    pub no_pivot: bool,
    /// Mounts a layer below all others of the overlay.
    pub image: Option<ImageMount>,
    /// Set `HOME` by the container's `/etc/passwd`, if the environment has none.
    pub set_home: bool,
}

/// A bundle, ready to be started.
#[derive(Debug)]
pub struct Plan {
    steps: ContainerSteps,
    entry: Entry,
}

/// What leads into a container: a new one, or one that runs.
trait Steps {
    /// Moves the process into the namespaces.
    fn enter(&self) -> Result<()>;
    /// The namespaces with which a child can be born instead; [`Steps::settle`] completes it.
    fn at_birth(&self) -> Option<UnshareFlags> {
        None
    }
    /// What is left to do for such a child.
    fn settle(&self) -> Result<()> {
        Ok(())
    }
    /// What comes between the namespaces and the command. With a parent, there is a channel to it.
    fn build(&self, channel: Option<&Channel>) -> Result<()>;
    /// Runs in the parent, while [`Steps::build`] waits: hooks in the host's namespaces.
    fn hooks_outside(&self, _pid: u32) -> Result<()> {
        Ok(())
    }
    /// Comes right before the command.
    fn begin(&self) -> Result<()> {
        Ok(())
    }
    /// Whether the container has terminals of its own at `/dev/pts`.
    fn has_terminals(&self) -> bool {
        false
    }
}

/// From the namespaces of the host to the root of a new container.
#[derive(Debug)]
struct ContainerSteps {
    namespaces: namespaces::Namespaces,
    root: rootfs::RootPlan,
    mounts: mounts::MountPlan,
    hostname: Option<String>,
    domainname: Option<String>,
    /// The network namespace is new: its loopback interface is down.
    loopback: bool,
    sysctls: Vec<sysctl::Sysctl>,
    attributes: process::Host,
    hooks: Option<hooks::HookPlan>,
    /// `/dev/pts` is its own.
    terminals: bool,
}

/// From the root of a container, new or joined, to its command.
#[derive(Debug)]
pub(crate) struct Entry {
    attributes: process::Attributes,
    profile: filter::Profile,
    command: exec::Command,
    preserve_fds: u32,
    supervised: bool,
    init: bool,
    terminal: bool,
    /// Rows and columns of that terminal.
    console_size: Option<(u16, u16)>,
    /// Bind it to `/dev/console` too.
    console: bool,
    keyring: Option<CString>,
    /// Of a process that joins: put in force before the namespaces are left; what a fork makes inherits it.
    host: Option<process::Host>,
    /// Signals that the caller ignores are not ignored by the command.
    fresh_signals: bool,
    affinity: affinity::Affinity,
}

impl Entry {
    /// `need_parent`: the command must be a child.
    fn new(
        process: &Process,
        personality: Option<&str>,
        options: &Options,
        need_parent: bool,
        may_set_groups: bool,
    ) -> Result<Entry> {
        let attributes = process::Attributes::plan(process, personality, may_set_groups, options)?;
        Ok(Entry {
            profile: filter::Profile::new(
                options.profile.clone(),
                attributes.no_new_privileges(),
                options.identity.as_ref(),
                &BTreeMap::new(),
            ),
            attributes,
            command: exec::Command::plan(process, options)?,
            preserve_fds: options.preserve_fds,
            supervised: options.supervise || options.init || process.terminal || need_parent,
            init: options.init,
            terminal: process.terminal,
            console_size: process.console_size.map(|size| (size.height, size.width)),
            console: false,
            fresh_signals: options.identity.is_some(),
            affinity: affinity::Affinity::default(),
            keyring: options.keyring.as_ref().map(|name| c_string(name.as_ref(), || "id".to_owned())).transpose()?,
            host: None,
        })
    }

    fn execute(&self, steps: &dyn Steps, observer: &mut dyn Observer) -> Result<u8> {
        if self.supervised {
            return match supervise::run(self, steps, Attendance::default(), observer)? {
                Outcome::Ended(code) => Ok(code),
                Outcome::Left(_) => Ok(0),
            };
        }
        observer.created(std::process::id())?;
        self.enter(steps)?;
        steps.build(None)?;
        steps.begin()?;
        let failure = match self.finish(None) {
            Ok(ready) => ready.exec(),
            Err(error) => error,
        };
        // Our callers will close what they believe to have open.
        sys::fill_descriptors();
        Err(failure)
    }

    /// Closes everything but these, what the command inherits, and what its filter needs. Owners of the rest must not be
    /// used any more.
    fn close_all_but(&self, kept: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        let kept = kept.iter().copied().chain([self.profile.agent()]).flatten();
        let mut kept: Vec<_> = kept.map(|fd| fd.as_raw_fd()).collect();
        sys::close_all_but(3 + self.preserve_fds, &mut kept).map_err(|e| Error::system("close inherited files", e))
    }

    /// Leaves the host's namespaces, with what can be reached only from there.
    fn enter(&self, steps: &dyn Steps) -> Result<()> {
        self.affinity.begin()?;
        self.profile.connect()?;
        if let Some(host) = &self.host {
            host.set_oom_score()?;
            host.apply()?;
        }
        steps.enter()
    }

    /// The same for a child that was born into them.
    fn settle(&self, steps: &dyn Steps) -> Result<()> {
        self.profile.connect()?;
        steps.settle()
    }

    /// Prepares the container's terminal, before it becomes this process'.
    fn give_terminal(&self, terminal: &Terminal) -> Result<()> {
        if let Some((rows, columns)) = self.console_size.filter(|size| *size != (0, 0)) {
            terminal.resize(rows, columns)?;
        }
        // Whoever runs in it may open it again. Where the owner cannot be changed, it is ours, and that is who runs.
        let _ = self.attributes.own(terminal.peer());
        if self.console {
            mounts::bind_console(terminal.peer())?;
        }
        Ok(())
    }

    /// Up to the last step, which is [`filter::Ready::exec`] of the answer. `channel` stays open until then; everything
    /// else but what the command inherits is closed, and owners of it must not be used any more.
    fn finish(&self, channel: Option<BorrowedFd<'_>>) -> Result<filter::Ready<'_>> {
        if let Some(name) = &self.keyring {
            sys::join_session_keyring(name).map_err(|e| Error::system("make a session keyring", e))?;
        }
        self.attributes.own_standard_files();
        // Really closed, not only when the command is executed: its name and its directory are looked up before, and may
        // be `/proc/self/fd/N/…`, where N was a directory of the host.
        self.close_all_but(&[channel])?;
        let home = self.command.home();
        let there = self.command.try_directory()?;
        self.attributes.apply(&self.profile)?;
        if !there {
            self.command.enter_directory()?;
        }
        sys::reset_signals(self.fresh_signals);
        Ok(filter::Ready { command: &self.command, home, profile: &self.profile })
    }
}

impl Plan {
    /// Computes how to start the bundle as the current user.
    pub fn new(bundle: &Bundle, options: &Options) -> Result<Plan> {
        let spec = &bundle.spec;
        let Some(process) = &spec.process else {
            return Err(Error::bad_spec("process", "missing: there is nothing to start"));
        };
        let euid = rustix::process::geteuid().as_raw();
        let egid = rustix::process::getegid().as_raw();
        let namespaces = namespaces::Namespaces::plan(spec, euid, egid)?;
        let new = |kind| namespaces.new.contains(namespaces::flag_of(kind));
        if (spec.hostname.is_some() || spec.domainname.is_some()) && !has(spec, NamespaceKind::Uts) {
            return Err(Error::bad_spec("hostname", "needs a uts namespace"));
        }
        for (field, name) in [("hostname", &spec.hostname), ("domainname", &spec.domainname)] {
            // The kernel takes 64 bytes, and cuts at a NUL without a word.
            if name.as_ref().is_some_and(|name| name.len() > 64 || name.contains('\0')) {
                return Err(Error::bad_spec(field, "is longer than 64 bytes, or has a NUL byte"));
            }
        }
        let personality = spec.linux.as_ref().and_then(|linux| linux.personality.as_ref());
        if let Some(flag) = personality.and_then(|personality| personality.flags.first()) {
            // The specification reserves them.
            return Err(Error::bad_spec("linux.personality.flags", format!("unknown flag `{flag}`")));
        }
        let personality = personality.map(|personality| personality.domain.as_str());
        let hooks = hooks::HookPlan::plan(spec, options.identity.as_ref())?;
        let need_parent = namespaces.need_child() || hooks.as_ref().is_some_and(hooks::HookPlan::need_parent);
        let terminals = spec.mounts.iter().any(|m| m.kind.as_deref() == Some("devpts") && !m.is_bind());
        let mut entry = Entry::new(process, personality, options, need_parent, namespaces.may_set_groups())?;
        entry.console = options.identity.is_some() && terminals;
        if let Some(rules) = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
            entry.profile = filter::Profile::new(
                seccomp::compile_kept(rules, options.kept_filters.as_deref())?,
                entry.attributes.no_new_privileges(),
                options.identity.as_ref(),
                &spec.annotations,
            );
        }
        Ok(Plan {
            entry,
            steps: ContainerSteps {
                root: rootfs::RootPlan::plan(&bundle.rootfs, spec, new(NamespaceKind::User), options)?,
                mounts: mounts::plan(spec, options.identity.as_ref().map(|identity| identity.bundle.as_path()))?,
                hostname: spec.hostname.clone(),
                domainname: spec.domainname.clone(),
                loopback: new(NamespaceKind::Network),
                sysctls: sysctl::sysctls(spec)?,
                attributes: process::Host::plan(process)?,
                hooks,
                terminals,
                namespaces,
            },
        })
    }

    /// Whether [`Plan::execute`] waits for the command, rather than becoming it.
    pub fn is_supervised(&self) -> bool {
        self.entry.supervised
    }

    /// Becomes the command, or starts it and waits for it: then returns its exit code, 128 + N for signal N.
    ///
    /// `observer` is told of the process that will be the command: the caller's own, or the child's.
    pub fn execute(self, observer: &mut dyn Observer) -> Result<u8> {
        self.entry.execute(&self.steps, observer)
    }

    /// Starts the command as a child, and stays with it as long as `attendance` says.
    pub fn attend(self, attendance: Attendance, observer: &mut dyn Observer) -> Result<Outcome> {
        supervise::run(&self.entry, &self.steps, attendance, observer)
    }
}

impl Steps for ContainerSteps {
    fn enter(&self) -> Result<()> {
        // While this process may still write its own file: another user or user namespace takes that away.
        self.attributes.set_oom_score()?;
        self.mounts.prepare()?;
        self.namespaces.enter()
    }

    fn at_birth(&self) -> Option<UnshareFlags> {
        // Id-mapped mounts are prepared in the caller's user namespace.
        self.namespaces.at_birth().filter(|_| !self.mounts.need_preparation())
    }

    fn settle(&self) -> Result<()> {
        self.attributes.set_oom_score()?;
        self.namespaces.settle()
    }

    fn build(&self, channel: Option<&Channel>) -> Result<()> {
        // Until here and the next mount of a control group, this runs beside the parent, which moves us into ours.
        let settled = Cell::new(false);
        let in_cgroup = || {
            if settled.replace(true) {
                return Ok(());
            }
            if channel.is_some_and(|channel| !channel.wait_once()) {
                sys::exit_now(1);
            }
            self.namespaces.enter_cgroup()
        };
        self.configure_namespaces()?;
        self.root.isolate()?;
        let mounts = self.mounts.open()?;
        let mut root = self.root.assemble()?;
        root.add_mount_points(|root| mounts.missing(root))?;
        mounts.attach(root.fd(), &in_cgroup)?;
        in_cgroup()?;
        self.attributes.apply()?;
        if let Some(hooks) = &self.hooks {
            if hooks.need_parent() && !channel.is_some_and(Channel::ask_for_hooks) {
                sys::exit_now(1);
            }
            let (stage, path) = root.on_host();
            hooks.run_before(stage, &path)?;
        }
        root.enter()
    }

    fn hooks_outside(&self, pid: u32) -> Result<()> {
        self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run_outside(pid))
    }

    fn begin(&self) -> Result<()> {
        self.hooks.as_ref().map_or(Ok(()), hooks::HookPlan::run_after)
    }

    fn has_terminals(&self) -> bool {
        self.terminals
    }
}

impl ContainerSteps {
    fn configure_namespaces(&self) -> Result<()> {
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes())
                .map_err(|e| Error::system(format!("set the host name `{name}`"), e))?;
        }
        if let Some(name) = &self.domainname {
            rustix::system::setdomainname(name.as_bytes())
                .map_err(|e| Error::system(format!("set the domain name `{name}`"), e))?;
        }
        if self.loopback {
            sys::loopback_up().map_err(|e| Error::system("bring the loopback interface up", e))?;
        }
        sysctl::set_sysctls(&self.sysctls)
    }
}

/// Runs `work` in a forked child, which ends with its answer as exit code; returns the child's process id.
pub(crate) fn in_child(work: impl FnOnce() -> u8) -> Result<u32> {
    match sys::fork().map_err(|e| Error::system("fork", e))? {
        Some(child) => Ok(child),
        None => sys::exit_now(work()),
    }
}

/// Moves the process into the namespaces of a configuration.
pub(crate) fn enter_namespaces(spec: &Spec) -> Result<()> {
    let euid = rustix::process::geteuid().as_raw();
    namespaces::Namespaces::plan(spec, euid, rustix::process::getegid().as_raw())?.enter()
}

/// Whether a mount of a configuration would be made, as far as that can be told without making it.
pub(crate) fn understands(mount: oci::Mount) -> bool {
    mounts::plan(&Spec { mounts: vec![mount], ..Spec::default() }, None).is_ok()
}

fn has(spec: &Spec, kind: NamespaceKind) -> bool {
    spec.linux.iter().flat_map(|linux| &linux.namespaces).any(|namespace| namespace.kind == kind)
}

/// A string for the kernel.
fn c_string(text: &OsStr, field: impl FnOnce() -> String) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Error::bad_spec(field(), "contains a NUL byte"))
}
