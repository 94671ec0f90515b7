//! Whether a real Slurm answers here: then its own command does the work.
//!
//! It does where a command of that name that is not this program is in PATH and this machine has a `slurm.conf`.
//! `BERTH_ENGINE=embedded`, or `--embedded` as the first word behind the verb, keeps the work here; `BERTH_ENGINE=slurm`
//! hands it on without a word. In a job of the embedded engine the work stays here.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ExitCode;

/// Slurm's configuration where nothing names another: a cluster's, or one that slurmd has fetched.
const CONFIGURATIONS: [&str; 3] = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/etc/slurm-llnl/slurm.conf"];

/// The word that keeps the work here.
pub const EMBEDDED: &str = "--embedded";

/// Becomes Slurm's own command, if there is one to do the work. Comes back where there is not.
pub fn hand_over(name: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let engine = std::env::var("BERTH_ENGINE").unwrap_or_default();
    if engine == "embedded"
        || arguments.first().is_some_and(|word| word == EMBEDDED)
        || std::env::var_os(berth_job::lost::MARK).is_some()
    {
        return None;
    }
    let program = if engine == "slurm" { find(name)? } else { find(name).filter(|_| has_configuration())? };
    if engine != "slurm" {
        eprintln!(
            "berth: Slurm answers here, {} does the work ({EMBEDDED} keeps it on this machine)",
            program.display()
        );
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("{name}: error: cannot run {}: {error}", program.display());
    Some(ExitCode::from(126))
}

fn has_configuration() -> bool {
    match std::env::var_os("SLURM_CONF") {
        Some(path) => Path::new(&path).exists(),
        None => CONFIGURATIONS.iter().any(|path| Path::new(path).exists()),
    }
}

/// A command of this name in PATH that is not this program by another name.
fn find(name: &str) -> Option<PathBuf> {
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let own = identity(Path::new("/proc/self/exe"));
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file() && identity(program) != own)
}
