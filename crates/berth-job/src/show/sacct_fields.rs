//! What sacct can show of a job or a step, with the widths that Slurm gives them.

use super::{View, facts, steps};
use crate::record::{Job, Step, StepId};
use crate::time::{duration, local};

/// What a line is about.
#[derive(Debug, Clone, Copy)]
pub enum Line<'a> {
    /// A job.
    Job(&'a Job),
    /// A step of a job.
    Step(&'a Job, &'a Step),
}

/// A field.
#[derive(Debug)]
pub struct Field {
    /// As it is typed (in any case) and printed.
    pub name: &'static str,
    /// Characters that it takes; negative ones for a value at the left.
    pub width: i32,
    value: fn(Line<'_>, &View) -> String,
}

impl Field {
    /// The field of that name.
    pub fn named(name: &str) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    }

    /// All of them, in Slurm's order.
    pub fn all() -> &'static [Field] {
        FIELDS
    }

    /// What it is for a line.
    pub fn value(&self, line: Line<'_>, view: &View) -> String {
        (self.value)(line, view)
    }
}

const fn row(name: &'static str, width: i32, value: fn(Line<'_>, &View) -> String) -> Field {
    Field { name, width, value }
}

/// A field that nothing is known of on a machine without accounting plugins.
const fn empty(name: &'static str, width: i32) -> Field {
    row(name, width, |_, _| String::new())
}

/// A field of jobs only.
macro_rules! of_job {
    ($job:ident => $value:expr) => {
        |line, _| match line {
            Line::Job($job) => $value,
            Line::Step(..) => String::new(),
        }
    };
}

/// A field of steps only.
macro_rules! of_step {
    ($step:ident => $value:expr) => {
        |line, _| match line {
            Line::Job(_) => String::new(),
            Line::Step(_, $step) => $value,
        }
    };
}

#[rustfmt::skip] // One row a line.
const FIELDS: &[Field] = &[
    row("Account", 10, |line, _| line.job().account.clone().unwrap_or_default()),
    empty("AdminComment", 15),
    row("AllocCPUS", 10, |line, _| line.cpus().to_string()),
    row("AllocNodes", 10, |line, _| u8::from(line.cpus() > 0).to_string()),
    row("AllocTRES", 10, |line, _| line.allocated()),
    empty("AssocID", 7),
    row("AveCPU", 10, of_step!(step => duration((step.user_time + step.system_time) / 1_000_000 / u64::from(step.tasks.max(1))))),
    empty("AveCPUFreq", 10), empty("AveDiskRead", 14), empty("AveDiskWrite", 14), empty("AvePages", 10),
    row("AveRSS", 10, of_step!(step => resident(step))),
    empty("AveVMSize", 10), empty("BlockID", 16),
    row("Cluster", 10, |_, _| super::CLUSTER.to_owned()),
    row("Comment", 14, of_job!(job => job.comment.clone().unwrap_or_default())),
    empty("Constraints", 19), empty("ConsumedEnergy", 14), empty("ConsumedEnergyRaw", 17),
    row("Container", 19, |line, _| {
        let options = match line { Line::Job(job) => &job.container, Line::Step(_, step) => &step.container };
        options.iter().find_map(|option| option.strip_prefix("--container-image=")).unwrap_or_default().to_owned()
    }),
    row("CPUTime", 10, |line, view| duration(line.elapsed(view) * u64::from(line.cpus()))),
    row("CPUTimeRAW", 10, |line, view| (line.elapsed(view) * u64::from(line.cpus())).to_string()),
    empty("DBIndex", 21),
    row("DerivedExitCode", 15, of_job!(job => job.derived_exit.to_string())),
    row("Elapsed", 10, |line, view| duration(line.elapsed(view))),
    row("ElapsedRaw", 10, |line, view| line.elapsed(view).to_string()),
    row("Eligible", 19, |line, _| time(match line { Line::Job(job) => facts::eligible(job), Line::Step(_, step) => Some(step.started) })),
    row("End", 19, |line, _| time(match line { Line::Job(job) => job.ended, Line::Step(_, step) => step.ended })),
    row("ExitCode", 8, |line, _| match line { Line::Job(job) => job.exit, Line::Step(_, step) => step.exit }.to_string()),
    empty("Extra", 14), empty("FailedNode", 8), empty("Flags", 19),
    row("GID", 6, of_job!(job => job.gid.to_string())),
    row("Group", 9, of_job!(job => job.group.clone())),
    row("JobID", -12, |line, _| match line { Line::Job(job) => job.display_id(), Line::Step(job, step) => steps::id(job, step) }),
    row("JobIDRaw", -12, |line, _| match line {
        Line::Job(job) => job.id.to_string(),
        Line::Step(job, step) => format!("{}.{}", job.id, step.id),
    }),
    row("JobName", 10, |line, _| match line { Line::Job(job) => &job.name, Line::Step(_, step) => &step.name }.clone()),
    row("Layout", 9, of_step!(step => if step.id == StepId::Batch { "Unknown" } else { "Block" }.to_owned())),
    empty("Licenses", 10), empty("MaxDiskRead", 12), empty("MaxDiskReadNode", 15), empty("MaxDiskReadTask", 15),
    empty("MaxDiskWrite", 12), empty("MaxDiskWriteNode", 16), empty("MaxDiskWriteTask", 16), empty("MaxPages", 8),
    empty("MaxPagesNode", 12), empty("MaxPagesTask", 14),
    row("MaxRSS", 10, of_step!(step => resident(step))),
    row("MaxRSSNode", 10, of_step!(step => if step.max_resident > 0 { step.allocation.node.clone() } else { String::new() })),
    empty("MaxRSSTask", 10), empty("MaxVMSize", 10), empty("MaxVMSizeNode", 14), empty("MaxVMSizeTask", 14),
    empty("McsLabel", 12), empty("MinCPU", 10), empty("MinCPUNode", 10), empty("MinCPUTask", 10),
    row("NCPUS", 10, |line, _| line.cpus().to_string()),
    row("NNodes", 8, |_, _| "1".to_owned()),
    row("NodeList", 15, |line, _| {
        let node = match line { Line::Job(job) => facts::node(job), Line::Step(_, step) => &step.allocation.node };
        if node.is_empty() { "None assigned" } else { node }.to_owned()
    }),
    row("NTasks", 8, of_step!(step => step.tasks.to_string())),
    row("Partition", 10, of_job!(job => job.partition.clone())),
    row("Planned", 10, |line, view| planned(line, view).map(duration).unwrap_or_default()),
    row("PlannedCPU", 10, |line, view| planned(line, view).map(|wait| duration(wait * u64::from(line.asked()))).unwrap_or_default()),
    row("PlannedCPURAW", 13, |line, view| planned(line, view).map(|wait| (wait * u64::from(line.asked())).to_string()).unwrap_or_default()),
    row("Priority", 10, of_job!(job => facts::priority(job).to_string())),
    row("QOS", 10, of_job!(job => facts::qos(job).unwrap_or_default().to_owned())),
    empty("QOSRAW", 6), empty("QOSREQ", 10),
    row("Reason", 22, of_job!(job => facts::reason(job))),
    empty("ReqCPUFreq", 10), empty("ReqCPUFreqGov", 13), empty("ReqCPUFreqMax", 13), empty("ReqCPUFreqMin", 13),
    row("ReqCPUS", 8, |line, _| line.asked().to_string()),
    row("ReqMem", 10, of_job!(job => match facts::memory(job) { None => "0".to_owned(), Some(bytes) => facts::mebibytes(bytes) })),
    row("ReqNodes", 8, of_job!(_job => "1".to_owned())),
    row("ReqTRES", 10, of_job!(job => sorted(&facts::requested_tres(job)))),
    empty("Reservation", 20), empty("ReservationId", 8),
    row("Restarts", 8, of_job!(job => job.restarts.to_string())),
    empty("SLUID", 14),
    row("Start", 19, |line, _| time(match line { Line::Job(job) => job.started, Line::Step(_, step) => Some(step.started) })),
    row("State", 10, |line, _| match line {
        Line::Job(job) => facts::accounted_state(job),
        Line::Step(_, step) => step.state.name().to_owned(),
    }),
    row("StdErr", 20, of_job!(job => job.stderr.as_ref().and_then(|_| facts::files(job)).map(|[_, _, e]| e).unwrap_or_default())),
    row("StdIn", 20, of_job!(job => facts::files(job).map(|[input, _, _]| input).unwrap_or_default())),
    row("StdOut", 20, of_job!(job => facts::files(job).map(|[_, output, _]| output).unwrap_or_default())),
    row("Submit", 19, |line, _| time(match line { Line::Job(job) => Some(job.submitted), Line::Step(_, step) => Some(step.started) })),
    row("SubmitLine", 20, |line, _| match line { Line::Job(job) => &job.submit_line, Line::Step(_, step) => &step.submit_line }.clone()),
    row("Suspended", 10, |_, _| duration(0)),
    empty("SystemComment", 15),
    row("SystemCPU", 10, |line, view| processor_time(line, view, |step| step.system_time)),
    row("Timelimit", 10, of_job!(job => facts::long_limit(job))),
    row("TimelimitRaw", 10, of_job!(job => job.time_limit.map_or_else(|| "UNLIMITED".to_owned(), |minutes| minutes.to_string()))),
    row("TotalCPU", 10, |line, view| processor_time(line, view, |step| step.user_time + step.system_time)),
    empty("TRESUsageInAve", 14), empty("TRESUsageInMax", 14), empty("TRESUsageInMaxNode", 18), empty("TRESUsageInMaxTask", 18),
    empty("TRESUsageInMin", 14), empty("TRESUsageInMinNode", 18), empty("TRESUsageInMinTask", 18), empty("TRESUsageInTot", 14),
    empty("TRESUsageOutAve", 15), empty("TRESUsageOutMax", 15), empty("TRESUsageOutMaxNode", 19), empty("TRESUsageOutMaxTask", 19),
    empty("TRESUsageOutMin", 15), empty("TRESUsageOutMinNode", 19), empty("TRESUsageOutMinTask", 19), empty("TRESUsageOutTot", 15),
    row("UID", 6, of_job!(job => job.uid.to_string())),
    row("User", 9, of_job!(job => job.user.clone())),
    row("UserCPU", 10, |line, view| processor_time(line, view, |step| step.user_time)),
    empty("WCKey", 10), empty("WCKeyID", 10),
    row("WorkDir", 20, of_job!(job => job.directory.to_string_lossy().into_owned())),
];

impl Line<'_> {
    fn job(&self) -> &Job {
        match self {
            Line::Job(job) | Line::Step(job, _) => job,
        }
    }

    /// CPUs that were given: none to a job that never ran.
    fn cpus(&self) -> u32 {
        match self {
            Line::Job(job) => job.allocation.as_ref().map_or(0, |held| held.cpus.len() as u32),
            Line::Step(_, step) => step.allocation.cpus.len() as u32,
        }
    }

    fn asked(&self) -> u32 {
        match self {
            Line::Job(job) => job.resources.cpus(),
            Line::Step(..) => self.cpus(),
        }
    }

    fn elapsed(&self, view: &View) -> u64 {
        match self {
            Line::Job(job) => job.elapsed(view.now),
            Line::Step(_, step) => step.ended.unwrap_or(view.now).saturating_sub(step.started),
        }
    }

    fn allocated(&self) -> String {
        match self {
            Line::Job(job) => sorted(&facts::allocated_tres(job).unwrap_or_default()),
            Line::Step(_, step) => steps::tres(step),
        }
    }
}

/// Accounting lists the TRES of jobs by name.
fn sorted(tres: &str) -> String {
    let mut parts: Vec<&str> = tres.split(',').collect();
    parts.sort_unstable();
    parts.join(",")
}

fn time(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "Unknown".to_owned(), local)
}

fn resident(step: &Step) -> String {
    if step.max_resident == 0 { String::new() } else { facts::kibibytes(step.max_resident) }
}

/// How long it waited after it could have run.
fn planned(line: Line<'_>, view: &View) -> Option<u64> {
    let Line::Job(job) = line else { return None };
    let eligible = job.eligible.unwrap_or(job.submitted);
    Some(job.started.unwrap_or(job.ended.unwrap_or(view.now)).saturating_sub(eligible))
}

/// Of the tasks: `MM:SS.mmm`, or with hours and days and without the fraction. A job has what its steps have.
fn processor_time(line: Line<'_>, view: &View, of: fn(&Step) -> u64) -> String {
    let micros = match line {
        Line::Job(job) => view.steps_of(job).iter().map(of).sum(),
        Line::Step(_, step) => of(step),
    };
    let seconds = micros / 1_000_000;
    if micros == 0 || seconds >= 3600 {
        return duration(seconds);
    }
    format!("{:02}:{:02}.{:03}", seconds / 60, seconds % 60, micros / 1000 % 1000)
}
