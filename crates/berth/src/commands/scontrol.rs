//! `berth scontrol`: shows and changes jobs, as Slurm's `scontrol` does.

use std::ffi::OsString;

use berth_job::error::Error;
use berth_job::node::Node;
use berth_job::queue::Queue;
use berth_job::show::arguments::{Line, NONE, Row, Takes};
use berth_job::show::choice::Name;
use berth_job::show::{View, facts, hostlist, json, json_node, scontrol, steps};

use crate::{ExitCode, jobs, output};

mod change;

#[rustfmt::skip] // One row a line.
const OPTIONS: &[Row] = &[
    ('a', "all", Takes::Nothing), ('M', "clusters", Takes::Value), ('d', "details", Takes::Nothing),
    (NONE, "federation", Takes::Nothing), ('F', "future", Takes::Nothing), ('h', "help", Takes::Nothing),
    (NONE, "hide", Takes::Nothing), (NONE, "json", Takes::Optional), (NONE, "local", Takes::Nothing),
    ('o', "oneliner", Takes::Nothing), ('Q', "quiet", Takes::Nothing), (NONE, "sibling", Takes::Nothing),
    ('u', "uid", Takes::Value), ('v', "verbose", Takes::Nothing), ('V', "version", Takes::Nothing),
    (NONE, "yaml", Takes::Optional),
];

const HELP: &str = "Usage: scontrol [OPTIONS] COMMAND
  -d, --details           more of a job
      --json              a JSON document, with show
  -o, --oneliner          one line for each thing
  -Q, --quiet             no errors
  -V, --version           the version
Commands:
  show job|jobs [ID]      jobs
  show step|steps [ID]    steps that run
  show node [NAME]        this machine
  show partition          the one partition
  show config             what is configured
  show hostnames LIST     the names of a list of hosts, a line each
  show hostlist NAMES     a list of hosts, as short as can be
  hold ID...              let jobs wait
  release ID...           let them run
  requeue ID...           put batch jobs back into the queue
  update JobId=ID KEY=VALUE...    change TimeLimit, Name or Comment
  write batch_script ID [FILE]    a job's script; - is standard output
  ping                    whether somebody answers: always";

/// How it went: what is printed, or what is wrong.
type Answer = Result<Vec<String>, String>;

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let line = match Line::parse("scontrol", OPTIONS, arguments) {
        Ok(line) => line,
        Err(text) => return told(&text, false),
    };
    if line.has("help") {
        return printed(vec![HELP.to_owned()]);
    }
    if line.has("version") {
        return printed(vec![concat!("berth ", env!("CARGO_PKG_VERSION")).to_owned()]);
    }
    match answer(&line) {
        Ok(lines) => printed(lines),
        Err(text) => told(&text, line.has("quiet")),
    }
}

fn told(text: &str, quiet: bool) -> ExitCode {
    if !quiet && !text.is_empty() {
        eprintln!("{text}");
    }
    ExitCode::from(1)
}

/// A reader that went away is no reason to complain.
fn printed(lines: Vec<String>) -> ExitCode {
    if output::lines(lines).is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn answer(line: &Line) -> Answer {
    let words: Vec<&str> = line.operands.iter().map(String::as_str).collect();
    let [keyword, rest @ ..] = &words[..] else { return Ok(vec![HELP.to_owned()]) };
    let few = || Err(format!("too few arguments for keyword:{keyword}"));
    // As in Slurm, a keyword may be shortened as long as it is not another's.
    let keyword_is = |name: &str, least: usize| keyword.len() >= least && name.starts_with(&keyword.to_lowercase());
    if keyword_is("show", 2) {
        return if rest.is_empty() { Err("too few arguments for keyword:show".to_owned()) } else { show(line, rest) };
    }
    if ["hold", "uhold", "release", "requeue", "requeuehold"].contains(keyword) {
        return if rest.is_empty() { few() } else { change::each(keyword, rest) };
    }
    if keyword_is("update", 3) {
        return if rest.is_empty() { few() } else { change::update(rest) };
    }
    if keyword_is("ping", 2) {
        return Ok(vec!["There is no controller: this machine's jobs are its own".to_owned()]);
    }
    if keyword_is("version", 4) {
        return Ok(vec![concat!("berth ", env!("CARGO_PKG_VERSION")).to_owned()]);
    }
    if keyword_is("help", 3) {
        return Ok(vec![HELP.to_owned()]);
    }
    if keyword_is("write", 2) {
        return match rest {
            ["batch_script", id, file @ ..] => write_script(id, file.first().copied()),
            _ => few(),
        };
    }
    Err(format!("invalid keyword: {keyword}"))
}

fn show(line: &Line, words: &[&str]) -> Answer {
    let one_line = line.has("oneliner");
    let (what, name) = (words[0].to_lowercase(), words.get(1).copied());
    // `show job=12` is `show job 12`.
    let (what, name) = match what.split_once('=') {
        Some((what, _)) => (what.to_owned(), words[0].split_once('=').map(|(_, name)| name)),
        None => (what, name),
    };
    let view = || {
        let queue = Queue::open().map_err(|error| format!("scontrol: error: {error}"))?;
        let node = Node { gpus: jobs::gpus(), ..Node::detect() };
        let view = View::all(&queue, node).map_err(|error| format!("scontrol: error: {error}"))?;
        Ok::<_, String>((queue, view))
    };
    match what.as_str() {
        "job" | "jobs" | "jobid" => show_jobs(line, name, view()?.1),
        "step" | "steps" | "stepid" => {
            let (queue, view) = view()?;
            show_steps(line, name, view.with_steps(&queue))
        }
        "node" | "nodes" | "nodename" => {
            let (_, view) = view()?;
            let wanted = name.map_or_else(|| Some(vec![view.node.name.clone()]), hostlist::expand).unwrap_or_default();
            let mut lines = Vec::new();
            for name in wanted {
                match name == view.node.name {
                    true if line.has("json") => {
                        return Ok(vec![json::document("nodes", vec![json_node::node(&view)], "show", &view)]);
                    }
                    true => lines.push(trimmed(scontrol::node(&view, one_line))),
                    false => {
                        output::lines([format!("Node {name} not found")]).map_err(|_| String::new())?;
                        return Err(String::new());
                    }
                }
            }
            Ok(lines)
        }
        "partition" | "partitions" | "partitionname" => {
            let (_, view) = view()?;
            if name.is_some_and(|name| name != berth_job::record::PARTITION) {
                output::lines([format!("Partition {} not found", name.unwrap_or_default())])
                    .map_err(|_| String::new())?;
                return Err(String::new());
            }
            Ok(vec![trimmed(scontrol::partition(&view, one_line))])
        }
        "config" => {
            let (queue, view) = view()?;
            Ok(vec![trimmed(scontrol::config(&view, &queue.root().to_string_lossy()))])
        }
        "hostname" | "hostnames" => {
            let of_job = std::env::var("SLURM_JOB_NODELIST").ok();
            match name.map(str::to_owned).or(of_job) {
                None => told_only("scontrol: error: host list is empty"),
                Some(list) => {
                    hostlist::expand(&list).ok_or_else(|| format!("scontrol: error: Invalid hostlist: {list}"))
                }
            }
        }
        "hostlist" | "hostlistsorted" => {
            let list = name.unwrap_or_default();
            let mut names =
                hostlist::expand(list).ok_or_else(|| format!("scontrol: error: Invalid hostlist: {list}"))?;
            if what == "hostlistsorted" {
                names.sort_by_key(|name| (name.len(), name.clone()));
                names.dedup();
            }
            Ok(vec![hostlist::compress(&names)])
        }
        other => Err(format!("invalid entity:{other} for keyword:show ")),
    }
}

/// Complains, and is content.
fn told_only(text: &str) -> Answer {
    eprintln!("{text}");
    Ok(Vec::new())
}

/// Without the last line's end, which is printed for it.
fn trimmed(mut text: String) -> String {
    text.pop();
    text
}

fn show_jobs(line: &Line, name: Option<&str>, mut view: View) -> Answer {
    let unknown = || Err("slurm_load_jobs error: Invalid job id specified".to_owned());
    if let Some(name) = name {
        let Some(wanted) = Name::parse(name) else {
            return Err("scontrol_print_job error: Invalid job id specified".to_owned());
        };
        view.keep(|job| wanted.means(job));
        if view.jobs.is_empty() {
            return unknown();
        }
    }
    if line.has("json") {
        let jobs = view.jobs.iter().map(json::job).collect();
        return Ok(vec![json::document("jobs", jobs, "show", &view)]);
    }
    if view.jobs.is_empty() {
        return Ok(vec!["No jobs in the system".to_owned()]);
    }
    let (one_line, detail) = (line.has("oneliner"), line.has("details"));
    view.jobs.sort_by_key(facts::order);
    Ok(view.jobs.iter().map(|job| trimmed(scontrol::job(job, &view, one_line, detail))).collect())
}

fn show_steps(line: &Line, name: Option<&str>, view: View) -> Answer {
    let wanted = name.and_then(Name::parse);
    let mut shown = steps::running(&view);
    shown.retain(|(job, step)| wanted.is_none_or(|name| name.means(job) && name.step.is_none_or(|id| id == step.id)));
    if line.has("json") {
        let steps = shown.into_iter().map(|(job, step)| json::running_step(job, step)).collect();
        return Ok(vec![json::document("steps", steps, "show", &view)]);
    }
    let is_job = |name: &Name| view.jobs.iter().any(|job| name.means(job));
    match (name, wanted) {
        (Some(text), wanted) if shown.is_empty() && !wanted.as_ref().is_some_and(is_job) => Err(format!(
            "scontrol: error: scontrol_print_step: slurm_get_job_steps({text}) failed: Invalid job id specified"
        )),
        (Some(text), _) if shown.is_empty() => Ok(vec![format!("Job step {text} not found")]),
        (None, _) if shown.is_empty() => Ok(vec!["No job steps in the system".to_owned()]),
        _ => {
            let one_line = line.has("oneliner");
            Ok(shown.into_iter().map(|(job, step)| trimmed(steps::paragraph(job, step, one_line))).collect())
        }
    }
}

/// A job's script, into a file, or to standard output.
fn write_script(id: &str, file: Option<&str>) -> Answer {
    let wanted = Name::parse(id).ok_or_else(|| "job script retrieval failed: Invalid job id specified".to_owned())?;
    let queue = Queue::open().map_err(|error| format!("scontrol: error: {error}"))?;
    let failed = |error: String| format!("job script retrieval failed: {error}");
    let job = queue.job(wanted.job).map_err(|error| failed(error.to_string()))?;
    let path = queue.directory(facts::array_job(&job)).join("slurm_script");
    let script = std::fs::read(&path).map_err(|_| failed(Error::NoJob.to_string()))?;
    let name = file.map_or_else(|| format!("slurm-{}.sh", wanted.job), str::to_owned);
    if name == "-" {
        return Ok(vec![trimmed(String::from_utf8_lossy(&script).into_owned())]);
    }
    std::fs::write(&name, script).map_err(|error| failed(format!("{name}: {error}")))?;
    Ok(vec![format!("batch script for job {} written to {name}", wanted.job)])
}
