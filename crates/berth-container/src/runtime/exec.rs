//! One more process in a container.

use std::path::Path;

use super::birth::{connect_console, write_pid_file};
use super::container::Container;
use super::keeps_groups;
use super::record::Status;
use super::root::KEPT_FILTERS;
use crate::error::{Error, Result};
use crate::launch::join::Target;
use crate::launch::{Attendance, Identity, Observer, Options, Outcome};
use crate::oci::Process;
use crate::seccomp;

/// A process that is to be.
#[derive(Debug)]
pub struct Exec<'a> {
    /// What is run.
    pub process: Process,
    /// Leave it to itself once it runs.
    pub detach: bool,
    /// Where to write its process id.
    pub pid_file: Option<&'a Path>,
    /// A listening socket that gets its terminal.
    pub console_socket: Option<&'a Path>,
    /// How many descriptors after the first three it inherits.
    pub preserve_fds: u32,
    /// A cgroup below the container's.
    pub cgroup: Option<&'a Path>,
    /// Let it be started in a paused container, where it will not run.
    pub ignore_paused: bool,
    /// Let it share the caller's session keyring.
    pub no_new_keyring: bool,
}

impl Container {
    /// Runs a process in it.
    ///
    /// # Errors
    /// A container that is stopped, or paused; what keeps the command from running, with its exit code.
    pub fn exec(&self, exec: &Exec<'_>) -> Result<Outcome> {
        self.must_live()?;
        if self.status() == Status::Paused && !exec.ignore_paused {
            return Err(Error::ContainerState {
                name: self.record.id.clone(),
                reason: "is paused".to_owned(),
                hint: Some("resume it first, or use --ignore-paused".to_owned()),
            });
        }
        let spec = self.spec()?;
        let target = Target::of_process(self.record.process.pid)?;
        // The number may have gone to another process before it was looked at; now it is held.
        self.must_live()?;
        let console = connect_console(exec.console_socket, exec.process.terminal, exec.detach)?;
        let identity = Identity { id: self.record.id.clone(), bundle: self.record.bundle.clone() };
        let options = Options {
            supervise: true,
            preserve_fds: exec.preserve_fds,
            identity: Some(identity),
            keyring: (!exec.no_new_keyring).then(|| format!("_ses.{}", self.record.id)),
            set_home: true,
            keep_groups: keeps_groups(&spec),
            profile: match spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
                Some(rules) => {
                    let kept = self.dir.parent().map(|root| root.join(KEPT_FILTERS));
                    seccomp::compile_kept(rules, kept.as_deref())?
                }
                None => None,
            },
            ..Options::default()
        };
        let personality = spec.linux.as_ref().and_then(|linux| linux.personality.as_ref());
        let personality = personality.map(|personality| personality.domain.as_str());
        let attendance = Attendance { detach: exec.detach, console, ..Attendance::default() };
        let mut observer = Joining { container: self, exec };
        target.attend(&exec.process, personality, &options, attendance, &mut observer)
    }
}

struct Joining<'a> {
    container: &'a Container,
    exec: &'a Exec<'a>,
}

impl Observer for Joining<'_> {
    fn created(&mut self, pid: u32) -> Result<()> {
        if self.container.record.cgroup.is_own() {
            self.container.record.cgroup.add(pid, self.exec.cgroup)?;
        }
        Ok(())
    }

    fn ready(&mut self, pid: u32) -> Result<()> {
        self.exec.pid_file.map_or(Ok(()), |path| write_pid_file(path, pid))
    }
}
