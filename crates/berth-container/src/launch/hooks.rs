//! Hooks: programs of the host that finish a container, as device vendors' are.
//!
//! | stage | run by | in | `bundle` of the state |
//! |---|---|---|---|
//! | `prestart`, `createRuntime` | the parent | the host's namespaces | the bundle |
//! | `createContainer` | the child, before the root is switched | the container's | the bundle |
//! | `startContainer` | the child, right before the command | the container's | the bundle |
//! | `poststart`, `poststop` | whoever starts, and deletes | the host's | the bundle |
//!
//! A container of `berth run` has no bundle and no life of its own: it gets a directory with a `config.json` on the stage
//! of its root file system instead, where the first three stages run in its namespaces, and the last two are refused
//! rather than forgotten.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Error, Result};
use crate::oci::{Hook, Hooks, Root, Spec, VERSION};

/// Whose hooks they are.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The container's id.
    pub id: String,
    /// Absolute path of the bundle's directory.
    pub bundle: PathBuf,
}

/// Where in its life a container is, as hooks read it.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// Being built; the hooks run in the host's namespaces.
    CreateRuntime,
    /// Being built; the hooks run in the container's namespaces.
    CreateContainer,
    /// About to run its command.
    StartContainer,
    /// Its command runs.
    Poststart,
    /// It is gone.
    Poststop,
}

/// The hooks of a container, and what they read.
#[derive(Debug)]
pub struct HookPlan {
    identity: Option<Identity>,
    /// The configuration, for `config.json` on the stage.
    spec: Spec,
}

impl HookPlan {
    /// Computes it; `None` where there are no hooks.
    pub fn plan(spec: &Spec, identity: Option<&Identity>) -> Result<Option<HookPlan>> {
        let hooks = &spec.hooks;
        if *hooks == Hooks::default() {
            return Ok(None);
        }
        if identity.is_none() {
            for (stage, list) in [("poststart", &hooks.poststart), ("poststop", &hooks.poststop)] {
                if !list.is_empty() {
                    return Err(Error::bad_spec(format!("hooks.{stage}"), "hooks of this stage are not supported"));
                }
            }
        }
        Ok(Some(HookPlan { identity: identity.cloned(), spec: spec.clone() }))
    }

    /// Whether a parent must run some.
    pub fn need_parent(&self) -> bool {
        self.identity.is_some() && !(self.spec.hooks.prestart.is_empty() && self.spec.hooks.create_runtime.is_empty())
    }

    /// Runs those of the parent, for the container's process `pid`.
    pub fn run_outside(&self, pid: u32) -> Result<()> {
        match &self.identity {
            Some(identity) => run_stage(&self.spec, Stage::CreateRuntime, identity, pid),
            None => Ok(()),
        }
    }

    /// Runs those that come before the root is switched. `stage` is a directory of ours, where there is one; `root` is the
    /// container's root.
    pub fn run_before(&self, stage: Option<&Path>, root: &Path) -> Result<()> {
        let pid = std::process::id();
        if let Some(identity) = &self.identity {
            return lending(|| run_stage(&self.spec, Stage::CreateContainer, identity, pid));
        }
        let Some(stage) = stage else {
            return Err(Error::bad_spec("hooks", "need a bundle, or an overlay as root file system"));
        };
        let spec = Spec {
            root: Some(Root { path: root.to_owned(), readonly: self.spec.root.as_ref().is_some_and(|r| r.readonly) }),
            ..self.spec.clone()
        };
        let path = stage.join("config.json");
        let text = serde_json::to_vec(&spec).map_err(|e| Error::io("write", &path, std::io::Error::other(e)))?;
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        let identity = self.made_up(stage);
        lending(|| {
            run_stage(&self.spec, Stage::CreateRuntime, &identity, pid)?;
            run_stage(&self.spec, Stage::CreateContainer, &identity, pid)
        })
    }

    /// Runs those that come right before the command.
    pub fn run_after(&self) -> Result<()> {
        let identity = self.identity.clone().unwrap_or_else(|| self.made_up(Path::new("/")));
        lending(|| run_stage(&self.spec, Stage::StartContainer, &identity, std::process::id()))
    }

    fn made_up(&self, bundle: &Path) -> Identity {
        Identity { id: format!("berth-{}", std::process::id()), bundle: bundle.to_owned() }
    }
}

/// Runs the hooks of a stage in this process' namespaces. The first that fails is an error, and ends the series; but after
/// a container's end (`poststop`) all run, whatever becomes of them, and the first failure is told at last.
pub fn run_stage(spec: &Spec, stage: Stage, identity: &Identity, pid: u32) -> Result<()> {
    let hooks = &spec.hooks;
    let (lists, status): (&[(&'static str, &[Hook])], &str) = match stage {
        Stage::CreateRuntime => {
            (&[("prestart", &hooks.prestart), ("createRuntime", &hooks.create_runtime)], "creating")
        }
        Stage::CreateContainer => (&[("createContainer", &hooks.create_container)], "creating"),
        Stage::StartContainer => (&[("startContainer", &hooks.start_container)], "created"),
        Stage::Poststart => (&[("poststart", &hooks.poststart)], "running"),
        Stage::Poststop => (&[("poststop", &hooks.poststop)], "stopped"),
    };
    if lists.iter().all(|(_, hooks)| hooks.is_empty()) {
        return Ok(());
    }
    let mut state = serde_json::json!({
        "ociVersion": VERSION,
        "id": identity.id,
        "status": status,
        "pid": pid,
        "bundle": identity.bundle,
    });
    if matches!(stage, Stage::Poststop) {
        state["pid"] = 0.into();
    }
    if !spec.annotations.is_empty() {
        state["annotations"] = serde_json::json!(spec.annotations);
    }
    let state = state.to_string();
    let mut outcome = Ok(());
    for (name, hook) in lists.iter().flat_map(|(name, hooks)| hooks.iter().map(move |hook| (*name, hook))) {
        // Inside, what the runtime was called with means nothing.
        let env = match (&spec.process, stage) {
            (Some(process), Stage::StartContainer) if hook.env.is_empty() => &process.env,
            _ => &hook.env,
        };
        let one = run(name, hook, env, &state);
        if one.is_err() && !matches!(stage, Stage::Poststop) {
            return one;
        }
        outcome = outcome.and(one);
    }
    outcome
}

/// Runs hooks with the capabilities that this process has.
fn lending(hooks: impl FnOnce() -> Result<()>) -> Result<()> {
    let lend = |lend| lend_capabilities(lend).map_err(|e| Error::system("lend capabilities to hooks", e));
    lend(true)?;
    let outcome = hooks();
    lend(false)?;
    outcome
}

/// Hooks mount and link in the container, so they need the capabilities over it that this process has; a program that is
/// executed without being root keeps them only if they are ambient.
fn lend_capabilities(lend: bool) -> Result<(), rustix::io::Errno> {
    let now = rustix::thread::capabilities(None)?;
    let inheritable = if lend { now.permitted } else { CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable, ..now })?;
    if !lend {
        return rustix::thread::clear_ambient_capability_set();
    }
    for bit in
        (0..64).map(|number| CapabilitySet::from_bits_retain(1 << number)).filter(|bit| now.permitted.contains(*bit))
    {
        rustix::thread::configure_capability_in_ambient_set(bit, true)?;
    }
    Ok(())
}

fn run(stage: &'static str, hook: &Hook, env: &[String], state: &str) -> Result<()> {
    let failed = |reason: String| Error::Hook { stage, path: hook.path.clone(), reason };
    let mut command = Command::new(&hook.path);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // One that names no variables sees the runtime's, as with every other runtime: scripts count on PATH.
    if !env.is_empty() {
        command.env_clear();
    }
    if let Some((name, rest)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name).args(rest);
    }
    command.envs(env.iter().filter_map(|entry| entry.split_once('=')));
    // A hook is not to be ended by what was meant for the container, nor to miss what is meant for it.
    {
        use std::os::unix::process::CommandExt;
        #[allow(unsafe_code)] // SAFETY: only async-signal-safe calls are made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                super::sys::reset_signals(false);
                Ok(())
            })
        };
    }
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not want to know is free to close its input.
        let _ = stdin.write_all(state.as_bytes());
    }
    if let Some(timeout) = hook.timeout.and_then(|seconds| u64::try_from(seconds).ok()) {
        let limit = rustix::time::Timespec::try_from(Duration::from_secs(timeout)).ok();
        let process = Pid::from_raw(child.id() as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|e| failed(e.to_string()))?;
        if poll(&mut [PollFd::new(&process, PollFlags::IN)], limit.as_ref()) == Ok(0) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("it took longer than {timeout} seconds")));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}
