//! From what a person typed to an image: found in the store, or fetched into it.
//!
//! A name is looked for in the store first; only where that fails, or `--pull always` says so, are the files of
//! registries and the registry itself asked. `dir:PATH` never enters the store: the directory is started as it is.

mod registry;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use berth_image::manifest::Platform;
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

/// The name under which the store keeps what `text` means. A digest, or the first digits of one, means itself.
pub fn store_name(text: &str) -> Result<String, CommandError> {
    if is_digest(text) {
        return Ok(text.to_owned());
    }
    name_of(&Reference::parse(text)?)
}

/// As the sources name what they have; paths are absolute there, so that they mean the same from any directory.
fn name_of(reference: &Reference) -> Result<String, CommandError> {
    Ok(match reference {
        Reference::Registry(name) => name.canonical(),
        Reference::Path { transport, path, selector } if path != "-" => {
            let absolute = std::path::absolute(path).map_err(|e| CommandError::io("find", path, e))?;
            let path = absolute.display().to_string();
            Reference::Path { transport: *transport, path, selector: selector.clone() }.to_string()
        }
        other => other.to_string(),
    })
}

fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (6..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// An image that must be in the store.
pub fn lookup(store: &Store, name: &str) -> Result<ImageRecord, CommandError> {
    store.lookup(name)?.ok_or_else(|| {
        let reason = Some(format!("looked in the store {}", store.root().display()));
        Error::NotFound { name: name.to_owned(), reason }.into()
    })
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
    if let Some(platform) = &options.platform {
        import.platform = Platform::parse(platform).map_err(CommandError::usage)?;
    }
    let progress = context.progress(&reference.to_string());
    let imported = match reference {
        Reference::Registry(name) => registry::pull(store, name, options, &import, progress.as_ref()),
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
    Ok(imported?)
}

fn open_path(transport: Transport, path: &str, selector: Option<&str>) -> Result<Opened, CommandError> {
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
    let reference = match Reference::parse(text) {
        Ok(Reference::Path { transport: Transport::Dir, path, .. }) => return Ok((directory(&path)?, None)),
        Ok(reference) => Some(reference),
        Err(_) if is_digest(text) => None,
        Err(error) => return Err(error.into()),
    };
    let store = context.store()?;
    let name = reference.as_ref().map_or_else(|| Ok(text.to_owned()), name_of)?;
    let known = match policy {
        PullPolicy::Always => None,
        // A file is asked again each time: it may have changed, and to look costs little.
        PullPolicy::Missing if matches!(reference, Some(Reference::Path { .. })) => None,
        _ => match store.lookup(&name)? {
            None if is_digest(text) => store.lookup(text)?,
            found => found,
        },
    };
    let record = match (known, reference) {
        (Some(record), _) => record,
        (None, Some(reference)) if policy != PullPolicy::Never => pull_reference(&store, &reference, options, context)?,
        _ => lookup(&store, &name)?,
    };
    let lease = store.lease(&record)?;
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
        layers: record.layers.iter().map(layer).collect::<Result<_, _>>()?,
        config: record.config,
        passwd: record.passwd.into_bytes(),
        group: record.group.into_bytes(),
        is_directory: false,
    })
}

/// A directory of the person's as an image without a configuration.
fn directory(path: &str) -> Result<Image, CommandError> {
    let image = DirImage::open(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&image.path, flags, Mode::empty()).map_err(|e| CommandError::io("open", path, e))?;
    Ok(Image {
        name: format!("dir:{path}"),
        config: image.config(),
        passwd: file_in(&root, "etc/passwd"),
        group: file_in(&root, "etc/group"),
        layers: vec![image.path],
        is_directory: true,
    })
}

/// A small regular file below a root that may be hostile; empty if it is anything else.
fn file_in(root: &rustix::fd::OwnedFd, path: impl AsRef<Path>) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = rustix::fs::openat2(root, path.as_ref(), flags, Mode::empty(), resolve) else { return Vec::new() };
    let file = File::from(file);
    let mut content = Vec::new();
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
    fn names_are_kept_in_their_full_form_and_digests_as_they_are() {
        for (text, name) in [
            ("debian", "docker.io/library/debian:latest"),
            ("docker://localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("0123456789ab", "0123456789ab"),
        ] {
            assert_eq!(store_name(text).unwrap(), name);
        }
        assert!(store_name("UPPER").is_err());
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
