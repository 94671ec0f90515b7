//! What the store keeps of an image beside its trees: one small file that has all a start needs.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
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
    /// Permission bits of the image's `/etc`, and whether it has one.
    #[serde(default)]
    pub etc_mode: Option<u32>,
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
