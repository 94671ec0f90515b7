//! `docker-archive:FILE[:REF]`: what `docker save` and `podman save` write, in a plain tar that can be read at any place.
//!
//! `manifest.json` names a configuration and layers for each image. Such an archive has no manifest in OCI's sense, so
//! one is made: the same image gives the same manifest, byte for byte, however its archive was packed. Layers are mostly
//! stored uncompressed; the digest of such a layer is the diff id that the configuration already holds, and whoever
//! unpacks it verifies that, so nothing is hashed twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::Source;
use super::archive::{Extent, Index, bad, compression_of, normal_name, show};
use super::layout::{self, blob_digest};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::manifest::{
    self, Compression, Descriptor, ImageConfig, Layer, MAX_DOCUMENT, MAX_LAYERS, OCI_MANIFEST, Platform, ResolvedImage,
};
use crate::progress::Progress;

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub layers: Option<Vec<String>>,
}

impl Entry {
    /// The image's names, such as `docker.io/library/debian:12`.
    pub fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// An image in an archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    index: Index,
    entry: Entry,
    name: String,
    /// The member of each layer, filled by `resolve`.
    members: Mutex<HashMap<Digest, String>>,
}

impl DockerArchive {
    /// Reads where the members of the archive lie, and chooses an image.
    /// [`open_docker_archive`](super::open_docker_archive) chooses between this and streaming.
    ///
    /// # Errors
    /// When it is no whole tar archive with a `manifest.json`, or has no such image, or several and none was named.
    pub fn new(file: File, name: String, wanted: Option<&str>) -> Result<DockerArchive> {
        let index = Index::new(file, &name)?;
        if !index.has("manifest.json") {
            let remedy = if index.has("index.json") { "; try `oci-archive:`" } else { "" };
            return Err(bad(&name, format!("it is no archive of `docker save`: it has no `manifest.json`{remedy}")));
        }
        let entries = parse_manifest(&index.document("manifest.json", MAX_DOCUMENT)?, &name)?;
        let entry = choose(entries, wanted, &name)?;
        Ok(DockerArchive { index, entry, name, members: Mutex::default() })
    }

    /// The image's names in the archive, such as `docker.io/library/debian:12`; may be empty.
    pub fn tags(&self) -> &[String] {
        self.entry.tags()
    }

    /// The layer's descriptor: digest, size and packing of the member as it is stored.
    fn describe(&self, member: &str, diff_id: &Digest) -> Result<Descriptor> {
        let (mut extent, size) = self.index.open(member)?;
        let mut head = Vec::with_capacity(4);
        (&mut extent).take(4).read_to_end(&mut head).map_err(|e| Error::io("read", &self.name, e))?;
        let compression = compression_of(&head);
        let digest = match (compression, blob_digest(member)) {
            (Compression::None, _) => diff_id.clone(),
            // Docker 25 and later name blobs by their digest. It is verified like any other.
            (_, Some(digest)) => digest,
            (_, None) => hash(self.index.open(member)?.0, &self.name)?,
        };
        Ok(layer_descriptor(digest, size, compression))
    }
}

impl Source for DockerArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&self, platform: &Platform, _: &dyn Progress) -> Result<ResolvedImage> {
        let config = self.index.document(&member_name(&self.entry.config, &self.name)?, MAX_DOCUMENT)?;
        let members = layer_names(&self.entry, &self.name)?;
        let image =
            synthesise(&self.entry, config, platform, &self.name, |i, diff_id| self.describe(&members[i], diff_id))?;
        let digests = image.layers.iter().map(|layer| layer.descriptor.digest.clone());
        *self.members.lock().expect("no thread panics with it") = digests.zip(members).collect();
        Ok(image)
    }

    fn open_layer(&self, layer: &Layer, _: &dyn Progress) -> Result<Box<dyn Read + Send>> {
        let members = self.members.lock().expect("no thread panics with it");
        let member = members
            .get(&layer.descriptor.digest)
            .ok_or_else(|| bad(&self.name, format!("it has no layer {}", layer.descriptor.digest)))?;
        Ok(Box::new(self.index.open(member)?.0))
    }
}

/// Parses `manifest.json`.
pub(super) fn parse_manifest(bytes: &[u8], what: &str) -> Result<Vec<Entry>> {
    layout::parse(bytes, "manifest.json", what)
}

/// The image with the wanted name or identifier, or the only one.
pub(super) fn choose(mut entries: Vec<Entry>, wanted: Option<&str>, what: &str) -> Result<Entry> {
    if entries.is_empty() {
        return Err(bad(what, "the archive has no images"));
    }
    let listed = layout::list(entries.iter().flat_map(|entry| entry.tags()));
    let Some(wanted) = wanted else {
        if entries.len() > 1 {
            return Err(bad(what, format!("the archive has several images; add `:NAME` for one of {listed}")));
        }
        return Ok(entries.remove(0));
    };
    let full = full_name(wanted);
    let position = entries
        .iter()
        .position(|entry| entry.tags().iter().any(|tag| tag == wanted))
        .or_else(|| entries.iter().position(|entry| entry.tags().iter().any(|tag| full_name(tag) == full)))
        .or_else(|| entries.iter().position(|entry| is_identifier(wanted, entry)));
    match position {
        Some(position) => Ok(entries.swap_remove(position)),
        None => {
            let reason = format!("the archive has no image `{}`, but {listed}", show(wanted));
            Err(Error::NotFound { name: what.to_owned(), reason: Some(reason) })
        }
    }
}

/// Docker writes `debian:12` where podman writes `docker.io/library/debian:12`, and podman puts what was built here below
/// `localhost/`.
fn full_name(name: &str) -> String {
    let name = ["docker.io/", "index.docker.io/", "localhost/"]
        .iter()
        .find_map(|host| name.strip_prefix(host))
        .unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// Whether `wanted` is the beginning of the image's identifier, of at least the twelve digits that `docker images` shows.
fn is_identifier(wanted: &str, entry: &Entry) -> bool {
    let wanted = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    wanted.len() >= 12 && digest_in_name(&entry.config).is_some_and(|digest| digest.hex().starts_with(wanted))
}

/// The members of the image's layers, lowest first.
pub(super) fn layer_names(entry: &Entry, what: &str) -> Result<Vec<String>> {
    let layers = entry.layers.as_deref().unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        let reason = format!("{} layers, the limit is {MAX_LAYERS}", layers.len());
        return Err(Error::TooLarge { what: what.to_owned(), reason });
    }
    layers.iter().map(|name| member_name(name, what)).collect()
}

/// A name that `manifest.json` gives, as a member's.
pub(super) fn member_name(name: &str, what: &str) -> Result<String> {
    normal_name(name)
        .ok_or_else(|| bad(what, format!("`manifest.json` names `{}`, which is no file of the archive", show(name))))
}

/// The digest that a configuration's name promises: `<hex>.json`, `sha256:<hex>` or `blobs/sha256/<hex>`.
fn digest_in_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last.strip_suffix(".json").unwrap_or(last);
    Digest::parse(&format!("sha256:{}", hex.strip_prefix("sha256:").unwrap_or(hex))).ok()
}

/// Makes the image: a manifest is built, and goes through the same checks as one from a registry. `describe` gives the
/// descriptor of a layer by its place and diff id.
pub(super) fn synthesise(
    entry: &Entry,
    config: Vec<u8>,
    platform: &Platform,
    what: &str,
    mut describe: impl FnMut(usize, &Digest) -> Result<Descriptor>,
) -> Result<ResolvedImage> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u32,
        media_type: &'a str,
        config: Descriptor,
        layers: Vec<Descriptor>,
    }

    let digest = Digest::of(&config);
    if let Some(expected) = digest_in_name(&entry.config).filter(|expected| *expected != digest) {
        let what = format!("the configuration of {what}");
        return Err(Error::DigestMismatch { what, expected, actual: digest });
    }
    let diff_ids = ImageConfig::parse(&config, what)?.rootfs.diff_ids;
    let layers = entry.layers.as_deref().unwrap_or_default().len();
    if layers != diff_ids.len() {
        let named = diff_ids.len();
        return Err(bad(what, format!("`manifest.json` has {layers} layers, but the configuration names {named}")));
    }
    let layers = diff_ids.iter().enumerate().map(|(i, diff_id)| describe(i, diff_id)).collect::<Result<_>>()?;
    let media_type = "application/vnd.oci.image.config.v1+json";
    let config_descriptor = descriptor(media_type, digest, config.len() as u64);
    let manifest = Manifest { schema_version: 2, media_type: OCI_MANIFEST, config: config_descriptor, layers };
    let bytes = serde_json::to_vec(&manifest).expect("descriptors are serialisable");
    manifest::resolve(&mut |_| Ok(config.clone()), bytes, OCI_MANIFEST, platform, what)
}

/// The descriptor of a layer.
pub(super) fn layer_descriptor(digest: Digest, size: u64, compression: Compression) -> Descriptor {
    let media_type = match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    descriptor(media_type, digest, size)
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.to_owned(), digest, size, platform: None, annotations: Default::default() }
}

/// The digest of a compressed layer whose name does not tell it: a second pass over it, but such archives are rare.
fn hash(mut extent: Extent, what: &str) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match extent.read(&mut buffer).map_err(|e| Error::io("read", what, e))? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
