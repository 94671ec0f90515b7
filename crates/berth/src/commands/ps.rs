//! `berth ps`

use crate::ExitCode;
use std::time::SystemTime;

use berth_container::state::{Container, Member, Record};
use serde::Serialize;

use crate::output::Table;
use crate::units::format_age;
use crate::{CommandError, Context, output, slurm};

mod job;

/// List the named containers, or those of a job
///
/// With --quiet, the names only.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The containers that run for a job of Slurm, named or not, on all its nodes
    #[arg(long, value_name = "ID[.STEP]")]
    pub job: Option<slurm::Name>,
    /// On a node: those of that job or step, a line of JSON each
    #[arg(long, value_name = "ID[.STEP]", hide = true, conflicts_with = "job")]
    pub of_job: Option<slurm::Name>,
}

/// A container as `--json` shows it.
#[derive(Serialize)]
struct Row {
    name: String,
    image: String,
    digest: Option<String>,
    created: u64,
    running: bool,
    /// Processes on this machine that were started in it.
    pids: Vec<u32>,
    /// The machine that it runs on, if that is another.
    host: Option<String>,
    command: Vec<String>,
}

/// Lists them, running or not.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    if let Some(name) = &args.of_job {
        return job::list_node(name);
    }
    if let Some(name) = &args.job {
        return job::list(name, context);
    }
    let containers = context.containers()?.list()?;
    if context.quiet() && !context.json() {
        output::lines(containers.iter().map(Container::name))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for container in &containers {
        rows.push(row(container.record()?, container.members()?));
    }
    if context.json() {
        output::json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let mut table = Table::new(&["NAME", "IMAGE", "COMMAND", "CREATED", "STATUS"]);
    for row in rows {
        let status = match (&row.host, row.pids.as_slice()) {
            (Some(host), _) => format!("running on {host}"),
            (None, []) => "stopped".to_owned(),
            (None, pids) => format!("running ({})", pids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
        };
        table.row([row.name, row.image, shorten(&row.command.join(" ")), format_age(row.created, now), status]);
    }
    table.print()?;
    Ok(ExitCode::SUCCESS)
}

fn row(record: Record, members: Vec<Member>) -> Row {
    let mut pids = Vec::new();
    let mut elsewhere = None;
    for member in &members {
        match member {
            Member::Here(pid) => pids.push(*pid),
            Member::On { host, .. } => elsewhere = Some(host.clone()),
        }
    }
    pids.sort_unstable();
    Row {
        name: record.name,
        image: record.image,
        digest: record.digest,
        created: record.created,
        running: !members.is_empty(),
        pids,
        host: elsewhere,
        command: record.bundle.spec.process.map(|process| process.args).unwrap_or_default(),
    }
}

/// As much of a command as fits beside the rest.
fn shorten(command: &str) -> String {
    const WIDTH: usize = 30;
    match command.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}
