//! Hooks: programs of the host that finish a container, as device vendors' are.
//!
//! Those of the stages `prestart`, `createRuntime` and `createContainer` run in the container's namespaces before the root
//! is switched; they find the configuration in the stage's `config.json`. `startContainer` runs after. What a supervisor
//! would have to run (`poststart`, `poststop`) is refused rather than forgotten.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Error, Result};
use crate::oci::{Hook, Hooks, Root, Spec, VERSION};

/// Hooks in the order in which they run, and what they read.
#[derive(Debug)]
pub struct HookPlan {
    before: Vec<(&'static str, Hook)>,
    after: Vec<(&'static str, Hook)>,
    /// The configuration, for `config.json`; the root's path is filled in later.
    spec: Spec,
}

impl HookPlan {
    /// Computes it; `None` where there are no hooks.
    pub fn plan(spec: &Spec) -> Result<Option<HookPlan>> {
        let hooks = &spec.hooks;
        if *hooks == Hooks::default() {
            return Ok(None);
        }
        for (stage, list) in [("poststart", &hooks.poststart), ("poststop", &hooks.poststop)] {
            if !list.is_empty() {
                return Err(Error::bad_spec(format!("hooks.{stage}"), "hooks of this stage are not supported"));
            }
        }
        let stages = [
            ("prestart", &hooks.prestart),
            ("createRuntime", &hooks.create_runtime),
            ("createContainer", &hooks.create_container),
        ];
        let before = stages.into_iter().flat_map(|(stage, list)| list.iter().map(move |hook| (stage, hook.clone())));
        let after = hooks.start_container.iter().map(|hook| ("startContainer", hook.clone()));
        Ok(Some(HookPlan { before: before.collect(), after: after.collect(), spec: spec.clone() }))
    }

    /// Runs those that come before the root is switched. `stage` is a directory of ours, `root` the container's root.
    pub fn run_before(&self, stage: &Path, root: &Path) -> Result<()> {
        let spec = Spec {
            root: Some(Root { path: root.to_owned(), readonly: self.spec.root.as_ref().is_some_and(|r| r.readonly) }),
            ..self.spec.clone()
        };
        let path = stage.join("config.json");
        let text = serde_json::to_vec(&spec).map_err(|e| Error::io("write", &path, std::io::Error::other(e)))?;
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        run_all(&self.before, "creating", stage, &self.spec)
    }

    /// Runs those that come after.
    pub fn run_after(&self) -> Result<()> {
        run_all(&self.after, "created", Path::new("/"), &self.spec)
    }
}

fn run_all(hooks: &[(&'static str, Hook)], status: &str, bundle: &Path, spec: &Spec) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::json!({
        "ociVersion": VERSION,
        "id": format!("berth-{}", std::process::id()),
        "status": status,
        "pid": std::process::id(),
        "bundle": bundle,
        "annotations": spec.annotations,
    });
    let lend = |lend| lend_capabilities(lend).map_err(|e| Error::system("lend capabilities to hooks", e));
    lend(true)?;
    let outcome = hooks.iter().try_for_each(|(stage, hook)| run(stage, hook, &state.to_string()));
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

fn run(stage: &'static str, hook: &Hook, state: &str) -> Result<()> {
    let failed = |reason: String| Error::Hook { stage, path: hook.path.clone(), reason };
    let mut command = Command::new(&hook.path);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null());
    if let Some((name, rest)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name).args(rest);
    }
    command.envs(hook.env.iter().filter_map(|entry| entry.split_once('=')));
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
