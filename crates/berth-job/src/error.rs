//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of this crate. The texts have no prefix: the command that was typed (`srun: error: `) is put in front by who
/// prints them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed on a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record cannot be understood.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no such job.
    #[error("Invalid job id specified")]
    NoJob,
    /// There is no place for the queue.
    #[error("there is no place for the queue of jobs: HOME is not set")]
    NoPlace,
    /// The queue's directory belongs to somebody else, or others may write to it.
    #[error("{} is not safe to keep jobs in: it belongs to another user, or others may write to it", .0.display())]
    Unsafe(PathBuf),
    /// What was typed is wrong, or cannot be done on one machine. Lines, in Slurm's words where Slurm has some.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// An error on a file.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// An error of the system.
    pub fn system(action: &'static str, source: impl Into<io::Error>) -> Error {
        Error::System { action, source: source.into() }
    }
}
