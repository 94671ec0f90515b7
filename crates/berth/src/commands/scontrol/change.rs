//! What `scontrol` changes: `hold`, `release`, `requeue` and `update`.

use berth_job::batch::keeper;
use berth_job::error::Error;
use berth_job::queue::Queue;
use berth_job::record::Job;
use berth_job::show::choice::Name;
use berth_job::{scancel, time};

use super::Answer;

/// Does the same to each of the jobs.
pub(super) fn each(keyword: &str, words: &[&str]) -> Answer {
    let queue = Queue::open().map_err(|error| format!("scontrol: error: {error}"))?;
    let mut wrong = Vec::new();
    for word in words.iter().flat_map(|word| word.split(',')) {
        let word = word.trim_start_matches("jobid=").trim_start_matches("JobId=");
        if let Err(error) = one(&queue, keyword, word) {
            wrong.push(told(keyword, word, &error));
        }
    }
    if wrong.is_empty() { Ok(Vec::new()) } else { Err(wrong.join("\n")) }
}

/// Slurm says twice what is wrong with `hold` and `release`, and once with the others.
fn told(keyword: &str, word: &str, error: &Error) -> String {
    match keyword {
        "hold" | "uhold" | "release" => format!("{error} for job {word}\nslurm_suspend error: {error}"),
        _ => format!("{error} for job {word}"),
    }
}

fn one(queue: &Queue, keyword: &str, word: &str) -> Result<(), Error> {
    let ids = meant(queue, word)?;
    for id in ids {
        match keyword {
            "hold" | "uhold" => scancel::hold(queue, id, true)?,
            "release" => scancel::hold(queue, id, false)?,
            "requeuehold" => {
                scancel::hold(queue, id, true)?;
                scancel::requeue(queue, id)?;
            }
            _ => scancel::requeue(queue, id)?,
        }
    }
    Ok(())
}

/// The numbers of the jobs that a word means: of an array, all that are not over.
fn meant(queue: &Queue, word: &str) -> Result<Vec<u32>, Error> {
    let name = Name::parse(word).filter(|name| name.step.is_none()).ok_or(Error::NoJob)?;
    let jobs = queue.jobs()?;
    let meant: Vec<&Job> = jobs.iter().filter(|job| name.means(job)).collect();
    if meant.is_empty() {
        return Err(Error::NoJob);
    }
    let over = Error::Refused("Job has already finished".to_owned());
    let ids: Vec<u32> = meant.iter().filter(|job| !job.state.is_over()).map(|job| job.id).collect();
    if ids.is_empty() { Err(over) } else { Ok(ids) }
}

/// `update JobId=ID KEY=VALUE...`, or `update job ID KEY=VALUE...`.
pub(super) fn update(words: &[&str]) -> Answer {
    let (id, changes) = match words {
        ["job" | "jobid" | "JobId", id, rest @ ..] => (*id, rest.to_vec()),
        _ => {
            let is_id = |word: &&str| word.to_lowercase().starts_with("jobid=");
            let Some(id) = words.iter().find(|word| is_id(word)) else {
                return Err("No valid entity in update command\nInput line must include \"NodeName\", \
                            \"PartitionName\", \"Reservation\", \"JobId\", or \"SlurmctldDebug\""
                    .to_owned());
            };
            let is_by = |word: &&str| word.contains("+=") || word.contains("-=");
            if words.iter().take_while(|word| !is_id(word)).any(is_by) {
                return Err("scontrol: error: JobId must precede TimeLimit increment or decrement".to_owned());
            }
            (&id["jobid=".len()..], words.iter().copied().filter(|word| !is_id(word)).collect())
        }
    };
    let changes = changes.into_iter().map(Change::parse).collect::<Result<Vec<Change>, String>>()?;
    let queue = Queue::open().map_err(|error| format!("scontrol: error: {error}"))?;
    change(&queue, id, &changes).map_err(|error| format!("{error} for job {id}"))?;
    Ok(Vec::new())
}

/// What is to be another.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Limit(Option<u32>),
    /// Minutes more, or fewer.
    LimitBy(i64),
    Name(String),
    Comment(String),
}

impl Change {
    fn parse(word: &str) -> Result<Change, String> {
        let unsupported = || format!("Update of this parameter is not supported: {word}\nRequest aborted");
        let (key, value) = word.split_once('=').ok_or_else(unsupported)?;
        let wrong = || "scontrol: error: Invalid TimeLimit value".to_owned();
        match key.to_lowercase().as_str() {
            "timelimit" => time::parse_limit(value).map(Change::Limit).ok_or_else(wrong),
            "timelimit+" | "timelimit-" => {
                let minutes = i64::from(time::parse_limit(value).flatten().ok_or_else(wrong)?);
                Ok(Change::LimitBy(if key.ends_with('-') { -minutes } else { minutes }))
            }
            "name" | "jobname" => Ok(Change::Name(value.to_owned())),
            "comment" => Ok(Change::Comment(value.to_owned())),
            _ => Err(unsupported()),
        }
    }

    fn apply(&self, job: &mut Job) {
        match self {
            Change::Limit(limit) => job.time_limit = *limit,
            Change::LimitBy(minutes) => {
                job.time_limit =
                    job.time_limit.map(|old| (i64::from(old) + minutes).clamp(1, i64::from(u32::MAX)) as u32);
            }
            Change::Name(name) => job.name.clone_from(name),
            Change::Comment(comment) => job.comment = Some(comment.clone()),
        }
    }
}

/// Changes jobs that wait. Who watches over a job that runs has read its record, and would not see it change.
fn change(queue: &Queue, word: &str, changes: &[Change]) -> Result<(), Error> {
    let ids = meant(queue, word)?;
    let lock = queue.lock()?;
    let mut entries = queue.active()?;
    for id in ids {
        let entry = entries.iter_mut().find(|entry| entry.id == id).ok_or(Error::NoJob)?;
        let is_of_limit = |change: &Change| matches!(change, Change::Limit(_) | Change::LimitBy(_));
        if entry.is_running() && changes.iter().any(is_of_limit) {
            return Err(Error::Refused("Job is already running: its time limit stays".to_owned()));
        }
        let mut job = queue.job(id)?;
        changes.iter().for_each(|change| change.apply(&mut job));
        entry.limit = job.time_limit;
        entry.name.clone_from(&job.name);
        queue.write_job(&job)?;
    }
    queue.write_active(&entries, &lock)?;
    drop(lock);
    keeper::ensure(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_scontrol_reads_them() {
        for (word, expected) in [
            ("TimeLimit=1:00:00", Ok(Change::Limit(Some(60)))),
            ("timelimit=UNLIMITED", Ok(Change::Limit(None))),
            ("TimeLimit+=5", Ok(Change::LimitBy(5))),
            ("TimeLimit-=5", Ok(Change::LimitBy(-5))),
            ("JobName=x", Ok(Change::Name("x".into()))),
            ("comment=a b", Ok(Change::Comment("a b".into()))),
            ("TimeLimit=abc", Err("scontrol: error: Invalid TimeLimit value".to_owned())),
            ("nosuch=1", Err("Update of this parameter is not supported: nosuch=1\nRequest aborted".to_owned())),
        ] {
            assert_eq!(Change::parse(word), expected, "{word}");
        }
    }

    #[test]
    fn an_update_without_a_job_is_refused() {
        let wrong = update(&["nosuch=1"]).unwrap_err();
        assert!(wrong.starts_with("No valid entity in update command\n"), "{wrong}");
    }
}
