//! The queue: a user's jobs on this machine.
//!
//! ```text
//! $XDG_STATE_HOME/berth/queue/MACHINE/     0700; a home that several machines share has one for each
//!   lock          flock(2): held while a decision about the queue is made or written down
//!   next          the next job's number
//!   active        a line (JSON) for each job that waits or runs: all that decisions need ([`active`])
//!   keeper        flock(2): held by the keeper as long as it lives ([`crate::keeper`])
//!   jobs/ID/      a job
//!     job.json        its record
//!     step.N.json     its steps' records
//!     slurm_script    of batch jobs: as submitted
//!     environment     of batch jobs: NAME=VALUE, NUL-terminated
//!     started.R       the batch script's process, the R-th time that the job was started
//!     requests/       what scancel and scontrol ask of a running job
//! ```
//!
//! `active` is a summary: where it and the records say different things (a process was killed between two renames), the
//! record of a job that is over is right.

pub mod active;
pub mod decide;
pub mod schedule;

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::record::{Job, Step, StepId};

/// A user's jobs on this machine.
#[derive(Debug, Clone)]
pub struct Queue {
    root: PathBuf,
}

/// Held while a decision is made. The kernel opens it when its holder dies.
#[derive(Debug)]
pub struct Locked {
    _file: OwnedFd,
}

/// Largest record that is read, in bytes.
const MAX_RECORD: u64 = 64 << 20;

impl Queue {
    /// The user's queue, made where there is none. `BERTH_QUEUE` names another directory.
    pub fn open() -> Result<Queue> {
        let base = match std::env::var_os("BERTH_QUEUE").filter(|value| !value.is_empty()) {
            Some(base) => PathBuf::from(base),
            None => {
                let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
                variable("XDG_STATE_HOME")
                    .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
                    .ok_or(Error::NoPlace)?
                    .join("berth/queue")
            }
        };
        Queue::at(base.join(machine()))
    }

    /// The queue in this directory, made where there is none.
    pub fn at(root: PathBuf) -> Result<Queue> {
        match fs::symlink_metadata(&root) {
            Ok(metadata) => {
                let own = rustix::process::geteuid().as_raw();
                if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
                    return Err(Error::Unsafe(root));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_directory(&root.join("jobs"))?;
            }
            Err(error) => return Err(Error::io("look at", &root, error)),
        }
        Ok(Queue { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A job's directory.
    pub fn directory(&self, id: u32) -> PathBuf {
        self.root.join(format!("jobs/{id}"))
    }

    /// A job's record.
    ///
    /// # Errors
    /// [`Error::NoJob`], and for records that cannot be read.
    pub fn job(&self, id: u32) -> Result<Job> {
        read_record(&self.directory(id).join("job.json"))?.ok_or(Error::NoJob)
    }

    /// Numbers of all jobs that there are records of, ascending.
    pub fn ids(&self) -> Result<Vec<u32>> {
        let path = self.root.join("jobs");
        let entries = fs::read_dir(&path).map_err(|e| Error::io("read", &path, e))?;
        let mut ids: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// All jobs that there are records of, by their numbers. Of an array there is one record for all elements that wait,
    /// and one for each that has been started.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        // A record that is made or removed right now is not there.
        Ok(self.ids()?.into_iter().filter_map(|id| self.job(id).ok()).collect())
    }

    /// The steps of a job, in the order in which Slurm lists them: the batch script, then by number.
    pub fn steps(&self, job: u32) -> Result<Vec<Step>> {
        let path = self.directory(job);
        let mut steps = Vec::new();
        for entry in fs::read_dir(&path).map_err(|e| Error::io("read", &path, e))?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with("step.")
                && name.ends_with(".json")
                && let Ok(Some(step)) = read_record::<Step>(&entry.path())
            {
                steps.push(step);
            }
        }
        steps.sort_by_key(|step| step.id);
        Ok(steps)
    }

    /// Replaces a job's record.
    pub fn write_job(&self, job: &Job) -> Result<()> {
        write_record(&self.directory(job.id).join("job.json"), job)
    }

    /// Replaces a step's record.
    pub fn write_step(&self, step: &Step) -> Result<()> {
        write_record(&self.step_path(step.job, step.id), step)
    }

    /// A step's record.
    pub fn step(&self, job: u32, id: StepId) -> Result<Option<Step>> {
        read_record(&self.step_path(job, id))
    }

    fn step_path(&self, job: u32, id: StepId) -> PathBuf {
        self.directory(job).join(format!("step.{id}.json"))
    }

    /// Waits for the right to decide.
    pub fn lock(&self) -> Result<Locked> {
        lock_file(&self.root.join("lock"))
    }

    /// Takes a number for a new job, and makes its directory.
    pub fn new_id(&self, _lock: &Locked) -> Result<u32> {
        let path = self.root.join("next");
        let mut id = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(_) => 0,
        };
        if id == 0 {
            // There is none yet, or it is damaged: no number is given twice.
            id = self.ids()?.last().map_or(1, |last| last + 1);
        }
        loop {
            let mut builder = fs::DirBuilder::new();
            match builder.mode(0o700).create(self.directory(id)) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => id += 1,
                Err(error) => return Err(Error::io("make", self.directory(id), error)),
            }
        }
        write_file(&path, (id + 1).to_string().as_bytes())?;
        Ok(id)
    }
}

/// Takes a lock, and waits for it.
pub fn lock_file(path: &Path) -> Result<Locked> {
    let file = open_lock(path)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Locked { _file: file }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("lock", path, error)),
        }
    }
}

/// Takes a lock if nobody has it.
pub fn try_lock_file(path: &Path) -> Result<Option<OwnedFd>> {
    let file = open_lock(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(Error::io("lock", path, error)),
    }
}

fn open_lock(path: &Path) -> Result<OwnedFd> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map(OwnedFd::from).map_err(|e| Error::io("open", path, e))
}

/// Makes a directory, and what is missing above it, for the user only.
pub fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Error::io("make", path, e))
}

/// Replaces a file by rename.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    // Two that write one file at a time would write one temporary file, but for the process' number.
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}~", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(|e| Error::io("make", &temporary, e))?;
    let written = file.write_all(bytes).and_then(|()| replace(&temporary, path));
    written.map_err(|error| {
        // Nothing half-written is left behind.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path, error)
    })
}

/// Gives a file the place of another.
///
/// Where there is one, they change places first: ext4 writes a file that is renamed over another to the disk at once, and
/// the next one who replaces it waits for the disk. What a power failure may cost by this, [`Queue::active`] makes good.
fn replace(temporary: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => fs::remove_file(temporary),
        // There is none yet, or the file system cannot do it.
        Err(_) => fs::rename(temporary, path),
    }
}

fn write_record(path: &Path, record: &impl Serialize) -> Result<()> {
    let damaged = |e: serde_json::Error| Error::Damaged { path: path.to_owned(), reason: e.to_string() };
    write_file(path, &serde_json::to_vec(record).map_err(damaged)?)
}

fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    let damaged = |e: serde_json::Error| Error::Damaged { path: path.to_owned(), reason: e.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Reads a file of ours; nothing where there is none.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(Some(bytes))
}

/// What tells this machine from others that share a home: its id, or its name where it has none.
fn machine() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = id.trim();
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return id.to_owned();
    }
    rustix::system::uname().nodename().to_string_lossy().replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_once() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::at(dir.path().join("q")).unwrap();
        let lock = queue.lock().unwrap();
        assert_eq!((queue.new_id(&lock).unwrap(), queue.new_id(&lock).unwrap()), (1, 2));
        fs::write(queue.root().join("next"), "garbage").unwrap();
        assert_eq!(queue.new_id(&lock).unwrap(), 3);
        fs::write(queue.root().join("next"), "2").unwrap();
        assert_eq!(queue.new_id(&lock).unwrap(), 4);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("q");
        Queue::at(root.clone()).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(Queue::at(root), Err(Error::Unsafe(_))));
    }
}
