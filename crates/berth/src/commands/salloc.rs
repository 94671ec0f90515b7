//! `berth salloc`.

use std::ffi::OsString;

use berth_job::options::Verb;
use berth_job::salloc::Salloc;
use berth_job::srun::Answer;

use crate::ExitCode;
use crate::jobs::{self, Understood};

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    jobs::answer(run(arguments))
}

fn run(arguments: &[OsString]) -> Answer {
    let (request, command) = match jobs::understand(Verb::Salloc, arguments)? {
        Understood::Shown => return Ok(0),
        Understood::Asked(request, command) => (request, command),
    };
    jobs::one_part(Verb::Salloc, &command)?;
    let node = jobs::node(&request);
    Salloc { request: *request, command, node }.run()
}
