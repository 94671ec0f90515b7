//! Where images come from.

use std::io::Read;

use crate::error::Result;
use crate::manifest::{Layer, Platform, ResolvedImage};
use crate::progress::Progress;

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
