//! The options that the plugin adds to `srun`, `sbatch` and `salloc`.

/// Which option it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Each is explained by the usage text of its row.
pub enum Name {
    Image,
    Mounts,
    Workdir,
    Container,
    Save,
    MountHome,
    NoMountHome,
    RemapRoot,
    NoRemapRoot,
    Entrypoint,
    NoEntrypoint,
    EntrypointLog,
    Writable,
    Readonly,
    Env,
    Unshare,
    Conf,
    Device,
    Stage,
    OverlaySize,
    Slurm,
    Verbose,
}

/// A row of [`OPTIONS`].
#[derive(Debug)]
pub struct Definition {
    /// Which it is.
    pub option: Name,
    /// As it is typed, without `--`.
    pub name: &'static str,
    /// What its value is called in the help; `None` for one that takes none.
    pub argument: Option<&'static str>,
    /// Its line in the help.
    pub usage: &'static str,
    /// The variable that stands for it, without the prefix `PYXIS_CONTAINER_` or `SLURM_CONTAINER_`.
    pub variable: Option<&'static str>,
}

const fn row(
    option: Name,
    name: &'static str,
    argument: Option<&'static str>,
    variable: Option<&'static str>,
    usage: &'static str,
) -> Definition {
    Definition { option, name, argument, usage, variable }
}

/// All of them, in the order of the help.
#[rustfmt::skip] // One row a line.
pub static OPTIONS: &[Definition] = &[
    row(Name::Image, "container-image", Some("[USER@][REGISTRY#]IMAGE[:TAG]|PATH"), Some("IMAGE"),
        "run the command in a container of this image; PATH starts with / or ."),
    row(Name::Mounts, "container-mounts", Some("SRC:DST[:FLAGS][,SRC:DST...]"), Some("MOUNTS"),
        "show files and directories of the node; FLAGS are joined by +, such as ro+nosuid"),
    row(Name::Workdir, "container-workdir", Some("PATH"), Some("WORKDIR"),
        "start in this directory of the container"),
    row(Name::Container, "container-name", Some("NAME[:auto|create|exec|no_exec]"), Some("NAME"),
        "keep the container under this name, or use the one that has it"),
    row(Name::Save, "container-save", Some("PATH"), Some("SAVE"),
        "save the container to a file at the end of the step"),
    row(Name::MountHome, "container-mount-home", None, Some("MOUNT_HOME"),
        "show the home directory in the container"),
    row(Name::NoMountHome, "no-container-mount-home", None, None,
        "do not show the home directory in the container"),
    row(Name::RemapRoot, "container-remap-root", None, Some("REMAP_ROOT"),
        "be root inside, with nothing but one's own rights outside"),
    row(Name::NoRemapRoot, "no-container-remap-root", None, None,
        "be oneself inside"),
    row(Name::Entrypoint, "container-entrypoint", None, Some("ENTRYPOINT"),
        "run the image's entrypoint before the tasks; they have the environment that it leaves"),
    row(Name::NoEntrypoint, "no-container-entrypoint", None, None,
        "do not run the image's entrypoint"),
    row(Name::EntrypointLog, "container-entrypoint-log", None, Some("ENTRYPOINT_LOG"),
        "print what the entrypoint prints"),
    row(Name::Writable, "container-writable", None, Some("WRITABLE"),
        "let the container's root file system be written"),
    row(Name::Readonly, "container-readonly", None, Some("READONLY"),
        "make the container's root file system read-only"),
    row(Name::Env, "container-env", Some("NAME[,NAME...]"), Some("ENV"),
        "let these variables of the job win over those of the image"),
    row(Name::Unshare, "container-unshare", Some("net,ipc,uts"), Some("UNSHARE"),
        "give the container a network, IPC objects or a host name of its own"),
    row(Name::Conf, "container-conf", Some("FILE"), Some("CONF"),
        "take image, mounts, environment and devices from this file (TOML); options win over it"),
    row(Name::Device, "container-device", Some("VENDOR/CLASS=NAME|PATH[,...]"), Some("DEVICE"),
        "pass devices on, by CDI name or path; GPUs of the step come by themselves"),
    row(Name::Stage, "container-stage", None, Some("STAGE"),
        "copy the image to the node's own disk first"),
    row(Name::OverlaySize, "container-overlay-size", Some("SIZE"), Some("OVERLAY_SIZE"),
        "let changes of the root file system take this much memory, such as 2G"),
    row(Name::Slurm, "container-slurm", None, Some("SLURM"),
        "let srun, scontrol and Slurm's other commands work in the container"),
    row(Name::Verbose, "container-verbose", None, Some("VERBOSE"),
        "tell what is being done"),
];

/// The row of a name.
pub fn named(name: &str) -> Option<&'static Definition> {
    OPTIONS.iter().find(|row| row.name == name)
}

/// The row of an option.
pub fn of(option: Name) -> &'static Definition {
    // Every option has a row: a test sees to it.
    OPTIONS.iter().find(|row| row.option == option).unwrap_or(&OPTIONS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_one_row_and_a_name_that_slurm_takes() {
        for row in OPTIONS {
            assert_eq!(of(row.option).name, row.name);
            assert_eq!(OPTIONS.iter().filter(|other| other.name == row.name).count(), 1);
            assert!(row.name.len() <= 75 && !row.usage.is_empty());
            // Slurm's own, of all releases.
            assert!(!["container", "container-id", "container-type", "runtime"].contains(&row.name));
        }
    }
}
