//! `berth srun`.

use std::ffi::OsString;

use berth_job::options::Verb;
use berth_job::srun::Srun;

use crate::ExitCode;
use crate::jobs::{self, Understood};

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    jobs::answer(run(arguments))
}

fn run(arguments: &[OsString]) -> berth_job::srun::Answer {
    let (request, command) = match jobs::understand(Verb::Srun, arguments)? {
        Understood::Shown => return Ok(0),
        Understood::Asked(request, command) => (request, command),
    };
    jobs::one_part(Verb::Srun, &command)?;
    if command.is_empty() {
        return Err(jobs::fatal(Verb::Srun, "No command given to execute."));
    }
    let node = jobs::node(&request);
    let job = request.job.or_else(jobs::surrounding);
    let srun = Srun { request: *request, command, node, container: &mut jobs::container::of };
    match job {
        Some(job) => srun.inside(job),
        None => srun.alone(),
    }
}
