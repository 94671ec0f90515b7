//! Images in one file: a whole file system in squashfs or EROFS, read and written by ordinary processes.
//!
//! A [`Tree`] is what can be read: names, attributes, links, contents, by calls that any thread may make. The kernel's own
//! mount of such files is closed to users, so whoever mounts one serves a `Tree` through FUSE; whoever unpacks or compares
//! one walks it ([`listing`]). What can be written comes as a stream of entries ([`write::Sink`]), in one pass: contents
//! go to the file as they arrive, names and attributes wait in memory for the end.
//!
//! **An image file is hostile.** Every number in it is bounded before it is believed: offsets by the file, sizes by what
//! the format allows, counts by the bytes that would have to hold them. No directory can contain itself. Memory does not
//! depend on what an image claims: caches are bounded ([`cache`]), everything else is read again.
//!
//! A file that changes or ends early while it is read gives an error for that read, and nothing else.

pub mod cache;
mod codec;
pub mod erofs;
pub mod error;
pub mod file;
pub mod listing;
pub mod source;
pub mod squashfs;
pub mod tree;
pub mod write;

use std::fs::File;
use std::sync::Arc;

pub use codec::Compression;
pub use codec::Compressor;
pub use error::Error;
pub use error::Result;
pub use tree::Tree;

use file::ImageFile;

/// Opens an image of any format that is known, told by its first bytes.
pub fn open(file: File, name: &str) -> Result<Arc<dyn Tree>> {
    let file = ImageFile::new(file, name)?;
    if squashfs::is_squashfs(&file)? {
        return Ok(Arc::new(squashfs::Squashfs::open(file)?));
    }
    if erofs::is_erofs(&file)? {
        return Ok(Arc::new(erofs::Erofs::open(file)?));
    }
    Err(Error::NotAnImage { name: name.to_owned() })
}
