//! Slurm's commands for scripts: links to this program by their names, in a directory that is last in a job's `PATH`, where the
//! machine has no `srun` of its own. So the same script runs here and on a cluster.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::environment::Environment;

/// What a script may call.
pub const COMMANDS: [&str; 9] =
    ["sacct", "salloc", "sattach", "sbatch", "scancel", "scontrol", "sinfo", "srun", "squeue"];

/// Adds the directory, which is below `queue`, to the `PATH`. Where it cannot be made, a script goes without.
pub fn add(environment: &mut Environment, queue: &Path) {
    let path = environment.get("PATH").unwrap_or_default().to_owned();
    if std::env::split_paths(&path).any(|directory| is_program(&directory.join("srun"))) {
        return;
    }
    let Ok(directory) = make(queue) else { return };
    let all = std::env::split_paths(&path).filter(|entry| *entry != directory);
    if let Ok(path) = std::env::join_paths(all.chain([directory.clone()])) {
        environment.set("PATH", path);
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The directory, with links that lead to the program that runs now.
fn make(queue: &Path) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = queue.join("commands");
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for name in COMMANDS {
        let link = directory.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        // Another job may be using it: it is replaced in one step.
        let new = directory.join(format!(".{name}.{}", std::process::id()));
        symlink(&program, &new)?;
        fs::rename(&new, &link)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_the_commands_last_and_only_where_there_are_none() {
        let queue = tempfile::tempdir().unwrap();
        let own = tempfile::tempdir().unwrap();
        let mut environment = Environment::default();
        environment.set("PATH", own.path());
        add(&mut environment, queue.path());
        let path = format!("{}:{}/commands", own.path().display(), queue.path().display());
        assert_eq!(environment.get("PATH").unwrap(), path.as_str());
        let link = fs::read_link(queue.path().join("commands/srun")).unwrap();
        assert_eq!(link, std::env::current_exe().unwrap());
        // Once more changes nothing; an own srun is the one that is meant.
        add(&mut environment, queue.path());
        assert_eq!(environment.get("PATH").unwrap(), path.as_str());
        let program = own.path().join("srun");
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut environment = Environment::default();
        environment.set("PATH", own.path());
        add(&mut environment, queue.path());
        assert_eq!(environment.get("PATH").unwrap(), own.path());
    }
}
