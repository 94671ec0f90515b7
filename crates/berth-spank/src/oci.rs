//! Slurm's own `--container`.
//!
//! Slurm tells a plugin of it by the variable `SLURM_CONTAINER` alone, which `srun` sets only where it is not set already:
//! a step inside of a job that has a container would show the job's. So `srun`, `sbatch` and `salloc` forget an outer
//! value first, and what arrives in a step is the step's own.
//!
//! Where a site has an `oci.conf`, Slurm calls the runtime that it names. Its pattern for the command (`%@`) is not quoted
//! right in all releases, so the command is handed over in the environment, where berth looks for it. Where there is no
//! `oci.conf`, Slurm would run the command on the host, and the plugin takes the container over.

use std::ffi::CString;
use std::path::Path;

use berth_slurm::argv;
use berth_slurm::settings::{Oci, Settings};

use crate::Outcome;
use crate::slurm::{self, Spank};

/// The variable.
const CONTAINER: &str = "SLURM_CONTAINER";

/// In `srun`, `sbatch` and `salloc`, before they read their options.
#[allow(clippy::disallowed_methods)] // It is the environment of Slurm's program, which reads it next.
pub fn forget_outer_container() {
    // SAFETY: these programs have one thread at this point: plugins are loaded before the options are read.
    unsafe { libc::unsetenv(c"SLURM_CONTAINER".as_ptr()) };
}

/// What the step's `--container` says, where the plugin is to serve it.
pub fn container(spank: &Spank, settings: &Settings) -> Option<String> {
    let ours = match settings.oci {
        Oci::On => true,
        Oci::Off => false,
        Oci::Auto => !slurm::configuration_directory().join("oci.conf").exists(),
    };
    spank.variable(CONTAINER).filter(|text| ours && !text.is_empty())
}

/// Whether it is a bundle: a directory with a configuration for a runtime.
pub fn is_bundle(container: &str) -> bool {
    Path::new(container).join("config.json").exists()
}

/// In a task that Slurm's runtime will start: puts the command where berth finds it.
pub fn hand_over(spank: &Spank) -> Outcome {
    if spank.variable(CONTAINER).is_none_or(|text| text.is_empty()) {
        return Ok(());
    }
    let words = spank.argv();
    let text = argv::encode(words.iter().map(Vec::as_slice));
    if let (Ok(name), Ok(value)) = (CString::new(argv::VARIABLE), CString::new(text)) {
        spank.set_variable(&name, &value);
    }
    Ok(())
}
