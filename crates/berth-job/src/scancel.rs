//! `scancel`, and what `scontrol` changes: on jobs that wait, in the queue; on jobs that run, by asking who watches over
//! them.

use crate::batch::keeper;
use crate::control::{self, Request, To};
use crate::error::{Error, Result};
use crate::options::array;
use crate::process::Process;
use crate::queue::active::Entry;
use crate::queue::{Locked, Queue};
use crate::record::{Job, Reason, State, StepId};
use crate::time;

/// What is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// A job, or an array.
    pub job: u32,
    /// An element of it.
    pub element: Option<u32>,
    /// A step.
    pub step: Option<StepId>,
}

impl Target {
    /// Reads `JOB`, `JOB_ELEMENT`, `JOB.STEP`.
    pub fn parse(text: &str) -> Option<Target> {
        let (job, step) = match text.split_once('.') {
            Some((job, "batch")) => (job, Some(StepId::Batch)),
            Some((job, step)) => (job, Some(StepId::Number(step.parse().ok()?))),
            None => (text, None),
        };
        let (job, element) = match job.split_once('_') {
            Some((job, element)) => (job, Some(element.parse().ok()?)),
            None => (job, None),
        };
        Some(Target { job: job.parse().ok().filter(|&job| job > 0)?, element, step })
    }
}

/// Ends, or sends a signal to, what is meant. An array's number means all its elements.
///
/// # Errors
/// [`Error::NoJob`] where there is none, or it is over.
pub fn cancel(queue: &Queue, target: &Target, request: &Request) -> Result<()> {
    if let Some(element) = target.element {
        return cancel_element(queue, target, element, request);
    }
    let job = queue.job(target.job)?;
    let mut found = false;
    // What waits goes first: the end of an element that runs would make room for the next.
    if job.array.as_ref().is_some_and(|array| array.task.is_none()) && job.state == State::Pending {
        found |= cancel_waiting(queue, target.job, request)?;
    }
    for (_, id) in queue.elements(target.job).into_iter().filter(|(_, id)| *id != target.job) {
        found |= cancel_one(queue, id, target.step, request)?;
    }
    found |= cancel_one(queue, target.job, target.step, request)?;
    if found { Ok(()) } else { Err(Error::NoJob) }
}

fn cancel_one(queue: &Queue, id: u32, step: Option<StepId>, request: &Request) -> Result<bool> {
    let job = queue.job(id)?;
    match job.state {
        State::Pending => cancel_waiting(queue, id, request),
        _ if job.state.is_over() => Ok(false),
        _ => {
            // A step that is cancelled alone gets no time to tidy up.
            let at_once = Request { signal: request.signal.or(Some(libc::SIGKILL)), ..*request };
            let request = if step.is_some_and(|step| step != StepId::Batch) { &at_once } else { request };
            control::ask(queue, id, receiver(queue, &job, step)?, request)?;
            Ok(true)
        }
    }
}

/// Who watches over a step: its srun, which for a job of its own is who watches over the job.
fn receiver(queue: &Queue, job: &Job, step: Option<StepId>) -> Result<To> {
    let Some(id) = step else { return Ok(To::Job) };
    let step = queue.step(job.id, id)?.filter(|step| !step.state.is_over()).ok_or(Error::NoJob)?;
    Ok(To::Step(step.id))
}

/// Takes a job out of the queue that waits.
fn cancel_waiting(queue: &Queue, id: u32, request: &Request) -> Result<bool> {
    if only_for_running(request) {
        return Ok(false);
    }
    let lock = queue.lock()?;
    let entries = queue.active()?;
    remove_waiting(queue, id, request, entries, lock)
}

/// Whether it is a signal that means nothing to a job that waits.
fn only_for_running(request: &Request) -> bool {
    request.signal.is_some_and(|number| number != libc::SIGKILL)
}

/// The same under the lock that is held.
fn remove_waiting(queue: &Queue, id: u32, request: &Request, mut entries: Vec<Entry>, lock: Locked) -> Result<bool> {
    let Some(at) = entries.iter().position(|entry| entry.id == id) else { return Ok(false) };
    if entries[at].is_running() {
        // It has been started meanwhile.
        drop(lock);
        return control::ask(queue, id, To::Job, request).map(|()| true);
    }
    if let Some(owner) = entries[at].owner.as_ref().filter(|owner| owner.is_alive()) {
        let _: &Process = owner;
        drop(lock);
        // An srun or salloc that waits writes down its end by itself.
        return control::ask(queue, id, To::Job, request).map(|()| true);
    }
    let reason = entries[at].reason;
    entries.remove(at);
    let mut job = queue.job(id)?;
    end_waiting(&mut job, reason, request.uid);
    queue.write_job(&job)?;
    queue.write_active(&entries, &lock)?;
    queue.forget_files(&job);
    Ok(true)
}

fn end_waiting(job: &mut Job, reason: Reason, by: u32) {
    job.state = State::Cancelled;
    job.reason = reason;
    job.cancelled_by = Some(by);
    job.ended = Some(time::now());
}

fn cancel_element(queue: &Queue, target: &Target, element: u32, request: &Request) -> Result<()> {
    let lock = queue.lock()?;
    let mut entries = queue.active()?;
    let waiting = entries.iter().position(|entry| {
        let list = entry.waiting.as_deref().and_then(array::parse_set);
        entry.id == target.job && list.is_some_and(|list| list.contains(&element))
    });
    if let Some(at) = waiting {
        if only_for_running(request) {
            return Ok(());
        }
        // In one go: an element with an entry of its own could be started.
        let at = queue.split(&mut entries, at, element, &lock)?;
        let id = entries[at].id;
        return remove_waiting(queue, id, request, entries, lock).map(drop);
    }
    drop(lock);
    let started = queue.elements(target.job).into_iter().find(|(task, _)| *task == element);
    let (_, id) = started.ok_or(Error::NoJob)?;
    if cancel_one(queue, id, target.step, request)? { Ok(()) } else { Err(Error::NoJob) }
}

/// `scontrol hold` and `release`. A job that runs is held when it is put back into the queue.
pub fn hold(queue: &Queue, id: u32, held: bool) -> Result<()> {
    let lock = queue.lock()?;
    let mut job = queue.job(id)?;
    if job.state.is_over() {
        return Err(Error::NoJob);
    }
    job.held = held;
    queue.write_job(&job)?;
    let mut entries = queue.active()?;
    if let Some(entry) = entries.iter_mut().find(|entry| entry.id == id && !entry.is_running()) {
        entry.held = held;
        entry.reason = if held { Reason::JobHeldUser } else { Reason::None };
        queue.write_active(&entries, &lock)?;
    }
    drop(lock);
    keeper::ensure(queue)
}

/// `scontrol requeue`: a batch job that runs, or one that is over, waits again.
pub fn requeue(queue: &Queue, id: u32) -> Result<()> {
    let mut job = queue.job(id)?;
    match job.state {
        State::Pending => Err(Error::Refused("Job is pending execution".to_owned())),
        _ if job.kind != crate::record::Kind::Batch => {
            Err(Error::Refused("Requested operation not supported on this job".to_owned()))
        }
        _ if job.state.is_over() => {
            if !queue.directory(job.array.as_ref().map_or(id, |array| array.job)).join("slurm_script").exists() {
                return Err(Error::NoJob);
            }
            queue.put_back(&mut job)?;
            keeper::ensure(queue)
        }
        _ => {
            let request = Request { requeue: true, ..Request::end(job.uid) };
            control::ask(queue, id, To::Job, &request)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Request as OfLine, Verb};
    use crate::record::Array;
    use crate::submit;

    #[test]
    fn jobs_elements_and_steps_are_told_apart() {
        let target = |job, element, step| Some(Target { job, element, step });
        assert_eq!(Target::parse("5"), target(5, None, None));
        assert_eq!(Target::parse("5_3"), target(5, Some(3), None));
        assert_eq!(Target::parse("5.batch"), target(5, None, Some(StepId::Batch)));
        assert_eq!(Target::parse("5_3.1"), target(5, Some(3), Some(StepId::Number(1))));
        for text in ["", "abc", "0", "5_", "5.x", "-1"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_element_that_waits_goes_and_the_others_stay_until_the_array_goes() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::at(dir.path().join("q")).unwrap();
        let array = Array { job: 1, waiting: "1-3".to_owned(), ..Array::default() };
        let job = submit::job(&OfLine::default(), Verb::Sbatch, &[]);
        let job = Job { id: 1, array: Some(array), ..job };
        let lock = queue.lock().unwrap();
        assert_eq!(queue.new_id(&lock).unwrap(), 1);
        queue.write_job(&job).unwrap();
        queue.write_active(&[Entry::of(&job)], &lock).unwrap();
        drop(lock);
        let end = Request::end(7);
        cancel(&queue, &Target::parse("1_2").unwrap(), &end).unwrap();
        let (id, one) = (queue.elements(1)[0].1, queue.active().unwrap());
        assert_eq!((one.len(), one[0].waiting.as_deref()), (1, Some("1,3")));
        let gone = queue.job(id).unwrap();
        assert_eq!((gone.state, gone.cancelled_by), (State::Cancelled, Some(7)));
        // A signal that is no end is for those that run.
        let signal = Request { signal: Some(libc::SIGUSR1), ..end };
        assert!(cancel(&queue, &Target::parse("1").unwrap(), &signal).is_err());
        cancel(&queue, &Target::parse("1").unwrap(), &end).unwrap();
        assert!(queue.active().unwrap().is_empty());
        assert_eq!(queue.job(1).unwrap().state, State::Cancelled);
    }
}
