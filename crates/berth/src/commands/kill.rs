//! `berth kill`

use crate::ExitCode;

use crate::{CommandError, Context, output, signals};

/// Send a signal to the processes that were started in named containers
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
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let signal = signals::parse(&args.signal).ok_or_else(|| {
        CommandError::usage(format!("`{}` is no signal: write a name such as TERM, or a number", args.signal))
    })?;
    let containers = context.containers()?;
    for name in &args.names {
        if signals::send(&containers.get(name)?, signal)? == 0 {
            return Err(CommandError::failure(format!("container `{name}` is not running")));
        }
        output::lines([name])?;
    }
    Ok(ExitCode::SUCCESS)
}
