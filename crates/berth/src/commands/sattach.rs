//! `berth sattach`.

use std::ffi::OsString;

use berth_job::queue::Queue;
use berth_job::record::StepId;
use berth_job::sattach;
use berth_job::scancel::Target;

use crate::ExitCode;

const HELP: &str = "Usage: sattach JOB.STEP\n\nPrints the output of a step that runs from now on, and ends as it does.";

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let failed = |text: &str| {
        eprintln!("sattach: error: {text}");
        ExitCode::from(1)
    };
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let text = match &words[..] {
        [word] if word == "--help" || word == "-h" => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        [word] if !word.starts_with('-') => word,
        [] => return failed("No job step identification given"),
        _ => return failed("one step and no options: JOB.STEP"),
    };
    let Some(Target { job, element: None, step: Some(StepId::Number(number)) }) = Target::parse(text) else {
        return failed(&format!("Invalid job id/step name specified: {text}"));
    };
    let outcome = Queue::open().and_then(|queue| sattach::run(&queue, job, number));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error.to_string()),
    }
}
