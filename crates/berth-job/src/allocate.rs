//! How srun and salloc get what they ask for: at once, or when it is their turn.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control::{self, Inbox, To};
use crate::error::Error;
use crate::node::Node;
use crate::options::{Request, Verb};
use crate::process::Process;
use crate::queue::Queue;
use crate::queue::active::Entry;
use crate::record::{Job, State};
use crate::step::Signals;
use crate::submit::Refusal;
use crate::time;

/// Gets a job what it asks for, and waits until it can. Its record is not written yet.
pub fn allocate(
    queue: &Queue,
    job: &mut Job,
    node: &Node,
    verb: Verb,
    request: &Request,
) -> std::result::Result<(), Refusal> {
    let told = |e: &Error| Refusal::error(verb, e.to_string());
    let is_quiet = request.quiet > 0;
    let lock = queue.lock().map_err(|e| told(&e))?;
    job.id = queue.new_id(&lock).map_err(|e| told(&e))?;
    job.supervisor = Some(Process::this());
    let mut entries = queue.sweep(&lock).map_err(|e| told(&e))?;
    let near = Some(rustix::thread::sched_getcpu() as u32);
    entries.push(Entry { owner: job.supervisor.clone(), near, ..Entry::of(job) });
    if start(queue, job, &mut entries, node) {
        return queue.write_active(&entries, &lock).map_err(|e| told(&e));
    }
    if request.immediate {
        let _ = fs::remove_dir(queue.directory(job.id));
        return Err(Refusal::controller(verb, "Unable to allocate resources: Requested nodes are busy"));
    }
    let watch = control::watch(queue.root()).map_err(|e| told(&e))?;
    let written = queue.write_job(job).and_then(|()| queue.write_active(&entries, &lock));
    written.map_err(|e| told(&e))?;
    drop(lock);
    if !is_quiet {
        if verb == Verb::Salloc {
            eprintln!("salloc: Pending job allocation {}", job.id);
        }
        eprintln!("{}: job {} queued and waiting for resources", verb.name(), job.id);
    }
    wait_for_turn(queue, job, node, &watch, verb)?;
    if !is_quiet {
        eprintln!("{}: job {} has been allocated resources", verb.name(), job.id);
    }
    Ok(())
}

/// Takes what the job asks for if it is its turn.
fn start(queue: &Queue, job: &mut Job, entries: &mut [Entry], node: &Node) -> bool {
    let pass = queue.pass(entries, node);
    for (entry, reason) in entries.iter_mut().zip(&pass.reasons) {
        entry.reason = *reason;
    }
    let Some(start) = pass.starts.into_iter().find(|start| entries[start.index].id == job.id) else { return false };
    job.started = Some(time::now());
    job.allocation = Some(start.allocation);
    entries[start.index].allocation = job.allocation.clone();
    entries[start.index].started = job.started;
    true
}

fn wait_for_turn(
    queue: &Queue,
    job: &mut Job,
    node: &Node,
    watch: &OwnedFd,
    verb: Verb,
) -> std::result::Result<(), Refusal> {
    let told = |e: &Error| Refusal::error(verb, e.to_string());
    let signals = Signals::open().map_err(|e| told(&e))?;
    let inbox = Inbox::open(&queue.directory(job.id), &[To::Job]);
    loop {
        let lock = queue.lock().map_err(|e| told(&e))?;
        let mut entries = queue.sweep(&lock).map_err(|e| told(&e))?;
        if !entries.iter().any(|entry| entry.id == job.id) {
            return Err(Refusal {
                lines: vec![format!("{}: Job allocation {} has been revoked", verb.name(), job.id)],
                code: 1,
            });
        }
        if start(queue, job, &mut entries, node) {
            return queue.write_active(&entries, &lock).map_err(|e| told(&e));
        }
        let next = queue.pass(&entries, node).next;
        // Who watches over a job that runs may be killed without a word.
        let owners: Vec<OwnedFd> = entries
            .iter()
            .filter(|entry| entry.is_running())
            .filter_map(|entry| entry.owner.as_ref()?.open())
            .collect();
        drop(lock);
        let timeout =
            next.map(|moment| Timespec { tv_sec: moment.saturating_sub(time::now()).max(1) as _, tv_nsec: 0 });
        let mut waits =
            vec![PollFd::new(watch, PollFlags::IN), PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN)];
        waits.extend(owners.iter().map(|owner| PollFd::new(owner, PollFlags::IN)));
        match poll(&mut waits, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => drop(control::clear(watch)),
            Err(error) => return Err(told(&Error::system("wait for the job's turn", error))),
        }
        let numbers = signals.take();
        let cancelled = inbox.take(&numbers).into_iter().next().map(|request| request.uid);
        let ending = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        let ended = numbers.iter().any(|number| ending.contains(number));
        if ended || cancelled.is_some() {
            job.state = State::Cancelled;
            job.cancelled_by = cancelled.or(Some(job.uid));
            job.ended = Some(time::now());
            queue.finish(job).map_err(|e| told(&e))?;
            let text = if ended {
                format!("{}: Job allocation {} has been revoked.", verb.name(), job.id)
            } else {
                format!("{}: Force Terminated job {}", verb.name(), job.id)
            };
            return Err(Refusal { lines: vec![text], code: 1 });
        }
    }
}
