//! `berth ps`

use std::process::ExitCode;

use crate::{CommandError, Context};

/// List the named containers
///
/// With --quiet, the names only.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Lists them.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("ps is not there yet"))
}
