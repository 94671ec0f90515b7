//! `berth rm`

use std::process::ExitCode;

use crate::{CommandError, Context};

/// Remove named containers and what they changed
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Their names
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// Stop those that run, by SIGKILL, and say nothing of those that do not exist
    #[arg(short, long)]
    pub force: bool,
}

/// Removes them.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("rm is not there yet"))
}
