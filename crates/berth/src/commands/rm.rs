//! `berth rm`

use crate::ExitCode;
use std::time::Duration;

use rustix::process::Signal;

use crate::{CommandError, Context, output, signals};

/// Remove named containers and what they changed
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// End those that run by SIGKILL, and say nothing of those that do not exist
    #[arg(short, long)]
    pub force: bool,
}

/// Removes them, and prints the name of each that is gone.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let containers = context.containers()?;
    for name in &args.names {
        let container = match containers.get(name) {
            Err(berth_container::Error::NoContainer { .. }) if args.force => continue,
            other => other?,
        };
        if args.force {
            signals::stop(&container, Signal::KILL, Duration::ZERO).or_else(|error| {
                // What runs elsewhere cannot be ended from here; removing by force ignores it.
                if container.members()?.is_empty() { Err(error) } else { Ok(()) }
            })?;
        }
        container.remove(args.force)?;
        output::lines([name])?;
    }
    containers.sweep();
    Ok(ExitCode::SUCCESS)
}
