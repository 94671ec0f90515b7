//! The supervisor of a batch job: starts its script, or takes over one that runs, and writes down how it ended.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::keeper::Alive;
use super::script::{Files, become_script};
use super::wait::{kernel_exit, peek_child, peek_status, zombie_exit};
use super::{Hooks, started};
use crate::control::{self, Inbox, Request, To};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::process::{self, Process};
use crate::queue::Queue;
use crate::record::{Exit, Job, Reason, State, Step, StepId};
use crate::srun::reason_of;
use crate::step::{Signals, Usage};
use crate::{lost, step, submit, time, tree};

/// Watches over a job from its start, or from where another supervisor was killed, to its end.
pub fn run(queue: &Queue, id: u32, hooks: Hooks, keeper: &Alive) -> Result<()> {
    let mut job = queue.job(id)?;
    if job.state.is_over() {
        // It was killed right before it was taken out of the list.
        return queue.finish(&job);
    }
    let signals = Signals::open()?;
    let directory = queue.directory(id);
    let inbox = Inbox::open(&directory, &[To::Job, To::Step(StepId::Batch)]);
    job.supervisor = Some(Process::this());
    let script = match started::process(&directory, job.restarts) {
        Some(process) => Script::adopt(process),
        None => start(queue, &mut job, hooks)?,
    };
    let mut supervisor = Supervisor {
        queue,
        node: (hooks.node)(),
        directory,
        job,
        script,
        ended: None,
        kill_at: None,
        early_signal_sent: false,
    };
    supervisor.watch(&signals, &inbox, keeper)?;
    // A process that was killed before it could become the script has done nothing yet.
    while let Script::Child(pid, _) = supervisor.script
        && started::process(&supervisor.directory, supervisor.job.restarts).is_none()
        && supervisor.ended.is_none()
        && supervisor.exit().is_some_and(|exit| exit.signal == libc::SIGKILL as u8)
    {
        step::wait(pid);
        supervisor.script = start(queue, &mut supervisor.job, hooks)?;
        supervisor.watch(&signals, &inbox, keeper)?;
    }
    supervisor.finish()?;
    keeper.replace(queue)
}

/// The script's process.
enum Script {
    /// This process' child.
    Child(u32, OwnedFd),
    /// It was another supervisor's.
    Adopted(Process, OwnedFd),
    /// It has ended, and was waited for by somebody else.
    Gone,
}

impl Script {
    fn adopt(process: Process) -> Script {
        match process::open(process.pid) {
            // Also one that has ended and was not waited for: it is the keeper's.
            Ok(descriptor) if process::stat(process.pid).is_some_and(|stat| stat.start == process.start) => {
                Script::Adopted(process, descriptor)
            }
            _ => Script::Gone,
        }
    }
}

struct Supervisor<'a> {
    queue: &'a Queue,
    node: Node,
    directory: PathBuf,
    job: Job,
    script: Script,
    ended: Option<End>,
    kill_at: Option<Instant>,
    early_signal_sent: bool,
}

/// Why a job was ended before its script had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Time,
    Cancelled(u32),
    Requeue,
}

impl Supervisor<'_> {
    fn watch(&mut self, signals: &Signals, inbox: &Inbox, keeper: &Alive) -> Result<()> {
        self.requests(inbox, &[]);
        loop {
            let (Script::Child(_, descriptor) | Script::Adopted(_, descriptor)) = &self.script else { return Ok(()) };
            let timeout = self.timeout();
            let mut waits = vec![
                PollFd::new(descriptor, PollFlags::IN),
                PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN),
                PollFd::from_borrowed_fd(keeper.descriptor(), PollFlags::IN),
            ];
            match poll(&mut waits, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the job", error)),
            }
            let [script, _, orphaned] = [0, 1, 2].map(|at| !waits[at].revents().is_empty());
            if script {
                return Ok(());
            }
            if orphaned {
                keeper.replace(self.queue)?;
            }
            let numbers = signals.take();
            if numbers.contains(&libc::SIGCHLD) {
                self.bury();
            }
            self.requests(inbox, &numbers);
            self.clocks();
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let until = |moment: u64| now + Duration::from_secs(moment.saturating_sub(time::now()));
        let mut moments: Vec<Instant> = self.kill_at.into_iter().collect();
        if let Some(deadline) = submit::deadline(&self.job).filter(|_| self.ended.is_none()) {
            moments.push(until(deadline));
            if let Some(early) = self.job.signal.filter(|_| !self.early_signal_sent) {
                moments.push(until(deadline.saturating_sub(early.seconds)));
            }
        }
        let wait = moments.into_iter().min()?.saturating_duration_since(now);
        // A moment that is a fraction of a second away must not become a loop without waiting.
        Some(Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos().max(1_000_000) as _ })
    }

    fn clocks(&mut self) {
        if self.kill_at.is_some_and(|moment| moment <= Instant::now()) {
            self.kill_at = None;
            self.send_all(libc::SIGKILL);
        }
        let Some(deadline) = submit::deadline(&self.job).filter(|_| self.ended.is_none()) else { return };
        if let Some(early) = self.job.signal.filter(|_| !self.early_signal_sent)
            && deadline.saturating_sub(early.seconds) <= time::now()
        {
            self.early_signal_sent = true;
            if early.batch_only {
                self.send_script(early.number);
            } else {
                self.send_steps(early.number);
            }
        }
        if deadline <= time::now() {
            self.end(End::Time, " DUE TO TIME LIMIT");
        }
    }

    fn requests(&mut self, inbox: &Inbox, signals: &[i32]) {
        for request in inbox.take(signals) {
            let Request { uid, signal, batch, full, requeue, attach } = request;
            match signal {
                // A script's output is in its files.
                _ if attach.is_some() => {}
                _ if requeue => self.end(End::Requeue, " DUE TO JOB REQUEUE"),
                None => self.end(End::Cancelled(uid), ""),
                Some(libc::SIGKILL) if !batch => {
                    self.ended.get_or_insert(End::Cancelled(uid));
                    self.send_all(libc::SIGKILL);
                }
                Some(number) if batch => self.send_script(number),
                Some(number) if full => {
                    self.send_script(number);
                    self.send_steps(number);
                }
                Some(number) => self.send_steps(number),
            }
        }
    }

    /// Ends the job: everything in it gets time to tidy up.
    fn end(&mut self, why: End, because: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(why);
        let (id, node, now) = (self.job.id, &self.node.name, time::local(time::now()));
        self.tell(&format!("slurmstepd-{node}: error: *** JOB {id} ON {node} CANCELLED AT {now}{because} ***\n"));
        self.send_script(libc::SIGCONT);
        self.send_script(libc::SIGTERM);
        self.ask_steps(&Request::end(self.job.uid));
        self.kill_at = Some(Instant::now() + Duration::from_secs(self.node.kill_wait));
    }

    /// Writes into the job's standard error.
    fn tell(&self, text: &str) {
        let files = Files::of(&self.job, &self.node.name);
        let mut options = fs::OpenOptions::new();
        if let Ok(mut file) = options.append(true).open(files.error.unwrap_or(files.output)) {
            let _ = file.write_all(text.as_bytes());
        }
    }

    fn script_pid(&self) -> Option<u32> {
        match &self.script {
            Script::Child(pid, _) => Some(*pid),
            Script::Adopted(process, _) => process.is_alive().then_some(process.pid),
            Script::Gone => None,
        }
    }

    fn send_script(&self, number: i32) {
        if let Some(pid) = self.script_pid() {
            tree::send(pid, number);
        }
    }

    /// Sends a signal to the script and all below it.
    fn send_all(&self, number: i32) {
        let mark = lost::mark(&self.job);
        let mut all: Vec<u32> = self.script_pid().into_iter().collect();
        all.extend(self.script_pid().map(|pid| tree::below(pid, &mark)).into_iter().flatten());
        all.extend(tree::below(std::process::id(), &mark));
        all.sort_unstable();
        all.dedup();
        all.into_iter().for_each(|pid| tree::send(pid, number));
    }

    /// Has the steps that run send a signal to their tasks.
    fn send_steps(&self, number: i32) {
        self.ask_steps(&Request::signal(self.job.uid, number));
    }

    fn ask_steps(&self, request: &Request) {
        for step in self.queue.steps(self.job.id).unwrap_or_default() {
            if !step.state.is_over() && step.id != StepId::Batch {
                let _ = control::ask(self.queue, self.job.id, To::Step(step.id), request);
            }
        }
    }

    /// Waits for what has ended and is nobody's: what the script has left behind. The script itself is left for
    /// [`Supervisor::exit`].
    fn bury(&self) {
        let Script::Child(script, _) = self.script else { return };
        while let Some(pid) = peek_child() {
            if pid == script {
                return;
            }
            // A keeper that this process had to start has been killed: what it kept is inherited.
            let _ = started::note_exit(self.queue, pid);
            step::wait(pid);
        }
    }

    /// How the script ended. It is waited for only when its end is written down.
    fn exit(&self) -> Option<Exit> {
        let status = match &self.script {
            Script::Child(pid, _) => peek_status(*pid),
            Script::Gone => started::exit(&self.directory, self.job.restarts),
            Script::Adopted(script, descriptor) => self.adopted_exit(script, descriptor),
        };
        status.map(Exit::from_wait)
    }

    /// As long as nobody has waited for it, everybody can see how it ended; a keeper that has inherited it writes that down
    /// first; and a new kernel knows by itself.
    fn adopted_exit(&self, script: &Process, descriptor: &OwnedFd) -> Option<i32> {
        let is_it = process::stat(script.pid).is_some_and(|stat| stat.start == script.start);
        let seen = if is_it { zombie_exit(script.pid) } else { None };
        seen.or_else(|| started::exit(&self.directory, self.job.restarts)).or_else(|| kernel_exit(descriptor))
    }

    /// Ends what is left of the job, and writes down how it ended.
    fn finish(mut self) -> Result<()> {
        let exit = self.exit();
        let mark = lost::mark(&self.job);
        let mut usage = Usage::default();
        for pid in tree::below(std::process::id(), &mark) {
            if Some(pid) != self.script_pid() {
                tree::send(pid, libc::SIGKILL);
            }
        }
        if !matches!(self.script, Script::Child(..)) {
            lost::end_processes(&self.job);
        }
        let now = time::now();
        let (state, exit_of_job) = match (self.ended, exit) {
            (Some(End::Time), _) => (State::Timeout, Exit::default()),
            (Some(End::Cancelled(uid)), exit) => {
                self.job.cancelled_by = Some(uid);
                (State::Cancelled, exit.unwrap_or_default())
            }
            (Some(End::Requeue), _) => (State::Requeued, Exit::default()),
            (None, None) => (State::NodeFail, Exit::default()),
            (None, Some(exit)) if exit.is_success() => (State::Completed, exit),
            (None, Some(exit)) => (State::Failed, exit),
        };
        for mut step in self.queue.steps(self.job.id)?.into_iter().filter(|step| !step.state.is_over()) {
            if step.id == StepId::Batch {
                step.exit = exit.unwrap_or_default();
                step.state = match self.ended {
                    None if exit.is_none() => State::NodeFail,
                    None if step.exit.is_success() => State::Completed,
                    None => State::Failed,
                    Some(_) => State::Cancelled,
                };
            } else {
                step.state = State::Cancelled;
            }
            step.ended = Some(now);
            self.queue.write_step(&step)?;
        }
        let steps = self.queue.steps(self.job.id)?;
        let of_steps: Vec<Exit> = steps.iter().filter(|step| step.id != StepId::Batch).map(|step| step.exit).collect();
        self.job.derived_exit = step::highest(&of_steps);
        // Slurm puts every job back that a machine has lost. Without being asked, none is run again here.
        let is_typed = self.job.other.contains_key("requeue");
        if state == State::Requeued || (state == State::NodeFail && is_typed) {
            started::remove(&self.directory, self.job.restarts);
            self.queue.put_back(&mut self.job)?;
        } else {
            self.job.state = state;
            self.job.exit = exit_of_job;
            self.job.reason = reason_of(state, exit_of_job);
            self.job.ended = Some(now);
            self.queue.finish(&self.job)?;
            started::remove(&self.directory, self.job.restarts);
        }
        // Only now: should this process be killed before, the script's end is still there to be asked for.
        step::kill_children(&mut usage, &mark);
        Ok(())
    }
}

/// Starts the script.
fn start(queue: &Queue, job: &mut Job, hooks: Hooks) -> Result<Script> {
    let node = (hooks.node)();
    job.state = State::Running;
    job.reason = Reason::None;
    queue.write_job(job)?;
    let step = Step {
        job: job.id,
        id: StepId::Batch,
        name: "batch".to_owned(),
        command: job.command.clone(),
        submit_line: job.submit_line.clone(),
        state: State::Running,
        exit: Exit::default(),
        tasks: 1,
        allocation: job.allocation.clone().unwrap_or_default(),
        exclusive: false,
        started: job.started.unwrap_or_else(time::now),
        ended: None,
        cancelled_by: None,
        supervisor: job.supervisor.clone(),
        user_time: 0,
        system_time: 0,
        max_resident: 0,
        container: job.container.clone(),
    };
    queue.write_step(&step)?;
    let directory = queue.directory(job.id);
    // The elements of an array share what was submitted.
    let submitted = queue.directory(job.array.as_ref().map_or(job.id, |array| array.job));
    let mut container = (hooks.container)(job, &step).map_err(Error::Refused)?;
    let mut prepared = container.as_mut().map(|container| container.prepare(1));
    match step::fork().map_err(|e| Error::system("start the job's script", e))? {
        None => {
            let error = prepared.take().and_then(std::result::Result::err);
            let restarts = job.restarts;
            let code = become_script(job, &node, &directory, &submitted, container.as_deref_mut(), error, restarts);
            step::exit(code)
        }
        Some(pid) => {
            if let Some(container) = &mut container {
                container.forked();
            }
            let descriptor = process::open(pid).map_err(|e| Error::system("watch the job's script", e))?;
            Ok(Script::Child(pid, descriptor))
        }
    }
}
