//! EROFS, uncompressed: as Linux reads it and mkfs.erofs writes it.
//!
//! ```text
//! block 0: nothing, super block at 1024 │ contents, in blocks │ listings │ inodes with xattrs and short ends of contents
//! ```
//!
//! That is the order in which we write; the format allows any. Inodes lie on multiples of 32 bytes, and where an inode lies
//! is its number. Contents lie in whole blocks, so that a reader can map them; the end of a file may lie behind its inode.
//! Numbers are little-endian.
//!
//! Sources: the kernel's `fs/erofs/erofs_fs.h` and Documentation/filesystems/erofs.rst.

mod directory;
mod layout;
mod read;
mod write;
mod xattr;

pub use read::Erofs;
pub use write::ErofsWriter;
pub use write::Options;

use crate::error::Result;
use crate::file::ImageFile;

/// Whether a file begins like an EROFS image.
pub fn is_erofs(file: &ImageFile) -> Result<bool> {
    let mut magic = [0; 4];
    if file.size() < layout::SUPER_OFFSET + layout::SUPER_BLOCK as u64 {
        return Ok(false);
    }
    file.read_exact(&mut magic, layout::SUPER_OFFSET)?;
    Ok(u32::from_le_bytes(magic) == layout::MAGIC)
}
