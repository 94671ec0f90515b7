//! Manifests, indexes and image configurations: what of them berth needs, parsed with bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};

mod resolve;

pub use resolve::{
    ACCEPTED, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, choose, layer_compression, resolve,
};

/// The largest manifest, index or configuration that is read, in bytes. Docker's and the distribution specification's
/// own limit for manifests is 4 MiB; configurations are held to the same.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The largest number of layers of one image. The kernel stacks at most 500 overlay layers.
pub const MAX_LAYERS: usize = 499;
/// How deep indexes may nest.
pub const MAX_INDEX_DEPTH: usize = 4;

/// A pointer to a blob: OCI image specification, "Content Descriptors".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// For which machine, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free-form annotations.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Operating system and processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was built for, in OCI's words.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Parses `OS/ARCH[/VARIANT]`; a lone architecture means `linux`. The names of `uname -m` are understood.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Platform, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(format!("invalid platform `{text}`: write OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64")),
        };
        let plain = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if ![os, architecture].iter().chain(variant.iter()).all(plain) {
            return Err(format!("invalid platform `{text}`: write OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64"));
        }
        Ok(Platform {
            os: os.to_ascii_lowercase(),
            architecture: resolve::normal_architecture(&architecture.to_ascii_lowercase()).to_owned(),
            variant: variant.map(str::to_ascii_lowercase),
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// How a layer's blob is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob as the source has it.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed tar, from the image configuration.
    pub diff_id: Digest,
    /// How it is packed.
    pub compression: Compression,
}

/// An image that a reference was resolved to: its documents, verified and parsed.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// Digest of the manifest that was chosen for the platform.
    pub digest: Digest,
    /// The manifest's bytes, as received.
    pub manifest: Vec<u8>,
    /// The image configuration's digest and bytes, as received.
    pub config_digest: Digest,
    /// See `config_digest`.
    pub config_bytes: Vec<u8>,
    /// The configuration, parsed.
    pub config: ImageConfig,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// The image configuration: OCI image specification, "Image Configuration".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Processor.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Processor variant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What a container of this image runs, and how.
    #[serde(default)]
    pub config: RunConfig,
    /// Digests of the uncompressed layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// See [`ImageConfig::rootfs`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Lowest layer first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// The execution parameters of an image. Docker writes `null` for what is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "null_is_default")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The fixed beginning of the command.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// The default command or arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// The working directory.
    #[serde(deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Free-form labels.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// Paths that the image wants on volumes.
    #[serde(deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// The signal that ends it, by name or number.
    #[serde(deserialize_with = "null_is_default")]
    pub stop_signal: String,
}

fn null_is_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Parses a configuration; `what` names it in errors.
    pub fn parse(bytes: &[u8], what: &str) -> Result<ImageConfig> {
        serde_json::from_slice(bytes).map_err(|e| Error::BadManifest {
            what: what.to_owned(),
            reason: format!("the image configuration is not valid: {e}"),
        })
    }
}
