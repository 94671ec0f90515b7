//! From a manifest or index, as a source has it, to the image for one platform.
//!
//! The same walk serves registries, layouts on disk and archives: they differ only in how a document is read. Nothing
//! here does I/O, and every document is checked against the digest and size of the descriptor that named it before a
//! byte of it is parsed.

use serde::Deserialize;

use super::{
    Compression, Descriptor, ImageConfig, Layer, MAX_DOCUMENT, MAX_INDEX_DEPTH, MAX_LAYERS, Platform, ResolvedImage,
};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A Docker image manifest, version 2, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The media types of documents that [`resolve`] understands, in the order in which a registry is asked for them.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

/// The largest number of entries of one index. Real ones have a few dozen.
const MAX_INDEX_ENTRIES: usize = 1000;
/// How many platforms an error lists before it stops.
const MAX_LISTED: usize = 24;

/// Which of the two kinds of document it is.
enum Kind {
    Index,
    Manifest,
}

/// The members that decide what a document is, and those that only schema 1 has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// The members of an index that matter.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The members of a manifest that matter.
#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// Follows `top` (a manifest, or an index however nested) to the image for `platform` and gives its documents.
///
/// `reader` gives the bytes of the document that a descriptor names; it need not verify them, but it should not read
/// more than `descriptor.size` bytes plus one. The caller has verified `top` itself, if it was asked for by digest.
/// `media_type` is what the source said that `top` is, and may be empty; it must not contradict what is in the document.
/// `what` names the image in errors, for example `docker.io/library/debian:12`.
///
/// # Errors
/// [`Error::BadManifest`] for what cannot be used, [`Error::DigestMismatch`], [`Error::SizeMismatch`] and
/// [`Error::TooLarge`] for documents that are not what was promised, [`Error::NotFound`] when the image is not there
/// for this platform, and whatever `reader` fails with.
pub fn resolve(
    reader: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>,
    top: Vec<u8>,
    media_type: &str,
    platform: &Platform,
    what: &str,
) -> Result<ResolvedImage> {
    let mut document = top;
    let mut said = media_type.to_owned();
    // Digests are a hash of what is below them, so an honest loop cannot exist; a dishonest source fails the check of
    // the digest or runs into the depth. The list gives that case a better message.
    let mut path: Vec<Digest> = Vec::new();
    for _ in 0..=MAX_INDEX_DEPTH {
        let digest = match path.last() {
            Some(digest) => digest.clone(),
            None => Digest::of(&document),
        };
        match kind_of(&document, &said, what)? {
            Kind::Manifest => return read_image(reader, digest, document, platform, path.is_empty(), what),
            Kind::Index => {
                let index: Index = parse(&document, what, "index")?;
                let chosen = choose(&index.manifests, platform, what)?;
                if path.contains(&chosen.digest) || chosen.digest == digest {
                    return Err(bad(what, format!("the index {} contains itself", chosen.digest)));
                }
                document = fetch(reader, chosen, &format!("manifest {} of {what}", chosen.digest))?;
                said = chosen.media_type.clone();
                path.push(chosen.digest.clone());
            }
        }
    }
    Err(bad(what, format!("indexes are nested deeper than {MAX_INDEX_DEPTH}")))
}

/// The entry of an index for a platform: the exact variant, else the best that this machine can run.
///
/// # Errors
/// [`Error::NotFound`] that lists the platforms on offer.
pub fn choose<'a>(entries: &'a [Descriptor], platform: &Platform, what: &str) -> Result<&'a Descriptor> {
    if entries.len() > MAX_INDEX_ENTRIES {
        return Err(Error::TooLarge {
            what: format!("the index of {what}"),
            reason: format!("{} entries, the limit is {MAX_INDEX_ENTRIES}", entries.len()),
        });
    }
    let images: Vec<&Descriptor> = entries.iter().filter(|entry| may_be_image(entry)).collect();
    // The first of equals wins, as in other clients: `min_by_key` keeps it.
    let best = images
        .iter()
        .filter_map(|entry| Some((variant_rank(entry.platform.as_ref()?, platform)?, *entry)))
        .min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Ok(entry);
    }
    // An entry without a platform (a nested index, or a layout on disk with one image) is taken when there is no choice;
    // its configuration is checked later.
    let unmarked: Vec<&&Descriptor> = images.iter().filter(|entry| entry.platform.is_none()).collect();
    if let [only] = unmarked[..] {
        return Ok(only);
    }
    Err(Error::NotFound { name: what.to_owned(), reason: Some(offer(&images, &unmarked, platform)) })
}

/// Says what an index has, for an error.
fn offer(images: &[&Descriptor], unmarked: &[&&Descriptor], platform: &Platform) -> String {
    let mut names: Vec<String> =
        images.iter().filter_map(|entry| entry.platform.as_ref()).map(|p| printable(&p.to_string())).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    let listed = match (names.is_empty(), more) {
        (true, _) if !unmarked.is_empty() => format!("{} images that name no platform", unmarked.len()),
        (true, _) => "nothing that can run".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    };
    format!("not for {platform}; the image is offered for: {listed}")
}

/// Whether an entry of an index can be an image: attestations and artifacts are listed beside them.
fn may_be_image(entry: &Descriptor) -> bool {
    let unknown = entry.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
    let attestation = entry.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest");
    let known_type = entry.media_type.is_empty() || ACCEPTED.contains(&entry.media_type.as_str());
    known_type && !unknown && !attestation
}

/// How well an image for `offered` runs on `wanted`: 0 is exact, more is worse, `None` is not at all.
///
/// No variant means v8 on arm64, v7 on arm (as other clients take it) and v1 on amd64. A processor runs code of older
/// variants of its architecture, never of newer ones.
fn variant_rank(offered: &Platform, wanted: &Platform) -> Option<u32> {
    let architecture = normal_architecture(&wanted.architecture);
    if offered.os != wanted.os || normal_architecture(&offered.architecture) != architecture {
        return None;
    }
    let named = |p: &Platform| p.variant.as_deref().filter(|v| !v.is_empty()).map(str::to_owned);
    let (offered, wanted) = (named(offered), named(wanted));
    if offered == wanted {
        return Some(0);
    }
    let default = match architecture {
        "arm64" => 8,
        "arm" => 7,
        "amd64" => 1,
        // Elsewhere variants have no known order: what is asked for by name must be there by name, and who asks for none
        // takes an entry that names none before one that does.
        _ => return if wanted.is_none() { Some(100) } else { offered.is_none().then_some(100) },
    };
    // The first number is the order: v8.2 is after v8; what cannot be read matches only by name.
    let level = |variant: &Option<String>| match variant {
        None => Some(default * 100),
        Some(text) => variant_level(text),
    };
    let (offered, wanted) = (level(&offered)?, level(&wanted)?);
    wanted.checked_sub(offered)
}

/// `v8` → 800, `v8.2` → 802.
fn variant_level(text: &str) -> Option<u32> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 100 && minor < 100).then_some(major * 100 + minor)
}

/// The names that `uname -m` and people use, in OCI's words.
pub(super) fn normal_architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "armhf" | "armv7l" => "arm",
        other => other,
    }
}

/// Reads the configuration and checks that the image hangs together.
fn read_image(
    reader: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>,
    digest: Digest,
    document: Vec<u8>,
    platform: &Platform,
    sole: bool,
    what: &str,
) -> Result<ResolvedImage> {
    let manifest: Manifest = parse(&document, what, "manifest")?;
    check_config_type(&manifest.config, what)?;
    // Layers are looked at first: an image that cannot be used should not cost another request.
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Error::TooLarge {
            what: format!("the manifest of {what}"),
            reason: format!("{} layers, the limit is {MAX_LAYERS}", manifest.layers.len()),
        });
    }
    let compressions = manifest
        .layers
        .iter()
        .enumerate()
        .map(|(i, layer)| layer_compression(&layer.media_type).map_err(|r| bad(what, format!("layer {}: {r}", i + 1))))
        .collect::<Result<Vec<_>>>()?;
    let config_bytes = fetch(reader, &manifest.config, &format!("the configuration of {what}"))?;
    let config = ImageConfig::parse(&config_bytes, what)?;
    if sole {
        check_platform(&config, platform, what)?;
    }
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(bad(what, format!("the manifest has {layers} layers, but the configuration names {diff_ids}")));
    }
    let layers = manifest
        .layers
        .into_iter()
        .zip(config.rootfs.diff_ids.iter().cloned())
        .zip(compressions)
        .map(|((descriptor, diff_id), compression)| Layer { descriptor, diff_id, compression })
        .collect();
    Ok(ResolvedImage {
        digest,
        manifest: document,
        config_digest: manifest.config.digest,
        config_bytes,
        config,
        layers,
    })
}

/// An image that is offered for one platform only, without an index, has it in its configuration.
fn check_platform(config: &ImageConfig, platform: &Platform, what: &str) -> Result<()> {
    let offered =
        Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: config.variant.clone() };
    // Old builders left these empty; the kernel will tell.
    if offered.os.is_empty() || offered.architecture.is_empty() || variant_rank(&offered, platform).is_some() {
        return Ok(());
    }
    Err(Error::NotFound {
        name: what.to_owned(),
        reason: Some(format!("not for {platform}; the image is offered for: {} only", printable(&offered.to_string()))),
    })
}

/// Refuses artifacts that are no container images.
fn check_config_type(config: &Descriptor, what: &str) -> Result<()> {
    match config.media_type.as_str() {
        "" | "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json" => Ok(()),
        other => Err(bad(
            what,
            format!(
                "it is no container image but an artifact: its configuration has the media type `{}`",
                printable(other)
            ),
        )),
    }
}

/// How a layer with this media type is packed, or why it cannot be used.
pub fn layer_compression(media_type: &str) -> std::result::Result<Compression, String> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            Ok(Compression::None)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Ok(Compression::Gzip)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Ok(Compression::Zstd)
        }
        foreign
            if foreign.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar")
                || foreign.starts_with("application/vnd.oci.image.layer.nondistributable.v1.tar") =>
        {
            Err("it is a foreign layer, which registries may not hand out (Windows base images have them); berth fetches \
                 layers only from the registry of the image"
                .to_owned())
        }
        encrypted if encrypted.ends_with("+encrypted") => {
            Err("it is encrypted, and berth cannot decrypt layers".to_owned())
        }
        "" => Err("it has no media type".to_owned()),
        other => Err(format!("its media type `{}` is not one that berth can unpack", printable(other))),
    }
}

/// Decides what a document is, from its members and from what both it and the source say.
fn kind_of(document: &[u8], said: &str, what: &str) -> Result<Kind> {
    if document.len() as u64 > MAX_DOCUMENT {
        return Err(too_large(what));
    }
    // serde reads a list as an object whose members have no names; nobody else does.
    if document.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(bad(what, "the manifest is not valid: it is no JSON object".to_owned()));
    }
    let probe: Probe = parse(document, what, "manifest")?;
    if probe.schema_version == Some(1) || probe.fs_layers.is_some() {
        return Err(bad(
            what,
            "it is in Docker's schema 1 format, which was given up in 2017 and cannot be verified: have the image pushed \
             again with a current docker, podman or skopeo"
                .to_owned(),
        ));
    }
    if probe.schema_version != Some(2) {
        let version = probe.schema_version.map_or("no schemaVersion".to_owned(), |v| format!("schemaVersion {v}"));
        return Err(bad(what, format!("it is no image manifest: it has {version}, not 2")));
    }
    // A document that can be read as both kinds is how one digest is made to mean two images (CVE-2021-41190).
    if probe.manifests.is_some() && probe.layers.is_some() {
        return Err(bad(what, "it is ambiguous: it has both `layers` and `manifests`".to_owned()));
    }
    let inner = probe.media_type.unwrap_or_default();
    // Some servers send plain JSON types; they say nothing, so the document decides.
    let said = said.split(';').next().unwrap_or_default().trim();
    let said = if matches!(said, "application/json" | "text/plain" | "application/octet-stream") { "" } else { said };
    let shape = if probe.manifests.is_some() { Kind::Index } else { Kind::Manifest };
    for media_type in [said, &inner] {
        let fits = match media_type {
            "" => true,
            OCI_INDEX | DOCKER_LIST => matches!(shape, Kind::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => matches!(shape, Kind::Manifest),
            other => {
                return Err(bad(what, format!("its media type `{}` is not that of an image", printable(other))));
            }
        };
        if !fits {
            return Err(bad(what, format!("its content is not what its media type `{media_type}` says")));
        }
    }
    if let (Some(artifact), Kind::Manifest) = (probe.artifact_type.filter(|a| !a.is_empty()), &shape)
        && probe.layers.is_none()
    {
        return Err(bad(what, format!("it is no container image but an artifact of type `{}`", printable(&artifact))));
    }
    Ok(shape)
}

/// Reads what a descriptor names and checks it against the descriptor.
fn fetch(
    reader: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>,
    descriptor: &Descriptor,
    what: &str,
) -> Result<Vec<u8>> {
    if descriptor.size > MAX_DOCUMENT {
        return Err(too_large(what));
    }
    let bytes = reader(descriptor)?;
    if bytes.len() as u64 != descriptor.size {
        return Err(Error::SizeMismatch {
            what: what.to_owned(),
            expected: descriptor.size,
            actual: bytes.len() as u64,
        });
    }
    let mut hasher = Hasher::new(descriptor.digest.algorithm());
    hasher.update(&bytes);
    let actual = hasher.finish();
    if actual != descriptor.digest {
        return Err(Error::DigestMismatch { what: what.to_owned(), expected: descriptor.digest.clone(), actual });
    }
    Ok(bytes)
}

fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8], what: &str, noun: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| bad(what, format!("the {noun} is not valid: {e}")))
}

fn bad(what: &str, reason: String) -> Error {
    Error::BadManifest { what: what.to_owned(), reason }
}

fn too_large(what: &str) -> Error {
    Error::TooLarge { what: what.to_owned(), reason: format!("the limit for a document is {} MiB", MAX_DOCUMENT >> 20) }
}

/// Text from outside, safe for a terminal and short.
fn printable(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}
