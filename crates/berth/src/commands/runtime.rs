//! `berth runtime`, and the same by the name `berth-runtime`: runc's command line, for what calls a runtime by it.
//!
//! Its options are runc's and crun's and not those of the other verbs, and what it says goes to a log where one is named:
//! so it has a parser of its own. A start builds the parser of its own verb only.

mod arguments;
mod log;
mod verbs;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args as _, Command, FromArgMatches as _};

use berth_container::cgroup::Manager;
use berth_container::runtime::Root;

use crate::{CommandError, ExitCode};
use log::Log;

/// Options before the verb, as runc and crun have them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Keep the containers' states in this directory
    ///
    /// The default is /run/berth for root, $XDG_RUNTIME_DIR/berth for others, and /tmp/berth-runtime-UID where there is
    /// no session.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write errors to this file too
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// In which form
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
    /// Write down what is called
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the control group
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Who makes the control group
    #[arg(long, value_name = "MANAGER", value_parser = ["cgroupfs", "systemd", "disabled"])]
    pub cgroup_manager: Option<String>,
    /// Accepted for the sake of habit: what a user may do is found out by doing it
    #[arg(long, value_name = "BOOL")]
    pub rootless: Option<String>,
}

impl Global {
    fn root(&self) -> Root {
        self.root.as_deref().map_or_else(Root::of_user, Root::named)
    }

    fn cgroups(&self) -> Manager {
        match self.cgroup_manager.as_deref() {
            Some("systemd") => Manager::Systemd,
            Some("disabled") => Manager::Disabled,
            Some(_) => Manager::Cgroupfs,
            None if self.systemd_cgroup => Manager::Systemd,
            None => Manager::Cgroupfs,
        }
    }
}

/// What all verbs get beside their own options.
struct Call<'a> {
    global: &'a Global,
    log: &'a Log<'a>,
}

/// A verb of the runtime.
struct Verb {
    name: &'static str,
    define: fn() -> Command,
    run: fn(&clap::ArgMatches, &Call<'_>) -> Result<ExitCode, CommandError>,
}

macro_rules! verbs {
    ($($name:literal $arguments:ident $function:ident),* $(,)?) => {
        &[$(Verb {
            name: $name,
            define: || arguments::$arguments::augment_args(Command::new($name)),
            run: |matches, call| verbs::$function(&arguments::$arguments::from_arg_matches(matches)?, call),
        }),*]
    };
}

static VERBS: &[Verb] = verbs![
    "create" Create create,
    "start" Start start,
    "run" Run run,
    "state" State state,
    "kill" Kill kill,
    "delete" Delete delete,
    "exec" Exec exec,
    "list" List list,
    "ps" Ps ps,
    "pause" Pause pause,
    "resume" Resume resume,
    "update" Update update,
    "spec" Spec spec,
    "features" Features features,
    "checkpoint" Checkpoint checkpoint,
    "restore" Restore restore,
];

/// The whole command line, for help, man pages, completions and the reference.
pub fn command() -> Command {
    VERBS.iter().fold(base(), |command, verb| command.subcommand((verb.define)()))
}

fn base() -> Command {
    let command = Command::new("runtime").about("Create and run containers from OCI bundles, with runc's command line");
    Global::augment_args(command)
        .about("Create and run containers from OCI bundles, with runc's command line")
        .long_about(
            "Create and run containers from OCI bundles, with runc's command line\n\n\
             For programs that call a runtime: Slurm (oci.conf), podman, docker, containerd, buildah. The same program \
             under the name `berth-runtime` takes these options directly.",
        )
        // dockerd looks for the word.
        .version(concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0"))
        .subcommand_required(true)
        .arg_required_else_help(true)
}

/// The name by which the runtime is also called.
const NAME: &str = "berth-runtime";

/// Whether this line, program's name included, is for the runtime; gives how it was called, and what follows.
pub fn is_asked(arguments: &[OsString]) -> Option<(&'static str, &[OsString])> {
    let name = arguments.first().and_then(|program| std::path::Path::new(program).file_name());
    if name == Some(OsStr::new(NAME)) {
        return Some((NAME, &arguments[1..]));
    }
    (arguments.get(1).map(OsString::as_os_str) == Some(OsStr::new("runtime")))
        .then(|| ("berth runtime", &arguments[2..]))
}

/// Does what the line asks, and reports what goes wrong.
pub fn main(name: &'static str, arguments: &[OsString]) -> ExitCode {
    let command = match find_verb(arguments) {
        Some(verb) => base().subcommand((verb.define)()),
        None => command(),
    };
    let command = command.name("berth").bin_name(name).no_binary_name(true);
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(answer) if crate::cli::is_answer(&answer) => {
            return answer.print().map_or_else(|e| CommandError::from(e).exit_code(), |()| ExitCode::SUCCESS);
        }
        Err(nothing) if crate::cli::is_empty(&nothing) => {
            let _ = nothing.print();
            return ExitCode::from(crate::Kind::Usage.exit_code());
        }
        Err(mistake) => {
            let error = CommandError::from(mistake);
            error.report(false);
            return error.exit_code();
        }
    };
    run(&matches)
}

/// Does what was parsed.
pub fn run(matches: &clap::ArgMatches) -> ExitCode {
    let (global, verb) = match (Global::from_arg_matches(matches), matches.subcommand()) {
        (Ok(global), Some(verb)) => (global, verb),
        _ => return ExitCode::from(crate::Kind::Usage.exit_code()),
    };
    let log = Log::new(&global);
    log.debug(verb.0);
    let call = Call { global: &global, log: &log };
    let found = VERBS.iter().find(|candidate| candidate.name == verb.0);
    let outcome = found.map_or_else(|| Err(CommandError::usage("no such verb")), |found| (found.run)(verb.1, &call));
    outcome.unwrap_or_else(|error| {
        log.error(&error);
        error.exit_code()
    })
}

/// Finds the verb by eye, after the options that may stand before it.
fn find_verb(arguments: &[OsString]) -> Option<&'static Verb> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str()? {
            "--debug" | "--systemd-cgroup" => {}
            "--root" | "--log" | "--log-format" | "--cgroup-manager" | "--rootless" => {
                rest.next()?;
            }
            text if text.starts_with("--") && text.contains('=') => {}
            text => return VERBS.iter().find(|verb| verb.name == text),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_whole_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn the_runtime_is_asked_by_verb_and_by_name() {
        assert_eq!(is_asked(&line("/usr/bin/berth runtime list")), Some(("berth runtime", &line("list")[..])));
        assert_eq!(is_asked(&line("/usr/bin/berth-runtime list")), Some((NAME, &line("list")[..])));
        assert_eq!(is_asked(&line("berth run x")), None);
    }

    #[test]
    fn the_lines_of_engines_are_understood() {
        for text in [
            "--log-format=json --log /x/oci-log --cgroup-manager disabled create --bundle /b --pid-file /p \
             --console-socket /tmp/conmon-term.X --preserve-fds 2 --no-pivot 0123",
            "--debug start 0123",
            "--root /r --log /b/log.json --log-format json --systemd-cgroup --rootless=true exec --process /tmp/p \
             --console-socket /s --detach --pid-file /p id",
            "exec -t -e A=b -u 1:2 --cwd / id ls -l --color",
            "kill --all id 9",
            "kill id TERM",
            "delete --force id",
            "update --resources - id",
            "update --resources=/f id",
            "ps --format json id",
            "run --bundle /b --no-new-keyring id",
            "run -b /b -d id",
            "spec --rootless",
            "features",
            "list -f json -q",
            "checkpoint --image-path /x --leave-running id",
        ] {
            let arguments = line(&text.split_whitespace().collect::<Vec<_>>().join(" "));
            assert!(find_verb(&arguments).is_some(), "{text}");
            let matches = command().no_binary_name(true).try_get_matches_from(&arguments);
            assert!(matches.is_ok(), "{text}: {:?}", matches.err());
        }
    }
}
