//! `berth exec`

use crate::ExitCode;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use berth_container::Error;

use crate::start::named::{self, State};
use crate::start::{gather, join, ownership_filter};
use crate::{CommandError, Context, running, slurm};

/// Run a command in a running container
///
/// The container is a named one, or the process id of anything that runs in one, or with --job that of a job of Slurm: the
/// command then runs on one of the job's nodes, as a step of the job.
#[derive(Clone, Debug, clap::Args)]
#[command(
    override_usage = "berth exec [OPTIONS] NAME|PID COMMAND [ARGUMENT]...
       berth exec [OPTIONS] --job ID[.STEP] [--node NODE] COMMAND [ARGUMENT]...",
    after_help = "Examples:
  berth exec build make -j8
  berth exec -t 4711 bash
  berth exec --job 4711 --node n2 nvidia-smi"
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
    /// The container of a job of Slurm, or of one of its steps
    #[arg(long, value_name = "ID[.STEP]")]
    pub job: Option<slurm::Name>,
    /// On this node of the job; the first is the default
    #[arg(long, value_name = "NODE", requires = "job")]
    pub node: Option<String>,
    /// On the node: the container of that job or step
    #[arg(long, value_name = "ID[.STEP]", hide = true, conflicts_with = "job")]
    pub of_step: Option<slurm::Name>,
    /// The container; with --job, the command
    #[arg(value_name = "NAME|PID")]
    pub container: OsString,
    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present_any = ["job", "of_step"]
    )]
    pub command: Vec<OsString>,
}

/// Becomes the command; returns only when that fails or when something had to wait for it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    if let Some(name) = &args.job {
        return Err(become_step(args, name)?);
    }
    berth_container::launch::sealed::ensure_sealed()?;
    let settings = gather::parse_settings(&args.env)?;
    let of_job;
    let command = if args.of_step.is_some() {
        of_job = command_of_job(args);
        &of_job
    } else {
        &args.command
    };
    let wish = running::Wish {
        command,
        settings: &settings,
        workdir: args.workdir.as_deref(),
        user: args.user.as_deref(),
        pty: args.pty,
    };
    if let Some(name) = &args.of_step {
        return join_process(member(name)?, &wish);
    }
    let asked = args.container.to_string_lossy();
    match context.containers()?.get(&asked) {
        Ok(container) => match named::open(container)? {
            State::Running(named, pid) => {
                let like = named.record.bundle.spec.process.clone().unwrap_or_default();
                let process = running::process(like, &wish, pid)?;
                let filter = ownership_filter(named.record.fake_ownership);
                join(pid, &process, filter, Some((named.container, named.lock)), None)
            }
            State::Stopped(named) => {
                let image = &named.record.image;
                let hint = format!("start it with `berth run --name {asked} {image} COMMAND`");
                Err(CommandError::failure(format!("container `{asked}` is not running")).with_hint(hint))
            }
        },
        Err(error @ (Error::NoContainer { .. } | Error::BadName { .. })) => {
            let Ok(pid) = asked.parse::<u32>() else { return Err(error.into()) };
            join_process(pid, &wish)
        }
        Err(error) => Err(error.into()),
    }
}

fn join_process(pid: u32, wish: &running::Wish<'_>) -> Result<ExitCode, CommandError> {
    let like = running::like_process(pid)?;
    let process = running::process(like.process, wish, pid)?;
    join(pid, &process, ownership_filter(like.fake_ownership), None, None)
}

/// With --job there is no container to name, so all operands are the command.
fn command_of_job(args: &Args) -> Vec<OsString> {
    std::iter::once(&args.container).chain(&args.command).cloned().collect()
}

/// A process of a job in a container of this node.
fn member(name: &slurm::Name) -> Result<u32, CommandError> {
    slurm::members(name).first().map(|member| member.rooted.pid).ok_or_else(|| {
        CommandError::failure(format!("{name} has no container on node {}", slurm::node_name()))
            .with_hint(format!("`berth ps --job {}` lists the job's containers, and --node chooses a node", name.job))
    })
}

/// Becomes the `srun` that calls this verb on the job's node. Comes back only with what went wrong.
fn become_step(args: &Args, name: &slurm::Name) -> Result<CommandError, CommandError> {
    let job = slurm::Job::find(name)?;
    let node = match (&args.node, &name.step) {
        (Some(node), _) => Some(node.clone()),
        (None, Some(step)) => job.first_node(step)?,
        (None, None) => None,
    };
    let mut srun = job.step(1);
    if let Some(node) = node {
        srun.arg(format!("--nodelist={node}"));
    }
    if args.pty {
        srun.arg("--pty");
    }
    srun.arg(slurm::own_program()).arg("exec");
    // The task of an array has a number of its own on the node.
    let step = name.step.as_ref().map(|step| format!(".{step}")).unwrap_or_default();
    srun.arg(format!("--of-step={}{step}", job.id));
    srun.args(args.env.iter().map(|setting| format!("--env={setting}")));
    srun.args(args.workdir.iter().map(|directory| format!("--workdir={directory}")));
    srun.args(args.user.iter().map(|user| format!("--user={user}")));
    if args.pty {
        srun.arg("--pty");
    }
    srun.arg("--").args(command_of_job(args));
    Ok(slurm::not_started("srun", srun.exec()))
}
