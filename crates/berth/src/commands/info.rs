//! `berth info`

use crate::ExitCode;

use crate::{CommandError, Context};

/// Show where things are and what this host can do
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("info is not there yet"))
}
