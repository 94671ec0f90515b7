//! The keeper: while batch jobs of a user wait or run, one process starts their supervisors and looks after them.
//!
//! It sleeps until the queue changes, a supervisor ends or a job's time has come, and ends with the last job. Whoever adds
//! a job sees to it that there is one ([`ensure`]): the lock of the file `keeper` is held as long as one lives.
//!
//! There are two processes, so that either may be killed: the keeper, and its guard, which takes its place. The guard is
//! first the keeper's parent, and so inherits what the keeper looks after. All of them hold the writing end of the pipe
//! `alive`, and supervisors the reading end: when it is hung up, no keeper is left.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::wait::peek_child;
use super::{Hooks, started, supervisor};
use crate::control;
use crate::error::{Error, Result};
use crate::lost;
use crate::node::Node;
use crate::process::{self, Process};
use crate::queue::active::Entry;
use crate::queue::{Locked, Queue, try_lock_file};
use crate::record::{Kind, Reason, State};
use crate::step::{self, Signals};
use crate::{time, tree};

/// The verb by which it is started.
pub const VERB: &str = "job-keeper";

/// Where it finds the lock and its end of the pipe.
const LOCK: RawFd = 3;
const ALIVE: RawFd = 4;

/// The reading end of the pipe that is hung up when no keeper is left.
#[derive(Debug)]
pub struct Alive(OwnedFd);

impl Alive {
    /// To be opened while there is a keeper.
    fn open(queue: &Queue) -> Result<Alive> {
        let path = queue.root().join("alive");
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(&path).map(|file| Alive(file.into())).map_err(|e| Error::io("open", &path, e))
    }

    /// To wait for its end.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Starts another keeper, unless somebody else is doing it.
    pub fn replace(&self, queue: &Queue) -> Result<()> {
        ensure(queue)
    }
}

/// Sees to it that there is a keeper, if one is needed.
pub fn ensure(queue: &Queue) -> Result<()> {
    if !queue.active()?.iter().any(|entry| entry.kind == Kind::Batch) {
        return Ok(());
    }
    let Some(lock) = try_lock_file(&queue.root().join("keeper"))? else { return Ok(()) };
    let path = queue.root().join("alive");
    if !path.exists() {
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .map_err(|e| Error::io("make", &path, e))?;
    }
    // For reading too: it must not wait for a reader.
    let mut options = fs::OpenOptions::new();
    let alive = options.read(true).write(true).open(&path).map_err(|e| Error::io("open", &path, e))?;
    spawn(&lock, &alive.into())
}

/// Starts a process of this program that is nobody's child and has nothing open but the two.
#[allow(unsafe_code)]
fn spawn(lock: &OwnedFd, alive: &OwnedFd) -> Result<()> {
    let failed = |e| Error::system("start the keeper of jobs", e);
    // Both above what they will be.
    let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 10).map_err(|e| failed(e.into()));
    let (lock, alive) = (high(lock)?, high(alive)?);
    if step::fork().map_err(failed)?.is_some() {
        return Ok(());
    }
    let mut environment = crate::environment::Environment::own();
    let of_jobs: Vec<_> = environment
        .iter()
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.to_string_lossy().starts_with("SLURM_") || *name == *lost::MARK)
        .collect();
    of_jobs.iter().for_each(|name| environment.unset(name));
    environment.set(tree::KEEPER, "1");
    let _ = std::env::set_current_dir("/");
    step::reset_signals();
    // SAFETY: numbers, descriptors that are open, and a C string.
    unsafe {
        libc::setsid();
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for number in 0..3 {
            libc::dup2(nothing, number);
        }
        libc::dup2(lock.as_raw_fd(), LOCK);
        libc::dup2(alive.as_raw_fd(), ALIVE);
        libc::syscall(libc::SYS_close_range, ALIVE + 1, u32::MAX, 0);
    }
    let _ = step::become_program("/proc/self/exe", &["berth".into(), VERB.into()], &environment);
    step::exit(127)
}

/// The process that was started: the guard, which makes a keeper.
#[allow(unsafe_code)]
pub fn main(hooks: Hooks) -> u8 {
    let Ok(queue) = Queue::open() else { return 1 };
    for number in [LOCK, ALIVE] {
        // SAFETY: numbers; whether the descriptor is open is what is asked.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            eprintln!("berth: `{VERB}` is started by `berth sbatch`");
            return 125;
        }
    }
    guard(&queue, hooks)
}

fn guard(queue: &Queue, hooks: Hooks) -> u8 {
    step::become_subreaper();
    let keeper = match step::fork() {
        Ok(Some(keeper)) => keeper,
        Ok(None) => {
            step::become_subreaper();
            step::exit(i32::from(keep(queue, hooks).is_err()))
        }
        Err(_) => return 1,
    };
    if step::wait(keeper) == Some(0) {
        return 0;
    }
    // It was killed, or could not go on. What it looked after is this process' now; a child looks after this one.
    let own = std::process::id();
    let companion = match step::fork() {
        Ok(None) => {
            if let Ok(descriptor) = process::open(own) {
                let _ = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None);
            }
            step::exit(i32::from(guard(queue, hooks)))
        }
        // By a descriptor: it may be killed, too, and its number given to another.
        Ok(Some(companion)) => process::open(companion).ok(),
        Err(_) => None,
    };
    let outcome = keep(queue, hooks);
    if let Some(companion) = companion {
        let _ = process::send(&companion, libc::SIGKILL);
    }
    u8::from(outcome.is_err())
}

/// Removes what processes that were killed have left half-written.
fn tidy(queue: &Queue) -> Result<()> {
    let _lock = queue.lock()?;
    for entry in fs::read_dir(queue.root()).into_iter().flatten().flatten() {
        // They are written under the lock.
        if entry.file_name().to_string_lossy().ends_with('~') {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Until no batch job waits or runs any more.
fn keep(queue: &Queue, hooks: Hooks) -> Result<()> {
    tidy(queue)?;
    let signals = Signals::open()?;
    let watch = control::watch(queue.root())?;
    let alive = Alive::open(queue)?;
    let mut keeper = Keeper { queue, hooks, node: (hooks.node)(), alive, supervisors: HashMap::new() };
    loop {
        keeper.bury()?;
        control::clear(&watch);
        let Some(turn) = keeper.decide(&watch)? else { return Ok(()) };
        let timeout =
            turn.next.map(|moment| Timespec { tv_sec: moment.saturating_sub(time::now()).max(1) as _, tv_nsec: 0 });
        let mut waits =
            vec![PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN), PollFd::new(&watch, PollFlags::IN)];
        waits.extend(turn.others.iter().map(|other| PollFd::new(other, PollFlags::IN)));
        match poll(&mut waits, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::system("wait for jobs", error)),
        }
        signals.take();
    }
}

struct Keeper<'a> {
    queue: &'a Queue,
    hooks: Hooks,
    node: Node,
    alive: Alive,
    /// This process' children, and their jobs.
    supervisors: HashMap<u32, u32>,
}

/// What to wait for.
struct Turn {
    /// When something happens by itself.
    next: Option<u64>,
    /// Processes that hold something and are not this process' children.
    others: Vec<OwnedFd>,
}

impl Keeper<'_> {
    /// Takes notice of children that have ended: supervisors, and what supervisors that were killed have left behind.
    fn bury(&mut self) -> Result<()> {
        while let Some(pid) = peek_child() {
            if let Some(job) = self.supervisors.remove(&pid) {
                let status = step::wait(pid).unwrap_or(0);
                if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) != 0 {
                    // It has said that it cannot: another one could not either.
                    self.give_up(job)?;
                }
                continue;
            }
            started::note_exit(self.queue, pid)?;
            step::wait(pid);
        }
        Ok(())
    }

    fn give_up(&self, id: u32) -> Result<()> {
        let mut job = self.queue.job(id)?;
        if job.state.is_over() {
            return Ok(());
        }
        lost::end_processes(&job);
        job.state = State::Failed;
        job.reason = Reason::JobLaunchFailure;
        job.exit.code = 1;
        job.ended = Some(time::now());
        self.queue.finish(&job)
    }

    /// Starts what may start. Nothing when no batch job is left: then the keeper's lock is given back already.
    fn decide(&mut self, watch: &OwnedFd) -> Result<Option<Turn>> {
        let lock = self.queue.lock()?;
        let mut entries = self.queue.sweep(&lock)?;
        let before = entries.clone();
        let mut gates = Vec::new();
        // Such as a supervisor was killed of, or a keeper before it could start one.
        entries.retain(|entry| {
            let is_lost =
                entry.kind == Kind::Batch && entry.is_running() && !entry.owner.as_ref().is_some_and(Process::is_alive);
            !is_lost || !self.queue.job(entry.id).is_ok_and(|job| job.state.is_over())
        });
        for entry in entries.iter_mut().filter(|entry| entry.kind == Kind::Batch && entry.is_running()) {
            if !entry.owner.as_ref().is_some_and(Process::is_alive) {
                gates.push(self.supervise(entry)?);
            }
        }
        let next = self.start(&mut entries, &mut gates, &lock)?;
        if entries != before {
            self.queue.write_active(&entries, &lock)?;
            // Only this process has changed it since the list was read.
            control::clear(watch);
        }
        for gate in gates {
            let _ = rustix::io::write(&gate, b"!");
        }
        if !entries.iter().any(|entry| entry.kind == Kind::Batch) {
            give_back_lock();
            return Ok(None);
        }
        let is_other = |owner: &&Process| !self.supervisors.contains_key(&owner.pid);
        let others = entries.iter().filter_map(|entry| entry.owner.as_ref()).filter(is_other);
        Ok(Some(Turn { next, others: others.filter_map(Process::open).collect() }))
    }

    /// Starts what may start now; gives when something happens by itself.
    fn start(&mut self, entries: &mut Vec<Entry>, gates: &mut Vec<OwnedFd>, lock: &Locked) -> Result<Option<u64>> {
        let pass = self.queue.pass(entries, &self.node);
        for (entry, reason) in entries.iter_mut().zip(&pass.reasons) {
            entry.reason = *reason;
        }
        let hopeless = |entry: &&Entry| entry.kill_on_invalid && entry.reason == Reason::DependencyNeverSatisfied;
        let hopeless: Vec<u32> = entries.iter().filter(hopeless).map(|entry| entry.id).collect();
        // An element becomes an entry of its own in front of its array's, and moves what is behind it.
        let mut moved = 0;
        for start in pass.starts {
            let mut index = start.index + moved;
            // An srun or salloc that waits takes its turn by itself.
            if entries[index].kind != Kind::Batch {
                continue;
            }
            if let Some(element) = start.element {
                let before = entries.len();
                index = self.queue.split(entries, index, element, lock)?;
                moved += entries.len() - before;
            }
            let mut job = self.queue.job(entries[index].id)?;
            job.started = Some(time::now());
            job.allocation = Some(start.allocation);
            self.queue.write_job(&job)?;
            let entry = &mut entries[index];
            entry.started = job.started;
            entry.allocation = job.allocation;
            entry.reason = Reason::None;
            gates.push(self.supervise(entry)?);
        }
        for id in hopeless {
            let mut job = self.queue.job(id)?;
            job.state = State::Cancelled;
            job.reason = Reason::DependencyNeverSatisfied;
            job.cancelled_by = Some(job.uid);
            job.ended = Some(time::now());
            self.queue.write_job(&job)?;
            entries.retain(|entry| entry.id != id);
        }
        Ok(pass.next)
    }

    /// Makes a supervisor for a job. It begins when something is written into the pipe that comes back, and ends if that
    /// is closed instead.
    fn supervise(&mut self, entry: &mut Entry) -> Result<OwnedFd> {
        let failed = |e: io::Error| Error::system("start a job's supervisor", e);
        let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        match step::fork().map_err(failed)? {
            None => {
                let (gate, alive) = keep_only(&theirs, &self.alive.0);
                let mut byte = [0];
                if rustix::io::read(&gate, &mut byte) != Ok(1) {
                    step::exit(0);
                }
                drop(gate);
                step::become_subreaper();
                let _ = rustix::thread::set_name(c"berth-job");
                step::exit(i32::from(supervisor::run(self.queue, entry.id, self.hooks, &Alive(alive)).is_err()))
            }
            Some(pid) => {
                self.supervisors.insert(pid, entry.id);
                entry.owner = Process::of(pid);
                Ok(ours)
            }
        }
    }
}

/// In a new supervisor: has nothing open of its parent's but these two.
#[allow(unsafe_code)]
fn keep_only(gate: &OwnedFd, alive: &OwnedFd) -> (OwnedFd, OwnedFd) {
    // SAFETY: descriptors that are open; the ones that come back are this process' own from here on.
    unsafe {
        let high = |fd: &OwnedFd| libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        let (gate, alive) = (high(gate), high(alive));
        libc::dup3(gate, LOCK, libc::O_CLOEXEC);
        libc::dup3(alive, ALIVE, libc::O_CLOEXEC);
        libc::syscall(libc::SYS_close_range, ALIVE + 1, u32::MAX, 0);
        (OwnedFd::from_raw_fd(LOCK), OwnedFd::from_raw_fd(ALIVE))
    }
}

/// Gives the keeper's lock back, also for the guard, which has it too: from here on this is no keeper any more.
#[allow(unsafe_code)]
fn give_back_lock() {
    // SAFETY: a descriptor that is open.
    unsafe { libc::flock(LOCK, libc::LOCK_UN) };
}
