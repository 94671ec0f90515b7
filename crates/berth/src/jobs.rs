//! The verbs that speak Slurm's language: `berth srun`, and the same program called `srun`.
//!
//! Their lines are Slurm's and not those of the other verbs, so each takes its own apart, and what goes wrong is told as
//! Slurm tells it (`srun: error: `). A directory of links with their names makes existing scripts run.

mod cluster;
pub mod container;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use berth_job::batch::{Hooks, keeper};
use berth_job::node::Node;
use berth_job::options::request::Show;
use berth_job::options::{Request, Verb, line, table};
use berth_job::queue::Queue;
use berth_job::show::arguments::{Line, Row};
use berth_job::srun::Answer;
use berth_job::submit::Refusal;
use berth_job::time;
use clap::{Arg, ArgAction, Command};

use crate::ExitCode;
use crate::commands;
use crate::output;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct JobVerb {
    /// As it is typed.
    pub name: &'static str,
    /// Its line in the list of verbs.
    pub about: &'static str,
    /// Does it, with the arguments behind its name.
    run: fn(&[OsString]) -> ExitCode,
}

/// All of them.
#[rustfmt::skip] // One row a line.
pub static JOB_VERBS: &[JobVerb] = &[
    JobVerb { name: "sacct", about: "Show what became of jobs and steps, as Slurm's sacct", run: commands::sacct::main },
    JobVerb { name: "salloc", about: "Run a command, or a shell, with resources held for it, as Slurm's salloc", run: commands::salloc::main },
    JobVerb { name: "sattach", about: "Watch the output of a step that runs, as Slurm's sattach", run: commands::sattach::main },
    JobVerb { name: "sbatch", about: "Submit a script as a job, as Slurm's sbatch", run: commands::sbatch::main },
    JobVerb { name: "scancel", about: "End jobs and steps or send them signals, as Slurm's scancel", run: commands::scancel::main },
    JobVerb { name: "scontrol", about: "Show, hold, release and requeue jobs, as Slurm's scontrol", run: commands::scontrol::main },
    JobVerb { name: "sinfo", about: "Show what this machine has for jobs, as Slurm's sinfo", run: commands::sinfo::main },
    JobVerb { name: "srun", about: "Run a command as a job or as a step of one, as Slurm's srun", run: commands::srun::main },
    JobVerb { name: "squeue", about: "Show the jobs that wait or run, as Slurm's squeue", run: commands::squeue::main },
];

/// What no person types: the process that starts batch jobs.
static KEEPER: JobVerb = JobVerb {
    name: keeper::VERB,
    about: "",
    run: |_| ExitCode::from(keeper::main(Hooks { node: all_of_node, container: container::of })),
};

/// The machine with its GPUs.
fn all_of_node() -> Node {
    Node { gpus: gpus(), ..Node::detect() }
}

/// What a verb does that prints once: the help, the version, or what it makes of its line.
pub fn print_lines(
    (verb, options, help): (&str, &[Row], &str),
    arguments: &[OsString],
    lines: fn(&Line) -> Result<Vec<String>, String>,
) -> ExitCode {
    let lines = Line::parse(verb, options, arguments).and_then(|line| {
        if line.has("help") || line.has("usage") {
            return Ok(vec![help.to_owned()]);
        }
        if line.has("version") {
            return Ok(vec![concat!("berth ", env!("CARGO_PKG_VERSION")).to_owned()]);
        }
        lines(&line)
    });
    match lines.map(output::lines) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // A reader that went away is no reason to complain.
        Ok(Err(_)) => ExitCode::from(1),
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(1)
        }
    }
}

/// What is typed over what the script says.
pub fn over(
    typed: &berth_slurm::request::Request,
    below: &berth_slurm::request::Request,
) -> berth_slurm::request::Request {
    let typed = typed.to_arguments();
    let name = |argument: &str| {
        argument.split('=').next().unwrap_or_default().trim_start_matches("--no-").trim_start_matches("--").to_owned()
    };
    let mut result = berth_slurm::request::Request::default();
    let kept =
        below.to_arguments().into_iter().filter(|argument| !typed.iter().any(|other| name(other) == name(argument)));
    for argument in kept.chain(typed.iter().cloned()) {
        // Each was accepted already.
        let _ = result.set_argument(&argument);
    }
    result
}

/// Which of them a line asks for, the program's name included, and what stands behind it.
pub fn is_asked(arguments: &[OsString]) -> Option<(&'static JobVerb, &[OsString])> {
    if arguments.len() == 2 && arguments[1] == keeper::VERB {
        return Some((&KEEPER, &[]));
    }
    let find = |name: &OsStr| JOB_VERBS.iter().find(|verb| name == verb.name);
    let own = Path::new(arguments.first()?).file_name()?;
    if let Some(verb) = find(own) {
        return Some((verb, &arguments[1..]));
    }
    find(arguments.get(1)?).map(|verb| (verb, &arguments[2..]))
}

impl JobVerb {
    /// Does what was asked.
    pub fn run(&self, arguments: &[OsString]) -> ExitCode {
        if self.name == keeper::VERB {
            return (self.run)(arguments);
        }
        if let Some(code) = cluster::hand_over(self.name, arguments) {
            return code;
        }
        let is_kept = arguments.first().is_some_and(|word| word == cluster::EMBEDDED);
        // Whoever looks at the queue sees to it that somebody takes care of it.
        if !["srun", "salloc", "sbatch"].contains(&self.name)
            && let Ok(queue) = Queue::open()
        {
            let _ = queue.lock().and_then(|lock| queue.sweep(&lock));
            let _ = keeper::ensure(&queue);
        }
        (self.run)(&arguments[usize::from(is_kept)..])
    }

    /// What completions, man pages and the reference know of it. The line itself is taken apart as Slurm does.
    pub fn command(&self) -> Command {
        let command = Command::new(self.name).about(self.about).disable_help_flag(true);
        let operands = Arg::new("arguments")
            .num_args(0..)
            .trailing_var_arg(true)
            .allow_hyphen_values(true)
            .action(ArgAction::Append);
        let verbs = [Verb::Srun, Verb::Sbatch, Verb::Salloc];
        let Some(verb) = verbs.into_iter().find(|verb| verb.name() == self.name) else { return command.arg(operands) };
        let options = table::of(verb).filter(|row| !row.help.is_empty()).map(|row| {
            let arg = Arg::new(row.name).long(row.name).help(row.help);
            let arg = if row.letter == '\0' { arg } else { arg.short(row.letter) };
            let name = row.argument.trim_matches(['[', ']']);
            match row.takes {
                table::Takes::Nothing => arg.action(ArgAction::SetTrue),
                table::Takes::Value => arg.value_name(name),
                table::Takes::Optional => arg.value_name(name).num_args(0..=1).require_equals(true),
            }
        });
        let containers = berth_slurm::options::OPTIONS.iter().map(|row| {
            let arg = Arg::new(row.name).long(row.name).help(row.usage).help_heading("Containers");
            match row.argument {
                Some(name) => arg.value_name(name),
                None => arg.action(ArgAction::SetTrue),
            }
        });
        let operands = match verb {
            Verb::Sbatch => {
                operands.value_name("SCRIPT").help("The script and its arguments; standard input without one")
            }
            _ => operands.value_name("COMMAND").help("The command and its arguments"),
        };
        command.args(options).args(containers).arg(operands)
    }
}

/// What a line of srun, sbatch or salloc comes to.
#[derive(Debug)]
pub enum Understood {
    /// Help or a version was asked for, and printed.
    Shown,
    /// Options, and what stands behind them.
    Asked(Box<Request>, Vec<OsString>),
}

/// Takes a line apart: variables count least, then what is typed.
pub fn understand(verb: Verb, arguments: &[OsString]) -> Result<Understood, Refusal> {
    let (typed, rest) = line::parse(verb, arguments).map_err(|mistake| mistaken(verb, &mistake))?;
    let now = time::now();
    let mut request = Request::default();
    request.set_environment(verb, now, |name| std::env::var(name).ok()).map_err(|wrong| wrong_value(verb, wrong))?;
    request.set_all(&typed, verb, now).map_err(|wrong| wrong_value(verb, wrong))?;
    if let Some(show) = request.show {
        print(verb, show);
        return Ok(Understood::Shown);
    }
    request.container = request
        .container
        .with_environment(|name| std::env::var(name).ok())
        .map_err(|text| Refusal::error(verb, format!("pyxis: {text}")))?;
    Ok(Understood::Asked(Box::new(request), rest))
}

/// A line that getopt would not take.
pub fn mistaken(verb: Verb, mistake: &line::Mistake) -> Refusal {
    let name = verb.name();
    let mut lines = vec![mistake.text.clone()];
    lines.extend(mistake.nearest.as_ref().map(|nearest| format!("{name}: did you mean '{nearest}'?")));
    lines.push(format!("Try \"{name} --help\" for more information"));
    Refusal { lines, code: 255 }
}

/// A value that means nothing.
pub fn wrong_value(verb: Verb, wrong: berth_job::options::request::Wrong) -> Refusal {
    let mut refusal = Refusal::error(verb, &wrong.text);
    refusal.code = wrong.code;
    if let Some(before) = wrong.before {
        refusal.lines.insert(0, before);
    }
    refusal
}

/// What ends a command before it has begun.
pub fn fatal(verb: Verb, text: &str) -> Refusal {
    Refusal { lines: vec![format!("{}: fatal: {text}", verb.name())], code: 1 }
}

/// Refuses a line of several parts: a heterogeneous job.
pub fn one_part(verb: Verb, command: &[OsString]) -> Result<(), Refusal> {
    if command.iter().any(|word| word == ":") {
        let text =
            "heterogeneous jobs (`:` in the line) need a cluster: start the parts one by one, or where Slurm runs";
        return Err(Refusal::error(verb, text));
    }
    Ok(())
}

/// The job that this process is in.
pub fn surrounding() -> Option<u32> {
    ["SLURM_JOB_ID", "SLURM_JOBID"].into_iter().find_map(|name| std::env::var(name).ok()?.parse().ok())
}

/// The machine. Its GPUs are looked for only where one is asked for.
pub fn node(request: &Request) -> Node {
    let mut node = Node::detect();
    if request.gpus.is_some() || request.gpus_per_task.is_some() {
        node.gpus = gpus();
    }
    node
}

/// Numbers of the machine's GPUs, by the names that CDI gives them.
pub fn gpus() -> Vec<u32> {
    let context = crate::Context::new(crate::cli::Global::default());
    let Ok(config) = context.config() else { return Vec::new() };
    let registry = berth_container::cdi::Registry::load(&config.cdi_directories());
    let mut numbers: Vec<u32> = registry
        .devices()
        .iter()
        .filter_map(|name| name.split_once('='))
        .filter(|(kind, _)| kind.ends_with("/gpu"))
        .filter_map(|(_, number)| number.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Tells why not, and gives the exit code.
pub fn answer(answer: Answer) -> ExitCode {
    match answer {
        Ok(code) => ExitCode::from(code),
        Err(refusal) => {
            refusal.lines.iter().for_each(|line| eprintln!("{line}"));
            ExitCode::from(refusal.code)
        }
    }
}

/// Prints help or version.
pub fn print(verb: Verb, show: Show) {
    let name = verb.name();
    let operands = if verb == Verb::Sbatch { "script [args...]" } else { "command [args...]" };
    match show {
        Show::Version => println!("berth {}", env!("CARGO_PKG_VERSION")),
        Show::Usage => println!("Usage: {name} [OPTIONS...] {operands}"),
        Show::Help => {
            println!("Usage: {name} [OPTIONS...] {operands}\n");
            for row in table::of(verb).filter(|row| !row.help.is_empty()) {
                let letter = if row.letter == '\0' { "    ".to_owned() } else { format!("-{}, ", row.letter) };
                let argument = match row.takes {
                    table::Takes::Nothing => String::new(),
                    table::Takes::Value => format!("={}", row.argument),
                    table::Takes::Optional => format!("[={}]", row.argument.trim_matches(['[', ']'])),
                };
                println!("  {letter}--{:<30} {}", format!("{}{argument}", row.name), row.help);
            }
            println!("\nContainers:");
            for row in berth_slurm::options::OPTIONS {
                let argument = row.argument.map(|argument| format!("={argument}")).unwrap_or_default();
                println!("      --{:<30} {}", format!("{}{argument}", row.name), row.usage);
            }
        }
    }
}
