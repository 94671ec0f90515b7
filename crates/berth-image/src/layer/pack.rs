//! An image's layers as one stream of entries, without a tree between: for images in one file.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use berth_imagefile::write::Sink;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use super::Expected;
use super::decode::Bounds;
use super::drain_after;
use super::merge::Above;
use super::merge::Merger;
use super::tar;
use super::through;
use crate::error::Error;
use crate::error::Result;
use crate::manifest::ResolvedImage;
use crate::progress::Event;
use crate::progress::Progress;
use crate::source::Source;

/// Bounds on what is packed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bounds on the uncompressed stream of each layer.
    pub bounds: Bounds,
    /// Most entries of all layers.
    pub entries: u64,
    /// Most logical bytes of all layers.
    pub bytes: u64,
}

/// Merges the layers of an image into `sink`, the newest first, below files of the caller's own. `temporary` is a directory for what must be kept for a while:
/// files that a newer layer replaced, of one layer at a time. Digests and sizes of all blobs are verified, but only while
/// they go by: on an error, what `sink` got is of no account.
#[allow(clippy::too_many_arguments, reason = "each is of a kind of its own, and there is one caller")]
pub fn pack(
    source: &dyn Source,
    image: &ResolvedImage,
    above: &[Above],
    sink: &mut (dyn Sink + Send),
    temporary: &Path,
    limits: Limits,
    cancel: &AtomicBool,
    progress: &dyn Progress,
) -> Result<()> {
    let mut merger = Merger::new(sink, spool(temporary)?, limits.entries, limits.bytes);
    merger.above(above)?;
    for layer in image.layers.iter().rev() {
        let digest = &layer.descriptor.digest;
        let size = layer.descriptor.size;
        let name = format!("{digest} of {}", source.name());
        let expected = Expected { name: &name, digest: Some(digest), size: Some(size) };
        let mut blob = source.open_layer(layer, progress)?;
        progress.event(Event::Started { digest, bytes: size });
        let advanced = |bytes| progress.event(Event::Advanced { digest, bytes });
        let merger = &mut merger;
        through(&mut blob, &expected, &limits.bounds, cancel, &advanced, |input| {
            let mut reader = tar::Reader::new(input, tar::Limits::default());
            let merged = merger.layer(&name, &mut reader);
            drain_after(&merged, reader);
            merged
        })?;
        progress.event(Event::Finished(digest));
    }
    Ok(())
}

/// A file without a name, gone when it is closed.
fn spool(directory: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)) {
        Ok(file) => Ok(File::from(file)),
        // NFS and some others have no such files.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = directory.join(format!(".spool-{}", std::process::id()));
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(|error| Error::io("create", &path, error))?;
            std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            Ok(file)
        }
        Err(error) => Err(Error::io("create a file in", directory, error)),
    }
}
