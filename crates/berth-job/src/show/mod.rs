//! What of jobs, steps and the machine is shown, and how: formats, tables and JSON of `squeue`, `sacct`, `sinfo` and
//! `scontrol show`.
//!
//! What is printed is what Slurm 24.11 prints, column by column; scripts that take it apart go on working. Nothing here asks
//! the system for anything but through a [`View`], and nothing prints: all gives text.
//!
//! | file | what it does |
//! |---|---|
//! | `facts.rs` | a job in Slurm's words: its memory, its end, its TRES |
//! | `layout.rs` | `-o "%.18i %j"` and `-O jobid:8,name`, of squeue and sinfo |
//! | `arguments.rs` | the command lines of these verbs |
//! | `choice.rs` | which jobs are meant: ids, states, users |
//! | `squeue.rs`, `steps.rs`, `sacct.rs`, `sinfo.rs`, `scontrol.rs` | the verbs' fields and texts |
//! | `hostlist.rs` | `n[1-3,7]` |
//! | `json.rs`, `json_node.rs` | the documents of `--json` |

pub mod arguments;
pub mod choice;
pub mod facts;
pub mod hostlist;
pub mod json;
pub mod json_node;
pub mod layout;
pub mod sacct;
pub mod sacct_fields;
pub mod scontrol;
pub mod sinfo;
pub mod squeue;
pub mod squeue_fields;
pub mod steps;

use std::collections::BTreeMap;

use crate::error::Result;
use crate::node::Node;
use crate::queue::Queue;
use crate::queue::active::Entry;
use crate::record::{Job, Reason, State, Step};

/// The name of the one cluster that a machine is.
pub use crate::environment::CLUSTER;

/// Everything that can be shown, at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// When it was read, in seconds since 1970.
    pub now: u64,
    /// The machine.
    pub node: Node,
    /// Jobs, by their numbers.
    pub jobs: Vec<Job>,
    /// Their steps, by the job's number.
    pub steps: BTreeMap<u32, Vec<Step>>,
}

impl View {
    /// The jobs that wait or run, without steps.
    pub fn active(queue: &Queue, node: Node) -> Result<View> {
        let entries = entries(queue)?;
        let jobs = entries.iter().filter_map(|entry| queue.job(entry.id).ok()).collect();
        Ok(View::of(jobs, &entries, node))
    }

    /// All jobs that there are records of, without steps.
    pub fn all(queue: &Queue, node: Node) -> Result<View> {
        let entries = entries(queue)?;
        Ok(View::of(queue.jobs()?, &entries, node))
    }

    /// Why a job waits is in the queue, and changes more often than its record.
    fn of(mut jobs: Vec<Job>, entries: &[Entry], node: Node) -> View {
        let now = crate::time::now();
        let reasons: BTreeMap<u32, Reason> = entries.iter().map(|entry| (entry.id, entry.reason)).collect();
        let never_ran = |job: &&mut Job| job.state == State::Cancelled && job.started.is_none();
        for job in jobs.iter_mut().filter(|job| job.state == State::Pending || never_ran(job)) {
            job.reason = match reasons.get(&job.id) {
                Some(reason) if *reason != Reason::None => *reason,
                // Nobody has looked at it yet.
                _ if job.held => Reason::JobHeldUser,
                _ if job.reason == Reason::None && job.begin.is_some_and(|begin| begin > job.ended.unwrap_or(now)) => {
                    Reason::BeginTime
                }
                _ if job.reason == Reason::None && !job.dependency.is_empty() => Reason::Dependency,
                _ => job.reason,
            };
        }
        View { now, node, jobs, steps: BTreeMap::new() }
    }

    /// Reads the steps of the jobs.
    pub fn with_steps(mut self, queue: &Queue) -> View {
        for job in &self.jobs {
            // A job whose directory is being removed has none any more.
            self.steps.insert(job.id, queue.steps(job.id).unwrap_or_default());
        }
        self
    }

    /// Keeps the jobs that are asked for.
    pub fn keep(&mut self, wanted: impl Fn(&Job) -> bool) {
        self.jobs.retain(wanted);
    }

    /// A job's steps.
    pub fn steps_of(&self, job: &Job) -> &[Step] {
        self.steps.get(&job.id).map_or(&[], Vec::as_slice)
    }
}

/// The jobs that wait or run. What died in the meantime is told as such first, and if nobody sees to the jobs that wait, as
/// after a reboot, somebody will.
fn entries(queue: &Queue) -> Result<Vec<Entry>> {
    let entries = queue.active()?;
    if entries.is_empty() {
        return Ok(entries);
    }
    let lock = queue.lock()?;
    let entries = queue.sweep(&lock)?;
    drop(lock);
    crate::batch::keeper::ensure(queue)?;
    Ok(entries)
}

/// What the tests show.
#[cfg(test)]
pub(crate) mod example;
