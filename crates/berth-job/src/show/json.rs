//! The documents of `--json`, in the shape that Slurm 24.11 gives them (its `data_parser/v0.0.42`): the same keys, nested
//! alike, for all that a machine alone has. Keys about federations, burst buffers, switches and the like are left out.

use serde_json::{Value, json};

use super::View;
use super::facts;
use super::steps;
use crate::record::{Exit, Job, Kind, Reason, State, Step, StepId};

/// A number that can be missing.
pub fn number(value: Option<u64>) -> Value {
    json!({"set": value.is_some(), "infinite": false, "number": value.unwrap_or(0)})
}

/// A limit in minutes, or none.
fn limit(minutes: Option<u32>) -> Value {
    json!({"set": minutes.is_some(), "infinite": minutes.is_none(), "number": minutes.unwrap_or(0)})
}

/// A time; 0 where there is none, as Slurm has it.
fn time(seconds: Option<u64>) -> Value {
    number(Some(seconds.unwrap_or(0)))
}

/// How something ended.
fn exit(exit: Exit, is_over: bool) -> Value {
    let status = match exit {
        _ if !is_over && exit.is_success() => "SUCCESS",
        Exit { signal: 0, code: 0 } => "SUCCESS",
        Exit { signal: 0, .. } => "ERROR",
        _ => "SIGNALED",
    };
    let signal = (exit.signal != 0).then_some(u64::from(exit.signal));
    json!({
        "status": [status],
        "return_code": number((exit.signal == 0).then_some(u64::from(exit.code))),
        "signal": {"id": number(signal), "name": signal.map(|number| signal_name(number as i32)).unwrap_or_default()},
    })
}

/// Without `SIG`.
fn signal_name(number: i32) -> String {
    let name = match number {
        libc::SIGHUP => "HUP",
        libc::SIGINT => "INT",
        libc::SIGQUIT => "QUIT",
        libc::SIGABRT => "ABRT",
        libc::SIGKILL => "KILL",
        libc::SIGSEGV => "SEGV",
        libc::SIGPIPE => "PIPE",
        libc::SIGALRM => "ALRM",
        libc::SIGTERM => "TERM",
        libc::SIGUSR1 => "USR1",
        libc::SIGUSR2 => "USR2",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// A document around what was asked for: `{"jobs": […], "meta": …, "errors": [], "warnings": []}`.
pub fn document(key: &str, value: Vec<Value>, command: &str, view: &View) -> String {
    let mut version = env!("CARGO_PKG_VERSION").split('.');
    let (major, minor) = (version.next().unwrap_or_default(), version.next().unwrap_or_default());
    let uid = rustix::process::getuid().as_raw();
    let user = view.jobs.iter().find(|job| job.uid == uid).map_or_else(|| uid.to_string(), |job| job.user.clone());
    let mut document = json!({
        "last_update": number(Some(view.now)),
        "meta": {
            "plugin": {"type": "", "name": "", "data_parser": "data_parser/v0.0.42", "accounting_storage": ""},
            "client": {"source": "", "user": user, "group": ""},
            "command": [command],
            "slurm": {
                "version": {"major": major, "minor": minor, "micro": version.next().unwrap_or_default()},
                "release": format!("berth {}", env!("CARGO_PKG_VERSION")),
                "cluster": super::CLUSTER,
            },
        },
        "errors": [],
        "warnings": [],
    });
    document[key] = Value::Array(value);
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A job as `squeue --json` and `scontrol show job --json` have it.
pub fn job(job: &Job) -> Value {
    let files = facts::files(job).unwrap_or_default();
    let array = job.array.as_ref();
    let megabytes = |bytes: Option<u64>| number(bytes.map(|bytes| bytes >> 20));
    let mut value = json!({
        "account": job.account.clone().unwrap_or_default(),
        "accrue_time": time(facts::eligible(job)),
        "allocating_node": job.submit_host,
        "array_job_id": number(Some(array.map_or(0, |array| array.job.into()))),
        "array_task_id": number(array.and_then(|array| array.task).map(u64::from)),
        "array_max_tasks": number(Some(array.map_or(0, |array| array.limit.into()))),
        "array_task_string": array.filter(|array| array.task.is_none()).and_then(|_| facts::array_task(job)).unwrap_or_default(),
        "batch_flag": job.kind == Kind::Batch,
        "batch_host": facts::node(job),
        "cluster": super::CLUSTER,
        "command": facts::command(job).unwrap_or_default(),
        "comment": job.comment.clone().unwrap_or_default(),
        "container": container(&job.container),
        "cpus_per_task": number(Some(facts::cpus_per_task(job).into())),
        "dependency": if job.dependency.is_empty() { String::new() } else { super::squeue_fields::dependency(job) },
        "derived_exit_code": exit(job.derived_exit, true),
        "eligible_time": time(facts::eligible(job)),
        "end_time": time(facts::end(job)),
        "exit_code": exit(job.exit, job.state.is_over()),
        "group_id": job.gid,
        "group_name": job.group,
        "job_id": job.id,
        "job_state": [job.state.name()],
        "name": job.name,
        "nodes": facts::node(job),
        "nice": 0,
    });
    let more = json!({
        "tasks_per_node": number(Some(job.resources.tasks_per_node.unwrap_or(0).into())),
        "cpus": number(Some(facts::cpus(job).into())),
        "node_count": number(Some(1)),
        "tasks": number(Some(job.resources.tasks.max(1).into())),
        "partition": job.partition,
        "memory_per_cpu": megabytes(job.resources.memory_per_cpu),
        "memory_per_node": megabytes(job.resources.memory),
        "minimum_cpus_per_node": number(Some(facts::minimum_cpus(job).into())),
        "hold": job.held,
        "priority": number(Some(facts::priority(job).into())),
        "qos": facts::qos(job).unwrap_or_default(),
        "requeue": job.requeue,
        "restart_cnt": job.restarts,
        "start_time": time(facts::start(job)),
        "state_description": "",
        "state_reason": job.reason.name(),
        "standard_error": files[2],
        "standard_input": files[0],
        "standard_output": files[1],
        "submit_time": time(Some(job.submitted)),
        "time_limit": limit(job.time_limit),
        "tres_per_node": job.resources.gres.clone().unwrap_or_default(),
        "tres_req_str": facts::requested_tres(job),
        "tres_alloc_str": facts::allocated_tres(job).unwrap_or_default(),
        "user_id": job.uid,
        "user_name": job.user,
        "current_working_directory": job.directory,
    });
    merge(&mut value, more);
    value
}

/// A step as `squeue -s --json` has it.
pub fn running_step(job: &Job, step: &Step) -> Value {
    json!({
        "array": {"job_id": job.array.as_ref().map_or(0, |array| array.job), "task_id": job.array.as_ref().and_then(|array| array.task)},
        "cluster": super::CLUSTER,
        "container": container(&step.container),
        "id": {"job_id": job.id, "step_id": step.id.to_string()},
        "name": step.name,
        "nodes": {"count": 1, "range": step.allocation.node, "list": [step.allocation.node]},
        "number_cpus": step.allocation.cpus.len(),
        "number_tasks": step.tasks,
        "partition": job.partition,
        "start_time": time(Some(step.started)),
        "state": [step.state.name()],
        "tres_alloc_str": steps::tres(step),
        "user_id": job.uid,
        "user": job.user,
    })
}

/// A job as `sacct --json` has it.
pub fn accounted(job: &Job, view: &View) -> Value {
    let array = job.array.as_ref();
    let files = facts::files(job).unwrap_or_default();
    let own = view.steps_of(job);
    let (user, system) = (own.iter().map(|step| step.user_time).sum(), own.iter().map(|step| step.system_time).sum());
    let waited = job.started.map(|start| start.saturating_sub(job.eligible.unwrap_or(job.submitted)));
    let megabytes = |bytes: Option<u64>| number(bytes.map(|bytes| bytes >> 20));
    let cancelled_by = job.cancelled_by.filter(|_| job.state == State::Cancelled).map(|_| job.user.clone());
    json!({
        "account": job.account.clone().unwrap_or_default(),
        "comment": {"administrator": "", "job": job.comment.clone().unwrap_or_default(), "system": ""},
        "allocation_nodes": u8::from(job.allocation.is_some()),
        "array": {
            "job_id": array.map_or(0, |array| array.job),
            "limits": {"max": {"running": {"tasks": array.map_or(0, |array| array.limit)}}},
            "task_id": number(array.and_then(|array| array.task).map(u64::from)),
            "task": array.map(|array| array.waiting.clone()).unwrap_or_default(),
        },
        "cluster": super::CLUSTER,
        "container": container(&job.container),
        "derived_exit_code": exit(job.derived_exit, true),
        "time": {
            "elapsed": job.elapsed(view.now),
            "eligible": job.eligible.unwrap_or(0),
            "end": job.ended.unwrap_or(0),
            "planned": number(waited),
            "start": job.started.unwrap_or(0),
            "submission": job.submitted,
            "suspended": 0,
            "system": split(system),
            "limit": limit(job.time_limit),
            "total": split(user + system),
            "user": split(user),
        },
        "exit_code": exit(job.exit, job.state.is_over()),
        "group": job.group,
        "job_id": job.id,
        "name": job.name,
        "nodes": if facts::node(job).is_empty() { "None assigned" } else { facts::node(job) },
        "partition": job.partition,
        "hold": job.held,
        "priority": number(Some(facts::priority(job).into())),
        "qos": facts::qos(job).unwrap_or_default(),
        "required": {
            "CPUs": job.resources.cpus(),
            "memory_per_cpu": megabytes(job.resources.memory_per_cpu),
            "memory_per_node": megabytes(job.resources.memory),
        },
        "kill_request_user": cancelled_by.unwrap_or_default(),
        "restart_cnt": job.restarts,
        "stdin_expanded": files[0],
        "stdout_expanded": files[1],
        "stderr_expanded": files[2],
        "stdout": job.stdout.clone().unwrap_or_default(),
        "stderr": job.stderr.clone().unwrap_or_default(),
        "stdin": job.stdin.clone().unwrap_or_default(),
        "state": {"current": [job.state.name()], "reason": reason(job)},
        "steps": own.iter().map(|step| accounted_step(job, step, view)).collect::<Vec<Value>>(),
        "submit_line": job.submit_line,
        "tres": {
            "allocated": facts::allocated_tres(job).map(|tres| list(&tres)).unwrap_or_default(),
            "requested": list(&facts::requested_tres(job)),
        },
        "user": job.user,
        "working_directory": job.directory,
    })
}

fn reason(job: &Job) -> &'static str {
    if job.state.is_over() { Reason::None.name() } else { job.reason.name() }
}

fn accounted_step(job: &Job, step: &Step, view: &View) -> Value {
    let resident = json!({
        "type": "mem", "name": "", "id": 2, "count": step.max_resident, "task": 0, "node": step.allocation.node,
    });
    json!({
        "time": {
            "elapsed": step.ended.unwrap_or(view.now).saturating_sub(step.started),
            "end": time(step.ended),
            "start": time(Some(step.started)),
            "suspended": 0,
            "system": split(step.system_time),
            "total": split(step.user_time + step.system_time),
            "user": split(step.user_time),
        },
        "exit_code": exit(step.exit, step.state.is_over()),
        "nodes": {"count": 1, "range": step.allocation.node, "list": [step.allocation.node]},
        "tasks": {"count": step.tasks},
        "kill_request_user": step.cancelled_by.map(|_| job.user.clone()).unwrap_or_default(),
        "state": [step.state.name()],
        "step": {"id": format!("{}.{}", job.id, step.id), "name": step.name},
        "task": {"distribution": if step.id == StepId::Batch { "Unknown" } else { "Block" }},
        "tres": {"requested": {"max": [resident]}, "allocated": list(&steps::tres(step))},
    })
}

/// `cpu=2,mem=64M` as a list of objects.
fn list(tres: &str) -> Vec<Value> {
    let one = |word: &str| {
        let (name, count) = word.split_once('=')?;
        let (kind, name) = name.split_once('/').unwrap_or((name, ""));
        let id = match kind {
            "cpu" => 1,
            "mem" => 2,
            "node" => 4,
            "billing" => 5,
            _ => 1001,
        };
        // Memory is counted in MiB.
        let digits = count.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match &count[digits.len()..] {
            "G" => 1 << 10,
            "T" => 1 << 20,
            "P" => 1 << 30,
            _ => 1,
        };
        Some(json!({"type": kind, "name": name, "id": id, "count": digits.parse::<u64>().ok()? * factor}))
    };
    tres.split(',').filter_map(one).collect()
}

/// Microseconds, as seconds and the rest.
fn split(micros: u64) -> Value {
    json!({"seconds": micros / 1_000_000, "microseconds": micros % 1_000_000})
}

fn container(options: &[String]) -> &str {
    options.iter().find_map(|option| option.strip_prefix("--container-image=")).unwrap_or_default()
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{example, json_node};
    use super::*;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// The values are those of Slurm's squeue for the same jobs.
    #[test]
    fn a_job_has_slurms_keys_and_values() {
        let view = example::view();
        let value = job(example::job(&view, 132));
        assert_eq!(value["array_job_id"], number(Some(132)));
        assert_eq!(value["array_task_string"], "1,5-7");
        assert_eq!(value["hold"], true);
        assert_eq!(value["time_limit"], json!({"set": false, "infinite": true, "number": 0}));
        assert_eq!(value["state_reason"], "JobHeldUser");
        assert_eq!(value["job_state"], json!(["PENDING"]));
        let value = job(example::job(&view, 129));
        assert_eq!(value["memory_per_node"], number(Some(100)));
        assert_eq!(value["tres_req_str"], "cpu=2,mem=100M,node=1,billing=2");
        assert_eq!(keys(&value).len(), 53);
    }

    #[test]
    fn what_became_of_a_job_has_slurms_keys_and_values() {
        let view = example::view();
        let value = accounted(example::job(&view, 134), &view);
        assert_eq!(value["exit_code"]["status"], json!(["ERROR"]));
        assert_eq!(value["exit_code"]["return_code"], number(Some(2)));
        assert_eq!(value["state"], json!({"current": ["FAILED"], "reason": "None"}));
        assert_eq!(value["tres"]["allocated"][1], json!({"type": "mem", "name": "", "id": 2, "count": 64}));
        let step = &value["steps"][3];
        assert_eq!(step["step"], json!({"id": "134.2", "name": "bash"}));
        assert_eq!(step["exit_code"]["signal"], json!({"id": number(Some(9)), "name": "KILL"}));
        assert_eq!(step["exit_code"]["return_code"], number(None));
    }

    #[test]
    fn documents_have_slurms_frame() {
        let view = example::view();
        let text = document("nodes", vec![json_node::node(&view)], "show", &view);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(keys(&value), ["errors", "last_update", "meta", "nodes", "warnings"]);
        assert_eq!(value["nodes"][0]["state"], json!(["MIXED"]));
        assert_eq!(json_node::sinfo(&view)["cpus"]["idle"], 2);
    }
}
