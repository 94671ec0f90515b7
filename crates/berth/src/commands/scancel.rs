//! `berth scancel`.

use std::ffi::OsString;

use berth_job::control::Request;
use berth_job::options::line::nearest;
use berth_job::queue::Queue;
use berth_job::record::{Job, State};
use berth_job::scancel::{self, Target};
use berth_job::{signal, user};

use crate::ExitCode;

/// What is asked.
#[derive(Default)]
struct Asked {
    targets: Vec<Target>,
    signal: Option<i32>,
    batch: bool,
    full: bool,
    verbose: bool,
    quiet: bool,
    user: Option<String>,
    name: Option<String>,
    state: Option<String>,
    partition: Option<String>,
}

const OPTIONS: &[(&str, char, bool)] = &[
    ("account", 'A', true),
    ("batch", 'b', false),
    ("ctld", 'c', false),
    ("full", 'f', false),
    ("help", 'h', false),
    ("hurry", 'H', false),
    ("interactive", 'i', false),
    ("jobname", 'n', true),
    ("me", '\0', false),
    ("name", '\0', true),
    ("nodelist", 'w', true),
    ("partition", 'p', true),
    ("qos", 'q', true),
    ("quiet", 'Q', false),
    ("reservation", 'R', true),
    ("signal", 's', true),
    ("state", 't', true),
    ("user", 'u', true),
    ("verbose", 'v', false),
    ("version", 'V', false),
    ("wckey", '\0', true),
];

const HELP: &str = "Usage: scancel [OPTIONS] [job_id[_array_id][.step_id]]...
  -b, --batch             signal the batch script only
  -f, --full              signal the batch script and the steps
  -n, --name=NAME         jobs of this name
  -p, --partition=NAME    jobs of this partition
  -Q, --quiet             say nothing
  -s, --signal=SIGNAL     send this signal instead of ending the job
  -t, --state=STATE       jobs in this state: PENDING, RUNNING
  -u, --user=USER         jobs of this user
      --me                one's own jobs
  -v, --verbose           say what is done";

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    match parse(arguments) {
        Ok(Some(asked)) => ExitCode::from(run(&asked)),
        Ok(None) => ExitCode::SUCCESS,
        Err(lines) => {
            lines.iter().for_each(|line| eprintln!("{line}"));
            ExitCode::from(1)
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Option<Asked>, Vec<String>> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter().map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = rest.next() {
        if !word.starts_with('-') {
            for part in word.split(',') {
                let target = Target::parse(part);
                asked.targets.push(target.ok_or_else(|| vec![format!("scancel: error: Invalid job id {part}")])?);
            }
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        let option = match name.strip_prefix("--") {
            Some(long) => OPTIONS.iter().find(|(known, ..)| *known == long),
            None => OPTIONS.iter().find(|(_, letter, _)| name.chars().nth(1) == Some(*letter)),
        };
        let Some((option, _, takes)) = option else {
            let near = nearest(name.trim_start_matches('-'), OPTIONS.iter().map(|(known, ..)| *known));
            let mut lines = vec![format!("scancel: unrecognized option '{word}'")];
            lines.extend(near.map(|near| format!("scancel: did you mean '--{near}'?")));
            lines.push("Try \"scancel --help\" for more information".to_owned());
            return Err(lines);
        };
        let joined = || (!name.starts_with("--") && name.len() > 2).then(|| name[2..].to_owned());
        let value = if *takes { value.or_else(joined).or_else(|| rest.next()) } else { None };
        let needed = || value.clone().ok_or_else(|| vec![format!("scancel: option '--{option}' requires an argument")]);
        match *option {
            "batch" => asked.batch = true,
            "full" => asked.full = true,
            "help" => {
                println!("{HELP}");
                return Ok(None);
            }
            "version" => {
                println!("berth {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            "me" => asked.user = Some(own_name()),
            "user" => asked.user = Some(needed()?),
            "name" | "jobname" => asked.name = Some(needed()?),
            "state" => asked.state = Some(needed()?.to_ascii_uppercase()),
            "partition" => asked.partition = Some(needed()?),
            "quiet" => asked.quiet = true,
            "verbose" => asked.verbose = true,
            "signal" => {
                let text = needed()?;
                let number = signal::parse(&text);
                asked.signal = Some(number.ok_or_else(|| vec![format!("scancel: error: Unknown job signal: {text}")])?);
            }
            _ => {}
        }
    }
    let filtered = asked.user.is_some() || asked.name.is_some() || asked.state.is_some() || asked.partition.is_some();
    if asked.targets.is_empty() && !filtered {
        return Err(vec!["scancel: error: No job identification provided".to_owned()]);
    }
    Ok(Some(asked))
}

fn own_name() -> String {
    user::name(rustix::process::getuid().as_raw())
}

fn run(asked: &Asked) -> u8 {
    let queue = match Queue::open() {
        Ok(queue) => queue,
        Err(error) => {
            eprintln!("scancel: error: {error}");
            return 1;
        }
    };
    let request = Request {
        signal: asked.signal,
        batch: asked.batch,
        full: asked.full,
        ..Request::end(rustix::process::getuid().as_raw())
    };
    let mut targets = asked.targets.clone();
    if targets.is_empty() {
        let active = queue.active().unwrap_or_default();
        let jobs = active.iter().filter_map(|entry| queue.job(entry.id).ok());
        targets = jobs
            .filter(|job| is_meant(asked, job))
            .map(|job| Target { job: job.id, element: None, step: None })
            .collect();
    } else {
        targets.retain(|target| queue.job(target.job).map_or(true, |job| is_meant(asked, &job)));
    }
    for target in &targets {
        if asked.verbose {
            eprintln!("scancel: Terminating job {}", target.job);
        }
        if let Err(error) = scancel::cancel(&queue, target, &request)
            && asked.verbose
        {
            eprintln!("scancel: error: Kill job error on job id {}: {error}", target.job);
        }
    }
    0
}

fn is_meant(asked: &Asked, job: &Job) -> bool {
    let state = match job.state {
        State::Pending => ["PENDING", "PD"],
        _ => ["RUNNING", "R"],
    };
    asked.user.as_ref().is_none_or(|user| *user == job.user || *user == job.uid.to_string())
        && asked.name.as_ref().is_none_or(|name| *name == job.name)
        && asked.partition.as_ref().is_none_or(|partition| *partition == job.partition)
        && asked.state.as_ref().is_none_or(|wanted| state.contains(&wanted.as_str()))
}
