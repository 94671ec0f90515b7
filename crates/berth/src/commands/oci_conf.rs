//! `berth oci-conf`: Slurm's file for containers, before it goes live. What it knows is in `berth_oci_conf`; here it is asked
//! and printed.

mod call;
mod lifecycle;

use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use berth_host::doctor;
use berth_host::doctor::Places;
use berth_host::doctor::Role;
use berth_host::slurm::Site;
use berth_oci_conf::Conf;
use berth_oci_conf::Document;
use berth_oci_conf::Release;
use berth_oci_conf::check::Finding;
use berth_oci_conf::check::Severity;
use berth_oci_conf::check::check;
use berth_oci_conf::conf::Mode;
use berth_oci_conf::document::MAX_BYTES;
use berth_oci_conf::write;
use berth_oci_conf::write::Line;
use berth_oci_conf::write::Runtime;
use serde_json::json;

use crate::ExitCode;
use crate::command_error::CommandError;
use crate::context::Context;
use crate::output;
use crate::units::parse_duration;

/// Check, try and write Slurm's oci.conf
///
/// slurmstepd reads oci.conf anew for each step with --container, and a mistake in it fails them all.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  berth oci-conf check\n  berth oci-conf check ./oci.conf --slurm 24.11\n  \
    berth oci-conf test ~/bundle -- /bin/sh -c 'echo it runs'\n  berth oci-conf write --runtime crun --slurm 24.11")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Tell what a release of Slurm would do with a file, what is insecure in it, and what to write instead
    ///
    /// Exit code 1: there are errors. Warnings are of what works, and loses something.
    Check {
        /// The file; `-` is standard input. The default is the one beside this host's slurm.conf
        file: Option<PathBuf>,
        #[command(flatten)]
        slurm: SlurmOption,
    },
    /// Run the commands of a file as a step of Slurm would, and tell what comes of each
    ///
    /// As an ordinary user, without Slurm. What root would ask at the end of a step is asked as that user. Exit code 1: something does
    /// not work.
    Test {
        /// What would stand behind --container
        container: String,
        /// The command; /bin/true when left out
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
        /// The file. The default is the one beside this host's slurm.conf
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        slurm: SlurmOption,
        /// Longest that one command may take, for example 30s
        #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
        limit: Duration,
    },
    /// Print a file that works on a release of Slurm
    Write {
        /// The program that runs containers
        #[arg(long, value_name = "NAME", value_parser = runtime_names())]
        runtime: Runtime,
        /// How it is called
        #[arg(long, value_enum, default_value_t)]
        mode: ModeOption,
        #[command(flatten)]
        slurm: SlurmOption,
        /// berth: for nodes that load berth's plugin; --container takes images then, too
        #[arg(long)]
        plugin: bool,
        /// enroot: print the script that the file calls
        #[arg(long)]
        script: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct SlurmOption {
    /// A release of Slurm, 24.11 for example. The default is that of this host
    #[arg(long = "slurm", value_name = "RELEASE")]
    release: Option<Release>,
}

/// How Slurm runs a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ModeOption {
    /// By one call: output, signals and exit codes are the program's
    #[default]
    Run,
    /// By two: Slurm loses output and exit codes
    CreateStart,
}

fn runtime_names() -> impl clap::builder::TypedValueParser<Value = Runtime> {
    use clap::builder::TypedValueParser as _;
    let names = Runtime::ALL.map(|(name, _)| name);
    clap::builder::PossibleValuesParser::new(names).try_map(|name| name.parse::<Runtime>())
}

/// Does it, and prints what came of it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    match &args.verb {
        Verb::Check { file, slurm } => print_check(file.as_deref(), slurm, context),
        Verb::Test { container, command, file, slurm, limit } => {
            print_test(container, command, file.as_deref(), slurm, *limit, context)
        }
        Verb::Write { script: true, runtime, .. } => print_script(*runtime),
        Verb::Write { runtime, mode, slurm, plugin, .. } => print_file(*runtime, *mode, slurm, *plugin, context),
    }
}

/// Slurm as this host has it.
fn site() -> Result<Option<Site>, CommandError> {
    let places = Places { store: Err(String::new()), below: Vec::new(), containers: None, mistake: None };
    let host = doctor::live(Role::Any, super::setup::person(), places, doctor::LIMIT)
        .map_err(|error| CommandError::io("use", std::env::temp_dir(), error))?;
    Ok(host.slurm().cloned())
}

impl SlurmOption {
    fn release(&self, site: Option<&Site>) -> Result<Release, CommandError> {
        let found = self.release.or(site.map(|site| site.version));
        let release = found.ok_or_else(|| {
            CommandError::failure("there is no Slurm on this host whose release could be taken")
                .with_hint("say for which it is: --slurm 24.11")
        })?;
        match release >= Release::FIRST {
            true => Ok(release),
            false => Err(CommandError::failure(format!("Slurm {release} has no oci.conf"))),
        }
    }
}

/// The file, and the release: what is not said is this host's.
fn what(file: Option<&Path>, slurm: &SlurmOption) -> Result<(PathBuf, Release), CommandError> {
    let site = if file.is_some() && slurm.release.is_some() { None } else { site()? };
    let release = slurm.release(site.as_ref())?;
    match (file, &site) {
        (Some(file), _) => Ok((file.to_owned(), release)),
        (None, Some(site)) => Ok((PathBuf::from(site.file("oci.conf")), release)),
        (None, None) => Err(CommandError::failure("there is no Slurm on this host").with_hint("name the file")),
    }
}

fn print_check(file: Option<&Path>, slurm: &SlurmOption, context: &Context) -> Result<ExitCode, CommandError> {
    let (file, release) = what(file, slurm)?;
    let document = read(&file)?;
    let found = check(&document, release);
    if release > Release::LAST {
        context.note(&format!("Slurm {release} is newer than what is known here; it is taken for {}", Release::LAST));
    }
    let errors = found.iter().filter(|finding| finding.severity == Severity::Error).count();
    if context.json() {
        output::json(&found.iter().map(|finding| to_json(finding, &document)).collect::<Vec<_>>())?;
    } else {
        let mut lines: Vec<String> = found.iter().flat_map(|finding| to_lines(finding, &document)).collect();
        if !context.quiet() {
            lines.push(summary(errors, found.len() - errors, &file, release));
        }
        output::lines(lines.iter().map(|line| line.replace(char::is_control, "?")))?;
    }
    Ok(if errors > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn read(file: &Path) -> Result<Document, CommandError> {
    if file != Path::new("-") {
        return Document::load(file).map_err(|error| CommandError::io("read", file, error));
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CommandError::io("read", "standard input", error))?;
    let none = |_: &Path| Err(std::io::Error::other("not read for a file from standard input"));
    Ok(Document::parse(Path::new("standard input"), &bytes, &mut { none }))
}

fn to_lines(finding: &Finding, document: &Document) -> [String; 2] {
    let Finding { severity, rule, at, message, remedy } = finding;
    let file = document.files[at.file].display();
    [format!("{file}:{}:{}: {severity}: {message} [{rule}]", at.line, at.column), format!("    {remedy}")]
}

fn to_json(finding: &Finding, document: &Document) -> serde_json::Value {
    let Finding { severity, rule, at, message, remedy } = finding;
    json!({
        "file": document.files[at.file], "line": at.line, "column": at.column, "severity": severity, "rule": rule,
        "message": message, "remedy": remedy,
    })
}

fn summary(errors: usize, warnings: usize, file: &Path, release: Release) -> String {
    let count = |number: usize, what: &str| match number {
        0 => None,
        1 => Some(format!("1 {what}")),
        many => Some(format!("{many} {what}s")),
    };
    let counts: Vec<String> = [count(errors, "error"), count(warnings, "warning")].into_iter().flatten().collect();
    match counts.is_empty() {
        true => format!("{}: nothing is wrong for Slurm {release}", file.display()),
        false => format!("{} for Slurm {release}", counts.join(", ")),
    }
}

fn print_test(
    container: &str,
    command: &[String],
    file: Option<&Path>,
    slurm: &SlurmOption,
    limit: Duration,
    context: &Context,
) -> Result<ExitCode, CommandError> {
    if rustix::process::geteuid().is_root() {
        return Err(CommandError::failure("this is for an ordinary user: Slurm runs these commands as one")
            .with_hint("say as whom: `runuser -u USER -- berth oci-conf test …`"));
    }
    let (file, release) = what(file, slurm)?;
    let conf = Conf::of(&read(&file)?, release).map_err(|refused| {
        CommandError::failure(format!("{}: {refused}", file.display()))
            .with_hint(format!("`berth oci-conf check {} --slurm {release}` tells more", file.display()))
    })?;
    let command = if command.is_empty() { vec!["/bin/true".to_owned()] } else { command.to_vec() };
    let spool = lifecycle::Spool::new()?;
    let mut trial = lifecycle::Trial::new(&conf, release, container, &command, &spool, limit)?;
    trial.run()?;
    if context.json() {
        output::json(&json!({ "calls": trial.calls, "faults": trial.faults }))?;
    } else {
        let mut lines = Vec::new();
        for call in &trial.calls {
            let how = call.fault().unwrap_or_else(|| "ends with exit code 0".to_owned());
            lines.push(format!("{} {how}, after {:.2} s", call.key, call.seconds));
            lines.push(format!("    {}", call.line));
            lines.extend(call.output.lines().map(|line| format!("    | {line}")));
        }
        if !context.quiet() {
            lines.push(match trial.faults.is_empty() {
                true => format!("a step of {} works with Slurm {release}", trial.step().user),
                false => format!("a step of {} does not work with Slurm {release}:", trial.step().user),
            });
        }
        lines.extend(trial.faults.iter().cloned());
        output::lines(lines.iter().map(|line| line.replace(char::is_control, "?")))?;
    }
    Ok(if trial.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_script(runtime: Runtime) -> Result<ExitCode, CommandError> {
    if runtime != Runtime::Enroot {
        return Err(CommandError::usage(format!("the file for {runtime} calls no script")));
    }
    output::lines(write::ENROOT.lines())?;
    Ok(ExitCode::SUCCESS)
}

fn print_file(
    runtime: Runtime,
    mode: ModeOption,
    slurm: &SlurmOption,
    plugin: bool,
    context: &Context,
) -> Result<ExitCode, CommandError> {
    let site = if slurm.release.is_some() { None } else { site()? };
    let release = slurm.release(site.as_ref())?;
    let mode = match mode {
        ModeOption::Run => Mode::Run,
        ModeOption::CreateStart => Mode::CreateStart,
    };
    if plugin && (runtime != Runtime::Berth || mode != Mode::Run) {
        return Err(CommandError::usage("--plugin is for --runtime berth with --mode run"));
    }
    let lines = match plugin {
        true => write::advised(release, true).ok_or(write::NotWritten::NoneWanted(release)),
        false => write::write(runtime, mode, release),
    };
    let lines = lines.map_err(|error| CommandError::failure(error.to_string()))?;
    if context.json() {
        let line = |line: &Line| json!({ "line": line.text, "why": line.why });
        output::json(&lines.iter().map(line).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = vec![format!("# oci.conf for {runtime} with Slurm {release}")];
    for line in &lines {
        text.push(format!("# {}.", line.why));
        text.push(line.text.clone());
    }
    output::lines(text)?;
    if runtime == Runtime::Enroot {
        context.note(&format!("the script {} is printed with --script", write::ENROOT_SCRIPT));
    }
    Ok(ExitCode::SUCCESS)
}
