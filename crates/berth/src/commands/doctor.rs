//! `berth doctor`

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use berth_host::doctor;
use berth_host::doctor::Finding;
use berth_host::doctor::Person;
use berth_host::doctor::Places;
use berth_host::doctor::Report;
use berth_host::doctor::Role;
use berth_host::doctor::Severity;
use berth_host::doctor::cluster;

use crate::ExitCode;
use crate::command_error::Kind;
use crate::config;
use crate::output::Table;
use crate::units::parse_duration;
use crate::{CommandError, Context, output};

/// Check this host and tell what is wrong, what it breaks, and the command that mends it
///
/// It tries things rather than reading about them: makes a user namespace, mounts an overlay in it, starts a container. Root
/// tries as nobody, or as the user that --user names. Exits with 1 when something does not work.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  berth doctor\n  sudo berth doctor --node --user alice\n  sudo berth doctor --fix\n  \
                  berth doctor --cluster"
)]
pub struct Args {
    /// This host is to run jobs: what a node lacks is a fault
    #[arg(long, conflicts_with = "login")]
    pub node: bool,
    /// People submit from this host and run no jobs here
    #[arg(long)]
    pub login: bool,
    /// As root: try things as this user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Mend what can be mended without taking anything away; what is done is shown
    #[arg(long)]
    pub fix: bool,
    /// Wait at most this long for what does not answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub patience: Option<Duration>,
    /// Check all nodes, through Slurm, and print one table by kind of fault
    #[arg(long, conflicts_with_all = ["node", "login", "fix"])]
    pub cluster: bool,
    /// Print a line for each finding, as --cluster reads it
    #[arg(long, hide = true)]
    pub records: bool,
    /// Try one thing, in this process
    #[arg(long = "try", hide = true, value_name = "WORD", requires = "place")]
    pub attempt: Option<String>,
    /// Where
    #[arg(long = "in", hide = true, value_name = "DIR", id = "place")]
    pub place: Option<PathBuf>,
}

/// Checks, and prints what was found.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    if let (Some(word), Some(place)) = (&args.attempt, &args.place) {
        return doctor::probe::attempt(word, place)
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| CommandError::failure(crate::command_error::os_reason(&error)));
    }
    if args.cluster {
        return whole_cluster(args, context);
    }
    let person = match &args.user {
        None => doctor::whoever_asks(),
        Some(name) => {
            let person = doctor::account(name)
                .ok_or_else(|| CommandError::failure(format!("there is no user {name}: getent passwd {name}")))?;
            let own = rustix::process::geteuid();
            if !own.is_root() && own.as_raw() != person.uid {
                return Err(CommandError::failure(format!("only root can try things as {name}")));
            }
            person
        }
    };
    let role = match (args.node, args.login) {
        (true, _) => Role::Node,
        (_, true) => Role::Login,
        _ => Role::Any,
    };
    let places = places(context, &person);
    let host = doctor::live(role, person, places, args.patience.unwrap_or(doctor::LIMIT))
        .map_err(|e| CommandError::io("use", env::temp_dir(), e))?;
    let host = Arc::new(host);
    let mut report = doctor::check(&host);
    if args.fix {
        report.fix(&host);
    }
    if args.records {
        let node = env::var("SLURMD_NODENAME").unwrap_or_else(|_| report.host.clone());
        let records = cluster::records(&report, &node);
        let lines: Result<Vec<String>, _> = records.iter().map(serde_json::to_string).collect();
        output::lines(lines?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if context.json() {
        output::json(&report)?;
    } else {
        output::lines(lines(&report, context.quiet()))?;
    }
    end(report.has_faults())
}

fn end(faults: bool) -> Result<ExitCode, CommandError> {
    if faults { Err(CommandError::new(Kind::Findings, "something does not work")) } else { Ok(ExitCode::SUCCESS) }
}

/// A line for what is fine, and for each finding what it breaks and how it is mended.
fn lines(report: &Report, quiet: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for section in &report.sections {
        if !section.notes.fine.is_empty() && !quiet {
            lines.push(format!("ok      {}: {}", section.name, section.notes.fine.join("; ")));
        }
        for finding in &section.notes.findings {
            lines.extend(finding_lines(&section.name, finding));
        }
    }
    let count = |severity| report.findings().filter(|finding| finding.severity == severity).count();
    let (faults, advice) = (count(Severity::Fault), count(Severity::Advice));
    if !quiet {
        lines.push(format!(
            "{} as {}, in {} ms: {faults} faults, {advice} pieces of advice",
            report.host, report.user, report.milliseconds
        ));
    }
    lines
}

fn finding_lines(section: &str, finding: &Finding) -> Vec<String> {
    let word = match finding.severity {
        Severity::Fault => "FAULT ",
        Severity::Advice => "advice",
    };
    let mut lines = vec![
        format!("{word}  {section}: {} [{}]", finding.what, finding.kind),
        format!("        breaks: {}", finding.breaks),
        format!("        mend:   {}", finding.mend),
    ];
    match &finding.done {
        Some(Ok(done)) => lines.push(format!("        mended: {done}")),
        Some(Err(reason)) => lines.push(format!("        not mended: {reason}")),
        None => {}
    }
    lines
}

/// Where berth keeps things for a person, by the site's configuration.
fn places(context: &Context, person: &Person) -> Places {
    let mut places = Places { store: Err(String::new()), below: Vec::new(), containers: None, mistake: None };
    let config = match context.config() {
        Ok(config) => config,
        Err(error) => {
            places.mistake = Some(error.to_string());
            return places;
        }
    };
    if person.uid == rustix::process::geteuid().as_raw() {
        match context.store_options() {
            Ok(options) => (places.store, places.below) = (Ok(options.root), options.below),
            Err(error) => places.store = Err(error.to_string()),
        }
        places.containers = context.containers_directory().ok();
        return places;
    }
    // As another person's shell would expand them.
    let expand = |text: &str| {
        config::expand(text, |name| match name {
            "USER" | "LOGNAME" => Some(person.name.clone()),
            "HOME" => person.home.clone(),
            name => env::var(name).ok(),
        })
    };
    let home = person.home.as_ref().map(|home| PathBuf::from(home).join(".local/share/berth"));
    let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
    places.store = match &config.store {
        Some(text) => expand(text).map(PathBuf::from),
        None => below_home("store").ok_or_else(|| "HOME is not set".to_owned()),
    };
    places.below = config.stores.iter().filter_map(|text| expand(text).ok().map(PathBuf::from)).collect();
    places.containers = match &config.containers {
        Some(text) => expand(text).ok().map(PathBuf::from),
        None => below_home("containers"),
    };
    places
}

/// Longest that Slurm may take to start the step: nodes that are idle now may be taken by others first.
const PATIENCE: &str = "--immediate=30";

/// Asks the nodes, through Slurm, and prints one table.
fn whole_cluster(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let said = slurm(&["sinfo", "-h", "-N", "-o", "%N %T"], true)?;
    let (mut asked, mut left_out) = (Vec::new(), Vec::new());
    for line in said.lines() {
        let Some((node, state)) = line.split_once(' ') else { continue };
        // A node is in the list once for each of its partitions.
        if asked.iter().any(|name| name == node) || left_out.iter().any(|(name, _)| name == node) {
            continue;
        }
        if matches!(state.trim(), "idle" | "mixed") {
            asked.push(node.to_owned());
        } else {
            left_out.push((node.to_owned(), state.trim().to_owned()));
        }
    }
    if asked.is_empty() {
        return Err(CommandError::failure("no node of the cluster is idle or mixed").with_hint("sinfo -N"));
    }
    let program = env::current_exe().map_err(|e| CommandError::io("find", "/proc/self/exe", e))?;
    let (program, count, names) = (program.to_string_lossy().into_owned(), asked.len().to_string(), asked.join(","));
    let patience = args.patience.unwrap_or(doctor::LIMIT).as_secs().max(2).to_string() + "s";
    let mut more = vec!["--patience", patience.as_str()];
    more.extend(args.user.iter().flat_map(|name| ["--user", name.as_str()]));
    let step = [
        "srun",
        "-N",
        &count,
        "-n",
        &count,
        "--ntasks-per-node=1",
        "-w",
        &names,
        PATIENCE,
        "--mpi=none",
        "-t",
        "1",
        "-D",
        "/",
    ];
    let said = slurm(&[&step[..], &[&program, "doctor", "--node", "--records"], &more].concat(), false)?;
    let summary = cluster::summarize(&cluster::parse(&said), &asked);
    if context.json() {
        let left_out: Vec<_> =
            left_out.iter().map(|(node, state)| serde_json::json!({"node": node, "state": state})).collect();
        output::json(&serde_json::json!({"summary": summary, "not_asked": left_out}))?;
    } else {
        let mut table = Table::new(&["KIND", "IS", "NODES", "WHAT"]);
        for row in &summary.rows {
            let is = if row.severity == Severity::Fault { "fault" } else { "advice" };
            table.row([row.kind.clone(), is.to_owned(), compressed(&row.nodes), row.what.clone()]);
        }
        if !summary.rows.is_empty() {
            table.print()?;
        }
        output::lines(summary.rows.iter().map(|row| format!("mend {}: {}", row.kind, row.mend)))?;
        let group =
            |word: &str, nodes: &[String]| (!nodes.is_empty()).then(|| format!("{word}: {}", compressed(nodes)));
        output::lines(group("fine", &summary.fine))?;
        output::lines(group("no answer", &summary.silent))?;
        output::lines(left_out.iter().map(|(node, state)| format!("not asked: {node} ({state})")))?;
    }
    end(!summary.silent.is_empty() || summary.rows.iter().any(|row| row.severity == Severity::Fault))
}

/// Names of nodes as Slurm writes them together.
fn compressed(nodes: &[String]) -> String {
    let names = nodes.join(",");
    match slurm(&["scontrol", "show", "hostlistsorted", &names], true) {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => names,
    }
}

/// What a command of Slurm prints. A step of which some tasks failed has printed what the others said.
fn slurm(words: &[&str], all: bool) -> Result<String, CommandError> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    let output = command.output().map_err(|e| CommandError::io("run", words[0], e))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() || !all && !text.is_empty() {
        return Ok(text);
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let reason = reason.lines().last().unwrap_or("it says nothing").to_owned();
    Err(CommandError::failure(format!("{} failed: {reason}", words[0])))
}
