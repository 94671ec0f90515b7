//! `berth exec`

use std::ffi::OsString;
use std::process::ExitCode;

use crate::{CommandError, Context};

/// Run a command in a running container
///
/// The container is a named one, or the process id of anything that runs in one.
#[derive(Clone, Debug, clap::Args)]
#[command(override_usage = "berth exec [OPTIONS] NAME|PID COMMAND [ARGUMENT]...")]
pub struct Args {
    /// Set a variable, or take it over from here when no value is given
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Start in this directory of the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user of the container
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give the command a terminal of its own
    #[arg(short = 't', long = "pty", visible_alias = "tty")]
    pub pty: bool,
    /// Accepted for the sake of habit: standard input is always connected
    #[arg(short, long)]
    pub interactive: bool,
    /// The container
    #[arg(value_name = "NAME|PID")]
    pub container: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<OsString>,
}

/// Becomes the command.
pub fn run(_args: &Args, _context: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("exec is not there yet"))
}
