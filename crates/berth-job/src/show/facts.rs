//! A job in Slurm's words.

use crate::options::pattern::{self, Names};
use crate::record::{Array, Job, Kind, Reason, State};
use crate::time::clock;

/// A duration as squeue writes it: `M:SS`, `H:MM:SS`, `D-HH:MM:SS`.
pub fn short_duration(seconds: u64) -> String {
    let (days, hours, minutes, seconds) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// A moment as `squeue -l` and `sinfo -l` write it above their tables: `Sat Nov 28 22:24:58 2026`.
pub fn date(seconds: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let now = clock(seconds);
    // Sakamoto's rule: January and February belong to the year before.
    let shift = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4][(now.month - 1).rem_euclid(12) as usize];
    let year = if now.month < 3 { now.year - 1 } else { now.year };
    let day = (year + year / 4 - year / 100 + year / 400 + shift + now.day).rem_euclid(7) as usize;
    let month = MONTHS[(now.month - 1).rem_euclid(12) as usize];
    format!("{} {month} {:02} {:02}:{:02}:{:02} {}", DAYS[day], now.day, now.hour, now.minute, now.second, now.year)
}

/// A number of bytes in the largest unit that shows it exactly, not smaller than `smallest` (an index into `KMGTP`).
fn size(bytes: u64, smallest: usize) -> String {
    const UNITS: &[u8] = b"KMGTP";
    let mut unit = smallest;
    let mut value = bytes >> (10 * (unit + 1));
    while value != 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        value >>= 10;
        unit += 1;
    }
    format!("{value}{}", char::from(UNITS[unit]))
}

/// Memory that was asked for: `64M`, `4G`.
pub fn mebibytes(bytes: u64) -> String {
    size(bytes, 1)
}

/// Memory that was used: `3688K`.
pub fn kibibytes(bytes: u64) -> String {
    size(bytes, 0)
}

/// CPUs that it holds or held, or else asks for.
pub fn cpus(job: &Job) -> u32 {
    job.allocation.as_ref().map_or_else(|| job.resources.cpus(), |held| held.cpus.len() as u32)
}

/// Memory that it asked for in all, in bytes; `None` where it did not.
pub fn memory(job: &Job) -> Option<u64> {
    let per_cpu = |bytes: u64| bytes.saturating_mul(u64::from(job.resources.cpus()));
    job.resources.memory.or_else(|| job.resources.memory_per_cpu.map(per_cpu))
}

/// What squeue calls MIN_MEMORY: as asked for, for the node or for each CPU.
pub fn minimum_memory(job: &Job) -> String {
    match job.resources.memory.or(job.resources.memory_per_cpu) {
        None | Some(0) => "0".to_owned(),
        Some(bytes) => mebibytes(bytes),
    }
}

/// CPUs of a task, as asked for.
pub fn cpus_per_task(job: &Job) -> u32 {
    job.resources.cpus_per_task.unwrap_or(1).max(1)
}

/// What squeue calls MIN_CPUS: what the node must have for the tasks that share it.
pub fn minimum_cpus(job: &Job) -> u32 {
    cpus_per_task(job) * job.resources.tasks_per_node.unwrap_or(1).max(1)
}

/// Trackable resources: `cpu=2,mem=64M,node=1,billing=2`.
pub fn tres(cpus: u32, memory: Option<u64>, gpus: u32, billing: bool) -> String {
    let mut text = format!("cpu={cpus}");
    if let Some(bytes) = memory.filter(|&bytes| bytes > 0) {
        text.push_str(&format!(",mem={}", mebibytes(bytes)));
    }
    text.push_str(",node=1");
    if billing {
        text.push_str(&format!(",billing={cpus}"));
    }
    if gpus > 0 {
        text.push_str(&format!(",gres/gpu={gpus}"));
    }
    text
}

/// What the job asks for, as TRES.
pub fn requested_tres(job: &Job) -> String {
    tres(job.resources.cpus(), memory(job), job.resources.gpus, true)
}

/// What it holds or held, as TRES; nothing where it never ran.
pub fn allocated_tres(job: &Job) -> Option<String> {
    let held = job.allocation.as_ref()?;
    Some(tres(held.cpus.len() as u32, held.memory.or_else(|| memory(job)), held.gpus.len() as u32, true))
}

/// 0 for one that is held; all others are alike, as with Slurm's `priority/basic` and nothing else to tell them apart.
pub fn priority(job: &Job) -> u32 {
    u32::from(!job.held)
}

/// When it was started, or will be at the earliest.
pub fn start(job: &Job) -> Option<u64> {
    job.started.or_else(|| job.begin.filter(|_| job.state == State::Pending && job.reason == Reason::BeginTime))
}

/// When it ended, or must at the latest, if it has a limit.
pub fn end(job: &Job) -> Option<u64> {
    job.ended.or_else(|| Some(job.started? + u64::from(job.time_limit?) * 60))
}

/// Since when it could have run; one that is held cannot.
pub fn eligible(job: &Job) -> Option<u64> {
    job.eligible.filter(|_| !(job.held && job.state == State::Pending))
}

/// The quality of service that was named: a machine has none, but shows it.
pub fn qos(job: &Job) -> Option<&str> {
    job.other.get("qos").map(String::as_str)
}

/// Seconds that are left; `None` is without limit.
pub fn left(job: &Job, now: u64) -> Option<i64> {
    let limit = i64::from(job.time_limit?) * 60;
    Some(limit - job.elapsed(now) as i64)
}

/// The time limit as squeue writes it.
pub fn short_limit(job: &Job) -> String {
    job.time_limit.map_or_else(|| "UNLIMITED".to_owned(), |minutes| short_duration(u64::from(minutes) * 60))
}

/// The time limit as scontrol and sacct write it.
pub fn long_limit(job: &Job) -> String {
    job.time_limit.map_or_else(|| "UNLIMITED".to_owned(), |minutes| crate::time::duration(u64::from(minutes) * 60))
}

/// The node, where it has or had one.
pub fn node(job: &Job) -> &str {
    job.allocation.as_ref().map_or("", |held| &held.node)
}

/// Why, as scontrol and sacct tell it; with the signal for one that ended so.
pub fn reason(job: &Job) -> String {
    match job.reason {
        Reason::RaisedSignal => {
            let number = i32::from(job.exit.signal);
            format!("RaisedSignal:{number}({})", crate::signal::describe(number).replace(' ', "_"))
        }
        other => other.name().to_owned(),
    }
}

/// NODELIST(REASON): the node of one that runs or ran well, else why.
pub fn node_or_reason(job: &Job) -> String {
    match job.state {
        State::Pending | State::Failed | State::Timeout | State::OutOfMemory => format!("({})", reason(job)),
        _ => node(job).to_owned(),
    }
}

/// The state as sacct writes it, with who cancelled it.
pub fn accounted_state(job: &Job) -> String {
    match (job.state, job.cancelled_by) {
        (State::Cancelled, Some(uid)) => format!("CANCELLED by {uid}"),
        (state, _) => state.name().to_owned(),
    }
}

/// The number that all elements of an array share, or the job's own.
pub fn array_job(job: &Job) -> u32 {
    job.array.as_ref().map_or(job.id, |array| array.job)
}

/// The element or the elements: `3`, `4-9%2`, or nothing for one of no array.
pub fn array_task(job: &Job) -> Option<String> {
    Some(match job.array.as_ref()? {
        Array { task: Some(task), .. } => task.to_string(),
        Array { waiting, limit: 0, .. } => waiting.clone(),
        Array { waiting, limit, .. } => format!("{waiting}%{limit}"),
    })
}

/// The script's path, or the command; nothing for a script that came by `--wrap` or standard input.
pub fn command(job: &Job) -> Option<String> {
    let word = job.command.first()?;
    match job.kind {
        Kind::Batch if word.is_empty() || !word.contains('/') => None,
        _ => Some(word.clone()),
    }
}

/// Where a batch job reads and writes: standard input, output and error, as paths. The others have terminals and pipes.
pub fn files(job: &Job) -> Option<[String; 3]> {
    if job.kind != Kind::Batch {
        return None;
    }
    let names = Names {
        job: job.id,
        array: array_job(job),
        element: job.array.as_ref().and_then(|array| array.task),
        step: "batch".to_owned(),
        task: None,
        node_number: 0,
        node: node(job).to_owned(),
        user: job.user.clone(),
        name: job.name.clone(),
    };
    let default = if job.array.is_some() { "slurm-%A_%a.out" } else { "slurm-%j.out" };
    let path = |pattern: &str| job.directory.join(pattern::expand(pattern, &names)).to_string_lossy().into_owned();
    let output = path(job.stdout.as_deref().unwrap_or(default));
    let error = job.stderr.as_deref().map_or_else(|| output.clone(), path);
    Some([path(job.stdin.as_deref().unwrap_or("/dev/null")), output, error])
}

/// Jobs in the order in which accounting lists them: elements with their array, by their numbers.
pub fn order(job: &Job) -> (u32, u32) {
    let element = job.array.as_ref().map_or(0, |array| array.task.unwrap_or(u32::MAX));
    (array_job(job), element)
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    /// As squeue and sacct printed them.
    #[test]
    fn durations_and_sizes_are_slurms() {
        for (seconds, text) in [(2, "0:02"), (90, "1:30"), (5400, "1:30:00"), (2 * 86400 + 3 * 3600, "2-03:00:00")] {
            assert_eq!(short_duration(seconds), text);
        }
        for (mebi, text) in [(64, "64M"), (4096, "4G"), (1536, "1536M"), (0, "0M"), (1 << 20, "1T")] {
            assert_eq!(mebibytes(mebi << 20), text);
        }
        assert_eq!((kibibytes(3688 << 10), kibibytes(0)), ("3688K".to_owned(), "0K".to_owned()));
    }

    #[test]
    fn days_have_their_names() {
        // Noon in London on days whose names are known; the clock may be elsewhere, and then it is the day before or after.
        for (seconds, names) in [(1_795_867_200, ["Fri", "Sat", "Sun"]), (951_825_600, ["Mon", "Tue", "Wed"])] {
            let text = date(seconds);
            assert!(names.iter().any(|name| text.starts_with(name)), "{text}");
            assert_eq!(text.len(), "Sat Nov 28 22:24:58 2026".len());
        }
    }

    #[test]
    fn what_is_asked_and_held_is_told_as_tres() {
        let view = example::view();
        let running = example::job(&view, 129);
        assert_eq!(requested_tres(running), "cpu=2,mem=100M,node=1,billing=2");
        assert_eq!(allocated_tres(running).as_deref(), Some("cpu=2,mem=100M,node=1,billing=2"));
        let waiting = example::job(&view, 130);
        assert_eq!(
            (requested_tres(waiting).as_str(), allocated_tres(waiting)),
            ("cpu=4,mem=4G,node=1,billing=4", None)
        );
        assert_eq!(tres(1, None, 2, false), "cpu=1,node=1,gres/gpu=2");
    }

    #[test]
    fn ends_and_what_is_left_follow_the_limit() {
        let view = example::view();
        let running = example::job(&view, 129);
        assert_eq!(left(running, view.now), Some(5398));
        assert_eq!(end(running), Some(running.started.unwrap() + 5400));
        assert_eq!((end(example::job(&view, 130)), left(example::job(&view, 131), view.now)), (None, None));
        let endless = Job { time_limit: None, ..running.clone() };
        assert_eq!(end(&endless), None);
    }
}
