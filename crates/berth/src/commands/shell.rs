//! `berth shell`

use crate::ExitCode;

use crate::cli::options::ContainerOptions;
use crate::{CommandError, Context, start};

/// Open a shell in an image
///
/// As `run` with the best shell that the image has (the person's own if it is there, then bash, then sh), as a login
/// shell, on a terminal of its own when standard input is one.
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
    start::start(&args.container, &args.image, start::What::Shell, context)
}
