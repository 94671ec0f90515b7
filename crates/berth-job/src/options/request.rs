//! What is asked for, understood.

use std::collections::BTreeMap;

use berth_slurm::options as container_options;

use super::line::Typed;
use super::table::{self, Takes, Verb};
use super::{array, begin, dependency};
use crate::record::{EarlySignal, Resources};
use crate::time;

/// What a person asks for. What was not given is `None`, so that several sources can be put on top of each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Each is its option's.
pub struct Request {
    pub name: Option<String>,
    pub directory: Option<String>,
    pub input: Option<String>,
    pub output: Option<String>,
    pub error: Option<String>,
    pub tasks: Option<u32>,
    pub cpus_per_task: Option<u32>,
    pub tasks_per_node: Option<u32>,
    /// Fewest and most.
    pub nodes: Option<(u32, u32)>,
    pub nodelist: Option<String>,
    pub constraint: Option<String>,
    /// In bytes.
    pub memory: Option<u64>,
    /// In bytes.
    pub memory_per_cpu: Option<u64>,
    pub gpus: Option<u32>,
    pub gpus_per_task: Option<u32>,
    pub gpu_type: Option<String>,
    pub gres: Option<String>,
    /// Minutes; `Some(None)` is without limit.
    pub time: Option<Option<u32>>,
    pub begin: Option<u64>,
    pub dependency: Option<String>,
    pub hold: bool,
    pub requeue: Option<bool>,
    pub comment: Option<String>,
    pub account: Option<String>,
    pub partition: Option<String>,
    pub append: Option<bool>,
    pub signal: Option<EarlySignal>,
    pub export: Option<String>,
    pub exclusive: Option<bool>,
    pub overcommit: bool,
    pub kill_on_invalid: Option<bool>,
    /// Where an error in words of the value was already told.
    pub other: BTreeMap<String, String>,
    pub container: berth_slurm::request::Request,
    /// The parts of one command only.
    pub label: bool,
    pub unbuffered: bool,
    pub kill_on_bad_exit: Option<bool>,
    /// `-W` of srun, in seconds.
    pub wait: Option<u64>,
    /// `-W` of sbatch.
    pub wait_for_job: bool,
    pub multi_prog: bool,
    pub pty: bool,
    pub overlap: bool,
    pub immediate: bool,
    pub quit_on_interrupt: bool,
    pub disable_status: bool,
    pub job: Option<u32>,
    pub cpu_bind: Option<String>,
    pub task_prolog: Option<String>,
    pub task_epilog: Option<String>,
    pub array: Option<String>,
    pub parsable: bool,
    pub test_only: bool,
    pub wrap: Option<String>,
    pub no_shell: bool,
    pub quiet: u32,
    pub verbose: u32,
    pub embedded: bool,
    /// `--help`, `--usage` or `--version`.
    pub show: Option<Show>,
    /// Whether a cluster is named, or another thing that one machine has not.
    pub refused: Option<String>,
}

/// What to print instead of doing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Show {
    Help,
    Usage,
    Version,
}

/// A value that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Lines, without the command's name in front.
    pub text: String,
    /// Lines in front of it that have no prefix at all.
    pub before: Option<String>,
    /// The exit code: Slurm's commands have 255 for some and 1 for others.
    pub code: u8,
}

fn wrong(text: impl Into<String>, code: u8) -> Wrong {
    Wrong { text: text.into(), before: None, code }
}

fn invalid(name: &str) -> Wrong {
    wrong(format!("Invalid --{name} specification"), 255)
}

impl Request {
    /// Reads options; those that come later count. `now` is when.
    pub fn set_all(&mut self, typed: &[Typed], verb: Verb, now: u64) -> Result<(), Wrong> {
        typed.iter().try_for_each(|typed| self.set(typed.name, typed.value.as_deref(), verb, now))
    }

    /// Reads variables, which count less than what was typed: to be called first.
    pub fn set_environment(
        &mut self,
        verb: Verb,
        now: u64,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Wrong> {
        let prefix = match verb {
            Verb::Srun => "SLURM_",
            Verb::Sbatch => "SBATCH_",
            Verb::Salloc => "SALLOC_",
        };
        for row in table::of(verb).filter(|row| !row.variable.is_empty()) {
            if verb == Verb::Sbatch && ["NTASKS", "WORKING_DIR", "NTASKS_PER_NODE"].contains(&row.variable) {
                continue;
            }
            let Some(value) = variable(&format!("{prefix}{}", row.variable)) else { continue };
            match row.takes {
                Takes::Value => self.set(row.name, Some(&value), verb, now)?,
                _ if ["0", "no", "false"].contains(&value.as_str()) => {}
                Takes::Optional if !["", "1", "yes", "true"].contains(&value.as_str()) => {
                    self.set(row.name, Some(&value), verb, now)?;
                }
                _ => self.set(row.name, None, verb, now)?,
            }
        }
        let more: &[(&str, &str)] = match verb {
            Verb::Srun => &[
                ("SRUN_CPUS_PER_TASK", "cpus-per-task"),
                ("SLURM_EXPORT_ENV", "export"),
                ("SLURM_STDINMODE", "input"),
                ("SLURM_STDOUTMODE", "output"),
                ("SLURM_STDERRMODE", "error"),
            ],
            Verb::Sbatch => &[
                ("SBATCH_EXPORT", "export"),
                ("SBATCH_INPUT", "input"),
                ("SBATCH_OUTPUT", "output"),
                ("SBATCH_ERROR", "error"),
            ],
            Verb::Salloc => &[],
        };
        for (name, option) in more {
            if let Some(value) = variable(name) {
                self.set(option, Some(&value), verb, now)?;
            }
        }
        Ok(())
    }

    /// Reads one option.
    pub fn set(&mut self, name: &str, value: Option<&str>, verb: Verb, now: u64) -> Result<(), Wrong> {
        let text = value.unwrap_or_default();
        let owned = || Some(text.to_owned());
        if let Some(row) = container_options::named(name) {
            return self.container.set(row.option, value).map_err(|e| wrong(format!("pyxis: {e}"), 1));
        }
        match name {
            "account" => self.account = owned(),
            "array" => {
                let wrong = || wrong("Batch job submission failed: Invalid job array specification", 1);
                array::parse(text).ok_or_else(wrong)?;
                self.array = owned();
            }
            "begin" => {
                let at = begin::parse(text, now).map_err(|at| Wrong {
                    before: Some(format!("Invalid time specification (pos={at}): {text}")),
                    ..invalid(name)
                })?;
                self.begin = Some(at);
            }
            "chdir" => self.directory = owned(),
            "clusters" => {
                self.refused = Some(format!(
                    "--clusters: there is one machine here and no cluster `{text}`; submit where Slurm runs"
                ));
            }
            "comment" => self.comment = owned(),
            "constraint" => self.constraint = owned(),
            "container" | "container-id" => {
                self.refused = Some(format!(
                    "--{name}: OCI bundles are not there without a cluster yet; --container-image=IMAGE is"
                ));
            }
            "cpu-bind" => self.cpu_bind = owned(),
            "cpus-per-task" => self.cpus_per_task = Some(count(name, text)?),
            "dependency" => self.dependency = (!text.is_empty()).then(|| text.to_owned()),
            "disable-status" => self.disable_status = true,
            "embedded" => self.embedded = true,
            "error" => self.error = owned(),
            "exclusive" => self.exclusive = Some(true),
            "export" => self.export = owned(),
            "gpus" | "gpus-per-node" => self.gpus = Some(self.gpu_count(name, text)?),
            "gpus-per-task" => self.gpus_per_task = Some(self.gpu_count(name, text)?),
            "gres" => self.set_gres(text)?,
            "help" => self.show = Some(Show::Help),
            "hold" => self.hold = true,
            "immediate" => self.immediate = true,
            "input" => self.input = file(text),
            "jobid" => self.job = Some(count(name, text)?),
            "job-name" => self.name = owned(),
            "kill-on-bad-exit" => self.kill_on_bad_exit = Some(text != "0"),
            "kill-on-invalid-dep" => {
                self.kill_on_invalid = Some(match text {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(invalid(name)),
                });
                self.other.insert(name.to_owned(), text.to_owned());
            }
            "label" => self.label = true,
            "mem" => self.memory = Some(memory(text).ok_or_else(|| invalid(name))?),
            "mem-per-cpu" => self.memory_per_cpu = Some(memory(text).ok_or_else(|| invalid(name))?),
            "mpi" if ["pmix", "pmi2"].iter().any(|kind| text.starts_with(kind)) => {
                self.refused = Some(format!("--mpi={text}: without a cluster there is no PMI server yet"));
            }
            "multi-prog" => self.multi_prog = true,
            "no-requeue" => self.requeue = Some(false),
            "no-shell" => self.no_shell = true,
            "nodelist" => self.nodelist = owned(),
            "nodes" => self.nodes = Some(nodes(text)?),
            "ntasks" => self.tasks = Some(count(name, text)?),
            "ntasks-per-node" => self.tasks_per_node = Some(count(name, text)?),
            "open-mode" => {
                self.append = Some(match text {
                    _ if !text.is_empty() && "append".starts_with(text) => true,
                    _ if !text.is_empty() && "truncate".starts_with(text) => false,
                    _ => return Err(wrong(format!("Invalid --open-mode specification: {text}"), 255)),
                });
            }
            "output" => self.output = file(text),
            "overcommit" => self.overcommit = true,
            "overlap" => self.overlap = true,
            "parsable" => self.parsable = true,
            "partition" => self.partition = owned(),
            "pty" => self.pty = true,
            "quiet" => self.quiet += 1,
            "quit-on-interrupt" => self.quit_on_interrupt = true,
            "requeue" => {
                self.requeue = Some(true);
                self.other.insert(name.to_owned(), String::new());
            }
            "signal" => self.signal = Some(early_signal(text).ok_or_else(|| invalid(name))?),
            "task-epilog" => self.task_epilog = owned(),
            "task-prolog" => self.task_prolog = owned(),
            "test-only" => self.test_only = true,
            "time" => self.time = Some(time::parse_limit(text).ok_or_else(|| invalid(name))?),
            "unbuffered" => self.unbuffered = true,
            "usage" => self.show = Some(Show::Usage),
            "verbose" => self.verbose += 1,
            "version" => self.show = Some(Show::Version),
            "wait" if verb == Verb::Sbatch => self.wait_for_job = true,
            "wait" => {
                let seconds = text.parse().map_err(|_| numeric(name, text))?;
                self.wait = Some(seconds);
            }
            "wrap" => self.wrap = owned(),
            _ => drop(self.other.insert(name.to_owned(), text.to_owned())),
        }
        Ok(())
    }

    /// `gpu`, `gpu:2`, `gpu:a100:2`, several of them; other resources are not there.
    fn set_gres(&mut self, text: &str) -> Result<(), Wrong> {
        let none = || wrong("Invalid generic resource (gres) specification", 1);
        if text == "none" || text.is_empty() {
            return Ok(());
        }
        let mut sum = 0u32;
        for part in text.split(',') {
            let part = part.strip_prefix("gres/").or_else(|| part.strip_prefix("gres:")).unwrap_or(part);
            let mut words = part.split(':');
            if words.next() != Some("gpu") {
                return Err(none());
            }
            let rest = words.collect::<Vec<_>>().join(":");
            let count = if rest.is_empty() { 1 } else { self.gpu_count("gres", &rest).map_err(|_| none())? };
            sum = sum.saturating_add(count);
        }
        self.gpus = Some(sum);
        self.gres = Some(text.to_owned());
        Ok(())
    }

    /// `2`, `a100:2` or `a100`.
    fn gpu_count(&mut self, name: &str, text: &str) -> Result<u32, Wrong> {
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => (Some(kind), Some(number)),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => (None, Some(text)),
            None => (Some(text), None),
        };
        self.gpu_type = kind.map(str::to_owned);
        let wrong = || wrong(format!("Invalid --{name} specification"), 1);
        if kind == Some("") {
            return Err(wrong());
        }
        number.map_or(Ok(1), |number| number.parse().map_err(|_| wrong()))
    }

    /// What the job needs of the machine.
    pub fn resources(&self) -> Resources {
        let given = self.tasks.or(self.tasks_per_node);
        let tasks = given.unwrap_or(1);
        Resources {
            tasks,
            tasks_given: given.is_some(),
            cpus_per_task: self.cpus_per_task,
            tasks_per_node: self.tasks_per_node,
            memory: self.memory,
            memory_per_cpu: self.memory_per_cpu,
            gpus: self.gpus.unwrap_or(0).max(self.gpus_per_task.unwrap_or(0).saturating_mul(tasks)),
            gpu_type: self.gpu_type.clone(),
            exclusive: self.exclusive.unwrap_or(false),
            gres: self.gres.clone(),
        }
    }

    /// Whether the dependencies can be read.
    pub fn dependencies(&self) -> Option<dependency::Dependencies> {
        dependency::parse(self.dependency.as_deref().unwrap_or_default())
    }
}

fn numeric(name: &str, text: &str) -> Wrong {
    wrong(format!("Invalid numeric value \"{text}\" for --{name}."), 1)
}

fn count(name: &str, text: &str) -> Result<u32, Wrong> {
    text.parse().ok().filter(|&number: &u32| number > 0 && number < 1 << 24).ok_or_else(|| numeric(name, text))
}

/// `2`, `1-4`.
fn nodes(text: &str) -> Result<(u32, u32), Wrong> {
    let wrong = || wrong(format!("\"{text}\" is not a valid node count"), 1);
    let number = |text: &str| text.parse::<u32>().ok().filter(|&number| number > 0).ok_or_else(wrong);
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let (min, max) = (number(min)?, number(max)?);
    if min <= max { Ok((min, max)) } else { Err(wrong()) }
}

/// A size, in MiB where no unit says otherwise, as bytes.
pub fn memory(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "k" | "kb" => 10,
        "" | "m" | "mb" => 20,
        "g" | "gb" => 30,
        "t" | "tb" => 40,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    // Slurm counts in MiB.
    Some(bytes.div_ceil(1 << 20) << 20)
}

/// The name of a file; Slurm's words for "none" and "all tasks" are handed on as they are.
fn file(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `[R][B:]SIGNAL[@SECONDS]`.
fn early_signal(text: &str) -> Option<EarlySignal> {
    let (flags, rest) = text.split_once(':').unwrap_or(("", text));
    if !flags.chars().all(|flag| "RB".contains(flag)) {
        return None;
    }
    let (name, seconds) = match rest.split_once('@') {
        Some((name, seconds)) => (name, seconds.parse().ok().filter(|&seconds| seconds <= 65535)?),
        None => (rest, 60),
    };
    Some(EarlySignal { number: crate::signal::parse(name)?, seconds, batch_only: flags.contains('B') })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Request, Wrong> {
        let mut request = Request::default();
        request.set(name, Some(value), Verb::Srun, 0)?;
        Ok(request)
    }

    #[test]
    fn values_that_mean_nothing_are_told_in_slurms_words() {
        for (name, value, text, code) in [
            ("ntasks", "true", "Invalid numeric value \"true\" for --ntasks.", 1),
            ("ntasks", "0", "Invalid numeric value \"0\" for --ntasks.", 1),
            ("cpus-per-task", "-3", "Invalid numeric value \"-3\" for --cpus-per-task.", 1),
            ("mem", "abc", "Invalid --mem specification", 255),
            ("time", "abc", "Invalid --time specification", 255),
            ("begin", "garbage", "Invalid --begin specification", 255),
            ("gres", "disk:1", "Invalid generic resource (gres) specification", 1),
            ("container-image", "", "pyxis: --container-image: argument required", 1),
        ] {
            let wrong = set(name, value).unwrap_err();
            assert_eq!((wrong.text.as_str(), wrong.code), (text, code), "--{name}={value}");
        }
    }

    #[test]
    fn sizes_are_in_mebibytes_rounded_up() {
        assert_eq!(memory("1"), Some(1 << 20));
        assert_eq!(memory("1k"), Some(1 << 20));
        assert_eq!(memory("2G"), Some(2 << 30));
        assert_eq!(memory("9999999999999999999"), None);
    }

    #[test]
    fn gpus_are_counted() {
        assert_eq!(set("gres", "gpu:a100:2,gpu").unwrap().gpus, Some(3));
        assert_eq!(set("gpus", "2").unwrap().resources().gpus, 2);
        let request = Request { tasks: Some(3), gpus_per_task: Some(2), ..Request::default() };
        assert_eq!(request.resources().gpus, 6);
    }

    #[test]
    fn an_early_signal_has_a_name_or_a_number() {
        let signal = |text: &str| set("signal", text).unwrap().signal.unwrap();
        assert_eq!(signal("USR1"), EarlySignal { number: libc::SIGUSR1, seconds: 60, batch_only: false });
        assert_eq!(signal("B:10@5"), EarlySignal { number: 10, seconds: 5, batch_only: true });
        assert!(set("signal", "FOO").is_err());
    }

    #[test]
    fn what_is_typed_counts_more_than_variables() {
        let mut request = Request::default();
        let variable = |name: &str| match name {
            "SLURM_NTASKS" => Some("4".to_owned()),
            "SLURM_LABELIO" => Some("1".to_owned()),
            "SLURM_EXCLUSIVE" => Some("0".to_owned()),
            _ => None,
        };
        request.set_environment(Verb::Srun, 0, variable).unwrap();
        assert_eq!((request.tasks, request.label, request.exclusive), (Some(4), true, None));
        request.set("ntasks", Some("2"), Verb::Srun, 0).unwrap();
        assert_eq!(request.tasks, Some(2));
    }
}
