//! From what a person typed to an image: found in the store, or fetched into it.
//!
//! A name is looked for in the store first; only where that fails, or `--pull always` says so, are the files of
//! registries and the registry itself asked. `dir:PATH` never enters the store: the directory is started as it is.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use berth_image::credentials::Secret;
use berth_image::manifest::Platform;
use berth_image::registries_conf::RegistriesConf;
use berth_image::registry::{self, RegistryOptions};
use berth_image::source::{self, CommandSource, DirImage, OciLayout, Opened};
use berth_image::store::{ImageRecord, ImportOptions, Lease, Store};
use berth_image::{Error, Reference, Transport};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::cli::PullPolicy;
use crate::cli::options::SourceOptions;
use crate::lower::image::Image;
use crate::{CommandError, Context};

/// The largest account file that is read from a directory, in bytes; the store has the same limit for images.
const MAX_ACCOUNTS: u64 = 256 << 10;

/// An image that must be in the store, and the name under which it is there: `text` is a reference, a digest, or the
/// first digits of one.
pub fn lookup(store: &Store, text: &str) -> Result<(String, ImageRecord), CommandError> {
    let reference = match Reference::parse(text) {
        Ok(reference) => Some(reference),
        Err(_) if is_digest(text) => None,
        Err(error) => return Err(error.into()),
    };
    find(store, text, reference.as_ref())?.ok_or_else(|| not_found(store, text, reference.as_ref()))
}

/// The name of an image that must be in the store.
pub fn store_name(store: &Store, text: &str) -> Result<String, CommandError> {
    lookup(store, text).map(|(name, _)| name)
}

fn find(
    store: &Store,
    text: &str,
    reference: Option<&Reference>,
) -> Result<Option<(String, ImageRecord)>, CommandError> {
    // Only a digest is written so: no file has to be read to see what else it may mean.
    if text.starts_with("sha256:")
        && let Some(record) = store.lookup(text)?
    {
        return Ok(Some((record.digest.to_string(), record)));
    }
    for name in reference.map_or_else(|| Ok(Vec::new()), names_of)? {
        if let Some(record) = store.lookup(&name)? {
            return Ok(Some((name, record)));
        }
    }
    if !is_digest(text) {
        return Ok(None);
    }
    Ok(store.lookup(text)?.map(|record| (record.digest.to_string(), record)))
}

fn not_found(store: &Store, text: &str, reference: Option<&Reference>) -> CommandError {
    let names = reference.map(names_of).and_then(Result::ok).unwrap_or_default();
    let name = names.into_iter().next().unwrap_or_else(|| text.to_owned());
    let reason = Some(format!("looked in the store {}", store.root().display()));
    Error::NotFound { name, reason }.into()
}

/// The names under which the store may keep what a reference means. There are several only for a short name, where
/// `registries.conf` lists several registries; that file is not read for full names.
fn names_of(reference: &Reference) -> Result<Vec<String>, CommandError> {
    Ok(match reference {
        Reference::Registry(name) if name.registry.is_some() => vec![name.canonical()],
        Reference::Registry(name) => {
            RegistriesConf::load()?.candidates(name).iter().map(|candidate| candidate.canonical()).collect()
        }
        // As the sources name what they have: paths are absolute, so that they mean the same from any directory.
        Reference::Path { transport, path, selector } if path != "-" => {
            let absolute = std::path::absolute(path).map_err(|e| CommandError::io("find", path, e))?;
            let path = absolute.display().to_string();
            vec![Reference::Path { transport: *transport, path, selector: selector.clone() }.to_string()]
        }
        other => vec![other.to_string()],
    })
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (6..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Fetches an image into the store.
pub fn pull(
    store: &Store,
    text: &str,
    options: &SourceOptions,
    context: &Context,
) -> Result<ImageRecord, CommandError> {
    pull_reference(store, &Reference::parse(text)?, options, context)
}

fn pull_reference(
    store: &Store,
    reference: &Reference,
    options: &SourceOptions,
    context: &Context,
) -> Result<ImageRecord, CommandError> {
    let mut import = ImportOptions::default();
    if let Some(platform) = platform(options)? {
        import.platform = platform;
    }
    let progress = context.progress(&reference.to_string());
    let imported = match reference {
        Reference::Registry(_) => {
            let source = registry::open(reference, &registry_options(options));
            source.and_then(|source| store.import(&source, &import, progress.as_ref()))
        }
        Reference::Path { transport, path, selector } => match open_path(*transport, path, selector.as_deref())? {
            Opened::Source(source) => store.import(source.as_ref(), &import, progress.as_ref()),
            Opened::Stream(stream) => store.import_stream(stream, &import, progress.as_ref()),
        },
        Reference::Engine { transport, name } => {
            let source = match transport {
                Transport::DockerDaemon => CommandSource::docker(name)?,
                Transport::PodmanStorage => CommandSource::podman(name)?,
                _ => CommandSource::containers_storage(name)?,
            };
            store.import_stream(Box::new(source), &import, progress.as_ref())
        }
    };
    // The bars go before an error is printed.
    drop(progress);
    imported.map_err(|error| {
        let hint = match (&error, reference) {
            (Error::NotFound { .. }, Reference::Registry(_)) => Some(
                "check the name and the tag; registries say the same of images that need a login (`podman login` or `docker login` make one that berth uses)",
            ),
            _ => None,
        };
        let mut result = CommandError::from(error);
        if let Some(hint) = hint {
            result = result.with_hint(hint);
        }
        result
    })
}

/// `--platform`.
pub(crate) fn platform(options: &SourceOptions) -> Result<Option<Platform>, CommandError> {
    options.platform.as_deref().map(Platform::parse).transpose().map_err(CommandError::usage)
}

pub(crate) fn registry_options(options: &SourceOptions) -> RegistryOptions {
    RegistryOptions {
        insecure: options.insecure,
        cert_dir: options.cert_dir.clone(),
        authfile: options.authfile.clone(),
        creds: options.creds.as_deref().map(Secret::new),
        ..RegistryOptions::default()
    }
}

pub(crate) fn open_path(transport: Transport, path: &str, selector: Option<&str>) -> Result<Opened, CommandError> {
    Ok(match transport {
        Transport::OciArchive => source::open_oci_archive(path, selector)?,
        Transport::DockerArchive => source::open_docker_archive(path, selector)?,
        Transport::Oci => Opened::Source(Box::new(OciLayout::open(path, selector)?)),
        _ => {
            return Err(CommandError::usage(format!("dir:{path} is a directory and is not kept in the store"))
                .with_hint(format!("it can be run as it is: `berth run dir:{path} COMMAND`")));
        }
    })
}

/// The image that `text` means, ready to be started; and the lease that keeps it in the store meanwhile.
pub fn image(
    text: &str,
    policy: PullPolicy,
    options: &SourceOptions,
    context: &Context,
) -> Result<(Image, Option<Lease>), CommandError> {
    image_for(text, Wish { policy, ..Wish::default() }, options, context)
}

/// How an image is wanted.
#[derive(Default)]
pub struct Wish<'a> {
    /// When to fetch it.
    pub policy: PullPolicy,
    /// The process by whose life it is in use, where that is not this one.
    pub holder: Option<u32>,
    /// Called before it is fetched, if it is.
    pub on_fetch: Option<&'a mut dyn FnMut()>,
}

impl std::fmt::Debug for Wish<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wish").field("policy", &self.policy).field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// [`image`], with more to say about it.
pub fn image_for(
    text: &str,
    wish: Wish<'_>,
    options: &SourceOptions,
    context: &Context,
) -> Result<(Image, Option<Lease>), CommandError> {
    let policy = wish.policy;
    let reference = match Reference::parse(text) {
        Ok(Reference::Path { transport: Transport::Dir, path, .. }) => return Ok((directory(&path)?, None)),
        Ok(reference) => Some(reference),
        Err(_) if is_digest(text) => None,
        Err(error) => return Err(error.into()),
    };
    let store = context.store()?;
    let known = match policy {
        PullPolicy::Always => None,
        // A file is asked again each time: it may have changed, and to look costs little.
        PullPolicy::Missing if matches!(reference, Some(Reference::Path { .. })) => None,
        _ => find(&store, text, reference.as_ref())?,
    };
    // The image of the same name for another machine is another image.
    let wanted = platform(options)?;
    let fits = |record: &ImageRecord| {
        wanted.as_ref().is_none_or(|wanted| (&record.os, &record.architecture) == (&wanted.os, &wanted.architecture))
    };
    let mut known = known.filter(|(_, record)| fits(record));
    // The nodes of a job want it all at once: one asks the registry, and the others look again.
    let mut fetching = None;
    if known.is_none() && policy == PullPolicy::Missing && matches!(reference, Some(Reference::Registry(_))) {
        fetching = store.fetching(text).ok();
        known = find(&store, text, reference.as_ref())?.filter(|(_, record)| fits(record));
    }
    let record = match (known, &reference) {
        (Some((_, record)), _) => record,
        (None, Some(reference)) if policy != PullPolicy::Never => {
            if let Some(tell) = wish.on_fetch {
                tell();
            }
            pull_reference(&store, reference, options, context)?
        }
        _ => return Err(not_found(&store, text, reference.as_ref())),
    };
    drop(fetching);
    let lease = match wish.holder {
        Some(holder) => store.lease_for(&record, holder)?,
        None => store.lease(&record)?,
    };
    Ok((stored(&store, text, record)?, Some(lease)))
}

fn stored(store: &Store, name: &str, record: ImageRecord) -> Result<Image, CommandError> {
    let layer = |layer: &berth_image::store::LayerRecord| {
        store.layer_path(&layer.digest).ok_or_else(|| {
            CommandError::failure(format!("image {name}: layer {} is missing from the store", layer.digest.short()))
                .with_hint(format!("fetch it again: `berth pull {name}`"))
        })
    };
    Ok(Image {
        name: name.to_owned(),
        digest: Some(record.digest),
        layers: record.layers.iter().map(layer).collect::<Result<_, _>>()?,
        known: Some(record.entries),
        config: record.config,
        passwd: record.passwd.into_bytes(),
        group: record.group.into_bytes(),
        file: None,
        is_directory: false,
    })
}

/// A directory of the person's as an image without a configuration.
fn directory(path: &str) -> Result<Image, CommandError> {
    let image = DirImage::open(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&image.path, flags, Mode::empty()).map_err(|e| CommandError::io("open", path, e))?;
    Ok(Image {
        name: image.name(),
        digest: None,
        config: image.config(),
        passwd: file_in(&root, "etc/passwd"),
        group: file_in(&root, "etc/group"),
        layers: vec![image.path],
        known: None,
        file: None,
        is_directory: true,
    })
}

/// A small regular file below a root that may be hostile; empty if it is anything else.
fn file_in(root: &rustix::fd::OwnedFd, path: impl AsRef<Path>) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = rustix::fs::openat2(root, path.as_ref(), flags, Mode::empty(), resolve) else { return Vec::new() };
    let file = File::from(file);
    let mut content = Vec::with_capacity(4096);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_ACCOUNTS => {}
        _ => return Vec::new(),
    }
    match file.take(MAX_ACCOUNTS).read_to_end(&mut content) {
        Ok(_) => content,
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_in_their_full_form() {
        for (text, name) in [
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("docker://localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("oci:/a/../b:1", "oci:/a/../b:1"),
            ("podman://debian:12", "podman://debian:12"),
        ] {
            assert_eq!(names_of(&Reference::parse(text).unwrap()).unwrap(), [name], "{text}");
        }
        let relative = names_of(&Reference::parse("docker-archive:x.tar").unwrap()).unwrap();
        assert!(relative[0].starts_with("docker-archive:/"), "{relative:?}");
    }

    #[test]
    fn digests_are_told_from_names() {
        for (text, expected) in [
            ("0123456789ab", true),
            (&format!("sha256:{}", "a".repeat(64)), true),
            ("abcde", false),
            ("debian", false),
            ("sha256:xyz", false),
        ] {
            assert_eq!(is_digest(text), expected, "{text}");
        }
    }

    #[test]
    fn a_directory_is_an_image_and_its_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("etc/group")).unwrap();
        let image = directory(root.to_str().unwrap()).unwrap();
        assert_eq!(image.passwd, b"root:x:0:0::/root:/bin/sh\n");
        assert_eq!(image.group, b"");
        assert_eq!(image.layers, [std::fs::canonicalize(&root).unwrap()]);
        assert!(directory(root.join("etc/passwd").to_str().unwrap()).is_err());
        assert!(directory("/no/such").is_err());
    }
}
