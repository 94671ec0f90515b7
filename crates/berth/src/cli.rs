//! The command line: its verbs, the options that all of them take, and how a line is taken apart.
//!
//! Each verb's own options are the `Args` of its file in `commands`; groups of options that several verbs share are in
//! [`options`]. Doc comments there are the help texts, the man pages and the reference.
//!
//! `berth run` starts a container in about two milliseconds, so a line is parsed in two steps: [`parse`] finds the verb
//! by eye and then builds the parser of that verb only. The whole tree ([`command`]) is built for help, for errors that
//! concern no single verb, and for xtask.

pub mod options;

use crate::ExitCode;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use serde::Deserialize;

use crate::command_error::CommandError;
use crate::commands;
use crate::context::Context;
use crate::jobs::JOB_VERBS;

/// Options of every verb, accepted before the verb and after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Keep images in this directory
    ///
    /// The default is the environment variable BERTH_STORE, then `store` of the configuration, then
    /// $XDG_DATA_HOME/berth/store, which usually means ~/.local/share/berth/store.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Print data only: no progress, no notes
    #[arg(short, long)]
    pub quiet: bool,
    /// Tell what is being done and why
    #[arg(short, long)]
    pub verbose: bool,
    /// Print machine-readable JSON; errors as one object on a line
    #[arg(long)]
    pub json: bool,
}

/// When an image is fetched from where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Only when no store has it
    #[default]
    Missing,
    /// Ask each time, and fetch what is new
    Always,
    /// Never: fail when no store has it
    Never,
}

/// A verb of the command.
#[derive(Clone, Copy)]
pub struct Verb {
    /// As it is typed.
    pub name: &'static str,
    /// Builds its parser.
    define: fn() -> Command,
    /// Runs it with what was parsed.
    run: fn(&ArgMatches, &Context) -> Result<ExitCode, CommandError>,
}

impl std::fmt::Debug for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verb").field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! verbs {
    (@name $module:ident) => { stringify!($module) };
    (@name $module:ident $name:literal) => { $name };
    ($($module:ident $(= $name:literal)?),* $(,)?) => {
        &[$(Verb {
            name: verbs!(@name $module $($name)?),
            define: || commands::$module::Args::augment_args(Command::new(verbs!(@name $module $($name)?))),
            run: |matches, context| {
                commands::$module::run(&commands::$module::Args::from_arg_matches(matches)?, context)
            },
        },)* Verb {
            name: "runtime",
            define: commands::runtime::command,
            run: |matches, _| Ok(commands::runtime::run(matches)),
        }]
    };
}

/// All verbs, in the order of the help. Those with a hyphen have a module without.
pub static VERBS: &[Verb] = verbs![
    run,
    shell,
    exec,
    ps,
    stop,
    kill,
    rm,
    pull,
    bundle,
    images,
    inspect,
    rmi,
    gc,
    verify,
    info,
    doctor,
    setup,
    oci_conf = "oci-conf",
    subid,
    version
];

/// A line that was understood.
#[derive(Debug)]
pub struct Invocation {
    verb: &'static Verb,
    matches: ArgMatches,
    /// The options of every verb.
    pub global: Global,
}

impl Invocation {
    /// Does what was asked.
    pub fn run(&self, context: &Context) -> Result<ExitCode, CommandError> {
        (self.verb.run)(&self.matches, context)
    }
}

/// Takes a line apart, the program's own name not included. Help and version come back as errors, as clap has it:
/// [`is_answer`] tells them from mistakes.
pub fn parse(arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
    let Some((verb, arguments)) = find_verb(&arguments) else {
        let error = command().no_binary_name(true).try_get_matches_from(&arguments).err();
        return Err(error.unwrap_or_else(|| command().error(ErrorKind::MissingSubcommand, "no verb")));
    };
    let mut command = verb_command(verb).no_binary_name(true);
    let arguments = normalize(&command, arguments);
    let matches = command.try_get_matches_from_mut(arguments)?;
    let global = Global::from_arg_matches(&matches)?;
    Ok(Invocation { verb, matches, global })
}

/// Whether clap's "error" is the answer to `--help` or `--version`.
pub fn is_answer(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// Whether nothing was asked, so that the help is the best that can be said.
pub fn is_empty(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// The whole command line, for help, man pages, completions and the reference.
pub fn command() -> Command {
    // The options first: their own description would replace the command's.
    let root = Global::augment_args(Command::new("berth"))
        .about("Containers that live natively in Slurm")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .after_help("Exit codes: 125 berth failed, 126 the command cannot be invoked, 127 it does not exist, otherwise its own.");
    let root = VERBS.iter().fold(root, |root, verb| root.subcommand(verb_command(verb)));
    JOB_VERBS.iter().fold(root, |root, verb| root.subcommand(verb.command()))
}

/// The parser of one verb, with the options of every verb added. Where a verb uses a short letter for itself (`-v` of
/// `run` is a mount, as in podman and docker), the option of every verb keeps its long name only.
fn verb_command(verb: &Verb) -> Command {
    let command = (verb.define)().bin_name(format!("berth {}", verb.name));
    if verb.name == "runtime" {
        // It has the options of other runtimes, and only those.
        return command;
    }
    let taken: Vec<char> = command.get_arguments().filter_map(|argument| argument.get_short()).collect();
    let global = Global::augment_args(Command::new("global"));
    // A verb with verbs of its own takes them after those, too.
    let nested = command.has_subcommands();
    global.get_arguments().fold(command, |command, argument| {
        let clash = argument.get_short().is_some_and(|short| taken.contains(&short));
        let argument = argument.clone().global(nested);
        command.arg(if clash { argument.short(None) } else { argument })
    })
}

/// Finds the verb after the options that may stand before it, and gives the arguments without the verb, those options
/// under their long names (their short ones may mean something else to the verb). `None` leaves the line to the whole
/// tree, which knows what to say about it.
fn find_verb(arguments: &[OsString]) -> Option<(&'static Verb, Vec<OsString>)> {
    let mut before: Vec<OsString> = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str()? {
            "-q" => before.push("--quiet".into()),
            "-v" => before.push("--verbose".into()),
            "--quiet" | "--verbose" | "--json" => before.push(argument.clone()),
            "--store" => before.extend([argument.clone(), rest.next()?.clone()]),
            text if text.starts_with("--store=") => before.push(argument.clone()),
            text => {
                let verb = VERBS.iter().find(|verb| verb.name == text)?;
                before.extend(rest.cloned());
                return Some((verb, before));
            }
        }
    }
    None
}

/// Two things that people type and clap cannot be told:
/// * everything after the first operand of `run` and `exec` belongs to the command in the container, options too, with
///   no `--` needed (as in podman, docker, srun and ssh);
/// * `--net`, `--pid` and `--ipc` take a value or none, and the value may stand alone (`--net host`) as long as it is
///   one that they know.
fn normalize(command: &Command, arguments: Vec<OsString>) -> Vec<OsString> {
    let has_command = command.get_positionals().any(|operand| operand.get_id() == "command");
    let mut result = Vec::with_capacity(arguments.len() + 1);
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_encoded_bytes();
        if bytes == b"--" {
            result.push(argument);
            break;
        }
        if !bytes.starts_with(b"-") || bytes == b"-" {
            result.push(argument);
            if has_command {
                if rest.peek().is_some_and(|next| next != "--") {
                    result.push("--".into());
                }
                break;
            }
            continue;
        }
        match value_of(command, &argument) {
            Value::Separate => {
                result.push(argument);
                result.extend(rest.next());
            }
            Value::OptionalWord(words) => {
                let word = rest.next_if(|next| words.iter().any(|word| next.to_str() == Some(word)));
                let mut joined = argument;
                if let Some(word) = word {
                    joined.push("=");
                    joined.push(word);
                }
                result.push(joined);
            }
            Value::None => result.push(argument),
        }
    }
    result.extend(rest);
    result
}

/// Where the value of an option stands.
enum Value {
    /// There is none, or it is in the same argument.
    None,
    /// It is the next argument.
    Separate,
    /// It is the next argument if that is one of these words.
    OptionalWord(Vec<String>),
}

fn value_of(command: &Command, argument: &OsStr) -> Value {
    let Some(text) = argument.to_str() else { return Value::None };
    let option = if let Some(long) = text.strip_prefix("--") {
        if long.contains('=') {
            return Value::None;
        }
        command.get_arguments().find(|option| {
            option.get_long() == Some(long) || option.get_all_aliases().is_some_and(|names| names.contains(&long))
        })
    } else {
        // In a cluster such as `-itv`, only the last letter can have its value in the next argument, and the first
        // letter that takes a value swallows what follows it.
        let letters: Vec<char> = text.chars().skip(1).collect();
        let find = |letter: char| command.get_arguments().find(|option| option.get_short() == Some(letter));
        let swallows = letters.iter().position(|&l| find(l).is_some_and(|option| option.get_action().takes_values()));
        match swallows {
            Some(at) if at + 1 == letters.len() => find(letters[at]),
            _ => return Value::None,
        }
    };
    let Some(option) = option.filter(|option| option.get_action().takes_values()) else { return Value::None };
    if option.get_num_args().is_some_and(|count| count.min_values() == 0) {
        let words = option.get_possible_values();
        Value::OptionalWord(words.iter().map(|word| word.get_name().to_owned()).collect())
    } else {
        Value::Separate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(verb: &str, line: &str) -> String {
        let verb = VERBS.iter().find(|v| v.name == verb).unwrap();
        let arguments = line.split_whitespace().map(OsString::from).collect();
        let result = normalize(&verb_command(verb), arguments);
        result.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
        for verb in VERBS {
            verb_command(verb).debug_assert();
        }
    }

    #[test]
    fn options_after_the_image_belong_to_the_command() {
        for (line, expected) in [
            ("debian ls --help", "debian -- ls --help"),
            ("--rm -e A=b -v /a:/b debian -v", "--rm -e A=b -v /a:/b debian -- -v"),
            ("-te A=b debian ls", "-te A=b debian -- ls"),
            ("-eA=b debian ls", "-eA=b debian -- ls"),
            ("--env A=b debian -- ls", "--env A=b debian -- ls"),
            ("debian", "debian"),
            ("-- debian ls -l", "-- debian ls -l"),
        ] {
            assert_eq!(normalized("run", line), expected, "{line}");
        }
    }

    #[test]
    fn a_namespace_option_takes_only_the_words_that_it_knows() {
        for (line, expected) in [
            ("--net debian ls", "--net debian -- ls"),
            ("--net host debian ls", "--net=host debian -- ls"),
            ("--pid private --ipc debian", "--pid=private --ipc debian"),
            ("--net=host debian", "--net=host debian"),
        ] {
            assert_eq!(normalized("run", line), expected, "{line}");
        }
    }

    #[test]
    fn verbs_without_a_command_take_options_anywhere() {
        assert_eq!(
            normalized("pull", "debian --platform linux/arm64 busybox"),
            "debian --platform linux/arm64 busybox"
        );
    }

    #[test]
    fn options_of_every_verb_may_stand_before_it_under_their_short_names() {
        let line = ["-v", "--store", "/x", "run", "-v", "/a:/b", "debian"].map(OsString::from);
        let (verb, arguments) = find_verb(&line).unwrap();
        assert_eq!(verb.name, "run");
        assert_eq!(arguments, ["--verbose", "--store", "/x", "-v", "/a:/b", "debian"]);
    }

    #[test]
    fn both_ways_of_placing_global_options_parse_alike() {
        for line in ["--json -q images", "images --json --quiet", "images -q --json"] {
            let invocation = parse(line.split(' ').map(OsString::from).collect()).unwrap();
            assert_eq!(invocation.global, Global { json: true, quiet: true, ..Global::default() }, "{line}");
        }
    }

    #[test]
    fn an_unknown_verb_is_met_with_the_nearest_one() {
        let error = parse(vec!["imagse".into()]).unwrap_err();
        assert!(error.to_string().contains("'images'"), "{error}");
    }
}
