//! From a request to a job: what is refused at once, and what the record says.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::node::{self, Node};
use crate::options::array;
use crate::options::{Request, Verb};
use crate::queue::Queue;
use crate::queue::active::Entry;
use crate::queue::schedule;
use crate::record::{Array, Exit, Job, Kind, PARTITION, Reason, State};
use crate::{environment, time, user};

/// Why a request is refused: lines for standard error, each with its prefix already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What to print.
    pub lines: Vec<String>,
    /// The exit code.
    pub code: u8,
}

impl Refusal {
    /// One sentence of an error.
    pub fn error(verb: Verb, text: impl AsRef<str>) -> Refusal {
        let lines = text.as_ref().lines().map(|line| format!("{}: error: {line}", verb.name())).collect();
        Refusal { lines, code: 1 }
    }

    /// In the words in which Slurm's controller refuses.
    pub fn controller(verb: Verb, reason: &str) -> Refusal {
        let what = match verb {
            Verb::Srun => "Unable to allocate resources",
            Verb::Sbatch => "Batch job submission failed",
            Verb::Salloc => "Job submit/allocate failed",
        };
        Refusal::error(verb, format!("{what}: {reason}"))
    }

    /// With a line in front.
    #[must_use]
    pub fn after(mut self, verb: Verb, text: &str) -> Refusal {
        self.lines.insert(0, format!("{}: error: {text}", verb.name()));
        self
    }

    /// With a line behind.
    #[must_use]
    pub fn with(mut self, verb: Verb, text: &str) -> Refusal {
        self.lines.push(format!("{}: error: {text}", verb.name()));
        self
    }
}

const NOT_AVAILABLE: &str = "Requested node configuration is not available";
const ONE_NODE: &str = "this machine is one node: more of them are where Slurm runs, with the same command line";

/// Looks whether the machine could ever do it. Warnings come back.
pub fn check(request: &Request, verb: Verb, node: &Node) -> Result<Vec<String>, Refusal> {
    let mut warnings = Vec::new();
    if let Some(text) = &request.refused {
        return Err(Refusal::error(verb, text));
    }
    if let Some((min, _)) = request.nodes.filter(|(min, _)| *min > 1) {
        match request.tasks.filter(|&tasks| tasks < min) {
            Some(1) => warnings
                .push(format!("{}: warning: can't run 1 processes on {min} nodes, setting nnodes to 1", verb.name())),
            _ => return Err(Refusal::controller(verb, NOT_AVAILABLE).with(verb, ONE_NODE)),
        }
    }
    if let Some(partition) = request.partition.as_deref().filter(|&partition| partition != PARTITION) {
        return Err(Refusal::controller(verb, "Invalid partition name specified")
            .after(verb, &format!("invalid partition specified: {partition}")));
    }
    if request.nodelist.as_deref().is_some_and(|list| list != node.name && list != "localhost") {
        return Err(Refusal::controller(verb, "Invalid node name specified"));
    }
    if request.constraint.is_some() {
        return Err(Refusal::controller(verb, "Invalid feature specification"));
    }
    if request.dependencies().is_none() && request.dependency.is_some() {
        return Err(Refusal::controller(verb, "Job dependency problem"));
    }
    let resources = request.resources();
    if resources.gpus as usize > node.gpus.len() {
        return Err(Refusal::error(verb, "Invalid generic resource (gres) specification"));
    }
    let not_available = Refusal::controller(verb, NOT_AVAILABLE);
    if resources.cpus_per_task.is_some_and(|count| count as usize > node.cpus.len()) {
        return Err(not_available.after(verb, "CPU count per node can not be satisfied"));
    }
    let job = job(request, verb, &[]);
    let entry = Entry::of(&job);
    if entry.memory.is_some_and(|bytes| bytes > node.memory) {
        return Err(not_available.after(verb, "Memory specification can not be satisfied"));
    }
    if schedule::is_possible(&entry, node) { Ok(warnings) } else { Err(not_available) }
}

/// The record of a job that is submitted now. Its number is not known yet.
pub fn job(request: &Request, verb: Verb, command: &[OsString]) -> Job {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let now = time::now();
    let kind = match verb {
        Verb::Srun => Kind::Srun,
        Verb::Sbatch => Kind::Batch,
        Verb::Salloc => Kind::Salloc,
    };
    let default_name = match verb {
        Verb::Salloc => "interactive".to_owned(),
        _ => words.first().map_or_else(String::new, |word| base_name(word)),
    };
    let mut resources = request.resources();
    if request.overcommit {
        // As many tasks as wanted share what one needs.
        resources.cpus_per_task = resources.cpus_per_task.or(Some(1));
        resources.tasks = 1;
    }
    let array = request.array.as_deref().and_then(array::parse).map(|elements| Array {
        job: 0,
        task: None,
        waiting: array::format(&elements.tasks),
        limit: elements.limit,
        count: elements.tasks.len() as u32,
        min: elements.tasks[0],
        max: elements.tasks[elements.tasks.len() - 1],
        step: elements.step,
    });
    Job {
        id: 0,
        array,
        kind,
        name: request.name.clone().unwrap_or(default_name),
        user: user::name(uid),
        uid,
        group: user::group_name(gid),
        gid,
        command: words,
        submit_line: submit_line(),
        directory: directory(request.directory.as_deref()),
        stdin: request.input.clone(),
        stdout: request.output.clone(),
        stderr: request.error.clone(),
        resources,
        time_limit: request.time.flatten(),
        dependency: request.dependency.clone().unwrap_or_default(),
        begin: request.begin,
        held: request.hold,
        requeue: request.requeue.unwrap_or(true),
        restarts: 0,
        comment: request.comment.clone(),
        account: request.account.clone(),
        partition: PARTITION.to_owned(),
        other: request.other.clone(),
        container: request.container.to_arguments(),
        append: request.append,
        signal: request.signal,
        state: State::Pending,
        reason: Reason::None,
        exit: Exit::default(),
        derived_exit: Exit::default(),
        cancelled_by: None,
        submitted: now,
        eligible: Some(request.begin.filter(|&begin| begin > now).unwrap_or(now)),
        started: None,
        ended: None,
        allocation: None,
        supervisor: None,
        submit_host: node::host_name(),
        submit_session: crate::process::stat(std::process::id()).map_or(0, |stat| stat.session),
    }
}

/// When it would start: for `--test-only`.
pub fn test_line(verb: Verb, id: u32, job: &Job, node: &Node) -> String {
    format!(
        "{}: Job {id} to start at {} using {} processors on nodes {} in partition {PARTITION}",
        verb.name(),
        time::local(job.begin.unwrap_or(job.submitted)),
        job.resources.cpus(),
        node.name
    )
}

/// When the time limit of a job that starts now is over.
pub fn deadline(job: &Job) -> Option<u64> {
    Some(job.started? + u64::from(job.time_limit?) * 60)
}

/// When it ends at the latest.
pub fn end_time(job: &Job) -> u64 {
    let start = job.started.unwrap_or(job.submitted);
    start + job.time_limit.map_or(environment::YEAR, |minutes| u64::from(minutes) * 60)
}

fn base_name(word: &str) -> String {
    Path::new(word).file_name().map_or_else(|| word.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn submit_line() -> String {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Where a job starts: what was named, seen from here.
pub fn directory(named: Option<&str>) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/tmp"));
    named.map_or(here.clone(), |named| here.join(named))
}

/// Refuses to depend on a job that never was.
pub fn check_dependencies(request: &Request, verb: Verb, queue: &Queue) -> Result<(), Refusal> {
    let list = request.dependencies().unwrap_or_default().list;
    if list.iter().all(|one| queue.job(one.job).is_ok()) {
        return Ok(());
    }
    Err(Refusal::controller(verb, "Job dependency problem"))
}

/// The mask of new files' modes.
#[allow(unsafe_code)]
pub fn umask() -> u32 {
    // SAFETY: numbers; there is no other thread that could make a file in between.
    unsafe {
        let mask = libc::umask(0o077);
        libc::umask(mask);
        mask
    }
}

/// Sets it.
#[allow(unsafe_code)]
pub fn set_umask(mask: u32) {
    // SAFETY: a number.
    unsafe { libc::umask(mask & 0o777) };
}
