//! The end of a job on a node, and the start of a node: what was a job's is removed, and nothing else.

use berth_container::state::Containers;

use super::arguments::Arguments;
use super::container::{JOB, job_prefix, node_name};
use crate::CommandError;

/// Removes the named containers of a job on this node; of all jobs, where the machine has been started anew.
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let Some(directory) = &arguments.containers else {
        return Err(CommandError::usage("--clean needs --containers"));
    };
    let node = directory.join(node_name());
    let place = node.join("containers");
    let containers = Containers::at(&place);
    containers.sweep();
    let mut outcome = Ok(());
    for container in containers.list()? {
        if is_over(container.name(), arguments) {
            let removed = container.remove(false).map_err(CommandError::from);
            outcome = outcome.and(removed);
        }
    }
    // Only where nothing else is kept there.
    let _ = std::fs::remove_dir(&place).and_then(|()| std::fs::remove_dir(&node));
    outcome
}

fn is_over(name: &str, arguments: &Arguments) -> bool {
    if !arguments.boot {
        return name.starts_with(&job_prefix(arguments.job));
    }
    let number = name.strip_prefix(JOB).and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_the_jobs_is_over() {
        let of_job = Arguments { job: 12, ..Arguments::default() };
        let of_boot = Arguments { boot: true, ..Arguments::default() };
        for (name, job, boot) in [
            ("job12.x", true, true),
            ("job123.x", false, true),
            ("job12", false, false),
            ("jobs.x", false, false),
            ("x", false, false),
        ] {
            assert_eq!((is_over(name, &of_job), is_over(name, &of_boot)), (job, boot), "{name}");
        }
    }
}
