//! `berth exec`

use crate::ExitCode;
use std::ffi::OsString;

use berth_container::Error;

use crate::start::named::{self, State};
use crate::start::{gather, join, ownership_filter};
use crate::{CommandError, Context, running};

/// Run a command in a running container
///
/// The container is a named one, or the process id of anything that runs in one.
#[derive(Clone, Debug, clap::Args)]
#[command(
    override_usage = "berth exec [OPTIONS] NAME|PID COMMAND [ARGUMENT]...",
    after_help = "Examples:
  berth exec build make -j8
  berth exec -t 4711 bash"
)]
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

/// Becomes the command; returns only when that fails or when something had to wait for it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    berth_container::launch::sealed::ensure_sealed()?;
    let settings = gather::parse_settings(&args.env)?;
    let wish = running::Wish {
        command: &args.command,
        settings: &settings,
        workdir: args.workdir.as_deref(),
        user: args.user.as_deref(),
        pty: args.pty,
    };
    match context.containers()?.get(&args.container) {
        Ok(container) => match named::open(container)? {
            State::Running(named, pid) => {
                let like = named.record.bundle.spec.process.clone().unwrap_or_default();
                let process = running::process(like, &wish, pid)?;
                let filter = ownership_filter(named.record.fake_ownership);
                join(pid, &process, filter, Some((named.container, named.lock)), None)
            }
            State::Stopped(named) => {
                let image = &named.record.image;
                let hint = format!("start it with `berth run --name {} {image} COMMAND`", args.container);
                Err(CommandError::failure(format!("container `{}` is not running", args.container)).with_hint(hint))
            }
        },
        Err(error @ (Error::NoContainer { .. } | Error::BadName { .. })) => {
            let Ok(pid) = args.container.parse::<u32>() else { return Err(error.into()) };
            let like = running::like_process(pid)?;
            let process = running::process(like.process, &wish, pid)?;
            join(pid, &process, ownership_filter(like.fake_ownership), None, None)
        }
        Err(error) => Err(error.into()),
    }
}
