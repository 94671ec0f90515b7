//! Squashfs 4.0, as Linux reads it and mksquashfs writes it.
//!
//! ```text
//! super block │ compressor options │ contents: blocks of files, fragment blocks │ inode table │ directory table
//!             │ fragment table │ export table │ id table │ xattr table │ padding to 4 KiB
//! ```
//!
//! Contents are cut into blocks of one size. Ends of files share *fragment* blocks. Tables are streams cut into *metadata*
//! blocks of 8 KiB, compressed one by one, each with its size in two bytes; a place in a table is where the metadata block
//! begins on disk, and an offset in it once decompressed. Numbers are little-endian.
//!
//! Sources: the kernel's `fs/squashfs/squashfs_fs.h` and Documentation/filesystems/squashfs.rst.

pub mod layout;
mod read;
mod write;

pub use read::Limits;
pub use read::Squashfs;
pub use write::Options;
pub use write::SquashfsWriter;

use crate::error::Result;
use crate::file::ImageFile;

/// Whether a file begins like a squashfs image.
pub fn is_squashfs(file: &ImageFile) -> Result<bool> {
    let mut magic = [0; 4];
    if file.size() < layout::SUPER_BLOCK as u64 {
        return Ok(false);
    }
    file.read_exact(&mut magic, 0)?;
    Ok(u32::from_le_bytes(magic) == layout::MAGIC)
}
