//! `berth stop`

use std::process::ExitCode;

use crate::{CommandError, Context};

/// End the processes of a named container
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

/// Stops them.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("stop is not there yet"))
}
