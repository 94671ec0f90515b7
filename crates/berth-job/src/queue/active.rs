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

    /// All jobs that wait or run, in the order in which they were submitted.
    pub fn active(&self) -> Result<Vec<Entry>> {
        let path = self.active_path();
        let bytes = read_file(&path)?.unwrap_or_default();
        bytes
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })
            })
            .collect()
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
