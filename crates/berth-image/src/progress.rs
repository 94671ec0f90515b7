//! What a long operation tells while it works. The library never prints: the command decides how it looks.

use crate::digest::Digest;

/// A stage in the life of one blob or image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The reference was resolved to a manifest with this many layers.
    Resolved {
        /// The manifest.
        digest: &'a Digest,
        /// Number of layers.
        layers: usize,
        /// Bytes of all layers as the source has them.
        bytes: u64,
    },
    /// The layer is in the store already.
    Exists(&'a Digest),
    /// Another process fetches the layer; this one waits for it.
    Waiting(&'a Digest),
    /// The fetch of a layer begins.
    Started {
        /// The layer's blob.
        digest: &'a Digest,
        /// Its size as the source has it, in bytes.
        bytes: u64,
    },
    /// This many more bytes of the blob arrived.
    Advanced {
        /// The layer's blob.
        digest: &'a Digest,
        /// Bytes since the last event.
        bytes: u64,
    },
    /// The layer is unpacked, verified and in its place.
    Finished(&'a Digest),
    /// Something worth telling that is no failure: a retry, a fallback.
    Note(&'a str),
}

/// Receives events, from several threads at once.
pub trait Progress: Send + Sync {
    /// Takes one event. Must be quick: it is called from the threads that unpack.
    fn event(&self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
