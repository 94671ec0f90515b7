//! What squeue can show of a job: the letters of `-o` and the names of `-O`.
//!
//! A machine has one node, no features, no reservations: such fields are there, with what Slurm prints where there is
//! nothing, so that formats that people have go on working.

use super::{View, facts};
use crate::record::{Job, State};
use crate::time::local;

/// A field.
#[derive(Debug)]
pub struct Field {
    /// The letter of `-o`; [`NONE`] where it has a name only.
    pub letter: char,
    /// The name of `-O`; empty where it has a letter only.
    pub name: &'static str,
    /// Its header.
    pub header: &'static str,
    value: Value,
}

/// Where a value comes from.
enum Value {
    /// The same for all jobs.
    Constant(&'static str),
    /// The job's.
    Of(fn(&Job, &View) -> String),
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Value::Of(_)) { "Of" } else { "Constant" })
    }
}

/// For fields that have no letter.
const NONE: char = '\0';

impl Field {
    /// The field of a letter.
    pub fn by_letter(letter: char) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.letter == letter && letter != NONE)
    }

    /// The field of a name in small letters.
    pub fn by_name(name: &str) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.name == name && !name.is_empty())
    }

    /// Whether a value that is too long is cut: durations are not.
    pub fn is_cut(&self) -> bool {
        !["timelimit", "timeleft", "timeused"].contains(&self.name)
    }

    /// What it is for a job.
    pub fn value(&self, job: &Job, view: &View) -> String {
        match self.value {
            Value::Constant(text) => text.to_owned(),
            Value::Of(value) => value(job, view),
        }
    }
}

const fn of(letter: char, name: &'static str, header: &'static str, value: fn(&Job, &View) -> String) -> Field {
    Field { letter, name, header, value: Value::Of(value) }
}

const fn constant(letter: char, name: &'static str, header: &'static str, value: &'static str) -> Field {
    Field { letter, name, header, value: Value::Constant(value) }
}

#[rustfmt::skip] // One row a line.
const FIELDS: &[Field] = &[
    of('a', "account", "ACCOUNT", |job, _| null(job.account.as_deref())),
    of(NONE, "accruetime", "ACCRUE_TIME", |job, _| time(facts::eligible(job))),
    constant(NONE, "admin_comment", "ADMIN_COMMENT", "(null)"),
    of(NONE, "allocnodes", "ALLOC_NODES", |job, _| job.submit_host.clone()),
    of(NONE, "allocsid", "ALLOC_SID", |job, _| job.submit_session.to_string()),
    of('F', "arrayjobid", "ARRAY_JOB_ID", |job, _| facts::array_job(job).to_string()),
    of('K', "arraytaskid", "ARRAY_TASK_ID", |job, _| facts::array_task(job).unwrap_or_else(|| "N/A".into())),
    constant(NONE, "associd", "ASSOC_ID", "0"),
    of(NONE, "batchflag", "BATCH_FLAG", |job, _| u8::from(job.kind == crate::record::Kind::Batch).to_string()),
    of('B', "batchhost", "EXEC_HOST", |job, _| words(facts::node(job), "n/a")),
    constant(NONE, "boardspernode", "BOARDS_PER_NODE", "0"),
    constant(NONE, "burstbuffer", "BURST_BUFFER", "(null)"),
    constant(NONE, "burstbufferstate", "BURST_BUFFER_STATE", "(null)"),
    constant(NONE, "cluster", "CLUSTER", super::CLUSTER),
    constant(NONE, "clusterfeature", "CLUSTER_FEATURES", "(null)"),
    of('o', "command", "COMMAND", |job, _| null(facts::command(job).as_deref())),
    of('k', "comment", "COMMENT", |job, _| null(job.comment.as_deref())),
    of(NONE, "container", "CONTAINER", |job, _| container(job)),
    constant(NONE, "containerid", "CONTAINER_ID", "(null)"),
    constant('O', "contiguous", "CONTIGUOUS", "0"),
    constant('I', "cores", "CORES_PER_SOCKET", "*"),
    constant('X', "corespec", "CORE_SPEC", "N/A"),
    of(NONE, "cpus-per-task", "CPUS_PER_TASK", |job, _| facts::cpus_per_task(job).to_string()),
    constant(NONE, "cpus-per-tres", "CPUS_PER_TRES", "N/A"),
    constant(NONE, "deadline", "DEADLINE", "N/A"),
    constant(NONE, "delayboot", "DELAY_BOOT", "0:00"),
    of('E', "dependency", "DEPENDENCY", |job, _| dependency(job)),
    of(NONE, "derivedec", "DERIVED_EC", |job, _| job.derived_exit.to_string()),
    of(NONE, "eligibletime", "ELIGIBLE_TIME", |job, _| time(facts::eligible(job))),
    of('e', "endtime", "END_TIME", end),
    of(NONE, "exit_code", "EXIT_CODE", |job, _| job.exit.to_string()),
    constant('f', "feature", "FEATURES", "(null)"),
    of('G', "groupid", "GROUP", |job, _| job.gid.to_string()),
    of('g', "groupname", "GROUP", |job, _| job.group.clone()),
    constant(NONE, "hetjobid", "HET_JOB_ID", "N/A"),
    constant(NONE, "hetjobidset", "HET_JOB_ID_SET", "N/A"),
    constant(NONE, "hetjoboffset", "HET_JOB_OFFSET", "N/A"),
    of('i', "jobarrayid", "JOBID", |job, _| job.display_id()),
    of('A', "jobid", "JOBID", |job, _| job.id.to_string()),
    of(NONE, "lastschedeval", "LAST_SCHED_EVAL", |job, _| time(job.started.or(Some(job.submitted)))),
    constant('W', "licenses", "LICENSES", "(null)"),
    of(NONE, "maxcpus", "MAX_CPUS", |job, _| facts::cpus(job).to_string()),
    constant(NONE, "maxnodes", "MAX_NODES", "1"),
    constant(NONE, "mcslabel", "MCSLABEL", "(null)"),
    constant(NONE, "mem-per-tres", "MEM_PER_TRES", "N/A"),
    of('c', "mincpus", "MIN_CPUS", |job, _| facts::minimum_cpus(job).to_string()),
    of('m', "minmemory", "MIN_MEMORY", |job, _| facts::minimum_memory(job)),
    constant(NONE, "mintime", "TIME_MIN", "0:00"),
    constant('d', "mintmpdisk", "MIN_TMP_DISK", "0"),
    of('j', "name", "NAME", |job, _| job.name.clone()),
    constant(NONE, "network", "NETWORK", "(null)"),
    of('y', "nice", "NICE", |job, _| job.other.get("nice").cloned().unwrap_or_else(|| "0".into())),
    of('N', "nodelist", "NODELIST", |job, _| facts::node(job).to_owned()),
    constant(NONE, "ntpercore", "NTASKS_PER_CORE", "N/A"),
    of(NONE, "ntpernode", "NTASKS_PER_NODE", |job, _| job.resources.tasks_per_node.unwrap_or(0).to_string()),
    constant(NONE, "ntpersocket", "NTASKS_PER_SOCKET", "N/A"),
    constant(NONE, "ntperboard", "NTASKS_PER_BOARD", "0"),
    of('C', "numcpus", "CPUS", |job, _| facts::cpus(job).to_string()),
    constant('D', "numnodes", "NODES", "1"),
    of(NONE, "numtasks", "TASKS", |job, _| job.resources.tasks.max(1).to_string()),
    constant(NONE, "origin", "ORIGIN", "NA"),
    of('h', "oversubscribe", "OVER_SUBSCRIBE", |job, _| if job.resources.exclusive { "NO" } else { "OK" }.into()),
    of('P', "partition", "PARTITION", |job, _| job.partition.clone()),
    of(NONE, "pendingtime", "PENDING_TIME", |job, view| {
        job.started.unwrap_or(view.now).saturating_sub(job.submitted).to_string()
    }),
    constant(NONE, "preempttime", "PREEMPT_TIME", "N/A"),
    of('p', "priority", "PRIORITY", |job, _| format!("{:.14}", f64::from(facts::priority(job)) / f64::from(u32::MAX))),
    of('Q', "prioritylong", "PRIORITY", |job, _| facts::priority(job).to_string()),
    constant(NONE, "profile", "PROFILE", "NotSet"),
    of('q', "qos", "QOS", |job, _| null(facts::qos(job))),
    of('r', "reason", "REASON", |job, _| facts::reason(job)),
    of('R', "reasonlist", "NODELIST(REASON)", |job, _| facts::node_or_reason(job)),
    constant(NONE, "reboot", "REBOOT", "0"),
    constant('n', "reqnodes", "REQ_NODES", ""),
    constant(NONE, "reqswitch", "REQ_SWITCH", "0"),
    of(NONE, "requeue", "REQUEUE", |job, _| u8::from(job.requeue).to_string()),
    constant('v', "reservation", "RESERVATION", "(null)"),
    of(NONE, "restartcnt", "RESTART_COUNT", |job, _| job.restarts.to_string()),
    constant(NONE, "resizetime", "RESIZE_TIME", "N/A"),
    constant('Y', "schednodes", "SCHEDNODES", "(null)"),
    constant('z', "sct", "S:C:T", "*:*:*"),
    constant(NONE, "siblingsactive", "ACTIVE_SIBLINGS", "NA"),
    constant(NONE, "siblingsviable", "VIABLE_SIBLINGS", "NA"),
    constant('H', "sockets", "SOCKETS_PER_NODE", "*"),
    of('S', "starttime", "START_TIME", |job, _| time(facts::start(job))),
    of('T', "state", "STATE", |job, _| job.state.name().to_owned()),
    of('t', "statecompact", "ST", |job, _| job.state.short().to_owned()),
    of(NONE, "stderr", "STDERR", |job, _| null(job.stderr.as_ref().and_then(|_| facts::files(job)).map(|[_, _, e]| e).as_deref())),
    of(NONE, "stdin", "STDIN", |job, _| null(facts::files(job).map(|[input, _, _]| input).as_deref())),
    of(NONE, "stdout", "STDOUT", |job, _| null(facts::files(job).map(|[_, output, _]| output).as_deref())),
    of('V', "submittime", "SUBMIT_TIME", |job, _| time(Some(job.submitted))),
    of('L', "timeleft", "TIME_LEFT", |job, view| match facts::left(job, view.now) {
        None => "UNLIMITED".to_owned(),
        Some(left) => u64::try_from(left).map_or_else(|_| "INVALID".to_owned(), facts::short_duration),
    }),
    of('l', "timelimit", "TIME_LIMIT", |job, _| facts::short_limit(job)),
    of('M', "timeused", "TIME", |job, view| facts::short_duration(job.elapsed(view.now))),
    constant('J', "threads", "THREADS_PER_CORE", "*"),
    of(NONE, "tres-alloc", "TRES_ALLOC", |job, _| facts::allocated_tres(job).unwrap_or_else(|| facts::requested_tres(job))),
    constant(NONE, "tres-bind", "TRES_BIND", "N/A"),
    constant(NONE, "tres-freq", "TRES_FREQ", "N/A"),
    constant(NONE, "tres-per-job", "TRES_PER_JOB", "N/A"),
    of('b', "tres-per-node", "TRES_PER_NODE", |job, _| job.resources.gres.clone().unwrap_or_else(|| "N/A".into())),
    constant(NONE, "tres-per-socket", "TRES_PER_SOCKET", "N/A"),
    of(NONE, "tres-per-task", "TRES_PER_TASK", |job, _| match job.resources.cpus_per_task {
        Some(cpus) => format!("cpu={cpus}"),
        None => "N/A".to_owned(),
    }),
    of('U', "userid", "UID", |job, _| job.uid.to_string()),
    of('u', "username", "USER", |job, _| job.user.clone()),
    constant(NONE, "wait4switch", "WAIT4SWITCH", "0:00"),
    constant('w', "wckey", "WCKEY", "(null)"),
    of('Z', "workdir", "WORK_DIR", |job, _| job.directory.to_string_lossy().into_owned()),
    constant('x', "", "EXC_NODES", ""),
];

fn null(value: Option<&str>) -> String {
    words(value.unwrap_or_default(), "(null)")
}

fn words(value: &str, empty: &str) -> String {
    if value.is_empty() { empty.to_owned() } else { value.to_owned() }
}

fn time(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "N/A".to_owned(), local)
}

/// A job without a limit that waits for its time, or runs, has no end.
fn end(job: &Job, _: &View) -> String {
    match (job.time_limit, facts::start(job)) {
        (None, Some(_)) if !job.state.is_over() => "NONE".to_owned(),
        (Some(minutes), Some(start)) if job.state == State::Pending => local(start + u64::from(minutes) * 60),
        _ => time(facts::end(job)),
    }
}

/// The dependencies, each with whether it can still come true.
pub fn dependency(job: &Job) -> String {
    if job.dependency.is_empty() {
        return "(null)".to_owned();
    }
    let how = match job.reason {
        crate::record::Reason::DependencyNeverSatisfied => "(failed)",
        _ => "(unfulfilled)",
    };
    let mut text = String::new();
    for part in job.dependency.split_inclusive([',', '?']) {
        let bare = part.trim_end_matches([',', '?']);
        text.push_str(bare);
        if !bare.ends_with(')') {
            text.push_str(how);
        }
        text.push_str(&part[bare.len()..]);
    }
    text
}

fn container(job: &Job) -> String {
    let image = job.container.iter().find_map(|option| option.strip_prefix("--container-image="));
    null(image)
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    /// What Slurm's squeue printed for the same jobs, but for what each machine has of its own.
    #[test]
    fn letters_show_what_slurm_shows() {
        let view = example::view();
        let row = |letter: char| {
            let field = Field::by_letter(letter).unwrap();
            let values: Vec<String> =
                [130, 133, 131, 132, 129].map(|id| field.value(example::job(&view, id), &view)).into();
            format!("{}|{}", field.header, values.join("|"))
        };
        for expected in [
            "AJOBID|130|133|131|132|129",
            "BEXEC_HOST|n/a|n/a|n/a|n/a|n1",
            "cMIN_CPUS|1|1|1|1|1",
            "CCPUS|4|1|1|1|2",
            "DNODES|1|1|1|1|1",
            "EDEPENDENCY|(null)|(null)|(null)|(null)|(null)",
            "FARRAY_JOB_ID|130|133|131|132|129",
            "gGROUP|tuser1|tuser1|tuser1|tuser1|tuser1",
            "hOVER_SUBSCRIBE|OK|OK|OK|OK|OK",
            "iJOBID|130|133|131_[1-3%1]|132_[1,5-7]|129",
            "jNAME|pend|beg|arr|arr2|longjobname-verylong",
            "kCOMMENT|(null)|(null)|(null)|hello|(null)",
            "KARRAY_TASK_ID|N/A|N/A|1-3%1|1,5-7|N/A",
            "lTIME_LIMIT|2-03:00:00|UNLIMITED|UNLIMITED|UNLIMITED|1:30:00",
            "LTIME_LEFT|2-03:00:00|UNLIMITED|UNLIMITED|UNLIMITED|1:29:58",
            "mMIN_MEMORY|4G|0|0|0|100M",
            "MTIME|0:00|0:00|0:00|0:00|0:02",
            "NNODELIST|||||n1",
            "oCOMMAND|(null)|(null)|(null)|(null)|(null)",
            "pPRIORITY|0.00000000023283|0.00000000023283|0.00000000023283|0.00000000000000|0.00000000023283",
            "QPRIORITY|1|1|1|0|1",
            "rREASON|Resources|BeginTime|Priority|JobHeldUser|None",
            "RNODELIST(REASON)|(Resources)|(BeginTime)|(Priority)|(JobHeldUser)|n1",
            "tST|PD|PD|PD|PD|R",
            "TSTATE|PENDING|PENDING|PENDING|PENDING|RUNNING",
            "UUID|20001|20001|20001|20001|20001",
            "zS:C:T|*:*:*|*:*:*|*:*:*|*:*:*|*:*:*",
            "ZWORK_DIR|/home/tuser1/w|/home/tuser1/w|/home/tuser1/w|/home/tuser1/w|/home/tuser1/w",
        ] {
            let letter = expected.chars().next().unwrap();
            assert_eq!(row(letter), expected[1..], "%{letter}");
        }
    }

    #[test]
    fn every_letter_of_slurms_manual_is_known_and_only_once() {
        for letter in "aABcCdDeEfFgGhHiIjJkKlLmMnNoOpPqQrRStTuUvVwWxXyYzZ".chars() {
            assert!(Field::by_letter(letter).is_some(), "{letter}");
            assert_eq!(FIELDS.iter().filter(|field| field.letter == letter).count(), 1, "{letter}");
        }
        let mut names: Vec<&str> = FIELDS.iter().map(|field| field.name).filter(|name| !name.is_empty()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn ends_and_dependencies_are_told() {
        let view = example::view();
        let end = |id| Field::by_name("endtime").unwrap().value(example::job(&view, id), &view);
        assert_eq!((end(133).as_str(), end(131).as_str()), ("NONE", "N/A"));
        assert_eq!(end(129), example::at(example::NOW - 2 + 5400));
        let mut job = example::job(&view, 130).clone();
        job.dependency = "afterok:94,afterany:95?singleton".into();
        assert_eq!(dependency(&job), "afterok:94(unfulfilled),afterany:95(unfulfilled)?singleton(unfulfilled)");
        job.dependency = "afterok:94".into();
        job.reason = crate::record::Reason::DependencyNeverSatisfied;
        assert_eq!(dependency(&job), "afterok:94(failed)");
    }
}
