//! The berth command: parse, do, report.

use std::process::ExitCode;

use berth::cli::{self, Invocation};
use berth::{CommandError, Context, Kind};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // Mistakes in the line itself are reported in the form that it asks for, as far as that can be told.
    let json = arguments.iter().any(|argument| argument == "--json");
    match cli::parse(arguments) {
        Ok(invocation) => run(&invocation).unwrap_or_else(|error| {
            error.report(invocation.global.json);
            error.exit_code()
        }),
        Err(answer) if cli::is_answer(&answer) => match answer.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => CommandError::from(error).exit_code(),
        },
        Err(nothing) if cli::is_empty(&nothing) => {
            // To standard error, as the answer to a mistake; nobody is left to tell when that is gone.
            let _ = nothing.print();
            ExitCode::from(Kind::Usage.exit_code())
        }
        Err(mistake) => {
            let error = CommandError::from(mistake);
            error.report(json);
            error.exit_code()
        }
    }
}

fn run(invocation: &Invocation) -> Result<ExitCode, CommandError> {
    invocation.run(&Context::new(invocation.global.clone()))
}
