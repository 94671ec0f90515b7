//! The end of a job on a node: what was the job's is removed, and nothing else.

use berth_container::state::Containers;

use super::arguments::Arguments;
use crate::CommandError;

/// Removes the job's named containers from all nodes' directories that are this node's to clean.
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let Some(directory) = &arguments.containers else {
        return Err(CommandError::usage("--clean needs --containers"));
    };
    let prefix = format!("{}_", arguments.job);
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = std::env::var("SLURMD_NODENAME").unwrap_or(own);
    let containers = Containers::at(directory.join(own).join("containers"));
    containers.sweep();
    let mut outcome = Ok(());
    for container in containers.list()? {
        if container.name().starts_with(&prefix) {
            let removed = container.remove(false).map_err(CommandError::from);
            outcome = outcome.and(removed);
        }
    }
    outcome
}
