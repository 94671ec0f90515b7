//! `salloc`: a job that lasts as long as a command on this machine.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::allocate::allocate;
use crate::control::{self, Inbox, Request as Asked, To};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::links;
use crate::lost;
use crate::node::Node;
use crate::options::{Request, Verb};
use crate::process;
use crate::queue::Queue;
use crate::record::{Exit, Job, State, StepId};
use crate::srun::{Answer, reason_of};
use crate::step::{self, Signals};
use crate::submit::{self, Refusal};
use crate::time;

/// What is typed.
#[derive(Debug)]
pub struct Salloc {
    /// The options.
    pub request: Request,
    /// The command; the user's shell where there is none.
    pub command: Vec<OsString>,
    /// The machine.
    pub node: Node,
}

fn refused(error: &Error) -> Refusal {
    Refusal::error(Verb::Salloc, error.to_string())
}

impl Salloc {
    /// Gets the allocation, runs the command, gives the allocation back.
    pub fn run(mut self) -> Answer {
        if self.request.no_shell {
            let text = "--no-shell: without a cluster an allocation lasts as long as its command, so it needs one";
            return Err(Refusal::error(Verb::Salloc, text));
        }
        for warning in submit::check(&self.request, Verb::Salloc, &self.node)? {
            eprintln!("{warning}");
        }
        let queue = Queue::open().map_err(|e| refused(&e))?;
        submit::check_dependencies(&self.request, Verb::Salloc, &queue)?;
        let mut job = submit::job(&self.request, Verb::Salloc, &self.command);
        allocate(&queue, &mut job, &self.node, Verb::Salloc, &self.request)?;
        job.state = State::Running;
        queue.write_job(&job).map_err(|e| refused(&e))?;
        if self.request.quiet == 0 {
            eprintln!("salloc: Granted job allocation {}", job.id);
            eprintln!("salloc: Nodes {} are ready for job", self.node.name);
        }
        let is_shell = self.command.is_empty();
        if is_shell {
            let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
            self.command = vec![shell.unwrap_or_else(|| "/bin/sh".into())];
        }
        let outcome = self.wait(&queue, &job, is_shell);
        end_steps(&queue, &job).map_err(|e| refused(&e))?;
        if self.request.quiet == 0 {
            eprintln!("salloc: Relinquishing job allocation {}", job.id);
        }
        let (exit, revoked) = outcome.map_err(|e| refused(&e))?;
        job.exit = exit;
        job.state = match revoked {
            Some(Revoked::Time) => State::Timeout,
            Some(Revoked::Cancelled(uid)) => {
                job.cancelled_by = Some(uid);
                State::Cancelled
            }
            None if exit.is_success() => State::Completed,
            None => State::Failed,
        };
        job.reason = reason_of(job.state, exit);
        job.ended = Some(time::now());
        queue.finish(&job).map_err(|e| refused(&e))?;
        Ok(exit.shell_code())
    }

    /// Starts the command, and stays until it has ended.
    fn wait(&self, queue: &Queue, job: &Job, is_shell: bool) -> Result<(Exit, Option<Revoked>)> {
        let signals = Signals::open()?;
        let inbox = Inbox::open(&queue.directory(job.id), &[To::Job]);
        let failed = |e: io::Error| Error::system("start the command", e);
        let foreground = Foreground::of(is_shell);
        let pid = match step::fork().map_err(failed)? {
            None => self.become_command(queue, job, &foreground),
            Some(pid) => pid,
        };
        foreground.give(pid);
        let child = process::open(pid).map_err(failed)?;
        let mut revoked = None;
        let mut kill_at: Option<Instant> = None;
        loop {
            let deadline = submit::deadline(job).filter(|_| revoked.is_none());
            let until = deadline.map(|moment| Duration::from_secs(moment.saturating_sub(time::now())));
            let kill = kill_at.map(|moment| moment.saturating_duration_since(Instant::now()));
            let timeout = [until, kill].into_iter().flatten().min();
            let timeout = timeout
                .map(|wait| Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos().max(1_000_000) as _ });
            let mut waits =
                vec![PollFd::new(&child, PollFlags::IN), PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN)];
            match poll(&mut waits, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for the command", error)),
            }
            if !waits[0].revents().is_empty() {
                break;
            }
            let numbers = signals.take();
            let ended = numbers.iter().any(|number| [libc::SIGTERM, libc::SIGHUP].contains(number));
            let why = match inbox.take(&numbers).first() {
                Some(request)
                    if request.attach.is_none() && request.signal.is_none_or(|number| number == libc::SIGKILL) =>
                {
                    eprintln!("salloc: Job allocation {} has been revoked.", job.id);
                    Some(Revoked::Cancelled(request.uid))
                }
                Some(Asked { signal: Some(number), .. }) => {
                    signal_steps(queue, job, Some(*number))?;
                    None
                }
                _ if ended => Some(Revoked::Cancelled(job.uid)),
                _ if deadline.is_some_and(|moment| moment <= time::now()) => {
                    eprintln!(
                        "salloc: Job {} has exceeded its time limit and its allocation has been revoked.",
                        job.id
                    );
                    Some(Revoked::Time)
                }
                _ => None,
            };
            if why.is_some() && revoked.is_none() {
                revoked = why;
                signal_steps(queue, job, None)?;
                let signal = if is_shell { libc::SIGHUP } else { libc::SIGTERM };
                let _ = process::send(&child, signal);
                kill_at = Some(Instant::now() + Duration::from_secs(self.node.kill_wait));
            }
            if kill_at.is_some_and(|moment| moment <= Instant::now()) {
                kill_at = None;
                let _ = process::send(&child, libc::SIGKILL);
            }
        }
        foreground.take_back();
        Ok((step::wait(pid).map(Exit::from_wait).unwrap_or_default(), revoked))
    }

    /// In the child.
    fn become_command(&self, queue: &Queue, job: &Job, foreground: &Foreground) -> ! {
        foreground.enter();
        step::reset_signals();
        let mut environment = Environment::own();
        environment.set_job(job);
        environment.set("SLURM_SUBMIT_DIR", submit::directory(None));
        environment.set(lost::MARK, lost::mark(job));
        links::add(&mut environment, queue.root());
        if self.request.directory.is_some() {
            step::enter_directory(&job.directory, &self.node.name);
        }
        let error = step::become_command(&self.command, &environment);
        let name = self.command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
        eprintln!("salloc: error: Unable to exec command \"{name}\": {}", step::reason(&error));
        step::exit(if error.raw_os_error() == Some(libc::ENOENT) { 127 } else { 126 })
    }
}

/// Why an allocation is taken away before its command has ended.
#[derive(Debug, Clone, Copy)]
enum Revoked {
    Time,
    Cancelled(u32),
}

/// Has the steps of a job that run end, or send a signal to their tasks.
fn signal_steps(queue: &Queue, job: &Job, signal: Option<i32>) -> Result<()> {
    let request = Asked { signal, ..Asked::end(job.uid) };
    for step in queue.steps(job.id)?.iter().filter(|step| !step.state.is_over() && step.id != StepId::Batch) {
        control::ask(queue, job.id, To::Step(step.id), &request)?;
    }
    Ok(())
}

/// Ends the steps that still run: nothing of a job is left behind.
fn end_steps(queue: &Queue, job: &Job) -> Result<()> {
    for mut step in queue.steps(job.id)?.into_iter().filter(|step| !step.state.is_over()) {
        if let Some(supervisor) = &step.supervisor {
            // The kernel kills its tasks with it.
            let _ = supervisor.signal(libc::SIGKILL);
        }
        step.state = State::Cancelled;
        step.ended = Some(time::now());
        queue.write_step(&step)?;
    }
    Ok(())
}

/// Who has the terminal: a shell needs it for itself.
struct Foreground {
    own: bool,
}

#[allow(unsafe_code)]
impl Foreground {
    fn of(is_shell: bool) -> Foreground {
        Foreground { own: is_shell && rustix::termios::isatty(rustix::stdio::stdin()) }
    }

    /// In the child: a process group of its own, in front.
    fn enter(&self) {
        if self.own {
            // SAFETY: numbers only; to take the terminal from behind is a stop, unless that is ignored.
            unsafe {
                libc::setpgid(0, 0);
                libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                libc::tcsetpgrp(0, libc::getpid());
            }
        }
    }

    fn give(&self, pid: u32) {
        if self.own {
            // SAFETY: as above, from the other side, so that it does not matter who is first.
            unsafe {
                libc::setpgid(pid as i32, pid as i32);
                libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            }
        }
    }

    fn take_back(&self) {
        if self.own {
            // SAFETY: numbers only.
            unsafe { libc::tcsetpgrp(0, libc::getpgrp()) };
        }
    }
}
