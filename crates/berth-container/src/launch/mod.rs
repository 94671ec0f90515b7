//! From a bundle to a process.
//!
//! [`Plan::new`] computes everything that can be computed: strings for the kernel, flags, the order of mounts.
//! [`Plan::execute`] then only makes system calls, in the order in which its steps read. In the default
//! mode the calling process *becomes* the command: exit code and signals are the kernel's own business.

mod exec;
mod hooks;
pub mod join;
mod mount_points;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rootfs;
mod supervise;
mod sys;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::oci::{NamespaceKind, Process, Spec};

pub use exec::DEFAULT_PATH;
pub use namespaces::IdMapping;

/// What a bundle does not say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A system call filter, installed last; implies no-new-privileges.
    pub filter: Vec<libc::sock_filter>,
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
    /// Make the root by chroot(2) rather than pivot_root(2): weaker, and needed on an initial ramfs.
    pub no_pivot: bool,
    /// Set `HOME` from the container's `/etc/passwd` where the process's environment lacks it.
    pub set_home: bool,
    /// The bundle's directory, absolute: what relative sources of bind mounts start from.
    pub bundle: Option<PathBuf>,
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
    /// What comes between the namespaces and the command.
    fn build(&self) -> Result<()>;
}

/// From the namespaces of the host to the root of a new container.
#[derive(Debug)]
struct ContainerSteps {
    namespaces: namespaces::Namespaces,
    root: rootfs::RootPlan,
    mounts: Vec<mounts::Step>,
    hostname: Option<String>,
    domainname: Option<String>,
    /// The network namespace is new: its loopback interface is down.
    loopback: bool,
    sysctls: Vec<namespaces::Sysctl>,
    attributes: process::Host,
    hooks: Option<hooks::HookPlan>,
}

/// From the root of a container, new or joined, to its command.
#[derive(Debug)]
pub(crate) struct Entry {
    attributes: process::Attributes,
    command: exec::Command,
    preserve_fds: u32,
    supervised: bool,
    init: bool,
    terminal: bool,
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
        Ok(Entry {
            attributes: process::Attributes::plan(process, personality, may_set_groups, options)?,
            command: exec::Command::plan(process, options.create_cwd)?,
            preserve_fds: options.preserve_fds,
            supervised: options.supervise || options.init || process.terminal || need_parent,
            init: options.init,
            terminal: process.terminal,
        })
    }

    fn execute(&self, steps: &dyn Steps, started: &mut dyn FnMut(u32) -> Result<()>) -> Result<u8> {
        if self.supervised {
            return supervise::run(self, steps, started);
        }
        started(std::process::id())?;
        steps.enter()?;
        steps.build()?;
        Err(self.finish()?.exec())
    }

    /// Up to the last step, which is [`exec::Command::exec`] of the answer.
    fn finish(&self) -> Result<&exec::Command> {
        sys::close_on_exec_from(3 + self.preserve_fds).map_err(|e| Error::system("close inherited files", e))?;
        self.attributes.apply()?;
        self.command.enter_directory()?;
        sys::reset_signals();
        Ok(&self.command)
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
        let personality = spec.linux.as_ref().and_then(|linux| linux.personality.as_ref()).map(|p| p.domain.as_str());
        Ok(Plan {
            entry: Entry::new(process, personality, options, namespaces.need_child(), namespaces.may_set_groups())?,
            steps: ContainerSteps {
                root: rootfs::RootPlan::plan(&bundle.rootfs, spec, new(NamespaceKind::User), options)?,
                mounts: mounts::plan(spec, options.bundle.as_deref())?,
                hostname: spec.hostname.clone(),
                domainname: spec.domainname.clone(),
                loopback: new(NamespaceKind::Network),
                sysctls: namespaces::sysctls(spec)?,
                attributes: process::Host::plan(process),
                hooks: hooks::HookPlan::plan(spec)?,
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
    /// `started` is called once with the process that will be the command (the caller's own, or the child's), before it
    /// does anything: the place to write it down. If it fails, nothing is started.
    pub fn execute(self, started: &mut dyn FnMut(u32) -> Result<()>) -> Result<u8> {
        self.entry.execute(&self.steps, started)
    }
}

impl Steps for ContainerSteps {
    fn enter(&self) -> Result<()> {
        // While this process may still write its own file: another user or user namespace takes that away.
        self.attributes.set_oom_score()?;
        self.namespaces.enter()
    }

    fn build(&self) -> Result<()> {
        self.configure_namespaces()?;
        self.root.isolate()?;
        let mounts = mounts::open(&self.mounts)?;
        let mut root = self.root.assemble()?;
        root.add_mount_points(|root| mounts.missing(root))?;
        mounts.attach(root.fd())?;
        self.attributes.apply()?;
        if let Some(hooks) = &self.hooks {
            let (Some(stage), path) = root.on_host() else {
                return Err(Error::bad_spec("hooks", "are supported with an overlay only"));
            };
            hooks.run_before(stage, &path)?;
        }
        root.enter()?;
        self.hooks.as_ref().map_or(Ok(()), hooks::HookPlan::run_after)
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
        namespaces::set_sysctls(&self.sysctls)
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

fn has(spec: &Spec, kind: NamespaceKind) -> bool {
    spec.linux.iter().flat_map(|linux| &linux.namespaces).any(|namespace| namespace.kind == kind)
}

/// A string for the kernel.
fn c_string(text: &OsStr, field: impl FnOnce() -> String) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Error::bad_spec(field(), "contains a NUL byte"))
}
