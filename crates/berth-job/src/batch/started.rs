//! That a batch script was started, and how it ended: two files in its job's directory for each time that the job is
//! started.
//!
//! `started.R` is made by the process that becomes the script, by a link that can be made once only, right before it does.
//! So a script is never started twice, whoever was killed meanwhile. `exit.R` is written by a keeper that has inherited
//! the script from a killed supervisor.

use std::fs;
use std::path::{Path, PathBuf};

use super::wait::peek_status;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::queue::{Queue, read_file, write_file};
use crate::record::Kind;

/// Claims the right to become the script: this process' own. False where another has it.
pub fn claim(directory: &Path, restarts: u32) -> Result<bool> {
    let path = started_path(directory, restarts);
    let own = directory.join(format!("started.{restarts}.{}", std::process::id()));
    let text = serde_json::to_vec(&Process::this())
        .map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })?;
    write_file(&own, &text)?;
    let linked = fs::hard_link(&own, &path);
    let _ = fs::remove_file(&own);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::io("make", &path, error)),
    }
}

/// The process that became the script.
pub fn process(directory: &Path, restarts: u32) -> Option<Process> {
    serde_json::from_slice(&read_file(&started_path(directory, restarts)).ok()??).ok()
}

/// Writes down how it ended: wait(2)'s status.
pub fn write_exit(directory: &Path, restarts: u32, status: i32) -> Result<()> {
    write_file(&exit_path(directory, restarts), status.to_string().as_bytes())
}

/// How it ended, if somebody wrote it down.
pub fn exit(directory: &Path, restarts: u32) -> Option<i32> {
    String::from_utf8(read_file(&exit_path(directory, restarts)).ok()??).ok()?.parse().ok()
}

/// Writes down how a child ended that is no child by birth, if it was a job's script. It is not waited for yet.
pub fn note_exit(queue: &Queue, pid: u32) -> Result<()> {
    for entry in queue.active()?.iter().filter(|entry| entry.kind == Kind::Batch && entry.is_running()) {
        let Ok(job) = queue.job(entry.id) else { continue };
        let directory = queue.directory(entry.id);
        if process(&directory, job.restarts).is_some_and(|process| process.pid == pid)
            && let Some(status) = peek_status(pid)
        {
            return write_exit(&directory, job.restarts, status);
        }
    }
    Ok(())
}

/// What is left when the job is over.
pub fn remove(directory: &Path, restarts: u32) {
    let _ = fs::remove_file(started_path(directory, restarts));
    let _ = fs::remove_file(exit_path(directory, restarts));
}

fn started_path(directory: &Path, restarts: u32) -> PathBuf {
    directory.join(format!("started.{restarts}"))
}

fn exit_path(directory: &Path, restarts: u32) -> PathBuf {
    directory.join(format!("exit.{restarts}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_becomes_the_script() {
        let dir = tempfile::tempdir().unwrap();
        assert!(claim(dir.path(), 0).unwrap());
        assert!(!claim(dir.path(), 0).unwrap());
        assert!(claim(dir.path(), 1).unwrap());
        assert_eq!(process(dir.path(), 0), Some(Process::this()));
        assert_eq!(exit(dir.path(), 0), None);
        write_exit(dir.path(), 0, 256).unwrap();
        assert_eq!(exit(dir.path(), 0), Some(256));
    }
}
