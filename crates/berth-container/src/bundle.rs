//! What is launched: an OCI configuration and a recipe for its root file system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci;

/// Everything the launcher needs to know about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// The configuration. `root.path` is ignored in favour of [`Bundle::rootfs`]; `root.readonly` holds.
    pub spec: oci::Spec,
    /// The root file system.
    pub rootfs: Rootfs,
}

/// How the root file system is put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rootfs {
    /// A directory, used as it is: what the container changes in it stays.
    Dir(PathBuf),
    /// Directories laid over each other.
    Overlay {
        /// The layers of the image, the lowest first, with whiteouts as overlayfs makes them with `userxattr`
        /// (character device 0:0; `user.overlay.opaque=y`). At most 499.
        lowers: Vec<PathBuf>,
        /// Files laid over the image's, below the container's own changes.
        #[serde(default)]
        generated: Vec<GeneratedFile>,
        /// Where changes go.
        upper: Upper,
    },
}

/// A file made at each start and laid over the image: `/etc/passwd` with the user's line, `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedFile {
    /// Where, absolute, inside the container. No component may be `..`.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// Where the changes of a container go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Upper {
    /// Nowhere: the root file system is read-only inside.
    None,
    /// To memory: they vanish with the container.
    Tmpfs {
        /// At most this many bytes; absent means the kernel's default, half of the memory.
        size: Option<u64>,
    },
    /// To a directory.
    Dir {
        /// What was changed.
        upper: PathBuf,
        /// Overlayfs' own directory, on the same file system.
        work: PathBuf,
    },
}
