//! What can go wrong with an image in one file.

use std::io;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action} {name}: {source}")]
    Io {
        /// What was tried, as a verb phrase: "read", "write".
        action: &'static str,
        /// On which file.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The file ends before the place where the image says that there is something.
    #[error("{name} ends too early: it was cut short, or changed while it was in use")]
    Truncated {
        /// The image.
        name: String,
    },
    /// The file is in no format that is known.
    #[error("{name} is neither a squashfs nor an EROFS image")]
    NotAnImage {
        /// The file.
        name: String,
    },
    /// The image contradicts its format.
    #[error("the image {name} is damaged: {reason}")]
    Damaged {
        /// The image.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// The image uses what we do not read.
    #[error("the image {name} cannot be used: {reason}")]
    Unsupported {
        /// The image.
        name: String,
        /// What it uses.
        reason: String,
    },
    /// The caller asked a file for what only a directory has.
    #[error("not a directory")]
    NotADirectory,
    /// The caller asked a directory for what only a file has.
    #[error("is a directory")]
    IsADirectory,
    /// The caller asked for what this kind of file does not have.
    #[error("not of that kind of file")]
    WrongKind,
    /// What should be written does not fit the format.
    #[error("{path} cannot be written into the image: {reason}")]
    CannotWrite {
        /// Path of the entry.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A setting of the writer that the format does not have.
    #[error("{0}")]
    BadSetting(String),
}

impl Error {
    /// The number by which a system call would report this.
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        match self {
            Error::NotADirectory => Errno::NOTDIR,
            Error::IsADirectory => Errno::ISDIR,
            Error::WrongKind => Errno::INVAL,
            Error::Unsupported { .. } => Errno::OPNOTSUPP,
            _ => Errno::IO,
        }
        .raw_os_error()
    }
}

/// A path for messages: bytes as they are where they can be printed.
pub(crate) fn printable(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
