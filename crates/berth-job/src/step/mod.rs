//! A step: tasks that are started together, and what `srun` does while they run.
//!
//! `srun` is the parent of its tasks. It passes input and output on, tells how tasks end, forwards signals, and ends the
//! step when its time is over. The tasks are in process groups of their own, so that a signal of the terminal reaches
//! `srun` alone and is passed on by Slurm's rules; and the kernel kills them if `srun` is killed.

pub mod attach;
mod children;
mod files;
mod input;
pub mod output;
mod pty;
mod report;
mod run;
mod task;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::environment::Environment;
use crate::record::{EarlySignal, Exit, State};

pub use children::{Signals, become_subreaper, kill_children};
pub use files::Files;
pub use output::{Sink, open_output};
pub use report::highest;
pub use run::run;
pub use task::{become_command, become_program, bind, enter_directory, exit, fork, reason, reset_signals, wait};

/// What becomes of a task before its command is started in it: it joins a container.
pub trait Container {
    /// Before tasks are forked.
    fn prepare(&mut self, tasks: u32) -> Result<(), String>;

    /// After the last one was.
    fn forked(&mut self);

    /// In a task; may change its environment. The error has all its lines.
    fn enter(&mut self, environment: &mut Environment) -> Result<(), String>;
}

/// A step's container, if it has one, or what is wrong with what was asked for.
pub type Contained = Result<Option<Box<dyn Container>>, String>;

/// Where standard input comes from.
#[derive(Debug)]
pub enum Input {
    /// Nothing.
    None,
    /// A file that is read by the step and given to every task, or to one.
    Shared(OwnedFd, Option<u32>),
    /// Each task opens its own, by a pattern that is expanded.
    Each(Vec<PathBuf>),
}

/// Where standard output or error goes.
#[derive(Debug)]
pub enum Output {
    /// Through the step into one file.
    Shared(Sink, Option<u32>),
    /// Each task has its own.
    Each(Vec<PathBuf>, bool),
    /// Nowhere.
    None,
    /// Standard error only: where standard output goes.
    WithOutput,
}

/// What to start.
#[expect(missing_debug_implementations, reason = "a container is anything")]
pub struct Launch<'a> {
    /// `JOB.STEP`, for what is told.
    pub name: String,
    /// The job's number.
    pub job: u32,
    /// The node's name.
    pub node: String,
    /// A command for all tasks, or one for each.
    pub commands: Vec<Vec<OsString>>,
    /// How many.
    pub tasks: u32,
    /// What all tasks have.
    pub environment: Environment,
    /// Where they start.
    pub directory: PathBuf,
    /// Where standard input comes from.
    pub input: Input,
    /// Where standard output goes.
    pub output: Output,
    /// Where standard error goes.
    pub error: Output,
    /// Whether each line has the task's number in front.
    pub label: bool,
    /// Whether output is passed on as it comes.
    pub unbuffered: bool,
    /// Whether task 0 has a terminal.
    pub pty: bool,
    /// Whether the step ends when a task fails.
    pub kill_on_bad_exit: bool,
    /// Seconds after which the step ends when a task has ended.
    pub wait: Option<u64>,
    /// Seconds from SIGTERM to SIGKILL.
    pub kill_wait: u64,
    /// When its time is over, in seconds since 1970.
    pub deadline: Option<u64>,
    /// What comes before that.
    pub signal: Option<EarlySignal>,
    /// The CPUs of each task; empty where they are not bound.
    pub cpus: Vec<Vec<u32>>,
    /// Whether one Ctrl-C ends the step.
    pub quit_on_interrupt: bool,
    /// Where other commands ask for signals ([`crate::control`]).
    pub requests: PathBuf,
    /// Whether the job is this step's: then what is asked of the job is asked of it.
    pub owns_job: bool,
    /// Whether to tell nothing of how tasks end (`-Q`).
    pub quiet: bool,
    /// The container.
    pub container: Option<&'a mut dyn Container>,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How each task ended.
    pub exits: Vec<Exit>,
    /// Why it was ended, if it was.
    pub ended: Option<Ended>,
    /// Processor time, in microseconds, and the largest resident set, in bytes.
    pub usage: Usage,
}

/// Why a step was ended before its tasks had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its time was over.
    Time,
    /// Somebody said so: the number of the user.
    Cancelled(u32),
    /// A task failed, or others had ended.
    Rule,
}

/// What tasks used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Microseconds in user mode.
    pub user: u64,
    /// Microseconds in the kernel.
    pub system: u64,
    /// Bytes.
    pub max_resident: u64,
}

impl Outcome {
    /// The exit that stands for all: the highest.
    pub fn exit(&self) -> Exit {
        highest(&self.exits)
    }

    /// How the step's record ends.
    pub fn state(&self) -> State {
        match self.ended {
            Some(Ended::Time) => State::Timeout,
            Some(Ended::Cancelled(_)) => State::Cancelled,
            Some(Ended::Rule) => State::Cancelled,
            None if self.exit().is_success() => State::Completed,
            None => State::Failed,
        }
    }
}
