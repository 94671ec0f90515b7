//! `berth squeue`: the jobs that wait or run, as Slurm's `squeue` shows them.

use std::ffi::OsString;
use std::time::Duration;

use berth_job::show::arguments::{Line, NONE, Row, Takes};
use berth_job::show::choice::{self, Name, States};
use berth_job::show::{View, facts, json, squeue, steps};
use berth_job::{queue::Queue, record::Job};

use crate::{ExitCode, jobs, output};

#[rustfmt::skip] // One row a line.
const OPTIONS: &[Row] = &[
    ('A', "account", Takes::Value), ('a', "all", Takes::Nothing), ('r', "array", Takes::Nothing),
    (NONE, "array-unique", Takes::Nothing), ('M', "clusters", Takes::Value), (NONE, "expand-patterns", Takes::Nothing),
    (NONE, "federation", Takes::Nothing), ('o', "format", Takes::Value), ('O', "Format", Takes::Value),
    (NONE, "help", Takes::Nothing), (NONE, "hide", Takes::Nothing), ('i', "iterate", Takes::Value),
    ('j', "jobs", Takes::Word), (NONE, "json", Takes::Optional), ('L', "licenses", Takes::Value),
    (NONE, "local", Takes::Nothing), ('l', "long", Takes::Nothing), (NONE, "me", Takes::Nothing),
    ('n', "name", Takes::Value), ('w', "nodelist", Takes::Value), (NONE, "noconvert", Takes::Nothing),
    ('h', "noheader", Takes::Nothing), (NONE, "only-job-state", Takes::Nothing), ('p', "partition", Takes::Value),
    ('P', "priority", Takes::Nothing), ('q', "qos", Takes::Value), ('R', "reservation", Takes::Value),
    (NONE, "sibling", Takes::Nothing), ('S', "sort", Takes::Value), (NONE, "start", Takes::Nothing),
    ('t', "states", Takes::Value), ('s', "steps", Takes::Word), (NONE, "usage", Takes::Nothing),
    ('u', "user", Takes::Value), ('v', "verbose", Takes::Nothing), ('V', "version", Takes::Nothing),
    (NONE, "yaml", Takes::Optional),
];

const HELP: &str = "Usage: squeue [OPTIONS]
  -r, --array             a line for each element of an array that waits
  -o, --format=FORMAT     what a line shows: text, and %[.][WIDTH]LETTER, as squeue(1) lists the letters
  -O, --Format=FIELDS     likewise, by names: NAME[:[.]WIDTH],...
  -i, --iterate=SECONDS   show it again and again
  -j, --jobs=IDS          these jobs only
      --json              a JSON document
  -l, --long              more columns
      --me                one's own jobs
  -n, --name=NAMES        jobs of these names
  -h, --noheader          without the header
  -p, --partition=NAMES   jobs of these partitions
  -S, --sort=LETTERS      in this order, with - before a letter for the other way round
      --start             when jobs that wait will be started, as far as that is known
  -t, --states=STATES     jobs in these states, or all
  -s, --steps[=STEPS]     the steps that run
  -u, --user=USERS        jobs of these users
  -V, --version           the version";

/// What is wrong with a line or with the queue: what is told, with the lines' ends.
type Refusal = String;

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let line = match Line::parse("squeue", OPTIONS, arguments) {
        Ok(line) => line,
        Err(text) => return refused(&text),
    };
    if line.has("help") || line.has("usage") {
        return printed(output::lines([HELP]));
    }
    if line.has("version") {
        return printed(output::lines([concat!("berth ", env!("CARGO_PKG_VERSION"))]));
    }
    if let Some(word) = line.operands.first() {
        return refused(&format!("squeue: error: Unrecognized option: {word}\n{HELP}"));
    }
    let pause = match line.get("iterate").map(str::parse::<u64>) {
        None => None,
        Some(Ok(seconds)) if seconds > 0 => Some(Duration::from_secs(seconds)),
        Some(_) => return refused("squeue: error: --iterate wants a number of seconds, at least 1"),
    };
    loop {
        let shown = match lines(&line) {
            Ok(lines) => printed(output::lines(lines)),
            Err(text) => return refused(&text),
        };
        match pause {
            Some(pause) if shown == ExitCode::SUCCESS => std::thread::sleep(pause),
            _ => return shown,
        }
    }
}

fn refused(text: &str) -> ExitCode {
    eprintln!("{}", text.trim_end_matches('\n'));
    ExitCode::from(1)
}

/// A reader that went away is no reason to complain.
fn printed(result: Result<(), crate::CommandError>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn lines(line: &Line) -> Result<Vec<String>, Refusal> {
    let states = match line.get("states") {
        None if line.has("start") => States::Some(vec!["pending"]),
        None => States::Some(vec!["pending", "running", "completing", "suspended"]),
        Some(list) => States::parse(list).map_err(|word| {
            let names = choice::state_names();
            format!(
                "squeue: error: Invalid job state specified: {word}\nsqueue: error: Valid job states include: {names}\n"
            )
        })?,
    };
    let names = names(line)?;
    let users = users(line);
    let queue = Queue::open().map_err(|error| format!("squeue: error: {error}"))?;
    let node = berth_job::node::Node { gpus: jobs::gpus(), ..berth_job::node::Node::detect() };
    // Whoever asks for jobs that are over gets them, as long as there are records.
    let all = line.has("states");
    let view = if all { View::all(&queue, node) } else { View::active(&queue, node) };
    let mut view = view.map_err(|error| format!("squeue: error: {error}"))?;
    if let [only] = &names[..]
        && !view.jobs.iter().any(|job| only.means(job))
        && queue.job(only.job).is_err()
    {
        return Err("slurm_load_jobs error: Invalid job id specified".to_owned());
    }
    view.keep(|job| {
        states.contain(job.state)
            && (names.is_empty() || names.iter().any(|name| name.means(job)))
            && users.as_ref().is_none_or(|users| users.contains(&job.uid))
            && is_among(line, "name", &job.name)
            && is_among(line, "partition", &job.partition)
            && is_among(line, "account", job.account.as_deref().unwrap_or_default())
            && runs_on(line, job)
    });
    if line.has("steps") {
        return Ok(step_lines(line, &queue, view));
    }
    if line.has("array") {
        squeue::expand_arrays(&mut view);
        view.keep(|job| names.is_empty() || names.iter().any(|name| name.means(job)));
    }
    squeue::sort(&mut view, line.get("sort").unwrap_or(squeue::ORDER))
        .map_err(|letter| format!("squeue: error: Invalid sort specification: {letter}"))?;
    if line.has("json") {
        let jobs = view.jobs.iter().map(json::job).collect();
        return Ok(vec![json::document("jobs", jobs, "squeue", &view)]);
    }
    Ok(table(line, &view))
}

fn table(line: &Line, view: &View) -> Vec<String> {
    let layout = match (line.get("Format"), line.get("format")) {
        (Some(names), _) => squeue::by_names(names),
        (None, Some(letters)) => squeue::by_letters(letters),
        (None, None) if line.has("long") => squeue::by_letters(squeue::LONG),
        (None, None) if line.has("start") => squeue::by_letters(squeue::START),
        (None, None) => {
            let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
            let by_names = variable("SQUEUE_FORMAT2").map(|names| squeue::by_names(&names));
            by_names
                .unwrap_or_else(|| squeue::by_letters(variable("SQUEUE_FORMAT").as_deref().unwrap_or(squeue::DEFAULT)))
        }
    };
    for unknown in &layout.unknown {
        eprintln!("squeue: error: Invalid job format specification: {unknown}");
    }
    let mut lines = Vec::new();
    if line.has("long") && !line.has("noheader") {
        lines.push(facts::date(view.now));
    }
    if !line.has("noheader") {
        lines.push(squeue::header(&layout));
    }
    lines.extend(squeue::lines(&layout, view));
    lines
}

fn step_lines(line: &Line, queue: &Queue, view: View) -> Vec<String> {
    let wanted: Vec<Name> = line.list("steps").into_iter().filter_map(Name::parse).collect();
    let mut view = view.with_steps(queue);
    if !wanted.is_empty() {
        view.keep(|job| wanted.iter().any(|name| name.means(job)));
        for job in &view.jobs {
            let own = view.steps.entry(job.id).or_default();
            own.retain(|step| wanted.iter().any(|name| name.means(job) && name.step.is_none_or(|id| id == step.id)));
        }
    }
    if line.has("json") {
        let running = steps::running(&view).into_iter().map(|(job, step)| json::running_step(job, step)).collect();
        return vec![json::document("steps", running, "squeue", &view)];
    }
    let layout = steps::by_letters(line.get("format").unwrap_or(steps::DEFAULT));
    for unknown in &layout.unknown {
        eprintln!("squeue: error: Invalid job step format specification: {unknown}");
    }
    let mut lines = Vec::new();
    if line.has("long") && !line.has("noheader") {
        lines.push(facts::date(view.now));
    }
    if !line.has("noheader") {
        lines.push(steps::header(&layout));
    }
    lines.extend(steps::lines(&layout, &view));
    lines
}

fn names(line: &Line) -> Result<Vec<Name>, Refusal> {
    let read = |word: &str| Name::parse(word).ok_or_else(|| format!("squeue: error: Invalid job id: {word}"));
    line.list("jobs").into_iter().map(read).collect()
}

/// Numbers of the users that are asked for; all of them where none is.
fn users(line: &Line) -> Option<Vec<u32>> {
    if line.has("me") {
        return Some(vec![rustix::process::getuid().as_raw()]);
    }
    if !line.has("user") {
        return None;
    }
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut users = Vec::new();
    for word in line.list("user") {
        match choice::user(word, &known) {
            Some(user) => users.push(user),
            // As Slurm: nobody has no jobs.
            None => eprintln!("squeue: error: Invalid user: {word}\n"),
        }
    }
    Some(users)
}

fn is_among(line: &Line, option: &str, value: &str) -> bool {
    !line.has(option) || line.list(option).contains(&value)
}

fn runs_on(line: &Line, job: &Job) -> bool {
    let Some(list) = line.get("nodelist") else { return true };
    let names = berth_job::show::hostlist::expand(list).unwrap_or_default();
    job.allocation.as_ref().is_some_and(|held| names.contains(&held.node))
}
