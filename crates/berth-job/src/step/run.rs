//! The loop: what happens between the start of a step's tasks and their end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::children::{Signals, become_subreaper, kill_children};
use super::input::Relay;
use super::output::{Sink, Stream};
use super::{Ended, Input, Launch, Outcome, Output, Usage, attach, pty, report, task};
use crate::control::{Inbox, To, WAKE};
use crate::error::{Error, Result};
use crate::record::{Exit, StepId};
use crate::{lost, time};

/// How long endings are collected before they are told, so that tasks that end alike are told together.
const TOGETHER: Duration = Duration::from_millis(100);

/// A second Ctrl-C within this time ends the step.
const TWICE: Duration = Duration::from_secs(1);

/// Slurm waits this much longer than KillWait for a step to finish.
const GRACE: u64 = 2;

/// Starts the tasks and stays until all have ended.
pub fn run(mut launch: Launch<'_>, step: StepId) -> Result<Outcome> {
    become_subreaper();
    let to: &[To] = if launch.owns_job { &[To::Job, To::Step(step)] } else { &[To::Step(step)] };
    let signals = Signals::open()?;
    let inbox = Inbox::open(&launch.requests, to);
    if let Some(container) = &mut launch.container {
        container.prepare(launch.tasks).map_err(Error::Refused)?;
    }
    let mut running = Running::start(launch)?;
    // What was asked before there was anybody to hear it.
    running.requests(&inbox, &[]);
    while running.go_on() {
        running.turn(&signals, &inbox)?;
    }
    Ok(running.finish())
}

/// A step that runs.
struct Running<'a> {
    launch: Launch<'a>,
    pids: Vec<u32>,
    exits: Vec<Option<Exit>>,
    /// Ended and not told yet, since when.
    untold: Vec<(u32, Exit)>,
    tell_at: Option<Instant>,
    streams: Vec<Stream>,
    input: Relay,
    terminal: Option<(OwnedFd, pty::Raw)>,
    ended: Option<Ended>,
    /// Nothing more is told of tasks: the step was given up.
    aborted: bool,
    kill_at: Option<Instant>,
    wait_until: Option<Instant>,
    interrupted: Option<Instant>,
    early_signal_sent: bool,
    attached: Vec<attach::Listener>,
    usage: Usage,
}

impl<'a> Running<'a> {
    fn start(mut launch: Launch<'a>) -> Result<Running<'a>> {
        let failed = |e| Error::system("start tasks", e);
        let own = std::process::id();
        let (mut pids, mut streams, mut stdin) = (Vec::new(), Vec::new(), Vec::new());
        let mut terminal = None;
        let width = (launch.tasks - 1).to_string().len();
        for number in 0..launch.tasks {
            let mut ends = Ends::default();
            let with_terminal = launch.pty && number == 0;
            let of_task = if with_terminal {
                let (ours, theirs) = pty::open().map_err(failed)?;
                ends.output = Some(ours.try_clone().map_err(failed)?);
                ends.input = Some(ours.try_clone().map_err(failed)?);
                terminal = Some(ours);
                let copy = || theirs.try_clone().map_err(failed);
                task::Streams { input: copy()?, output: copy()?, error: copy()? }
            } else {
                launch.streams(number, &mut ends)?
            };
            match task::fork().map_err(failed)? {
                None => {
                    drop((pids, streams, stdin, ends, terminal));
                    become_task(launch, number, &of_task, with_terminal, own)
                }
                Some(pid) => pids.push(pid),
            }
            let label = launch.label.then(|| format!("{number:width$}: "));
            for (end, is_error) in [(ends.output, false), (ends.error, true)] {
                if let Some(end) = end {
                    rustix::io::ioctl_fionbio(&end, true).map_err(|e| failed(e.into()))?;
                    let mut stream = Stream::new(end, label.clone(), launch.unbuffered || with_terminal, is_error);
                    let output = if is_error && !matches!(launch.error, Output::WithOutput) {
                        &launch.error
                    } else {
                        &launch.output
                    };
                    stream.muted = matches!(output, Output::Shared(_, Some(only)) if *only != number);
                    streams.push(stream);
                }
            }
            if let Some(end) = ends.input {
                rustix::io::ioctl_fionbio(&end, true).map_err(|e| failed(e.into()))?;
                stdin.push(end);
            }
        }
        if let Some(container) = &mut launch.container {
            container.forked();
        }
        let source = match std::mem::replace(&mut launch.input, Input::None) {
            Input::Shared(file, _) => Some(file),
            _ => None,
        };
        let exits = vec![None; pids.len()];
        Ok(Running {
            launch,
            pids,
            exits,
            untold: Vec::new(),
            tell_at: None,
            streams,
            input: Relay::new(source, stdin),
            terminal: terminal.map(|ours| (ours, pty::Raw::enter())),
            ended: None,
            aborted: false,
            kill_at: None,
            wait_until: None,
            interrupted: None,
            early_signal_sent: false,
            attached: Vec::new(),
            usage: Usage::default(),
        })
    }

    /// Whether a task runs, or what one has written is not passed on yet.
    fn go_on(&self) -> bool {
        self.exits.iter().any(Option::is_none)
    }

    fn turn(&mut self, signals: &Signals, inbox: &Inbox) -> Result<()> {
        let timeout = self.timeout();
        let (mut of_streams, mut of_source) = (Vec::new(), None);
        {
            let mut waits = vec![PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN)];
            for (at, stream) in self.streams.iter().enumerate() {
                if let Some(descriptor) = stream.descriptor() {
                    of_streams.push((waits.len(), at));
                    waits.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
                }
            }
            if let Some(source) = self.input.source() {
                of_source = Some(waits.len());
                waits.push(PollFd::from_borrowed_fd(source, PollFlags::IN));
            }
            let first_pipe = waits.len();
            waits.extend(self.input.waiting().map(|end| PollFd::from_borrowed_fd(end, PollFlags::OUT)));
            match poll(&mut waits, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for tasks", error)),
            }
            let ready = |at: usize| !waits[at].revents().is_empty();
            of_streams.retain(|(at, _)| ready(*at));
            of_source = of_source.filter(|at| ready(*at));
            let _ = first_pipe;
        }
        for (_, at) in of_streams {
            let stream = &mut self.streams[at];
            let sink = sink_of(&self.launch, stream.is_error);
            stream.pass_on(&attach::Copied::new(sink, &mut self.attached, stream.is_error));
        }
        if of_source.is_some() {
            self.input.read();
        }
        self.input.write();
        let numbers = signals.take();
        self.requests(inbox, &numbers);
        numbers.into_iter().filter(|&number| number != WAKE).for_each(|number| self.signal(number));
        self.clocks();
        Ok(())
    }

    /// Until the next thing that happens by itself.
    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let mut moments: Vec<Instant> = [self.tell_at, self.kill_at, self.wait_until].into_iter().flatten().collect();
        if self.ended.is_none()
            && let Some(deadline) = self.launch.deadline
        {
            moments.push(now + until(deadline));
            if let Some(early) = self.launch.signal.filter(|_| !self.early_signal_sent) {
                moments.push(now + until(deadline.saturating_sub(early.seconds)));
            }
        }
        let wait = moments.into_iter().min()?.saturating_duration_since(now);
        Some(Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ })
    }

    fn clocks(&mut self) {
        let now = Instant::now();
        let come = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
        if come(self.tell_at) {
            self.tell();
        }
        if come(self.kill_at) {
            self.kill_at = None;
            self.send(libc::SIGKILL);
        }
        if come(self.wait_until) {
            self.wait_until = None;
            let seconds = self.launch.wait.unwrap_or(0);
            eprintln!("srun: First task exited {seconds}s ago");
            report::status(&self.launch.name, &self.exits).iter().for_each(|line| eprintln!("{line}"));
            eprintln!("srun: Terminating StepId={}", self.launch.name);
            self.end(Ended::Rule, true, "");
            self.abort();
        }
        let Some(deadline) = self.launch.deadline.filter(|_| self.ended.is_none()) else { return };
        if let Some(early) = self.launch.signal.filter(|_| !self.early_signal_sent)
            && until(deadline.saturating_sub(early.seconds)).is_zero()
        {
            self.early_signal_sent = true;
            if !early.batch_only {
                self.send(early.number);
            }
        }
        if until(deadline).is_zero() {
            self.abort();
            self.end(Ended::Time, false, " DUE TO TIME LIMIT");
        }
    }

    fn requests(&mut self, inbox: &Inbox, signals: &[i32]) {
        for request in inbox.take(signals) {
            if let Some(number) = request.attach {
                self.attached.extend(attach::Listener::open(&self.launch.requests, number));
                continue;
            }
            match request.signal {
                Some(number) if number != libc::SIGKILL => self.send(number),
                other => {
                    self.abort();
                    self.end(Ended::Cancelled(request.uid), other.is_some(), "");
                }
            }
        }
    }

    /// A signal that this process got.
    fn signal(&mut self, number: i32) {
        match number {
            libc::SIGCHLD => self.reap(),
            libc::SIGWINCH => {
                if let Some((ours, _)) = &self.terminal {
                    pty::resize(ours);
                }
            }
            libc::SIGCONT => self.send(number),
            libc::SIGINT => {
                let again = self.interrupted.is_some_and(|before| before.elapsed() < TWICE);
                if !again && !self.launch.quit_on_interrupt {
                    self.interrupted = Some(Instant::now());
                    eprintln!("srun: interrupt (one more within 1 sec to abort)");
                    report::status(&self.launch.name, &self.exits).iter().for_each(|line| eprintln!("{line}"));
                    return;
                }
                eprintln!("srun: sending Ctrl-C to StepId={}", self.launch.name);
                self.send(libc::SIGINT);
                eprintln!("srun: forcing job termination");
                self.abort();
                // What Ctrl-C does to tasks needs no telling.
                self.launch.quiet = true;
                self.ended.get_or_insert(Ended::Cancelled(uid()));
                self.kill_at.get_or_insert(Instant::now() + Duration::from_secs(self.launch.kill_wait));
            }
            libc::SIGTERM | libc::SIGQUIT | libc::SIGHUP if self.ended.is_none() => {
                eprintln!("srun: forcing job termination");
                self.abort();
                self.end(Ended::Cancelled(uid()), true, "");
            }
            other => self.send(other),
        }
    }

    /// Sends a signal to every task.
    #[allow(unsafe_code)]
    fn send(&self, number: i32) {
        for (pid, _) in self.pids.iter().zip(&self.exits).filter(|(_, exit)| exit.is_none()) {
            // SAFETY: numbers; a task that was not waited for keeps its number.
            unsafe {
                // What a task has started is its own to signal, unless there is no other way.
                if number == libc::SIGKILL {
                    libc::kill(-(*pid as i32), number);
                }
                libc::kill(*pid as i32, number);
            }
        }
    }

    /// Ends the tasks: at once, or with some time to tidy up.
    fn end(&mut self, why: Ended, at_once: bool, because: &str) {
        if self.ended.is_none() {
            self.ended = Some(why);
            let (node, name) = (&self.launch.node, &self.launch.name);
            let now = time::local(time::now());
            eprintln!("slurmstepd-{node}: error: *** STEP {name} ON {node} CANCELLED AT {now}{because} ***");
        }
        if at_once {
            self.send(libc::SIGKILL);
        } else {
            self.send(libc::SIGCONT);
            self.send(libc::SIGTERM);
            self.kill_at.get_or_insert(Instant::now() + Duration::from_secs(self.launch.kill_wait));
        }
    }

    fn abort(&mut self) {
        if !self.aborted {
            self.aborted = true;
            let seconds = self.launch.kill_wait + GRACE;
            eprintln!("srun: Job step aborted: Waiting up to {seconds} seconds for job step to finish.");
        }
    }

    /// Takes notice of what has ended: tasks, and what tasks have left behind.
    #[allow(unsafe_code)]
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: room for a status and for what was used.
            let (pid, usage) = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                (libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage), usage)
            };
            if pid <= 0 {
                break;
            }
            self.usage.add(&usage);
            let Some(at) = self.pids.iter().position(|&known| known as i32 == pid) else { continue };
            let exit = Exit::from_wait(status);
            self.exits[at] = Some(exit);
            self.untold.push((at as u32, exit));
            self.tell_at.get_or_insert(Instant::now() + TOGETHER);
            if let Some(seconds) = self.launch.wait.filter(|&seconds| seconds > 0 && self.ended.is_none()) {
                self.wait_until.get_or_insert(Instant::now() + Duration::from_secs(seconds));
            }
            if self.launch.kill_on_bad_exit && !exit.is_success() && self.ended.is_none() && self.go_on() {
                self.tell();
                eprintln!("srun: Terminating StepId={}", self.launch.name);
                self.end(Ended::Rule, false, "");
            }
        }
    }

    fn tell(&mut self) {
        self.tell_at = None;
        let ended = std::mem::take(&mut self.untold);
        if !self.launch.quiet {
            report::endings(&self.launch.node, &ended).iter().for_each(|line| eprintln!("{line}"));
        }
    }

    /// After the last task.
    fn finish(mut self) -> Outcome {
        let mark = self.launch.environment.get(lost::MARK).map(|mark| mark.to_string_lossy().into_owned());
        kill_children(&mut self.usage, &mark.unwrap_or_default());
        for stream in &mut self.streams {
            let sink = sink_of(&self.launch, stream.is_error);
            stream.drain(&attach::Copied::new(sink, &mut self.attached, stream.is_error));
        }
        drop(self.terminal.take());
        self.tell();
        let exits: Vec<Exit> = self.exits.iter().flatten().copied().collect();
        let by_force = |exit: &Exit| [libc::SIGKILL, libc::SIGTERM].contains(&i32::from(exit.signal));
        if !self.aborted && !self.launch.quiet && exits.iter().any(by_force) {
            eprintln!("srun: Force Terminated StepId={}", self.launch.name);
        }
        Outcome { exits, ended: self.ended, usage: self.usage }
    }
}

impl Usage {
    /// Counts what a child used.
    pub(super) fn add(&mut self, usage: &libc::rusage) {
        let microseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
        self.user += microseconds(usage.ru_utime);
        self.system += microseconds(usage.ru_stime);
        self.max_resident = self.max_resident.max((usage.ru_maxrss as u64) << 10);
    }
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn until(moment: u64) -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(moment).saturating_sub(since)
}

fn sink_of<'l>(launch: &'l Launch<'_>, is_error: bool) -> &'l Sink {
    let output = if is_error && !matches!(launch.error, Output::WithOutput) { &launch.error } else { &launch.output };
    match output {
        Output::Shared(sink, _) => sink,
        _ => &Sink::Output,
    }
}

/// Our ends of a task's pipes.
#[derive(Default)]
struct Ends {
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

impl Launch<'_> {
    /// What a task gets, and what is left to us.
    fn streams(&self, number: u32, ends: &mut Ends) -> Result<task::Streams> {
        let failed = |e: io::Error| Error::system("make a task's pipes", e);
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
        let nothing = || -> Result<OwnedFd> {
            let mut options = std::fs::OpenOptions::new();
            Ok(options.read(true).write(true).open("/dev/null").map_err(failed)?.into())
        };
        let input = match &self.input {
            Input::None => nothing()?,
            Input::Shared(_, only) if only.is_some_and(|only| only != number) => nothing()?,
            Input::Shared(..) => {
                let (theirs, ours) = pipe()?;
                ends.input = Some(ours);
                theirs
            }
            Input::Each(paths) => {
                let path = &paths[number as usize];
                std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?.into()
            }
        };
        let open = |output: &Output, end: &mut Option<OwnedFd>| -> Result<OwnedFd> {
            match output {
                Output::None => nothing(),
                Output::Each(paths, append) if !self.label => {
                    let path = &paths[number as usize];
                    super::open_output(path, *append).map_err(|e| Error::io("open", path, e))
                }
                _ => {
                    let (ours, theirs) = pipe()?;
                    *end = Some(ours);
                    Ok(theirs)
                }
            }
        };
        let output = open(&self.output, &mut ends.output)?;
        let error = match &self.error {
            Output::WithOutput => output.try_clone().map_err(failed)?,
            other => open(other, &mut ends.error)?,
        };
        Ok(task::Streams { input, output, error })
    }
}

/// In the child: becomes the task's command.
fn become_task(mut launch: Launch<'_>, number: u32, streams: &task::Streams, terminal: bool, parent: u32) -> ! {
    task::die_with(parent);
    task::take_streams(streams, terminal);
    task::reset_signals();
    let mut environment = std::mem::take(&mut launch.environment);
    environment.set_task(number);
    if let Some(cpus) = launch.cpus.get(number as usize) {
        task::bind(cpus);
    }
    let node = launch.node.clone();
    match &mut launch.container {
        None => task::enter_directory(&launch.directory, &node),
        Some(container) => {
            let _ = std::env::set_current_dir(&launch.directory);
            if let Err(text) = container.enter(&mut environment) {
                text.lines().for_each(|line| eprintln!("slurmstepd-{node}: error: {line}"));
                task::exit(1);
            }
        }
    }
    let command = launch.commands.get(number as usize).or(launch.commands.first());
    let command = command.map_or(&[][..], Vec::as_slice);
    let error = task::become_command(command, &environment);
    let name = match command.first() {
        Some(word) if word.as_encoded_bytes().contains(&b'/') => launch.directory.join(word).display().to_string(),
        Some(word) => word.to_string_lossy().into_owned(),
        None => String::new(),
    };
    eprintln!("slurmstepd-{node}: error: execve(): {name}: {}", task::reason(&error));
    let _ = streams.input.as_raw_fd();
    task::exit(error.raw_os_error().unwrap_or(1));
}
