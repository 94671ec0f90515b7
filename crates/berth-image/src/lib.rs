//! Container images: from a reference to trees that a container can start from.
//!
//! A value travels one way: a [`Reference`] names an image, a [`source::Source`] gives its manifest and streams its
//! blobs, the [`layer`] path turns each blob into a tree, and the [`store::Store`] keeps trees, manifests and names so
//! that a kill at any instant leaves it whole. Nothing in this crate knows about containers or Slurm, and nothing is
//! async: blobs are fetched by a few blocking threads.
//!
//! Everything that comes from outside is hostile: sizes are bounded, digests are verified before use, and paths are
//! resolved by the kernel inside the tree being written.

pub mod credentials;
pub mod digest;
pub mod error;
mod inside;
pub mod layer;
pub mod manifest;
pub mod merge;
pub mod progress;
pub mod reference;
pub mod registries_conf;
pub mod registry;
pub mod source;
pub mod store;

pub use digest::Digest;
pub use error::{Error, Result};
pub use reference::{Reference, Transport};
