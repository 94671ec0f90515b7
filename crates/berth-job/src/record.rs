//! What is known of a job and of a step: the records on disk, and what every verb that shows jobs reads.
//!
//! A record is one JSON document, written whole by rename. Times are seconds since 1970 in UTC, sizes are bytes, ids are
//! Slurm's. Fields that are not known yet are `None`, never a made-up number.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::process::Process;

/// Where a job stands, by Slurm's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // Slurm's manuals explain them.
pub enum State {
    Pending,
    Running,
    Completing,
    Completed,
    Cancelled,
    Failed,
    Timeout,
    NodeFail,
    OutOfMemory,
    Requeued,
}

impl State {
    /// The long name, as `sacct` and `scontrol` print it.
    pub fn name(self) -> &'static str {
        self.names().0
    }

    /// The short name, as `squeue` prints it in its column ST.
    pub fn short(self) -> &'static str {
        self.names().1
    }

    fn names(self) -> (&'static str, &'static str) {
        match self {
            State::Pending => ("PENDING", "PD"),
            State::Running => ("RUNNING", "R"),
            State::Completing => ("COMPLETING", "CG"),
            State::Completed => ("COMPLETED", "CD"),
            State::Cancelled => ("CANCELLED", "CA"),
            State::Failed => ("FAILED", "F"),
            State::Timeout => ("TIMEOUT", "TO"),
            State::NodeFail => ("NODE_FAIL", "NF"),
            State::OutOfMemory => ("OUT_OF_MEMORY", "OOM"),
            State::Requeued => ("REQUEUED", "RQ"),
        }
    }

    /// Whether nothing will happen any more.
    pub fn is_over(self) -> bool {
        !matches!(self, State::Pending | State::Running | State::Completing)
    }
}

/// Why a job waits, or why it ended as it did, by Slurm's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // Slurm's manuals explain them.
pub enum Reason {
    #[default]
    None,
    Priority,
    Resources,
    Dependency,
    DependencyNeverSatisfied,
    BeginTime,
    JobHeldUser,
    JobArrayTaskLimit,
    NonZeroExitCode,
    RaisedSignal,
    TimeLimit,
    NodeDown,
    JobLaunchFailure,
    OutOfMemory,
}

impl Reason {
    /// As `squeue`'s %r and `scontrol`'s Reason= print it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::None => "None",
            Reason::Priority => "Priority",
            Reason::Resources => "Resources",
            Reason::Dependency => "Dependency",
            Reason::DependencyNeverSatisfied => "DependencyNeverSatisfied",
            Reason::BeginTime => "BeginTime",
            Reason::JobHeldUser => "JobHeldUser",
            Reason::JobArrayTaskLimit => "JobArrayTaskLimit",
            Reason::NonZeroExitCode => "NonZeroExitCode",
            Reason::RaisedSignal => "RaisedSignal",
            Reason::TimeLimit => "TimeLimit",
            Reason::NodeDown => "NodeDown",
            Reason::JobLaunchFailure => "JobLaunchFailure",
            Reason::OutOfMemory => "OutOfMemory",
        }
    }
}

/// How something ended: an exit code and a signal, of which Slurm prints both (`3:0`, `0:9`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 0 where a signal ended it.
    pub code: u8,
    /// The signal; 0 where there was none.
    pub signal: u8,
}

impl Exit {
    /// From wait(2)'s status.
    pub fn from_wait(status: i32) -> Exit {
        if libc::WIFSIGNALED(status) {
            Exit { code: 0, signal: libc::WTERMSIG(status) as u8 }
        } else {
            Exit { code: libc::WEXITSTATUS(status) as u8, signal: 0 }
        }
    }

    /// What a shell would say: the code, or 128 and the signal.
    pub fn shell_code(self) -> u8 {
        if self.signal == 0 { self.code } else { 128u8.wrapping_add(self.signal) }
    }

    /// Whether it is 0:0.
    pub fn is_success(self) -> bool {
        self == Exit::default()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.code, self.signal)
    }
}

/// By which command a job came to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Kind {
    #[default]
    Batch,
    Srun,
    Salloc,
}

/// What a job asks of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Tasks (`-n`); 1 where nothing says otherwise.
    pub tasks: u32,
    /// Whether `-n` was given, or follows from another option.
    pub tasks_given: bool,
    /// CPUs of a task (`-c`), where given.
    pub cpus_per_task: Option<u32>,
    /// Tasks of a node (`--ntasks-per-node`), where given.
    pub tasks_per_node: Option<u32>,
    /// Memory of the job (`--mem`), in bytes; `Some(0)` is all that the machine has.
    pub memory: Option<u64>,
    /// Memory for each CPU (`--mem-per-cpu`), in bytes.
    pub memory_per_cpu: Option<u64>,
    /// GPUs of the job (`--gpus`, `--gres=gpu:N`, `--gpus-per-task`, ...).
    pub gpus: u32,
    /// The type of GPU that was named.
    pub gpu_type: Option<String>,
    /// Whether the job shares the machine with no other (`--exclusive`).
    pub exclusive: bool,
    /// As typed: `--gres` and its kin, for display.
    pub gres: Option<String>,
}

impl Resources {
    /// CPUs that the job needs.
    pub fn cpus(&self) -> u32 {
        self.tasks.max(1).saturating_mul(self.cpus_per_task.unwrap_or(1).max(1))
    }
}

/// What a job holds while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// The node's name.
    pub node: String,
    /// Numbers of its CPUs, ascending, as the kernel has them.
    pub cpus: Vec<u32>,
    /// Memory, in bytes, where the job asked for some.
    pub memory: Option<u64>,
    /// Numbers of its GPUs, as CDI has them.
    pub gpus: Vec<u32>,
}

/// What an element of an array, or an array of which elements wait, has beside a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Array {
    /// The array's job id (`%A`, SLURM_ARRAY_JOB_ID).
    pub job: u32,
    /// The element (`%a`); `None` for the record that stands for all those that wait.
    pub task: Option<u32>,
    /// The elements that wait, as `--array` has them (`3-9,12`), without the limit; empty for an element.
    pub waiting: String,
    /// How many may run at once (`%4`); 0 for no limit.
    pub limit: u32,
    /// Elements of the array in all.
    pub count: u32,
    /// Smallest element.
    pub min: u32,
    /// Largest element.
    pub max: u32,
    /// Step between elements.
    pub step: u32,
}

/// A job. It lies in the queue as `jobs/ID/job.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number.
    pub id: u32,
    /// Set for arrays.
    #[serde(default)]
    pub array: Option<Array>,
    /// By which command it came to be.
    pub kind: Kind,
    /// `-J`, or what Slurm makes of the command.
    pub name: String,
    /// Who submitted it.
    pub user: String,
    /// Their number.
    pub uid: u32,
    /// Their group's name.
    pub group: String,
    /// Their group's number.
    pub gid: u32,
    /// The command and its arguments; for batch jobs the script and its arguments.
    pub command: Vec<String>,
    /// The line that was typed, words joined by blanks.
    pub submit_line: String,
    /// Where it starts.
    pub directory: PathBuf,
    /// Standard input, as a pattern or path; `None` is Slurm's default.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Standard output.
    #[serde(default)]
    pub stdout: Option<String>,
    /// Standard error; where `None`, with standard output.
    #[serde(default)]
    pub stderr: Option<String>,
    /// What it asks for.
    pub resources: Resources,
    /// `-t`, in minutes; `None` is without limit.
    #[serde(default)]
    pub time_limit: Option<u32>,
    /// `--dependency`, as far as it is not yet satisfied; empty for none.
    #[serde(default)]
    pub dependency: String,
    /// Not before this time.
    #[serde(default)]
    pub begin: Option<u64>,
    /// Whether the user holds it (`--hold`, `scontrol hold`).
    #[serde(default)]
    pub held: bool,
    /// Whether it may be put back into the queue (`--requeue`).
    #[serde(default)]
    pub requeue: bool,
    /// How often it was put back.
    #[serde(default)]
    pub restarts: u32,
    /// `--comment`.
    #[serde(default)]
    pub comment: Option<String>,
    /// `-A`.
    #[serde(default)]
    pub account: Option<String>,
    /// `-p`; [`PARTITION`] where none was named.
    pub partition: String,
    /// `--qos`, `--constraint`, and other words that mean nothing on one machine and are shown as typed.
    #[serde(default)]
    pub other: BTreeMap<String, String>,
    /// The container options, as `--container-image=...` and so on; empty for none.
    #[serde(default)]
    pub container: Vec<String>,
    /// Whether the output files are appended to (`--open-mode`); `None` is Slurm's default.
    #[serde(default)]
    pub append: Option<bool>,
    /// `--signal=[B:]NUMBER[@SECONDS]`.
    #[serde(default)]
    pub signal: Option<EarlySignal>,

    /// Where it stands.
    pub state: State,
    /// Why it waits, or ended so.
    #[serde(default)]
    pub reason: Reason,
    /// How it ended.
    #[serde(default)]
    pub exit: Exit,
    /// The highest exit of its steps (`DerivedExitCode`).
    #[serde(default)]
    pub derived_exit: Exit,
    /// Who cancelled it.
    #[serde(default)]
    pub cancelled_by: Option<u32>,
    /// When it was submitted.
    pub submitted: u64,
    /// When it could have run first.
    #[serde(default)]
    pub eligible: Option<u64>,
    /// When it was started.
    #[serde(default)]
    pub started: Option<u64>,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<u64>,
    /// What it holds, or held.
    #[serde(default)]
    pub allocation: Option<Allocation>,
    /// The process that watches over it while it runs: a supervisor, an srun or an salloc.
    #[serde(default)]
    pub supervisor: Option<Process>,
    /// The host from which it was submitted (AllocNode).
    #[serde(default)]
    pub submit_host: String,
    /// The session from which it was submitted (`AllocNode:Sid=`).
    #[serde(default)]
    pub submit_session: u32,
}

/// The one partition's name.
pub const PARTITION: &str = "local";

/// A signal that comes before the time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlySignal {
    /// Its number.
    pub number: i32,
    /// How many seconds before the end.
    pub seconds: u64,
    /// Whether only the batch script gets it (`B:`).
    pub batch_only: bool,
}

impl Job {
    /// As people read it: `12`, `12_3`, or `12_[4-9%2]` for the elements that wait.
    pub fn display_id(&self) -> String {
        match &self.array {
            None => self.id.to_string(),
            Some(Array { job, task: Some(task), .. }) => format!("{job}_{task}"),
            Some(Array { job, waiting, limit: 0, .. }) => format!("{job}_[{waiting}]"),
            Some(Array { job, waiting, limit, .. }) => format!("{job}_[{waiting}%{limit}]"),
        }
    }

    /// Seconds that it has run until `now`, or ran.
    pub fn elapsed(&self, now: u64) -> u64 {
        self.started.map_or(0, |start| self.ended.unwrap_or(now).saturating_sub(start))
    }
}

/// Which step of a job it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepId {
    /// The batch script.
    Batch,
    /// What was started by `srun`, counted from 0.
    Number(u32),
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepId::Batch => f.write_str("batch"),
            StepId::Number(number) => number.fmt(f),
        }
    }
}

/// A step. It lies in the queue as `jobs/ID/step.STEP.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its job.
    pub job: u32,
    /// Which of the job's it is.
    pub id: StepId,
    /// The command's name.
    pub name: String,
    /// The command and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// The line that was typed.
    #[serde(default)]
    pub submit_line: String,
    /// Where it stands.
    pub state: State,
    /// How it ended: the highest exit of its tasks.
    #[serde(default)]
    pub exit: Exit,
    /// Its tasks.
    pub tasks: u32,
    /// What it holds.
    pub allocation: Allocation,
    /// Whether it counts against the job's CPUs (not with `--overlap`, nor the batch script).
    #[serde(default)]
    pub exclusive: bool,
    /// When it was started.
    pub started: u64,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Who cancelled it.
    #[serde(default)]
    pub cancelled_by: Option<u32>,
    /// The process that watches over it: an srun, or the supervisor of a batch job.
    #[serde(default)]
    pub supervisor: Option<Process>,
    /// Processor time of its tasks: in user mode, in microseconds.
    #[serde(default)]
    pub user_time: u64,
    /// Likewise, in the kernel.
    #[serde(default)]
    pub system_time: u64,
    /// Largest resident set of a task, in bytes.
    #[serde(default)]
    pub max_resident: u64,
    /// The container options.
    #[serde(default)]
    pub container: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_a_code_or_a_signal() {
        assert_eq!(Exit::from_wait(3 << 8).to_string(), "3:0");
        assert_eq!(Exit::from_wait(9).to_string(), "0:9");
        assert_eq!((Exit::from_wait(9).shell_code(), Exit::from_wait(3 << 8).shell_code()), (137, 3));
    }
}
