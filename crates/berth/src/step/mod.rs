//! `berth step`: a container for the tasks of a Slurm step, made once a node.
//!
//! The plugin in a task calls it as the job's user, with the person's options and the job's environment, and a socket as
//! descriptor 3. It finds the image, or fetches it; lowers what is asked for to a bundle as `berth run` does; and forks a
//! process that makes the container around itself and writes an answer for each task ([`berth_slurm::answer`]). That
//! process stays until every task has joined, and is gone when the commands run.
//!
//! What people read here is on the task's standard error. Sentences that begin with `pyxis: ` are those that scripts look
//! for.

mod answers;
mod arguments;
mod clean;
mod conf;
mod container;
mod entrypoint;
mod oci;
mod options;
mod record;
mod slurm_tools;

use std::ffi::OsString;

use berth_container::launch::{Plan, hold, sealed};
use berth_slurm::answer::Way;

use crate::cli::Global;
use crate::command_error::os_reason;
use crate::{CommandError, Context, ExitCode};

use answers::Answers;
use arguments::Arguments;
use container::Prepared;

/// Whether this line, the program's name included, is the plugin's.
pub fn is_asked(arguments: &[OsString]) -> bool {
    arguments.get(1).is_some_and(|verb| verb == "step" || verb == "oci-step")
}

/// Does what the plugin wants.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let outcome = match arguments[1].to_str() {
        Some("oci-step") => oci::run(&arguments[2..]),
        _ => Arguments::parse(&arguments[2..]).map_err(CommandError::usage).and_then(|arguments| step(&arguments)),
    };
    outcome.unwrap_or_else(|error| {
        error.report(false);
        error.exit_code()
    })
}

fn context(arguments: &Arguments) -> Context {
    let verbose = arguments.request.verbose;
    Context::new(Global { quiet: !verbose, verbose, ..Global::default() })
}

fn step(arguments: &Arguments) -> Result<ExitCode, CommandError> {
    sealed::ensure_sealed()?;
    if arguments.clean {
        clean::run(arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    let answers = Answers::inherit(arguments.tasks)?;
    // Answers, right or wrong, are for the tasks: this process has done its part then.
    if let Err(error) = start(arguments, &answers) {
        answers.failed(&error.lines());
    }
    Ok(ExitCode::SUCCESS)
}

fn start(arguments: &Arguments, answers: &Answers) -> Result<(), CommandError> {
    let context = context(arguments);
    let prepared = container::prepare(arguments, &context)?;
    let telling = record::write(arguments, &prepared);
    let Prepared { kind, mut way, cwd, create_cwd, container, lease, entrypoint, .. } = prepared;
    if let Some(lease) = lease {
        // What is forked inherits its lock, and the file is the step's.
        lease.keep();
    }
    hold::leave_behind(move || {
        let made = inhabit(kind, &mut way, container, || {
            if let Some(entrypoint) = &entrypoint {
                let started = entrypoint.run(answers.tasks())?;
                return Ok(Some(started));
            }
            hold::enter_directory(&cwd, create_cwd).map_err(|error| {
                let reason = match &error {
                    berth_container::Error::Io { source, .. } => os_reason(source),
                    other => other.to_string(),
                };
                CommandError::failure(format!("pyxis: couldn't chdir to {}: {reason}", cwd.display()))
            })?;
            Ok(None)
        });
        match made {
            Ok((process, way)) => answers.succeeded(&process, &way),
            Err(error) => answers.failed(&error.lines()),
        }
        0
    })?;
    if let Some(mut telling) = telling {
        let _ = telling.wait();
    }
    Ok(())
}

/// How the tasks' container comes to be.
enum Kind {
    /// It is made.
    New(Box<Plan>),
    /// It runs: this process is in it.
    Running {
        /// In the container.
        pid: u32,
        /// Tasks get mounts of their own there.
        apart: bool,
    },
}

/// Makes the container around this process, or finds the one that runs; gives a process that is in it.
fn inhabit(
    kind: Kind,
    way: &mut Way,
    container: Option<container::Kept>,
    start: impl FnOnce() -> Result<Option<entrypoint::Started>, CommandError>,
) -> Result<(std::os::fd::OwnedFd, Way), CommandError> {
    let process = match kind {
        Kind::New(plan) => {
            if let Some(kept) = &container {
                // Others wait for the lock until the container is there and this process is known to be in it.
                kept.container.register(std::process::id())?;
            }
            plan.inhabit()?;
            drop(container);
            hold::own_process()?
        }
        Kind::Running { pid, apart } => {
            let target = berth_container::launch::join::Target::of_process(pid)?;
            way.namespaces = target.namespaces();
            if !apart {
                return Ok((target.into_process(), way.clone()));
            }
            target.enter_apart()?;
            hold::own_process()?
        }
    };
    if let Some(started) = start()? {
        started.change(way);
    }
    Ok((process, way.clone()))
}
