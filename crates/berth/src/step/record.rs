//! What a job's steps ran in, so that a run can be repeated: one line of JSON a step, in
//! `$XDG_STATE_HOME/berth/jobs/JOB.jsonl`, and with the site's wish the job's comment.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use super::arguments::Arguments;
use super::container::Prepared;
use crate::config::xdg_directory;

/// Writes it down. A step runs whether this can be done or not. Gives what tells the controller of it, to be waited for before
/// the first command runs: with the end of a short step it would be killed.
pub fn write(arguments: &Arguments, prepared: &Prepared) -> Option<Child> {
    // Once a step, not once a node.
    if std::env::var("SLURM_NODEID").is_ok_and(|node| node != "0") {
        return None;
    }
    let request = &arguments.request;
    let line = serde_json::json!({
        "cluster": std::env::var("SLURM_CLUSTER_NAME").ok(),
        "job": arguments.job,
        "step": arguments.step_name(),
        "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        "image": prepared.image,
        "digest": prepared.digest,
        "options": request.to_arguments(),
    });
    let directory = xdg_directory("XDG_STATE_HOME", ".local/state").map(|base| base.join("berth/jobs"))?;
    // One write, so that lines of steps that start together do not mix.
    let text = format!("{line}\n");
    let path = directory.join(format!("{}.jsonl", arguments.job));
    let append = || OpenOptions::new().append(true).create(true).open(&path);
    let file = append().or_else(|_| std::fs::create_dir_all(&directory).and_then(|()| append()));
    if let Ok(mut file) = file {
        let _ = file.write_all(text.as_bytes());
    }
    if arguments.comment
        && let Some(digest) = &prepared.digest
    {
        let comment = format!("Comment={}@{digest}", prepared.image);
        let mut command = Command::new("scontrol");
        command.args(["update", &format!("JobId={}", arguments.job), &comment]);
        return command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
    }
    None
}
