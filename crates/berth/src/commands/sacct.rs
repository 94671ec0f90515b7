//! `berth sacct`: what became of jobs and steps, as Slurm's `sacct` shows it.
//!
//! Accounting is the jobs' records: there is no database, and nothing has to be set up.

use std::ffi::OsString;

use berth_job::node::Node;
use berth_job::queue::Queue;
use berth_job::record::{Job, StepId};
use berth_job::show::arguments::{Line, NONE, Row, Takes};
use berth_job::show::choice::{self, Name, States};
use berth_job::show::sacct::{self, Style};
use berth_job::show::{View, facts, json};
use berth_job::time::{self, Clock};

use crate::{ExitCode, jobs};

#[rustfmt::skip] // One row a line.
const OPTIONS: &[Row] = &[
    ('A', "accounts", Takes::Value), ('a', "allusers", Takes::Nothing), ('X', "allocations", Takes::Nothing),
    (NONE, "array", Takes::Nothing), ('b', "brief", Takes::Nothing), ('M', "clusters", Takes::Value),
    ('c', "completion", Takes::Nothing), (NONE, "delimiter", Takes::Value), ('D', "duplicates", Takes::Nothing),
    ('E', "endtime", Takes::Value), (NONE, "expand-patterns", Takes::Nothing), ('o', "format", Takes::Value),
    ('h', "help", Takes::Nothing), ('e', "helpformat", Takes::Nothing), ('j', "jobs", Takes::Value),
    (NONE, "json", Takes::Optional), ('L', "allclusters", Takes::Nothing), (NONE, "local", Takes::Nothing),
    ('l', "long", Takes::Nothing), (NONE, "name", Takes::Value), (NONE, "noconvert", Takes::Nothing),
    ('N', "nodelist", Takes::Value), ('n', "noheader", Takes::Nothing), ('p', "parsable", Takes::Nothing),
    ('P', "parsable2", Takes::Nothing), ('r', "partition", Takes::Value), ('q', "qos", Takes::Value),
    ('S', "starttime", Takes::Value), ('s', "state", Takes::Value), ('T', "truncate", Takes::Nothing),
    ('u', "user", Takes::Value), (NONE, "uid", Takes::Value), (NONE, "units", Takes::Value),
    (NONE, "usage", Takes::Nothing), ('v', "verbose", Takes::Nothing), ('V', "version", Takes::Nothing),
    ('W', "wckeys", Takes::Value), (NONE, "yaml", Takes::Optional),
];

const HELP: &str = "Usage: sacct [OPTIONS]
  -X, --allocations       jobs only, without steps
  -b, --brief             ids, states and exit codes
      --delimiter=TEXT    between the fields of -p and -P
  -E, --endtime=TIME      jobs that were there before this time
  -o, --format=FIELDS     what a line shows: NAME[%[-]WIDTH],...
  -e, --helpformat        the names of all fields
  -j, --jobs=IDS          these jobs or steps only
      --json              a JSON document
  -l, --long              many fields
      --name=NAMES        jobs of these names
  -n, --noheader          without the header
  -p, --parsable          fields end with |
  -P, --parsable2         fields have | between them
  -r, --partition=NAMES   jobs of these partitions
  -S, --starttime=TIME    jobs that were there after this time; without -j, -S and -s since midnight
  -s, --state=STATES      jobs in these states
  -u, --user=USERS        jobs of these users
  -V, --version           the version";

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    jobs::print_lines(("sacct", OPTIONS, HELP), arguments, lines)
}

fn lines(line: &Line) -> Result<Vec<String>, String> {
    if line.has("helpformat") {
        return Ok(sacct::field_names());
    }
    if !line.operands.is_empty() {
        let words: String = line.operands.iter().map(|word| format!("\nsacct: error:  {word}")).collect();
        return Err(format!("sacct: error: Unknown arguments:{words}"));
    }
    let names = names(line)?;
    let choice = Choice::of(line, &names)?;
    let format = match line.get("format") {
        Some(format) => format.to_owned(),
        None if line.has("brief") => sacct::BRIEF.to_owned(),
        None if line.has("long") => sacct::LONG.to_owned(),
        None => {
            std::env::var("SACCT_FORMAT").ok().filter(|f| !f.is_empty()).unwrap_or_else(|| sacct::DEFAULT.to_owned())
        }
    };
    let columns =
        sacct::columns(&format).map_err(|name| format!("sacct: error: Invalid field requested: \"{name}\""))?;
    let queue = Queue::open().map_err(|error| format!("sacct: error: {error}"))?;
    let mut view = View::all(&queue, Node::detect()).map_err(|error| format!("sacct: error: {error}"))?;
    view.keep(|job| choice.means(job, &names, line));
    let view = view.with_steps(&queue);
    if line.has("json") {
        let mut jobs: Vec<&Job> = view.jobs.iter().collect();
        jobs.sort_by_key(|job| facts::order(job));
        let jobs = jobs.into_iter().map(|job| json::accounted(job, &view)).collect();
        return Ok(vec![json::document("jobs", jobs, "sacct", &view)]);
    }
    let delimiter = line.get("delimiter").unwrap_or("|").to_owned();
    let style = match (line.has("parsable2"), line.has("parsable")) {
        (true, _) => Style::Delimited(delimiter, false),
        (_, true) => Style::Delimited(delimiter, true),
        _ => Style::Columns,
    };
    let mut lines = if line.has("noheader") { Vec::new() } else { sacct::header(&columns, &style) };
    lines.extend(sacct::lines(&columns, &style, line.has("allocations"), &view, |job, step| {
        is_asked(&names, job, step)
    }));
    Ok(lines)
}

/// Whether a line is asked for: where steps are named, these alone.
fn is_asked(names: &[Name], job: &Job, step: Option<StepId>) -> bool {
    names.is_empty() || names.iter().any(|name| name.means(job) && (name.step.is_none() || name.step == step))
}

fn names(line: &Line) -> Result<Vec<Name>, String> {
    let read = |word: &str| Name::parse(word).ok_or_else(|| format!("sacct: fatal: Bad job/step specified: {word}"));
    line.list("jobs").into_iter().map(read).collect()
}

/// Which jobs are meant, besides by name.
struct Choice {
    states: Option<States>,
    users: Option<Vec<u32>>,
    /// Those that were there between these times.
    from: u64,
    to: u64,
}

impl Choice {
    fn of(line: &Line, names: &[Name]) -> Result<Choice, String> {
        let states = match line.get("state") {
            None => None,
            Some(list) => Some(
                States::parse(list)
                    .map_err(|word| format!("sacct: fatal: unrecognized job state value '{}'", word.to_lowercase()))?,
            ),
        };
        let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user =
            |word: &str| choice::user(word, &known).ok_or_else(|| format!("sacct: fatal: Invalid user id: {word}"));
        let mut users = Vec::new();
        for option in ["user", "uid"] {
            users.extend(line.list(option).into_iter().map(user).collect::<Result<Vec<u32>, String>>()?);
        }
        let now = time::now();
        let read = |option: &str| match line.get(option) {
            None => Ok(None),
            Some(text) => {
                choice::past(text, now).map(Some).map_err(|at| format!("Invalid time specification (pos={at}): {text}"))
            }
        };
        // Without more, those of today; with jobs that are named, all.
        let midnight = time::at(Clock { hour: 0, minute: 0, second: 0, ..time::clock(now) });
        let from = match read("starttime")? {
            Some(from) => from,
            None if !names.is_empty() => 0,
            None => midnight,
        };
        let to = read("endtime")?.unwrap_or(u64::MAX);
        Ok(Choice { states, users: (!users.is_empty()).then_some(users), from, to })
    }

    fn means(&self, job: &Job, names: &[Name], line: &Line) -> bool {
        let among = |option: &str, value: &str| !line.has(option) || line.list(option).contains(&value);
        self.states.as_ref().is_none_or(|states| states.contain(job.state))
            && self.users.as_ref().is_none_or(|users| users.contains(&job.uid))
            && job.ended.unwrap_or(u64::MAX) >= self.from
            && job.submitted <= self.to
            && (names.is_empty() || names.iter().any(|name| name.means(job)))
            && among("name", &job.name)
            && among("partition", &job.partition)
            && among("accounts", job.account.as_deref().unwrap_or_default())
    }
}
