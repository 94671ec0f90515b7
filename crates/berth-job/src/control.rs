//! What other commands ask of a job or step that runs: a file in the job's directory, for the process that watches over it.
//!
//! A file is there whole, by rename; it waits where that process is being replaced, and it is taken away before it is
//! acted on. A signal wakes that process ([`WAKE`]; it means nothing to who does not expect it): to watch for files would
//! cost every `srun` ten milliseconds at its end, which the kernel takes to forget a watch.

use std::cell::Cell;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::inotify;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::queue::{Queue, read_file, write_file};
use crate::record::StepId;

/// The signal that tells of a request.
pub const WAKE: i32 = libc::SIGURG;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub uid: u32,
    /// A signal to send; to end it where there is none.
    pub signal: Option<i32>,
    /// Only the batch script is meant.
    #[serde(default)]
    pub batch: bool,
    /// The batch script and all of its children are meant, not only the steps.
    #[serde(default)]
    pub full: bool,
    /// It is put back into the queue instead of ended.
    #[serde(default)]
    pub requeue: bool,
    /// Output is written into the pipes `attach.N.out` and `attach.N.err`, too, where this is N; nothing else is asked then.
    #[serde(default)]
    pub attach: Option<u32>,
}

impl Request {
    /// To end it.
    pub fn end(uid: u32) -> Request {
        Request { uid, signal: None, batch: false, full: false, requeue: false, attach: None }
    }

    /// To send it a signal.
    pub fn signal(uid: u32, number: i32) -> Request {
        Request { signal: Some(number), ..Request::end(uid) }
    }
}

/// Whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Who watches over the job.
    Job,
    /// Who watches over a step.
    Step(StepId),
}

impl To {
    fn prefix(self) -> String {
        match self {
            To::Job => "request.job.".to_owned(),
            To::Step(step) => format!("request.{step}."),
        }
    }
}

/// Asks.
pub fn ask(queue: &Queue, job: u32, to: To, request: &Request) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}{}.{count}", to.prefix(), std::process::id());
    let path = queue.directory(job).join(name);
    let text = serde_json::to_vec(request).map_err(|e| Error::Damaged { path: path.clone(), reason: e.to_string() })?;
    write_file(&path, &text)?;
    // Asked for only now: whoever takes that process' place after this finds the file.
    let watching = match to {
        To::Step(id @ StepId::Number(_)) => queue.step(job, id)?.and_then(|step| step.supervisor),
        _ => queue.active()?.into_iter().find(|entry| entry.id == job).and_then(|entry| entry.owner),
    };
    if let Some(process) = watching {
        // One that has just died is being replaced.
        let _ = process.signal(WAKE);
    }
    Ok(())
}

/// Where requests arrive.
#[derive(Debug)]
pub struct Inbox {
    directory: PathBuf,
    prefixes: Vec<String>,
    /// Whether it was looked at: what was there before there was anybody to be woken.
    looked: Cell<bool>,
}

impl Inbox {
    /// Of those that are for one of `to`. To be opened when [`WAKE`] is waited for already.
    pub fn open(directory: &Path, to: &[To]) -> Inbox {
        let prefixes = to.iter().map(|to| to.prefix()).collect();
        Inbox { directory: directory.to_owned(), prefixes, looked: Cell::new(false) }
    }

    /// Takes what is there, oldest first as far as names tell: at the first time, and when one of these signals tells of
    /// something.
    pub fn take(&self, signals: &[i32]) -> Vec<Request> {
        if self.looked.replace(true) && !signals.contains(&WAKE) {
            return Vec::new();
        }
        let names = fs::read_dir(&self.directory).into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_ours = self.prefixes.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with('~');
            is_ours.then_some(name)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        let mut requests = Vec::new();
        for name in names {
            let path = self.directory.join(name);
            let bytes = read_file(&path).ok().flatten().unwrap_or_default();
            if fs::remove_file(&path).is_ok() {
                requests.extend(serde_json::from_slice::<Request>(&bytes).ok());
            }
        }
        requests
    }
}

/// Watches a directory for files that are moved into it.
pub fn watch(directory: &Path) -> Result<OwnedFd> {
    let failed = |e: rustix::io::Errno| Error::io("watch", directory, e);
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MOVED_TO).map_err(failed)?;
    Ok(watch)
}

/// Forgets what has happened; tells whether something had.
pub fn clear(watch: &OwnedFd) -> bool {
    let mut buffer = [0; 4096];
    let mut any = false;
    while rustix::io::read(watch, &mut buffer).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_once_and_where_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::at(dir.path().join("q")).unwrap();
        let id = queue.new_id(&queue.lock().unwrap()).unwrap();
        let job = Inbox::open(&queue.directory(id), &[To::Job]);
        let step = Inbox::open(&queue.directory(id), &[To::Step(StepId::Number(1))]);
        let request = Request::signal(1, 10);
        ask(&queue, id, To::Job, &request).unwrap();
        assert_eq!(step.take(&[]), []);
        assert_eq!(job.take(&[]), [request]);
        assert_eq!(job.take(&[WAKE]), []);
        ask(&queue, id, To::Job, &request).unwrap();
        assert_eq!((job.take(&[libc::SIGCHLD]), job.take(&[WAKE])), (vec![], vec![request]));
    }
}
