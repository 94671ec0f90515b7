//! What becomes of a bundle's `config.json` before a runtime reads it.
//!
//! Arguments, environment, terminal and root are the task's; mounts are added; all else is left as it is: working directory,
//! user, limits, namespaces, id maps, cgroup, devices, annotations. The image's own command is gone.

use std::path::Path;
use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::release::Release;

/// Whose behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// That of slurmstepd.
    Slurm(Release),
    /// What is meant: hooks are taken out where that is asked, and numbers stay what they are.
    Berth,
}

/// What a task brings.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// The command.
    pub arguments: Vec<String>,
    /// All variables: those of the configuration are replaced.
    pub environment: Vec<String>,
    /// Whether the task has a terminal.
    pub terminal: bool,
    /// The bundle, for a root that is relative.
    pub bundle: PathBuf,
    /// The spool folder of the step or task, on the node and in the container. 22.05 mounts none.
    pub spool: Option<(PathBuf, PathBuf)>,
    /// The files of a batch script.
    pub batch: Option<Batch>,
    /// Types of hooks to take out.
    pub disable_hooks: Vec<String>,
}

/// The files of a batch script, on the node. Those that are `/dev/null` are not mounted.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The script.
    pub script: PathBuf,
    /// Its standard input.
    pub stdin: PathBuf,
    /// Its standard output.
    pub stdout: PathBuf,
    /// Its standard error.
    pub stderr: PathBuf,
}

/// Where a batch script is in its container.
pub const SCRIPT: &str = "/tmp/slurm/startup";

/// Why there is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoConfig {
    /// No object at a place.
    #[error("{0} in config.json is no object")]
    NoObject(&'static str),
    /// No root.
    #[error("config.json has no root.path")]
    NoRoot,
    /// Mounts that are none.
    #[error("mounts in config.json is no array")]
    NoMounts,
}

/// The root of a configuration, absolute.
pub fn root(config: &Value, bundle: &Path) -> Result<PathBuf, NoConfig> {
    let path = config.pointer("/root/path").and_then(Value::as_str).ok_or(NoConfig::NoRoot)?;
    Ok(bundle.join(path))
}

/// The configuration with what a task brings.
pub fn rewrite(mut config: Value, task: &Task, engine: Engine) -> Result<Value, NoConfig> {
    let old = matches!(engine, Engine::Slurm(release) if !release.rewrites_per_task());
    let root = match old {
        // Whatever the configuration said.
        true => task.bundle.join("rootfs"),
        false => root(&config, &task.bundle)?,
    };
    let terminal = match engine {
        Engine::Slurm(release) => task.terminal && release >= Release(23, 11),
        Engine::Berth => task.terminal,
    };
    let mut arguments = task.arguments.clone();
    if let (Some(_), Some(first)) = (&task.batch, arguments.first_mut()) {
        SCRIPT.clone_into(first);
    }
    let mounts = mounts(task, old);
    let object = config.as_object_mut().ok_or(NoConfig::NoObject("what is"))?;
    member(object, "root")?.insert("path".to_owned(), json!(root));
    let process = member(object, "process")?;
    process.insert("args".to_owned(), json!(arguments));
    process.insert("env".to_owned(), json!(task.environment));
    process.insert("terminal".to_owned(), json!(terminal));
    let all = object.entry("mounts").or_insert_with(|| json!([]));
    all.as_array_mut().ok_or(NoConfig::NoMounts)?.extend(mounts);
    match engine {
        // DisableHooks does nothing in any release.
        Engine::Slurm(_) => clamp(&mut config),
        Engine::Berth => {
            if let Some(hooks) = config.get_mut("hooks").and_then(Value::as_object_mut) {
                hooks.retain(|kind, _| !task.disable_hooks.contains(kind));
            }
        }
    }
    Ok(config)
}

fn member<'a>(object: &'a mut Map<String, Value>, name: &'static str) -> Result<&'a mut Map<String, Value>, NoConfig> {
    object.entry(name).or_insert_with(|| json!({})).as_object_mut().ok_or(NoConfig::NoObject(name))
}

fn mounts(task: &Task, old: bool) -> Vec<Value> {
    let bind = |source: &Path, to: &str, options: &[&str]| json!({ "destination": to, "type": "none", "source": source, "options": options });
    let mut result = Vec::new();
    if let Some(batch) = &task.batch {
        for (file, to) in [
            (&batch.stdin, "/tmp/slurm/stdin"),
            (&batch.stdout, "/tmp/slurm/stdout"),
            (&batch.stderr, "/tmp/slurm/stderr"),
        ] {
            if file != Path::new("/dev/null") {
                result.push(bind(file, to, &["bind"]));
            }
        }
        result.push(bind(&batch.script, SCRIPT, &["bind", "ro"]));
    }
    if let Some((source, to)) = task.spool.as_ref().filter(|_| !old) {
        result.push(bind(source, &to.to_string_lossy(), &["bind"]));
    }
    result
}

/// Numbers above 2^63 - 1 become that: a limit of "infinity" is one.
fn clamp(value: &mut Value) {
    match value {
        Value::Number(number) if number.as_u64().is_some_and(|number| number > i64::MAX as u64) => {
            *value = json!(i64::MAX);
        }
        Value::Array(values) => values.iter_mut().for_each(clamp),
        Value::Object(members) => members.values_mut().for_each(clamp),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Engine = Engine::Slurm(Release(24, 11));
    const OLD: Engine = Engine::Slurm(Release(22, 5));

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "tree", "readonly": true},
            "process": {
                "args": ["sh"], "env": ["A=image"], "cwd": "/work", "terminal": true,
                "rlimits": [{"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": 5}],
            },
            "mounts": [{"destination": "/proc"}],
            "hooks": {"prestart": [{"path": "/a"}], "poststop": [{"path": "/b"}]},
        })
    }

    fn task() -> Task {
        Task {
            arguments: vec!["echo".to_owned(), "it's".to_owned()],
            environment: vec!["A=1".to_owned()],
            bundle: "/b".into(),
            spool: Some(("/spool/task-0".into(), "/var/run/slurm/".into())),
            ..Task::default()
        }
    }

    #[test]
    fn the_task_replaces_what_is_its_own_and_nothing_else() {
        let written = rewrite(config(), &task(), NEW).unwrap();
        let mut expected = config();
        expected["root"]["path"] = json!("/b/tree");
        expected["process"]["args"] = json!(["echo", "it's"]);
        expected["process"]["env"] = json!(["A=1"]);
        expected["process"]["terminal"] = json!(false);
        expected["process"]["rlimits"][0]["hard"] = json!(i64::MAX);
        expected["mounts"] = json!([
            {"destination": "/proc"},
            {"destination": "/var/run/slurm/", "type": "none", "source": "/spool/task-0", "options": ["bind"]},
        ]);
        assert_eq!(written, expected);
    }

    #[test]
    fn the_first_generation_writes_another_root_and_mounts_no_spool() {
        let written = rewrite(config(), &Task { terminal: true, ..task() }, OLD).unwrap();
        assert_eq!(written["root"]["path"], "/b/rootfs");
        assert_eq!(written["process"]["terminal"], false);
        assert_eq!(written["mounts"], config()["mounts"]);
    }

    #[test]
    fn a_batch_script_and_its_files_are_mounted() {
        let files = |name: &str| PathBuf::from("/home/me").join(name);
        let batch = Batch {
            script: "/spool/slurm_script".into(),
            stdin: "/dev/null".into(),
            stdout: files("o"),
            stderr: files("e"),
        };
        let written = rewrite(config(), &Task { batch: Some(batch), ..task() }, NEW).unwrap();
        assert_eq!(written["process"]["args"], json!(["/tmp/slurm/startup", "it's"]));
        let targets: Vec<&Value> =
            written["mounts"].as_array().unwrap().iter().map(|mount| &mount["destination"]).collect();
        assert_eq!(
            targets,
            ["/proc", "/tmp/slurm/stdout", "/tmp/slurm/stderr", "/tmp/slurm/startup", "/var/run/slurm/"]
        );
    }

    #[test]
    fn a_terminal_is_asked_for_since_23_11() {
        for (engine, expected) in
            [(OLD, false), (Engine::Slurm(Release(23, 2)), false), (NEW, true), (Engine::Berth, true)]
        {
            let written = rewrite(config(), &Task { terminal: true, ..task() }, engine).unwrap();
            assert_eq!(written["process"]["terminal"], expected, "{engine:?}");
        }
    }

    #[test]
    fn berth_takes_hooks_out_and_leaves_numbers() {
        let task = Task { disable_hooks: vec!["prestart".to_owned()], ..task() };
        let written = rewrite(config(), &task, Engine::Berth).unwrap();
        assert_eq!(written["hooks"], json!({"poststop": [{"path": "/b"}]}));
        assert_eq!(written["process"]["rlimits"][0]["hard"], u64::MAX);
        assert_eq!(rewrite(config(), &task, NEW).unwrap()["hooks"], config()["hooks"]);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for (config, error) in [
            (json!([]), NoConfig::NoRoot),
            (json!({"root": {}}), NoConfig::NoRoot),
            (json!({"root": {"path": "r"}, "process": 1}), NoConfig::NoObject("process")),
            (json!({"root": {"path": "r"}, "mounts": {}}), NoConfig::NoMounts),
        ] {
            assert_eq!(rewrite(config, &task(), NEW), Err(error));
        }
        assert_eq!(root(&json!({"root": {"path": "/abs"}}), Path::new("/b")).unwrap(), Path::new("/abs"));
    }
}
