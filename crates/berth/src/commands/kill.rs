//! `berth kill`

use std::process::ExitCode;

use crate::{CommandError, Context};

/// Send a signal to the first process of a named container
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Names of containers
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

/// Sends it.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("kill is not there yet"))
}
