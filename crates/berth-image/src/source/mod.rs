//! Where images come from.
//!
//! A [`Source`] can be asked for any layer at any time, by several threads: a registry, a layout in a directory, an
//! archive in a plain file. A [`StreamSource`] gives its bytes once and in its own order: standard input, a compressed
//! archive, another tool's store through that tool. [`Opened`] is either.

use std::io::Read;

use crate::error::Result;
use crate::manifest::{Layer, Platform, ResolvedImage};
use crate::progress::Progress;

mod archive;
mod command;
mod docker_archive;
mod layout;
mod oci_archive;
mod oci_layout;
mod rootfs_dir;
mod stream;

pub use command::CommandSource;
pub use docker_archive::DockerArchive;
pub use oci_archive::OciArchive;
pub use oci_layout::OciLayout;
pub use rootfs_dir::DirImage;
pub use stream::{ArchiveStream, Format, Imported, LayerSink, StreamSource, import_stream};

/// A place that has images: a registry, a layout on disk, an archive.
pub trait Source: Send + Sync {
    /// The image's full name as it is kept in the store and shown to people, for example
    /// `docker.io/library/debian:12`.
    fn name(&self) -> String;

    /// Finds the image for a platform and gives its documents, digests verified, sizes bounded.
    fn resolve(&self, platform: &Platform, progress: &dyn Progress) -> Result<ResolvedImage>;

    /// The layer's blob as the source has it, from its first byte. The reader hides broken connections (it resumes where
    /// it was) and never gives more than `descriptor.size` bytes plus one; the caller verifies digest and size.
    fn open_layer(&self, layer: &Layer, progress: &dyn Progress) -> Result<Box<dyn Read + Send>>;

    /// How many layers may be fetched at once.
    fn parallel(&self) -> usize {
        4
    }
}

/// A source that was opened, of one of the two kinds.
#[allow(missing_debug_implementations)] // trait objects
pub enum Opened {
    /// Layers can be had in any order and at once.
    Source(Box<dyn Source>),
    /// Layers come once, in the order in which they lie there.
    Stream(Box<dyn StreamSource>),
}

/// Opens `docker-archive:PATH[:REF]` with `-` for standard input.
///
/// A plain tar in a regular file is read in parallel; a pipe or a compressed file is streamed. `wanted` chooses an image
/// by one of its names (`debian:12`) or its identifier; an archive with one image needs none.
///
/// # Errors
/// When the file cannot be opened, is no archive, or is packed with something that berth does not unpack.
pub fn open_docker_archive(path: &str, wanted: Option<&str>) -> Result<Opened> {
    open_archive(path, wanted, Format::Docker)
}

/// Opens `oci-archive:PATH[:NAME]` with `-` for standard input: an OCI image layout in a tar. See
/// [`open_docker_archive`].
///
/// # Errors
/// As [`open_docker_archive`].
pub fn open_oci_archive(path: &str, wanted: Option<&str>) -> Result<Opened> {
    open_archive(path, wanted, Format::Oci)
}

fn open_archive(path: &str, wanted: Option<&str>, format: Format) -> Result<Opened> {
    let stream = ArchiveStream::open(path, wanted, format)?;
    Ok(match stream.into_plain_file() {
        Ok((file, name)) => Opened::Source(match format {
            Format::Docker => Box::new(DockerArchive::new(file, name, wanted)?),
            Format::Oci => Box::new(OciArchive::new(file, name, wanted)?),
        }),
        Err(stream) => Opened::Stream(Box::new(stream)),
    })
}

/// The name of an image in a file, as the store keeps it: `docker-archive:/data/image.tar:debian:12`. The path is
/// absolute, so that it means the same from any directory.
fn file_name(transport: &str, path: &str, wanted: Option<&str>) -> String {
    let path = match path {
        "-" => path.to_owned(),
        path => std::path::absolute(path).map_or_else(|_| path.to_owned(), |p| p.display().to_string()),
    };
    match wanted {
        Some(wanted) => format!("{transport}:{path}:{wanted}"),
        None => format!("{transport}:{path}"),
    }
}
