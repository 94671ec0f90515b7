//! What can go wrong between a bundle and its process, as a person needs to read it.
//!
//! Every variant's `Display` says what failed, on what, and why; [`Error::hint`] says what to do about it, where there is
//! something to do; [`Error::exit_code`] follows podman: 125 ours, 126 cannot be invoked, 127 not found.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A bundle that cannot be started as it is.
    #[error("invalid container configuration: {field}: {reason}")]
    BadSpec {
        /// Where in the configuration: `process.args`, `mounts[3].options`.
        field: String,
        /// What is wrong there.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase: "create", "read".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A step of the launch failed that concerns no file.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as a verb phrase: "bring the loopback interface up".
        action: String,
        /// The kernel's answer.
        source: io::Error,
        /// What the person can do.
        hint: Option<String>,
    },
    /// The kernel refused new namespaces.
    #[error("cannot create a new {namespaces} namespace: {source}")]
    Namespaces {
        /// Which, in words: "user and mount".
        namespaces: String,
        /// The kernel's answer.
        source: io::Error,
        /// What the person, or who runs the machine, can do.
        hint: Option<String>,
    },
    /// User and group ids could not be mapped.
    #[error("cannot map {ids} into the container: {reason}")]
    IdMapping {
        /// Which ids.
        ids: &'static str,
        /// Why not.
        reason: String,
        /// What the person, or who runs the machine, can do.
        hint: Option<String>,
    },
    /// A mount failed.
    #[error("cannot mount {what} on {}: {reason}", target.display())]
    Mount {
        /// What was to be mounted: a path of the host, or a file system type.
        what: String,
        /// Where, inside the container.
        target: PathBuf,
        /// Why not.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// The root file system could not be put together.
    #[error("cannot set up the root file system: {reason}")]
    Rootfs {
        /// Why not.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// No such command inside.
    #[error("command not found in the container: {command}{}", reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    CommandNotFound {
        /// The command.
        command: String,
        /// Where it was looked for, or what it needs that is not there.
        reason: Option<String>,
        /// What the person can do.
        hint: Option<String>,
    },
    /// The command is there but can't be run.
    #[error("cannot run {command} in the container: {reason}")]
    CommandNotInvokable {
        /// The command.
        command: String,
        /// Why not.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// A hook failed.
    #[error("the {stage} hook {} failed: {reason}", path.display())]
    Hook {
        /// Which stage: `createContainer`.
        stage: &'static str,
        /// The program.
        path: PathBuf,
        /// Its exit status and last words.
        reason: String,
    },
    /// An error that happened in the container's process and was reported by it.
    #[error("{message}")]
    Reported {
        /// Its message, complete.
        message: String,
        /// Its hint.
        hint: Option<String>,
        /// Its exit code.
        code: u8,
    },
    /// A name that no container may have.
    #[error(
        "invalid container name `{name}`: use letters, digits, `_`, `.` and `-`, at most 64, and a letter or digit first"
    )]
    BadName {
        /// What was given.
        name: String,
    },
    /// No such container.
    #[error("no container named `{name}`")]
    NoContainer {
        /// The name.
        name: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// The container exists, or is in a state in which this cannot be done.
    #[error("container `{name}` {reason}")]
    ContainerState {
        /// The name.
        name: String,
        /// What is in the way: "is running".
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// A process that cannot be joined.
    #[error("cannot join process {pid}: {reason}")]
    Join {
        /// The process.
        pid: u32,
        /// Why not.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
}

impl Error {
    /// An I/O error with what was tried and on what.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// A failed step that concerns no file.
    pub fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::System { action: action.into(), source: source.into(), hint: None }
    }

    /// A fault of the configuration.
    pub fn bad_spec(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::BadSpec { field: field.into(), reason: reason.into() }
    }

    /// The exit code that tells scripts whose fault it is.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::CommandNotFound { .. } => 127,
            Error::CommandNotInvokable { .. } => 126,
            Error::Reported { code, .. } => *code,
            _ => 125,
        }
    }

    /// What the person can do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::System { hint, .. }
            | Error::Namespaces { hint, .. }
            | Error::IdMapping { hint, .. }
            | Error::Mount { hint, .. }
            | Error::Rootfs { hint, .. }
            | Error::CommandNotFound { hint, .. }
            | Error::CommandNotInvokable { hint, .. }
            | Error::Reported { hint, .. }
            | Error::NoContainer { hint, .. }
            | Error::ContainerState { hint, .. }
            | Error::Join { hint, .. } => hint.clone(),
            Error::Io { source, path, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC) => Some(format!("the file system of {} is full", path.display())),
                Some(libc::EDQUOT) => Some(format!("your quota on the file system of {} is used up", path.display())),
                _ => None,
            },
            Error::BadSpec { .. } | Error::Hook { .. } | Error::BadName { .. } => None,
        }
    }
}
