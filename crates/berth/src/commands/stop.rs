//! `berth stop`

use crate::ExitCode;
use std::time::Duration;

use rustix::process::Signal;

use crate::{CommandError, Context, output, signals};

/// End the processes of named containers
///
/// Sends the signal that the image asks for (SIGTERM if it does not), and SIGKILL to what is still there after the time.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Seconds to wait before SIGKILL
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    pub time: u64,
    /// Names of containers
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Stops them one after the other.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let containers = context.containers()?;
    for name in &args.names {
        let container = containers.get(name)?;
        let signal = container.record()?.stop_signal.as_deref().and_then(signals::parse).unwrap_or(Signal::TERM);
        signals::stop(&container, signal, Duration::from_secs(args.time))?;
        output::lines([name])?;
    }
    Ok(ExitCode::SUCCESS)
}
