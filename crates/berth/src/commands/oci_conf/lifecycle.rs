//! `berth oci-conf test`: the calls of a step, one after the other, as slurmstepd makes them, with everything that a file's
//! commands get from it. There is no Slurm in it, and nobody but the caller.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use berth_oci_conf::Conf;
use berth_oci_conf::Release;
use berth_oci_conf::conf::Mode;
use berth_oci_conf::config_json;
use berth_oci_conf::config_json::Engine;
use berth_oci_conf::environment;
use berth_oci_conf::environment::Sources;
use berth_oci_conf::patterns::Values;
use berth_oci_conf::patterns::expand;
use berth_oci_conf::step::Folders;
use berth_oci_conf::step::Kind;
use berth_oci_conf::step::Step;
use serde_json::Value;

use super::call::Call;
use super::call::Shell;
use super::call::Until;
use crate::command_error::CommandError;

/// Largest config.json, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// How often slurmstepd asks whether a container was created.
const QUERIES: u32 = 11;

/// A step that is tried.
pub struct Trial<'a> {
    conf: &'a Conf,
    release: Release,
    step: Step,
    launch: Values,
    cleanup: Values,
    shell: Shell,
    /// What came of each call, in order.
    pub calls: Vec<Call>,
    /// What is wrong, in words.
    pub faults: Vec<String>,
}

/// Where the step's files are; gone when dropped.
pub struct Spool(PathBuf);

impl Spool {
    /// A new folder of one's own.
    pub fn new() -> Result<Spool, CommandError> {
        let path = std::env::temp_dir().join(format!("berth-oci-conf-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| CommandError::io("make", &path, e))?;
        Ok(Spool(path))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl<'a> Trial<'a> {
    /// Writes what slurmstepd writes before a task starts. The file's ContainerPath is root's, and is left out.
    pub fn new(
        conf: &'a Conf,
        release: Release,
        container: &str,
        arguments: &[String],
        spool: &Spool,
        limit: Duration,
    ) -> Result<Trial<'a>, CommandError> {
        let here = Conf { ignore_config_json: conf.ignore_config_json, ..Conf::default() };
        let user = berth_host::doctor::whoever_asks();
        let working_dir = std::env::current_dir().map_err(|e| CommandError::io("find", ".", e))?;
        let config = if conf.ignore_config_json { None } else { Some(read_config(Path::new(container))?) };
        let bundle = std::path::absolute(container).map_err(|e| CommandError::io("find", container, e))?;
        let root = config.as_ref().map(|config| config_json::root(config, &bundle)).transpose();
        let root = root.map_err(|error| CommandError::failure(format!("{container}: {error}")))?;
        let step = Step {
            // A number that no other trial on this host has.
            job: std::process::id(),
            kind: Kind::Number(0),
            node: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            user: user.name,
            uid: user.uid,
            container: container.to_owned(),
            root: root.map(|root| root.display().to_string()),
            working_dir: working_dir.display().to_string(),
            slurmd_spool: spool.0.display().to_string(),
        };
        let known = |error| CommandError::failure(format!("{error}"));
        let folders = step.folders(&here, 0, release).map_err(known)?;
        let environment = environment_of(&step, conf, config.as_ref(), release);
        write_files(conf, release, &folders, &bundle, arguments, config, &environment)?;
        let slurmd = ["PATH", "LANG"].iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
        let slurmd: Vec<String> = slurmd
            .chain([format!("SLURMD_NODENAME={}", step.node), "SLURM_CONF=/etc/slurm/slurm.conf".to_owned()])
            .collect();
        let environment = environment::commands(&slurmd, conf.runtime_env_exclude.as_ref());
        let dir = if release.rewrites_per_task() { working_dir } else { PathBuf::from(&folders.task) };
        Ok(Trial {
            launch: step.at_launch(&here, 0, arguments, release).map_err(known)?,
            cleanup: step.at_cleanup(&here, release).map_err(known)?,
            conf,
            release,
            step,
            shell: Shell { environment, dir, limit },
            calls: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// The whole life of a step, its end included.
    pub fn run(&mut self) -> Result<(), CommandError> {
        match self.conf.mode(self.release) {
            Ok(Mode::Run) => self.one_call()?,
            Ok(Mode::CreateStart) => self.two_calls()?,
            Err(refused) => return Err(CommandError::failure(refused.to_string())),
        }
        if !self.conf.ignore_config_json {
            self.end()?;
        }
        Ok(())
    }

    fn one_call(&mut self) -> Result<(), CommandError> {
        let call = self.call("RunTimeRun", &self.launch.clone(), Until::Exit)?;
        if let Some(fault) = call.fault() {
            self.faults.push(format!("RunTimeRun {fault}"));
        }
        Ok(())
    }

    fn two_calls(&mut self) -> Result<(), CommandError> {
        let launch = self.launch.clone();
        let created = self.call("RunTimeCreate", &launch, Until::EndOfOutput)?;
        if created.timed_out {
            self.faults.push(
                "RunTimeCreate does not come back, or keeps its output open: slurmstepd waits for both, and the step hangs"
                    .to_owned(),
            );
            return self.remove(&launch);
        }
        let mut status = None;
        for attempt in 0..QUERIES {
            status = self.query(&launch)?;
            if status.as_deref() == Some("created") {
                break;
            }
            std::thread::sleep(Duration::from_millis(1 << attempt));
        }
        if status.as_deref() != Some("created") {
            let status = status.unwrap_or_else(|| "none".to_owned());
            self.faults.push(format!("the container is not created: its status is {status}"));
            return self.remove(&launch);
        }
        let started = self.call("RunTimeStart", &launch, Until::EndOfOutput)?;
        if let Some(fault) = started.fault() {
            self.faults.push(format!("RunTimeStart {fault}"));
        }
        let deadline = std::time::Instant::now() + self.shell.limit;
        while self.query(&launch)?.is_some_and(|status| status.eq_ignore_ascii_case("running")) {
            if std::time::Instant::now() > deadline {
                self.faults.push("the container runs for longer than --limit".to_owned());
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.remove(&launch)
    }

    /// Kill and delete, if there is anything.
    fn remove(&mut self, values: &Values) -> Result<(), CommandError> {
        let Some(status) = self.query(values)? else { return Ok(()) };
        if !status.eq_ignore_ascii_case("stopped") {
            self.call("RunTimeKill", values, Until::EndOfOutput)?;
        }
        let deleted = self.call("RunTimeDelete", values, Until::EndOfOutput)?;
        if let Some(fault) = deleted.fault() {
            self.faults.push(format!("RunTimeDelete {fault}"));
        }
        Ok(())
    }

    /// What slurmstepd does when all tasks are gone; there it is root's.
    fn end(&mut self) -> Result<(), CommandError> {
        self.remove(&self.cleanup.clone())
    }

    /// The status of a container, as far as slurmstepd can read it.
    fn query(&mut self, values: &Values) -> Result<Option<String>, CommandError> {
        if self.conf.query.is_none() {
            return Ok(None);
        }
        let call = self.call("RunTimeQuery", values, Until::EndOfOutput)?;
        if call.code != Some(0) {
            return Ok(None);
        }
        let state: Option<Value> = serde_json::from_str(&call.output).ok();
        Ok(state.and_then(|state| Some(state.get("status")?.as_str()?.to_owned())))
    }

    fn call(&mut self, key: &'static str, values: &Values, until: Until) -> Result<Call, CommandError> {
        let Some(pattern) = self.conf.command(key) else {
            return Ok(Call { key, line: String::new(), code: Some(0), ..Call::default() });
        };
        let line = expand(pattern, values, self.release).map_err(|error| CommandError::failure(error.to_string()))?;
        let call = self.shell.call(key, line, until).map_err(|error| CommandError::io("run", "/bin/sh", error))?;
        // Slurm asks again and again; the last answer is enough.
        match self.calls.last_mut().filter(|last| (last.key, &last.line) == (call.key, &call.line)) {
            Some(last) => *last = call.clone(),
            None => self.calls.push(call.clone()),
        }
        Ok(call)
    }

    /// Who it was for.
    pub fn step(&self) -> &Step {
        &self.step
    }
}

fn read_config(bundle: &Path) -> Result<Value, CommandError> {
    let path = bundle.join("config.json");
    let failed = |error: io::Error| CommandError::io("read", &path, error);
    let metadata = fs::metadata(&path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_CONFIG {
        return Err(CommandError::failure(format!("{} is no file of a bundle", path.display())));
    }
    let text = fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| CommandError::failure(format!("{}: {error}", path.display())))
}

fn environment_of(step: &Step, conf: &Conf, config: Option<&Value>, release: Release) -> Vec<String> {
    let job: Vec<String> = std::env::vars_os()
        .filter_map(|(name, value)| Some(format!("{}={}", name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let image: Vec<String> = config
        .and_then(|config| config.pointer("/process/env")?.as_array())
        .map(|env| env.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let task = [
        format!("SLURM_JOB_ID={}", step.job),
        "SLURM_STEP_ID=0".to_owned(),
        "SLURM_PROCID=0".to_owned(),
        "SLURM_LOCALID=0".to_owned(),
        format!("SLURM_CONTAINER={}", step.container),
    ];
    environment::container(&Sources { job: &job, image: &image, task: &task }, conf.env_exclude.as_ref(), release)
}

fn write_files(
    conf: &Conf,
    release: Release,
    folders: &Folders,
    bundle: &Path,
    arguments: &[String],
    config: Option<Value>,
    environment: &[String],
) -> Result<(), CommandError> {
    let dir = Path::new(&folders.task);
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).map_err(|error| CommandError::io("write", &path, error))
    };
    fs::create_dir_all(dir).map_err(|error| CommandError::io("make", dir, error))?;
    if let Some(config) = config {
        let source = if release >= Release::NEW_SPOOL { &folders.step } else { &folders.task };
        let target = if release >= Release::NEW_SPOOL { &folders.step } else { "/var/run/slurm/" };
        let task = config_json::Task {
            arguments: arguments.to_vec(),
            environment: environment.to_vec(),
            terminal: false,
            bundle: bundle.to_owned(),
            spool: Some((source.into(), target.into())),
            batch: None,
            disable_hooks: conf.disable_hooks.clone(),
        };
        let written = config_json::rewrite(config, &task, Engine::Slurm(release));
        let written = written.map_err(|error| CommandError::failure(format!("{}: {error}", bundle.display())))?;
        write("config.json", &serde_json::to_vec(&written)?)?;
    }
    match environment::file(environment, conf.env_file) {
        Some(bytes) => write("environment", &bytes),
        None => Ok(()),
    }
}
