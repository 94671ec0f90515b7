//! The jobs of the tests: those that were there when Slurm's output was recorded.

use std::path::PathBuf;

use super::View;
use crate::node::Node;
use crate::record::{Allocation, Array, Exit, Job, Kind, Reason, Resources, State, Step, StepId};

/// When they were looked at: 2026-11-28T22:24:58 in UTC.
pub const NOW: u64 = 1_795_904_698;

/// A job that waits, and asks for little.
pub fn waiting(id: u32, name: &str, reason: Reason) -> Job {
    let document = serde_json::json!({
        "id": id, "kind": "batch", "name": name, "user": "tuser1", "uid": 20001, "group": "tuser1", "gid": 20001,
        "command": [], "submit_line": format!("sbatch -J {name} --wrap sleep 1"), "directory": "/home/tuser1/w",
        "resources": {"tasks": 1}, "partition": "local", "state": "PENDING", "submitted": NOW - 2,
    });
    let job: Job = serde_json::from_value(document).unwrap();
    let (eligible, requeue, submit_host) = (Some(NOW - 2), true, "n1".to_owned());
    Job { reason, eligible, requeue, submit_host, submit_session: 7, ..job }
}

fn held(cpus: u32, memory: u64) -> Allocation {
    Allocation { node: "n1".into(), cpus: (0..cpus).collect(), memory: Some(memory), gpus: Vec::new() }
}

fn array(job: u32, waiting: &str, limit: u32, count: u32) -> Option<Array> {
    Some(Array { job, waiting: waiting.into(), limit, count, min: 1, max: count, step: 1, ..Array::default() })
}

/// A step of a job.
pub fn step(job: u32, id: StepId, name: &str) -> Step {
    let document = serde_json::json!({
        "job": job, "id": id, "name": name, "state": "RUNNING", "tasks": 1, "allocation": held(2, 100 << 20), "started": NOW - 2,
    });
    serde_json::from_value(document).unwrap()
}

/// The jobs as squeue saw them, and one that has ended.
pub fn view() -> View {
    let running = Job {
        state: State::Running,
        started: Some(NOW - 2),
        time_limit: Some(90),
        allocation: Some(held(2, 100 << 20)),
        resources: Resources { tasks: 2, tasks_given: true, memory: Some(100 << 20), ..Resources::default() },
        ..waiting(129, "longjobname-verylong", Reason::None)
    };
    let large = Job {
        time_limit: Some(51 * 60),
        resources: Resources { tasks: 4, tasks_given: true, memory: Some(4 << 30), ..Resources::default() },
        ..waiting(130, "pend", Reason::Resources)
    };
    let limited = Job { array: array(131, "1-3", 1, 3), ..waiting(131, "arr", Reason::Priority) };
    let kept = Job {
        array: array(132, "1,5-7", 0, 4),
        held: true,
        eligible: None,
        comment: Some("hello".into()),
        ..waiting(132, "arr2", Reason::JobHeldUser)
    };
    let late = Job { begin: Some(NOW + 3598), eligible: Some(NOW + 3598), ..waiting(133, "beg", Reason::BeginTime) };
    let over = Job {
        state: State::Failed,
        exit: Exit { code: 2, signal: 0 },
        derived_exit: Exit { code: 3, signal: 0 },
        started: Some(NOW - 1),
        ended: Some(NOW - 1),
        time_limit: Some(10),
        allocation: Some(held(2, 64 << 20)),
        command: vec!["/home/tuser1/w/s.sh".into()],
        resources: Resources { tasks: 2, tasks_given: true, memory: Some(64 << 20), ..Resources::default() },
        ..waiting(134, "mixed", Reason::NonZeroExitCode)
    };
    let interactive = Job {
        kind: Kind::Srun,
        state: State::Cancelled,
        cancelled_by: Some(20001),
        exit: Exit { code: 0, signal: 15 },
        command: vec!["sleep".into(), "30".into()],
        directory: PathBuf::from("/home/tuser1"),
        started: Some(NOW - 1),
        ended: Some(NOW),
        allocation: Some(held(1, 0)),
        resources: Resources { tasks: 1, cpus_per_task: Some(2), ..Resources::default() },
        comment: Some("cc".into()),
        ..waiting(135, "nn", Reason::None)
    };
    let batch = Step { tasks: 1, ..step(129, StepId::Batch, "batch") };
    let ended = |id, name: &str, state, exit| Step {
        state,
        exit,
        ended: Some(NOW - 1),
        started: NOW - 1,
        max_resident: 3688 << 10,
        user_time: 1000,
        submit_line: format!("srun -n1 {name}"),
        ..step(134, id, name)
    };
    let steps = vec![
        ended(StepId::Batch, "batch", State::Failed, Exit { code: 2, signal: 0 }),
        ended(StepId::Number(0), "true", State::Completed, Exit::default()),
        ended(StepId::Number(1), "bash", State::Failed, Exit { code: 3, signal: 0 }),
        ended(StepId::Number(2), "bash", State::Cancelled, Exit { code: 0, signal: 9 }),
    ];
    View {
        now: NOW,
        node: Node { name: "n1".into(), cpus: (0..4).collect(), memory: 4 << 30, ..Node::default() },
        jobs: vec![running, large, limited, kept, late, over, interactive],
        steps: [(129, vec![batch, step(129, StepId::Number(0), "sleep")]), (134, steps)].into(),
    }
}

/// One of them.
pub fn job(view: &View, id: u32) -> &Job {
    view.jobs.iter().find(|job| job.id == id).unwrap()
}

/// Makes times local to everybody's clock: those of the recordings are UTC.
pub fn at(seconds: u64) -> String {
    crate::time::local(seconds)
}
