//! The OCI image layout: OCI image specification, "Image Layout". The same documents lie in a directory, in a tar, or
//! in memory after a tar went by; they differ only in how a document is read ([`Documents`]).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::archive::{bad, show};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::manifest::{self, Descriptor, MAX_DOCUMENT, OCI_INDEX, Platform, ResolvedImage};

/// The annotation that holds an image's name or tag inside a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd keeps the whole name; it writes only the tag to [`REF_NAME`].
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// How many names an error lists before it stops.
const MAX_LISTED: usize = 24;

/// Reads the small files of a layout.
pub(crate) trait Documents {
    /// The file under this name, relative to the layout's root; an error when it has more than `limit` bytes.
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>>;
}

/// Where a blob lies in a layout.
pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The digest that a file of this name in a layout has, if it is a blob.
pub(crate) fn blob_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopIndex {
    #[serde(default)]
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

/// Finds an image in a layout, by its name there or as the only one.
pub(crate) fn resolve(
    documents: &dyn Documents,
    wanted: Option<&str>,
    platform: &Platform,
    what: &str,
) -> Result<ResolvedImage> {
    let marker = documents.document("oci-layout", 64 << 10)?;
    let marker: Marker = parse(&marker, "oci-layout", what)?;
    if !marker.image_layout_version.starts_with("1.") {
        let version = show(&marker.image_layout_version);
        return Err(bad(what, format!("the layout has version `{version}`; berth knows version 1")));
    }
    let index: TopIndex = parse(&documents.document("index.json", MAX_DOCUMENT)?, "index.json", what)?;
    let chosen = select(index.manifests, wanted, what)?;
    let mut read = |descriptor: &Descriptor| documents.document(&blob_path(&descriptor.digest), MAX_DOCUMENT);
    let (top, media_type) = match &chosen[..] {
        [only] => (verified(&mut read, only, what)?, only.media_type.as_str()),
        // One name for several platforms: an index in all but form.
        _ => (
            serde_json::to_vec(&TopIndex { schema_version: 2, manifests: chosen.clone() })
                .expect("descriptors are serialisable"),
            OCI_INDEX,
        ),
    };
    manifest::resolve(&mut read, top, media_type, platform, what)
}

/// Entries that have the wanted name, or all when there is but one name.
fn select(entries: Vec<Descriptor>, wanted: Option<&str>, what: &str) -> Result<Vec<Descriptor>> {
    if entries.is_empty() {
        return Err(bad(what, "the layout has no images"));
    }
    let listed = list(entries.iter().filter_map(|entry| name_of(entry)));
    let Some(wanted) = wanted else {
        let names: BTreeSet<_> = entries.iter().map(name_of).collect();
        if names.len() > 1 {
            return Err(bad(what, format!("the layout has several images; add `:NAME` for one of {listed}")));
        }
        return Ok(entries);
    };
    let digest = Digest::parse(wanted).ok();
    let matches = |entry: &Descriptor| {
        [REF_NAME, CONTAINERD_NAME].iter().any(|key| entry.annotations.get(*key).is_some_and(|name| name == wanted))
            || digest.as_ref() == Some(&entry.digest)
    };
    let found: Vec<Descriptor> = entries.into_iter().filter(matches).collect();
    if found.is_empty() {
        let reason = format!("the layout has no image `{}`, but {listed}", show(wanted));
        return Err(Error::NotFound { name: what.to_owned(), reason: Some(reason) });
    }
    Ok(found)
}

fn name_of(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(REF_NAME).or_else(|| entry.annotations.get(CONTAINERD_NAME))
}

/// Names for an error, sorted.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: BTreeSet<&String> = names.collect();
    if names.is_empty() {
        return "images without a name".to_owned();
    }
    let listed: Vec<String> = names.iter().take(MAX_LISTED).map(|name| format!("`{}`", show(name))).collect();
    match names.len() - listed.len() {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

/// The document of a descriptor, checked against it.
fn verified(
    read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>,
    descriptor: &Descriptor,
    what: &str,
) -> Result<Vec<u8>> {
    let bytes = read(descriptor)?;
    let what = || format!("manifest {} of {what}", descriptor.digest);
    if bytes.len() as u64 != descriptor.size {
        return Err(Error::SizeMismatch { what: what(), expected: descriptor.size, actual: bytes.len() as u64 });
    }
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != descriptor.digest {
        return Err(Error::DigestMismatch { what: what(), expected: descriptor.digest.clone(), actual });
    }
    Ok(bytes)
}

/// Parses a small document of a layout or archive.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], name: &str, what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| bad(what, format!("`{name}` is not valid: {e}")))
}
