//! The jobs that wait or run, and all that decisions about them need: one line each in the file `active`.
//!
//! The file is replaced whole, under the lock. Whoever waits for a change of the queue watches its directory for that
//! rename.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Locked, Queue, read_file, write_file};
use crate::error::{Error, Result};
use crate::process::Process;
use crate::record::{Allocation, Kind, Reason};

/// A job that waits or runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its number.
    pub id: u32,
    /// By which command it came to be.
    pub kind: Kind,
    /// CPUs that it needs.
    pub cpus: u32,
    /// Memory that it needs, in bytes.
    pub memory: Option<u64>,
    /// GPUs that it needs.
    pub gpus: u32,
    /// The CPU on which its command is waited for: it is awake.
    #[serde(skip)]
    pub near: Option<u32>,
    /// Whether it shares the machine with nobody.
    pub exclusive: bool,
    /// Its time limit, in minutes.
    pub limit: Option<u32>,
    /// Not before this time.
    pub begin: Option<u64>,
    /// Its dependencies, as in the record; empty for none.
    pub dependency: String,
    /// Whether it is cancelled when its dependencies can never be satisfied.
    pub kill_on_invalid: bool,
    /// Whether it is held.
    pub held: bool,
    /// Of an array with elements that wait: those elements.
    pub waiting: Option<String>,
    /// How many elements may run at once; 0 for no limit.
    pub array_limit: u32,
    /// The array that it is an element of.
    pub array: Option<u32>,
    /// Its name and dependency kind `singleton` need each other.
    pub name: String,
    /// What it holds; `None` while it waits.
    pub allocation: Option<Allocation>,
    /// When it was started.
    pub started: Option<u64>,
    /// Why it waits.
    pub reason: Reason,
    /// The process that watches over it, or that waits for it to run.
    pub owner: Option<Process>,
}

impl Entry {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.allocation.is_some()
    }
}

impl Queue {
    fn active_path(&self) -> PathBuf {
        self.root().join("active")
    }

    /// All jobs that wait or run, in the order in which they were submitted. Where the list is damaged (the power failed),
    /// it is made of the jobs' records.
    pub fn active(&self) -> Result<Vec<Entry>> {
        let bytes = read_file(&self.active_path())?;
        let lines = bytes.iter().flat_map(|bytes| bytes.split(|&byte| byte == b'\n'));
        let entries: std::result::Result<Vec<Entry>, _> =
            lines.filter(|line| !line.is_empty()).map(serde_json::from_slice).collect();
        match entries {
            Ok(entries) => Ok(entries),
            Err(_) => self.rebuild(),
        }
    }

    fn rebuild(&self) -> Result<Vec<Entry>> {
        let jobs = self.jobs()?.into_iter().filter(|job| !job.state.is_over());
        Ok(jobs
            .map(|job| Entry {
                allocation: job.allocation.clone(),
                started: job.started,
                owner: job.supervisor.clone(),
                ..Entry::of(&job)
            })
            .collect())
    }

    /// Replaces the list.
    pub fn write_active(&self, entries: &[Entry], _lock: &Locked) -> Result<()> {
        let mut bytes = Vec::with_capacity(entries.len() * 256);
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry)
                .map_err(|e| Error::Damaged { path: self.active_path(), reason: e.to_string() })?;
            bytes.push(b'\n');
        }
        write_file(&self.active_path(), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_list_is_made_of_the_records() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::at(dir.path().join("q")).unwrap();
        let lock = queue.lock().unwrap();
        let mut job = crate::submit::job(&Default::default(), crate::options::Verb::Sbatch, &["x".into()]);
        for (id, state) in [(1, crate::record::State::Completed), (2, crate::record::State::Pending)] {
            job.id = queue.new_id(&lock).unwrap();
            job.state = state;
            assert_eq!(job.id, id);
            queue.write_job(&job).unwrap();
        }
        std::fs::write(queue.root().join("active"), b"\0\0\0").unwrap();
        let entries = queue.active().unwrap();
        assert_eq!(entries, [Entry::of(&job)]);
        queue.write_active(&entries, &lock).unwrap();
        assert_eq!(queue.active().unwrap(), entries);
    }
}
