//! What can go wrong with images, as a person needs to read it.
//!
//! Every variant's `Display` says what failed, on what, and why; [`Error::hint`] says what to do about it, where there is
//! something to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An image reference that cannot be parsed.
    #[error("invalid image reference `{text}`: {reason}")]
    BadReference {
        /// What was given.
        text: String,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A digest that cannot be parsed.
    #[error("invalid digest `{text}`: {reason}")]
    BadDigest {
        /// What was given, at most 200 characters of it.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase: "create", "read", "rename to its place".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An image in one file cannot be written or read.
    #[error(transparent)]
    ImageFile(#[from] berth_imagefile::Error),
    /// Content that does not have the digest under which it was asked for.
    #[error("{what} has the wrong content: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Which content: "layer 3 of docker.io/library/debian:12".
        what: String,
        /// The digest in the manifest.
        expected: Digest,
        /// The digest of what arrived.
        actual: Digest,
    },
    /// Content that does not have the size that was promised.
    #[error("{what} has the wrong size: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// Which content.
        what: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes that arrived (a lower bound where reading stopped).
        actual: u64,
    },
    /// A manifest, index or configuration that cannot be used.
    #[error("{what}: {reason}")]
    BadManifest {
        /// Which document, of which image.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer that cannot be unpacked as it is.
    #[error("layer {layer}: {reason}{}", entry.as_deref().map(|e| format!(" (entry `{e}`)")).unwrap_or_default())]
    BadLayer {
        /// Which layer.
        layer: String,
        /// The path in the archive, where the fault has one, escaped for a terminal.
        entry: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A limit that protects the machine was met.
    #[error("{what} is larger than berth accepts: {reason}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Which limit, and its value.
        reason: String,
    },
    /// A registry answered with an error, or not at all.
    #[error("{registry}: {reason}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What was asked, what came back.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
        /// The HTTP status, where there was one.
        status: Option<u16>,
    },
    /// No such image, in the store or in the source.
    #[error("image not found: {name}{}", reason.as_deref().map(|r| format!(" ({r})")).unwrap_or_default())]
    NotFound {
        /// The image.
        name: String,
        /// Where it was looked for.
        reason: Option<String>,
    },
    /// A helper program (podman, docker, skopeo, a credential helper) failed.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// Its exit status and last words.
        reason: String,
    },
    /// A configuration file that cannot be used.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column where known.
        reason: String,
    },
    /// The store itself is not usable.
    #[error("the image store {} {reason}", path.display())]
    Store {
        /// The store's root.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
        /// What the person can do.
        hint: Option<String>,
    },
    /// The image is in use by running containers.
    #[error("image {name} is in use by {users}")]
    InUse {
        /// The image.
        name: String,
        /// Who uses it.
        users: String,
    },
}

impl Error {
    /// An I/O error with what was tried and on what.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Io { action, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// What the person can do about it, in one sentence, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Registry { hint, .. } | Error::Store { hint, .. } => hint.clone(),
            Error::Io { source, path, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC) => Some(format!(
                    "the file system of {} is full: free space with `berth gc`, or choose another place with --store or BERTH_STORE",
                    path.display()
                )),
                Some(libc::EDQUOT) => Some(format!(
                    "your quota on the file system of {} is used up: free space with `berth gc`, or choose another place with --store or BERTH_STORE",
                    path.display()
                )),
                Some(libc::EROFS) => {
                    Some("the file system is read-only: choose another place with --store or BERTH_STORE".to_owned())
                }
                _ => None,
            },
            Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => {
                Some("the content was damaged on its way or in the registry; nothing of it was kept: try again, then ask who runs the registry".to_owned())
            }
            Error::InUse { .. } => Some("stop the containers, or remove the name only with `berth rmi --force`".to_owned()),
            _ => None,
        }
    }
}
