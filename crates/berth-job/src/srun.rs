//! `srun`: a job of its own, or a step of the job that it is typed in.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};

use crate::allocate::allocate;
use crate::batch::keeper;
use crate::control;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::lost;
use crate::node::Node;
use crate::options::pattern::Names;
use crate::options::{Request, Verb, multi_prog};
use crate::process::Process;
use crate::queue::Queue;
use crate::record::{Allocation, Exit, Job, Reason, State, Step, StepId};
use crate::step::{Contained, Container, Ended, Launch, Outcome, Output, Sink};
use crate::submit::{self, Refusal};
use crate::{step, time};

/// What is typed, understood, and what it is for.
#[expect(missing_debug_implementations, reason = "a container is anything")]
pub struct Srun<'a> {
    /// The options.
    pub request: Request,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// The machine.
    pub node: Node,
    /// Makes the container of a step, where one is asked for.
    pub container: &'a mut dyn FnMut(&Job, &Step) -> Contained,
}

/// How a call ended: an exit code, or why nothing was started.
pub type Answer = std::result::Result<u8, Refusal>;

fn refused(error: &Error) -> Refusal {
    Refusal::error(Verb::Srun, error.to_string())
}

impl Srun<'_> {
    /// As a job of its own.
    pub fn alone(mut self) -> Answer {
        for warning in submit::check(&self.request, Verb::Srun, &self.node)? {
            eprintln!("{warning}");
        }
        let queue = Queue::open().map_err(|e| refused(&e))?;
        submit::check_dependencies(&self.request, Verb::Srun, &queue)?;
        let mut job = submit::job(&self.request, Verb::Srun, &self.command);
        if self.request.test_only {
            let next = queue.ids().ok().and_then(|ids| ids.last().copied()).unwrap_or(0) + 1;
            eprintln!("{}", submit::test_line(Verb::Srun, next, &job, &self.node));
            return Ok(0);
        }
        allocate(&queue, &mut job, &self.node, Verb::Srun, &self.request)?;
        job.state = State::Running;
        let allocation = job.allocation.clone().unwrap_or_default();
        let step = self.step(&job, StepId::Number(0), allocation, true);
        let written = queue.write_job(&job).and_then(|()| queue.write_step(&step));
        let outcome = written.map_err(|e| refused(&e)).and_then(|()| self.launch(&queue, &job, step, true));
        let (answer, outcome) = match outcome {
            Ok(outcome) => (Ok(outcome.exit().shell_code()), outcome),
            Err(refusal) => {
                let exits = vec![Exit { code: refusal.code, signal: 0 }];
                (Err(refusal), Outcome { exits, ..Outcome::default() })
            }
        };
        job.state = outcome.state();
        job.exit = outcome.exit();
        job.derived_exit = job.exit;
        job.reason = reason_of(job.state, job.exit);
        if let Some(Ended::Cancelled(uid)) = outcome.ended {
            job.cancelled_by = Some(uid);
        }
        job.ended = Some(time::now());
        queue.finish(&job).map_err(|e| refused(&e))?;
        look_after(&queue);
        if job.state == State::Timeout {
            eprintln!("srun: Force Terminated job {}", job.id);
        }
        answer
    }

    /// As a step of a job that runs.
    pub fn inside(mut self, job: u32) -> Answer {
        let queue = Queue::open().map_err(|e| refused(&e))?;
        let invalid = || Refusal::controller(Verb::Srun, "Invalid job id specified");
        let job = queue.job(job).map_err(|_| invalid())?;
        if job.state != State::Running {
            return Err(Refusal::controller(Verb::Srun, "Job/step already completing or completed"));
        }
        if let Some(text) = &self.request.refused {
            return Err(Refusal::error(Verb::Srun, text));
        }
        let held = job.allocation.clone().unwrap_or_default();
        self.request.cpus_per_task = self.request.cpus_per_task.or(job.resources.cpus_per_task);
        let resources = self.request.resources();
        if self.request.tasks.is_none() && self.request.tasks_per_node.is_none() {
            self.request.tasks = Some(job.resources.tasks.max(1));
        }
        let wanted = if self.request.overcommit { 1 } else { self.request.resources().cpus() };
        if wanted as usize > held.cpus.len() && !self.request.overcommit {
            let text = "More processors requested than permitted";
            return Err(Refusal::error(Verb::Srun, format!("Unable to create step for job {}: {text}", job.id)));
        }
        if resources.gpus as usize > held.gpus.len() {
            let text = "Invalid generic resource (gres) specification";
            return Err(Refusal::error(Verb::Srun, format!("Unable to create step for job {}: {text}", job.id)));
        }
        let step = self.claim(&queue, &job, &held, wanted as usize).map_err(|e| refused(&e))?;
        let outcome = self.launch(&queue, &job, step, false)?;
        look_after(&queue);
        Ok(outcome.exit().shell_code())
    }

    /// Waits until the job has CPUs that no other step holds, and writes the step down.
    fn claim(&self, queue: &Queue, job: &Job, held: &Allocation, wanted: usize) -> Result<Step> {
        let directory = queue.directory(job.id);
        let mut watch = None;
        loop {
            let lock = crate::queue::lock_file(&directory.join("lock"))?;
            let steps = queue.steps(job.id)?;
            let number = steps.iter().filter_map(|step| match step.id {
                StepId::Number(number) => Some(number + 1),
                StepId::Batch => None,
            });
            let id = StepId::Number(number.max().unwrap_or(0));
            let is_busy = |step: &&Step| {
                step.exclusive && !step.state.is_over() && step.supervisor.as_ref().is_some_and(Process::is_alive)
            };
            let busy: Vec<&Step> = steps.iter().filter(is_busy).collect();
            let mut allocation = held.clone();
            if !self.request.overlap {
                allocation.cpus.retain(|cpu| !busy.iter().any(|step| step.allocation.cpus.contains(cpu)));
                allocation.gpus.retain(|gpu| !busy.iter().any(|step| step.allocation.gpus.contains(gpu)));
            }
            if allocation.cpus.len() >= wanted {
                allocation.cpus.truncate(wanted);
                if let Some(gpus) = self.request.gpus.or(self.request.gpus_per_task) {
                    allocation.gpus.truncate(gpus as usize);
                }
                let step = self.step(job, id, allocation, !self.request.overlap);
                queue.write_step(&step)?;
                return Ok(step);
            }
            drop(lock);
            let Some(watch) = &watch else {
                eprintln!(
                    "srun: Job {} step creation temporarily disabled, retrying (Requested nodes are busy)",
                    job.id
                );
                // And look again: it may have changed before it was watched.
                watch = Some(control::watch(&directory)?);
                continue;
            };
            // A step that ends is written down; one that is killed is a process that ends.
            let processes: Vec<OwnedFd> = busy.iter().filter_map(|step| step.supervisor.as_ref()?.open()).collect();
            let mut waits = vec![PollFd::new(watch, PollFlags::IN)];
            waits.extend(processes.iter().map(|process| PollFd::new(process, PollFlags::IN)));
            match poll(&mut waits, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => drop(control::clear(watch)),
                Err(error) => return Err(Error::system("wait for other steps", error)),
            }
        }
    }

    fn step(&self, job: &Job, id: StepId, allocation: Allocation, exclusive: bool) -> Step {
        let words: Vec<String> = self.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let base = words.first().map(|word| word.rsplit('/').next().unwrap_or_default().to_owned());
        Step {
            job: job.id,
            id,
            name: self.request.name.clone().or(base).unwrap_or_default(),
            command: words,
            submit_line: job.submit_line.clone(),
            state: State::Running,
            exit: Exit::default(),
            tasks: self.request.resources().tasks,
            allocation,
            exclusive,
            started: time::now(),
            ended: None,
            cancelled_by: None,
            supervisor: Some(Process::this()),
            user_time: 0,
            system_time: 0,
            max_resident: 0,
            container: self.request.container.to_arguments(),
        }
    }

    /// Runs the tasks, and writes down how they ended.
    fn launch(
        &mut self,
        queue: &Queue,
        job: &Job,
        mut step: Step,
        owns_job: bool,
    ) -> std::result::Result<Outcome, Refusal> {
        let outcome = self.launch_tasks(queue, job, &step, owns_job);
        let outcome_ref = outcome.as_ref().ok();
        step.state = outcome_ref.map_or(State::Failed, Outcome::state);
        step.exit = outcome_ref.map_or(Exit { code: 1, signal: 0 }, Outcome::exit);
        if let Some(outcome) = outcome_ref {
            (step.user_time, step.system_time) = (outcome.usage.user, outcome.usage.system);
            step.max_resident = outcome.usage.max_resident;
            if let Some(Ended::Cancelled(uid)) = outcome.ended {
                step.cancelled_by = Some(uid);
            }
        }
        step.ended = Some(time::now());
        queue.write_step(&step).map_err(|e| refused(&e))?;
        outcome
    }

    fn launch_tasks(
        &mut self,
        queue: &Queue,
        job: &Job,
        step: &Step,
        owns_job: bool,
    ) -> std::result::Result<Outcome, Refusal> {
        if self.request.pty && !rustix::termios::isatty(rustix::stdio::stdin()) {
            eprintln!("srun: error: ioctl(TIOCGWINSZ): Inappropriate ioctl for device");
            eprintln!("srun: error: Not using a pseudo-terminal, disregarding --pty option");
            self.request.pty = false;
        }
        let request = &self.request;
        let tasks = step.tasks.max(1);
        let commands = if request.multi_prog {
            let path = self.command.first().map(PathBuf::from).unwrap_or_default();
            let text = fs::read_to_string(&path).map_err(|_| {
                Refusal::error(Verb::Srun, format!("Could not open multi_prog config file {}", path.display()))
            })?;
            let commands = multi_prog::parse(&text, tasks, &path.display().to_string())
                .map_err(|e| Refusal::error(Verb::Srun, e))?;
            commands.into_iter().map(|words| words.into_iter().map(OsString::from).collect()).collect()
        } else {
            vec![self.command.clone()]
        };
        let mut environment = Environment::own();
        environment.export(request.export.as_deref());
        let submit = environment.get("SLURM_SUBMIT_DIR").map(ToOwned::to_owned).filter(|_| !owns_job);
        environment.set_job(job);
        environment.set("SLURM_SUBMIT_DIR", submit.unwrap_or_else(|| directory_here().into()));
        environment.set_node(job, step.allocation.cpus.len());
        environment.set_step(job, step.id, tasks, &step.allocation.gpus);
        if let Some(count) = request.cpus_per_task {
            environment.set("SLURM_CPUS_PER_TASK", count.to_string());
        }
        environment.set("SLURM_UMASK", format!("{:04o}", submit::umask()));
        environment.set("SLURM_PRIO_PROCESS", "0");
        environment.set("SLURM_DISTRIBUTION", if owns_job { "block" } else { "cyclic" });
        environment.set("SRUN_DEBUG", "3");
        if owns_job {
            environment.set("SLURM_JOB_GROUP", &job.group);
        } else {
            environment.unset("SLURM_JOB_GROUP");
        }
        environment.set(lost::MARK, lost::mark(job));
        let names = Names {
            job: job.id,
            array: job.array.as_ref().map_or(job.id, |array| array.job),
            element: job.array.as_ref().and_then(|array| array.task),
            step: step.id.to_string(),
            task: None,
            node_number: 0,
            node: step.allocation.node.clone(),
            user: job.user.clone(),
            name: job.name.clone(),
        };
        let directory = match (&request.directory, owns_job) {
            (Some(named), _) => submit::directory(Some(named)),
            _ => directory_here(),
        };
        let files =
            step::Files { names: &names, directory: &directory, tasks, append: request.append.unwrap_or(false) };
        let input = files.input(request.input.as_deref(), request.pty)?;
        let output = files.output(request.output.as_deref(), Sink::Output, "stdout")?;
        let error = match (&request.error, &request.output) {
            // Where only one is named, the other goes there too.
            (None, Some(output)) if output != "all" => Output::WithOutput,
            (error, _) => files.output(error.as_deref(), Sink::Error, "stderr")?,
        };
        let mut container = (self.container)(job, step).map_err(|text| Refusal::error(Verb::Srun, text))?;
        let request = &self.request;
        let launch = Launch {
            name: format!("{}.{}", job.id, step.id),
            job: job.id,
            node: step.allocation.node.clone(),
            commands,
            tasks,
            environment,
            directory: directory.clone(),
            input,
            output,
            error,
            label: request.label,
            unbuffered: request.unbuffered,
            pty: request.pty,
            kill_on_bad_exit: request.kill_on_bad_exit.unwrap_or(false),
            wait: request.wait,
            kill_wait: self.node.kill_wait,
            deadline: deadline(job, step, request, owns_job),
            signal: request.signal,
            cpus: binding(&self.node, step, request),
            quit_on_interrupt: request.quit_on_interrupt,
            requests: queue.directory(job.id),
            owns_job,
            quiet: request.quiet > 0 && request.verbose == 0,
            container: container.as_mut().map(|container| &mut **container as &mut dyn Container),
        };
        step::run(launch, step.id).map_err(|error| match error {
            Error::Refused(text) => Refusal { lines: text.lines().map(str::to_owned).collect(), code: 1 },
            other => refused(&other),
        })
    }
}

/// What a task has submitted is none of the step's, but the keeper that was being started for it may have looked like it.
fn look_after(queue: &Queue) {
    // Whoever looks at the queue next tries again.
    let _ = keeper::ensure(queue);
}

/// When the step's time is over: its own limit, or, where the job is its own, the job's.
fn deadline(job: &Job, step: &Step, request: &Request, owns_job: bool) -> Option<u64> {
    if owns_job {
        return submit::deadline(job);
    }
    request.time.flatten().map(|minutes| step.started + u64::from(minutes) * 60)
}

/// Which CPUs each task may use: its share, where the step has one for each, or all of the step's.
fn binding(node: &Node, step: &Step, request: &Request) -> Vec<Vec<u32>> {
    let tasks = step.tasks.max(1) as usize;
    let cpus = &step.allocation.cpus;
    let is_off =
        request.cpu_bind.as_deref().is_some_and(|how| how.split(',').any(|word| word == "none" || word == "no"));
    if !node.can_bind || is_off || cpus.is_empty() {
        return Vec::new();
    }
    let share = cpus.len() / tasks;
    if share == 0 {
        return vec![cpus.clone(); tasks];
    }
    cpus.chunks(share).take(tasks).map(<[u32]>::to_vec).collect()
}

/// Why a job that is over ended so.
pub fn reason_of(state: State, exit: Exit) -> Reason {
    match state {
        State::Timeout => Reason::TimeLimit,
        State::NodeFail => Reason::NodeDown,
        State::OutOfMemory => Reason::OutOfMemory,
        State::Failed if exit.signal > 0 => Reason::RaisedSignal,
        State::Failed => Reason::NonZeroExitCode,
        _ => Reason::None,
    }
}

fn directory_here() -> PathBuf {
    submit::directory(None)
}
