//! Jobs of Slurm, for verbs that have `--job`: what Slurm knows of a job, a step of our own beside it, and what there is of
//! it on a node.
//!
//! Slurm's commands are called with all words in their argument lists, never by a shell, and without the variables that
//! change what they do: people call us in jobs, too, whose `SLURM_NTASKS` is not for this step, and no variable may make
//! the step a container.

use std::env;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use berth_container::state::{self, Rooted};

use crate::CommandError;

/// Slurm's numbers of steps that have a name instead.
pub const NAMED_STEPS: [(u32, &str); 2] = [(0xffff_fffb, "batch"), (0xffff_fffa, "interactive")];

/// The name of a step without its job.
pub fn step_name(number: u32) -> String {
    NAMED_STEPS
        .iter()
        .find(|(named, _)| *named == number)
        .map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// A job, and maybe one step of it, as people write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The job: a number, or with the task of an array (`12_3`) or the part of a heterogeneous job (`12+1`).
    pub job: String,
    /// The step: a number or a name.
    pub step: Option<String>,
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let wrong = || format!("{text} is no job such as 12, 12_3 or 12.0");
        let (job, step) = match text.split_once('.') {
            Some((job, step)) => (job, Some(step)),
            None => (text, None),
        };
        let number = |text: &str| text.parse::<u32>().is_ok() && !text.starts_with('+');
        let legal = match job.split_once(['_', '+']) {
            Some((job, part)) => number(job) && number(part),
            None => number(job),
        };
        let named = |step: &str| NAMED_STEPS.iter().any(|(_, name)| *name == step);
        if !legal || step.is_some_and(|step| !number(step) && !named(step)) {
            return Err(wrong());
        }
        Ok(Name { job: job.to_owned(), step: step.map(str::to_owned) })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.step {
            Some(step) => write!(f, "step {}.{step}", self.job),
            None => write!(f, "job {}", self.job),
        }
    }
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number, which a task of an array has, too.
    pub id: u32,
    /// How many nodes it has.
    pub nodes: u32,
}

impl Job {
    /// Asks Slurm.
    pub fn find(name: &Name) -> Result<Job, CommandError> {
        let mut command = command("squeue");
        command.args(["--noheader", "--states=all", "--format=%A|%T|%U|%D", "--jobs", &name.job]);
        let rows = answer(command).map_err(|error| match error {
            Asked::Failed(text) if text.contains("Invalid job id") => no_job(&name.job),
            other => other.into_error("squeue"),
        })?;
        let own = rustix::process::getuid().as_raw();
        Job::choose(&name.job, &rows, own)
    }

    /// The one that runs, of the rows `ID|STATE|USER|NODES`.
    fn choose(name: &str, rows: &str, own: u32) -> Result<Job, CommandError> {
        let rows: Vec<Vec<&str>> = rows.lines().map(|line| line.trim().split('|').collect()).collect();
        let running: Vec<&Vec<&str>> = rows.iter().filter(|row| row.get(1) == Some(&"RUNNING")).collect();
        let row = match (&running[..], rows.first()) {
            ([row], _) => *row,
            ([], None) => return Err(no_job(name)),
            ([], Some(row)) => {
                let state = row.get(1).copied().unwrap_or_default();
                return Err(CommandError::failure(format!("job {name} does not run: its state is {state}")));
            }
            (_, _) => {
                return Err(CommandError::failure(format!("job {name} is several that run"))
                    .with_hint(format!("name one of them, such as {name}_1: `squeue --jobs {name}` lists them")));
            }
        };
        let number = |at: usize| row.get(at).and_then(|word| word.parse::<u32>().ok());
        let (Some(id), Some(user), Some(nodes)) = (number(0), number(2), number(3)) else {
            return Err(CommandError::failure(format!(
                "squeue said something unknown of job {name}: {}",
                row.join("|")
            )));
        };
        if user != own && own != 0 {
            return Err(CommandError::failure(format!("job {name} belongs to somebody else"))
                .with_hint("a container can be joined by the user who started it"));
        }
        Ok(Job { id, nodes })
    }

    /// The first node of a step, where Slurm knows it. It does not list its own steps.
    pub fn first_node(&self, step: &str) -> Result<Option<String>, CommandError> {
        if step.parse::<u32>().is_err() {
            return Ok(None);
        }
        let mut asked = command("squeue");
        asked.args(["--noheader", "--format=%N", "--steps", &format!("{}.{step}", self.id)]);
        let list = answer(asked).map_err(|error| error.into_error("squeue"))?;
        let Some(list) = list.lines().map(str::trim).find(|line| !line.is_empty()) else {
            return Err(CommandError::failure(format!("there is no step {step} of job {} that runs", self.id))
                .with_hint(format!("`squeue --steps --jobs {}` lists its steps", self.id)));
        };
        if !list.contains(['[', ',']) {
            return Ok(Some(list.to_owned()));
        }
        let mut asked = command("scontrol");
        asked.args(["show", "hostnames", list]);
        let names = answer(asked).map_err(|error| error.into_error("scontrol"))?;
        Ok(names.lines().next().map(str::to_owned))
    }

    /// The beginning of an `srun` that starts one program a node beside the job's steps.
    pub fn step(&self, nodes: u32) -> Command {
        let mut command = command("srun");
        command.args(["--overlap", "--quiet", "--mpi=none", "--chdir=/"]);
        command.arg(format!("--jobid={}", self.id));
        command.arg(format!("--nodes={nodes}")).arg(format!("--ntasks={nodes}")).arg("--ntasks-per-node=1");
        command
    }
}

fn no_job(name: &str) -> CommandError {
    CommandError::failure(format!("there is no job {name}")).with_hint("`squeue --me` lists your jobs")
}

/// Our own program, as a node has it.
pub fn own_program() -> PathBuf {
    // In a copy that is sealed in memory there is no such path.
    env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("berth"))
}

/// A command of Slurm's, in the environment that does not change what it does.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let kept = ["SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_DEBUG_FLAGS"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let changes =
            ["SLURM_", "SQUEUE_", "SCONTROL_", "PYXIS_", "PMI_", "PMIX_"].iter().any(|prefix| text.starts_with(prefix));
        if changes && !kept.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Why there was no answer.
enum Asked {
    Io(std::io::Error),
    Failed(String),
}

impl Asked {
    fn into_error(self, program: &str) -> CommandError {
        match self {
            Asked::Io(error) if error.kind() == ErrorKind::NotFound => {
                CommandError::failure(format!("there is no Slurm here: {program} is not in the PATH"))
                    .with_hint("--job is for hosts from which jobs are submitted")
            }
            Asked::Io(error) => CommandError::io("call", program, error),
            Asked::Failed(text) => {
                let text = text.trim();
                let reason = if text.is_empty() { "it said nothing" } else { text.lines().next().unwrap_or_default() };
                CommandError::failure(format!("{program} failed: {reason}"))
            }
        }
    }
}

/// What a command prints.
fn answer(mut command: Command) -> Result<String, Asked> {
    let output = command.stdin(Stdio::null()).output().map_err(Asked::Io)?;
    if !output.status.success() {
        return Err(Asked::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An error for a command of Slurm's that could not be started.
pub fn not_started(program: &str, error: std::io::Error) -> CommandError {
    Asked::Io(error).into_error(program)
}

/// A process of a job in one of our containers on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The process and its container.
    pub rooted: Rooted,
    /// The step that it belongs to: its own, which need not be the one that the container was made for.
    pub step: String,
}

/// All of them, of a job or of a step. `berth step` itself, while it makes a container, is none, and neither are those of
/// other nodes on this machine, where a machine is several.
pub fn members(name: &Name) -> Vec<Member> {
    let node = node_name();
    let found = state::rooted().into_iter().filter_map(|rooted| {
        let own = Own::of(rooted.pid);
        let of_label =
            rooted.step().and_then(|step| step.split_once('.')).map(|(job, step)| (job.to_owned(), step.to_owned()));
        let (job, step) = own.step.or(of_label)?;
        let wanted = job == name.job && name.step.as_ref().is_none_or(|wanted| *wanted == step);
        let here = own.node.is_none_or(|its| its == node);
        (wanted && here && !is_own_helper(rooted.pid) && lives(rooted.pid)).then_some(Member { rooted, step })
    });
    found.collect()
}

/// What the environment of a process says that Slurm has given to it.
struct Own {
    /// Job and step.
    step: Option<(String, String)>,
    node: Option<String>,
}

impl Own {
    fn of(pid: u32) -> Own {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = |name: &str| {
            let mut entries = environment.split(|&byte| byte == 0);
            let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        // Some releases write the numbers of named steps as negative ones, and a job's script may have none.
        let step =
            value("SLURM_STEP_ID").and_then(|text| text.parse::<i64>().ok()).map(|number| step_name(number as u32));
        Own { step: value("SLURM_JOB_ID").zip(step), node: value("SLURMD_NODENAME") }
    }
}

/// Whether a process has not begun to end: then nothing of it can be read any more, and nobody can join it.
fn lives(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

fn is_own_helper(pid: u32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = words.split(|&byte| byte == 0);
    let is_berth = words.next().is_some_and(|word| word.rsplit(|&byte| byte == b'/').next() == Some(b"berth"));
    is_berth && words.next() == Some(b"step")
}

/// The name that Slurm has for this node.
pub fn node_name() -> String {
    let named = env::var_os("SLURMD_NODENAME").filter(|name| name != OsStr::new(""));
    let named = named.map(|name| name.to_string_lossy().into_owned());
    named.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_steps_are_named_as_slurm_shows_them() {
        let name = |job: &str, step: Option<&str>| Name { job: job.to_owned(), step: step.map(str::to_owned) };
        for (text, expected) in [
            ("12", name("12", None)),
            ("12.0", name("12", Some("0"))),
            ("12_3.batch", name("12_3", Some("batch"))),
            ("12+1", name("12+1", None)),
        ] {
            assert_eq!(text.parse::<Name>().unwrap(), expected);
        }
        for text in ["", "x", "12.", ".0", "12.x", "-1", "12_", "1;id", "+1", "12 13", "12.extern"] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_job_that_runs_is_chosen_and_others_are_explained() {
        let choose = |rows: &str| Job::choose("5", rows, 1000).map_err(|error| error.to_string());
        assert_eq!(choose("5|RUNNING|1000|2\n"), Ok(Job { id: 5, nodes: 2 }));
        assert_eq!(choose("6|RUNNING|1000|1\n5|PENDING|1000|1\n"), Ok(Job { id: 6, nodes: 1 }));
        assert_eq!(choose(""), Err("there is no job 5".to_owned()));
        assert_eq!(choose("5|COMPLETED|1000|1\n"), Err("job 5 does not run: its state is COMPLETED".to_owned()));
        assert_eq!(choose("5|RUNNING|1001|1\n"), Err("job 5 belongs to somebody else".to_owned()));
        assert!(choose("5|RUNNING|1000|1\n6|RUNNING|1000|1\n").unwrap_err().contains("several"));
    }
}
