//! The verbs that speak Slurm's language: `berth srun`, and the same program called `srun`.
//!
//! Their lines are Slurm's and not those of the other verbs, so each takes its own apart, and what goes wrong is told as
//! Slurm tells it (`srun: error: `). A directory of links with their names makes existing scripts run.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, ArgAction, Command};

use crate::ExitCode;
use crate::commands;

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
    JobVerb { name: "scontrol", about: "Show, hold, release and requeue jobs, as Slurm's scontrol", run: commands::scontrol::main },
    JobVerb { name: "sinfo", about: "Show what this machine has for jobs, as Slurm's sinfo", run: commands::sinfo::main },
    JobVerb { name: "squeue", about: "Show the jobs that wait or run, as Slurm's squeue", run: commands::squeue::main },
];

/// Which of them a line asks for, the program's name included, and what stands behind it.
pub fn is_asked(arguments: &[OsString]) -> Option<(&'static JobVerb, &[OsString])> {
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
        (self.run)(arguments)
    }

    /// What help, completions and the reference know of it. Its options are Slurm's, and `--help` lists them.
    pub fn command(&self) -> Command {
        Command::new(self.name).about(self.about).disable_help_flag(true).arg(
            Arg::new("arguments")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .action(ArgAction::Append),
        )
    }
}
