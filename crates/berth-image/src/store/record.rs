//! What the store keeps of an image beside its trees: one small file that has all a start needs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::lease;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::RunConfig;

/// An image as a start needs it: `images/<manifest hex>.json`. Everything that would take work at start (which layers,
/// which accounts the image knows) was worked out when the image was imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the manifest for this platform.
    pub digest: Digest,
    /// Digest of the image configuration.
    pub config_digest: Digest,
    /// Where it was pulled from, for people: `docker://docker.io/library/debian:12`.
    pub source: String,
    /// When the image was made, as its configuration says (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it was imported, seconds since the epoch.
    pub pulled: u64,
    /// Processor architecture in OCI's words.
    pub architecture: String,
    /// Operating system in OCI's words.
    pub os: String,
    /// Execution parameters.
    pub config: RunConfig,
    /// Layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// The image's own `/etc/passwd`, empty where it has none or where it is over 256 KiB.
    #[serde(default)]
    pub passwd: String,
    /// The image's own `/etc/group`, likewise.
    #[serde(default)]
    pub group: String,
    /// What the image has at each of [`KNOWN_PATHS`], by that path; nothing where it has nothing.
    #[serde(default)]
    pub entries: BTreeMap<String, EntryKind>,
    /// Where and since which start of the machine the image was imported, as long as nobody looked whether its files
    /// outlived that machine's next start: an import does not wait for the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<Boot>,
}

/// Paths that a start asks after: asking every layer of an image for each would take longer than mounting them.
pub const KNOWN_PATHS: [&str; 12] = [
    "etc",
    "etc/passwd",
    "etc/group",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/localtime",
    "etc/apt",
    "etc/apt/apt.conf.d",
    "bin/sh",
    "bin/bash",
    "usr/bin/sh",
];

/// What stands at a path of an image. Links on the way to it are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A pipe, or something else.
    Other,
}

/// One start of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The machine's name.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub id: String,
}

impl Boot {
    /// The one we live in.
    pub(super) fn current() -> Option<Boot> {
        Some(Boot { host: lease::host(), id: lease::boot_id()? })
    }
}

/// One layer of an [`ImageRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the blob, and the layer's name in the store.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Bytes of all files in the tree.
    pub unpacked: u64,
}

/// A name in the store: `refs/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    /// The full name.
    pub name: String,
    /// The image that it means.
    pub digest: Digest,
}

impl Reference {
    pub(super) fn read(layout: &Layout, name: &str) -> Result<Option<Reference>> {
        let reference: Option<Reference> = read_json(&layout.reference(name))?;
        Ok(reference.filter(|reference| reference.name == name))
    }

    pub(super) fn write(&self, layout: &Layout) -> Result<()> {
        layout.write_file(&layout.reference(&self.name), &to_json(self))
    }

    pub(super) fn all(layout: &Layout) -> Result<Vec<Reference>> {
        read_all(&layout.root().join("refs"))
    }
}

impl ImageRecord {
    pub(super) fn read(layout: &Layout, digest: &Digest) -> Result<Option<ImageRecord>> {
        read_json(&layout.image(digest))
    }

    pub(super) fn write(&self, layout: &Layout) -> Result<()> {
        layout.write_file(&layout.image(&self.digest), &to_json(self))
    }

    pub(super) fn all(layout: &Layout) -> Result<Vec<ImageRecord>> {
        read_all(&layout.root().join("images"))
    }

    /// When the image was last used.
    pub(super) fn used(&self, layout: &Layout) -> SystemTime {
        let modified = std::fs::metadata(layout.image(&self.digest)).and_then(|m| m.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// What `layer.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerInfo {
    /// Bytes of the blob.
    pub size: u64,
    /// Logical bytes of the files.
    pub unpacked: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// The layer hides all below it.
    #[serde(default)]
    pub root_opaque: bool,
    /// What was odd.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl LayerInfo {
    pub(super) fn read(directory: &Path) -> Result<Option<LayerInfo>> {
        read_json(&directory.join("layer.json"))
    }
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs of strings and numbers: serialising them cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let damaged = |e: serde_json::Error| Error::Config {
        path: path.to_owned(),
        reason: format!("is damaged: {e}; `berth verify` tells more"),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Everything in a directory of records. One that vanishes while we look was removed by somebody.
fn read_all<T: for<'de> Deserialize<'de>>(dir: &Path) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))? {
        let entry = entry.map_err(|e| Error::io("read", dir, e))?;
        all.extend(read_json(&entry.path())?);
    }
    Ok(all)
}
