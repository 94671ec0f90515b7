//! `berth shell`

use crate::ExitCode;
use std::io::IsTerminal as _;

use crate::cli::options::ContainerOptions;
use crate::command_error::Kind;
use crate::{CommandError, Context, start};

/// Open a shell in an image
///
/// As `run` with the best shell that the image has (the person's own if it is there, then bash, then sh), as a login
/// shell.
#[derive(Clone, Debug, clap::Args)]
#[command(override_usage = "berth shell [OPTIONS] IMAGE")]
pub struct Args {
    /// See [`ContainerOptions`].
    #[command(flatten)]
    pub container: ContainerOptions,
    /// The image, as for `run`
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Becomes the shell; returns only when that fails or when something had to wait for it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let mut options = args.container.clone();
    // The person's terminal is there under its own name, unless the container has other devices.
    options.pty |= options.contained && std::io::stdin().is_terminal();
    start::start(&options, &args.image, start::What::Shell, context).map_err(|error| {
        if error.kind() == Kind::CommandNotFound {
            CommandError::new(Kind::CommandNotFound, format!("{} has no shell (/bin/sh)", args.image))
                .with_hint(format!("run its own command: `berth run {}`", args.image))
        } else {
            error
        }
    })
}
