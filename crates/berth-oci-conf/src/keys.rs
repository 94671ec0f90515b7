//! The twenty keys of `oci.conf`, and what each release makes of them.

use crate::release::Release;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line for `/bin/sh -c`, with patterns.
    Command,
    /// A path, with patterns.
    Path,
    /// `yes`, `up`, `true`, `1` or `no`, `down`, `false`, `0`.
    Bool,
    /// How the environment file is written; before 23.02 a [`Form::Bool`].
    EnvFile,
    /// Types of hooks, separated by commas.
    Hooks,
    /// An extended regular expression of POSIX.
    Regex,
    /// Anything.
    Text,
    /// Anything; each line counts.
    List,
    /// The name of a log level.
    LogLevel,
    /// Flags as in slurm.conf.
    DebugFlags,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As the manual writes it; case does not matter.
    pub name: &'static str,
    /// The release that brought it. Older ones refuse a file with it.
    pub since: Release,
    /// What its value is.
    pub form: Form,
    /// What it does.
    pub does: &'static str,
    /// How the meaning changed, and when.
    pub changes: &'static [(Release, &'static str)],
}

const G1: Release = Release::FIRST;
const G2: Release = Release::GENERATION_2;

const fn key(name: &'static str, since: Release, form: Form, does: &'static str) -> Key {
    Key { name, since, form, does, changes: &[] }
}

impl Key {
    const fn changed(mut self, changes: &'static [(Release, &'static str)]) -> Key {
        self.changes = changes;
        self
    }

    /// The key of that name, whatever its case.
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(name))
    }

    /// Whether slurmstepd runs it as root, at the end of a step.
    pub fn is_roots(&self) -> bool {
        ROOTS.contains(&self.name)
    }
}

/// Commands that slurmstepd runs at the end of a step, as root.
pub const ROOTS: [&str; 3] = ["RunTimeQuery", "RunTimeKill", "RunTimeDelete"];

/// All six commands.
pub const COMMANDS: [&str; 6] =
    ["RunTimeCreate", "RunTimeStart", "RunTimeRun", "RunTimeQuery", "RunTimeKill", "RunTimeDelete"];

/// All keys.
pub static KEYS: [Key; 20] = [
    key("RunTimeCreate", G1, Form::Command, "makes a container that waits"),
    key("RunTimeStart", G1, Form::Command, "lets the created container run"),
    key(
        "RunTimeRun",
        G1,
        Form::Command,
        "runs a container from its beginning to its end; in the place of the two above",
    ),
    key(
        "RunTimeQuery",
        G1,
        Form::Command,
        "prints the state of a container as JSON, as OCI has it; run by root in the end",
    )
    .changed(&[(G2, "may be missing beside RunTimeRun")]),
    key("RunTimeKill", G1, Form::Command, "ends a container; no signal is added; run by root in the end"),
    key("RunTimeDelete", G1, Form::Command, "removes a container; run by root in the end"),
    key("ContainerPath", G1, Form::Path, "where the configuration of each container is written")
        .changed(&[(Release::NEW_SPOOL, "only the parent: Slurm adds a folder for the step and one for the task")]),
    key("CreateEnvFile", G1, Form::EnvFile, "writes the environment to a file, %e")
        .changed(&[(G2, "`newline`, `null` or `disabled`; before yes or no, and with zero bytes")]),
    key("MountSpoolDir", G2, Form::Path, "where the spool folder is in the container")
        .changed(&[(Release::NEW_SPOOL, "by default where it is on the node; before /var/run/slurm/")]),
    key("DisableCleanup", G2, Form::Bool, "leaves what Slurm wrote for a container"),
    key("DisableHooks", G2, Form::Hooks, "meant to take hooks out of the configuration; does nothing in any release"),
    key("EnvExclude", G2, Form::Regex, "variables that containers do not get: what is found in NAME=value"),
    key("RunTimeEnvExclude", G2, Form::Regex, "variables that the commands of this file do not get"),
    key("IgnoreFileConfigJson", G2, Form::Bool, "no config.json is read or written: --container may be anything"),
    key("SrunPath", G2, Form::Text, "scrun only: the srun that it calls"),
    key("SrunArgs", G2, Form::List, "scrun only: arguments of srun"),
    key("StdIODebug", G2, Form::LogLevel, "scrun only: how much is told on standard error"),
    key("SyslogDebug", G2, Form::LogLevel, "scrun only: how much is told to syslog"),
    key("FileDebug", G2, Form::LogLevel, "scrun only: how much is told to the log file"),
    key("DebugFlags", G2, Form::DebugFlags, "scrun only: flags as in slurm.conf"),
];

/// A boolean as Slurm reads it.
pub fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    match () {
        () if is(["yes", "up", "true", "1"]) => Some(true),
        () if is(["no", "down", "false", "0"]) => Some(false),
        () => None,
    }
}

/// How the file of the environment is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvFile {
    /// There is none.
    #[default]
    None,
    /// Each variable ends with a zero byte.
    Null,
    /// Each variable is a line; what has a line break in it is left out.
    Newline,
}

impl EnvFile {
    /// `CreateEnvFile` as a release reads it.
    pub fn parse(text: &str, release: Release) -> Option<EnvFile> {
        if !release.rewrites_per_task() {
            return boolean(text).map(|on| if on { EnvFile::Null } else { EnvFile::None });
        }
        match text.to_ascii_lowercase().as_str() {
            "null" | "true" | "yes" | "y" | "1" => Some(EnvFile::Null),
            "newline" => Some(EnvFile::Newline),
            "disabled" | "false" | "no" | "n" | "0" => Some(EnvFile::None),
            _ => None,
        }
    }
}

/// Types of hooks that OCI knows.
pub const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Log levels of Slurm, by name; each has a number, too.
pub const LOG_LEVELS: [&str; 10] =
    ["quiet", "fatal", "error", "info", "verbose", "debug", "debug2", "debug3", "debug4", "debug5"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_keys_of_different_names() {
        let mut names: Vec<String> = KEYS.iter().map(|key| key.name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 20);
        assert_eq!(KEYS.iter().filter(|key| key.since == G1).count(), 8, "what 22.05 knows");
        assert!(COMMANDS.iter().all(|name| Key::named(name).is_some_and(|key| key.form == Form::Command)));
    }

    #[test]
    fn booleans_are_slurms() {
        for (text, expected) in [
            ("YES", Some(true)),
            ("up", Some(true)),
            ("0", Some(false)),
            ("Down", Some(false)),
            ("on", None),
            ("", None),
        ] {
            assert_eq!(boolean(text), expected, "{text}");
        }
    }

    #[test]
    fn the_environment_file_was_a_boolean_once() {
        let (old, new) = (Release(22, 5), Release(24, 11));
        for (text, release, expected) in [
            ("true", old, Some(EnvFile::Null)),
            ("newline", old, None),
            ("Newline", new, Some(EnvFile::Newline)),
            ("y", new, Some(EnvFile::Null)),
            ("up", new, None),
            ("disabled", new, Some(EnvFile::None)),
            ("lines", new, None),
        ] {
            assert_eq!(EnvFile::parse(text, release), expected, "{text} {release}");
        }
    }
}
