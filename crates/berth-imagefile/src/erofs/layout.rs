//! Numbers of the format that reader and writer share.

use crate::tree::Kind;

/// Where the super block is.
pub(super) const SUPER_OFFSET: u64 = 1024;
/// Bytes of the super block.
pub(super) const SUPER_BLOCK: usize = 128;
/// Its first four bytes.
pub(super) const MAGIC: u32 = 0xe0f5_e1e2;
/// Bytes between two places where an inode can be.
pub(super) const SLOT: u64 = 32;
/// Bytes of a compact inode.
pub(super) const COMPACT: usize = 32;
/// Bytes of an extended inode.
pub(super) const EXTENDED: usize = 64;
/// Bytes of an entry in a directory's block, without its name.
pub(super) const DIRENT: usize = 12;
/// Bytes of the header of an inode's xattrs.
pub(super) const XATTR_HEADER: usize = 12;
/// The block of a hole.
pub(super) const HOLE: u32 = u32::MAX;

/// Compatible features: the super block has a checksum; times are modification times.
pub(super) const COMPAT: u32 = 1 | 2;
/// Features that we read: files in chunks.
pub(super) const CHUNKED: u32 = 4;
/// Features of compressed images.
pub(super) const COMPRESSED: u32 = 1 | 2 | 0x10 | 0x20;

/// How contents lie, in an inode's format.
pub(super) mod data {
    /// In blocks, one behind the other.
    pub const PLAIN: u16 = 0;
    /// So, but for the end, which lies behind the inode.
    pub const INLINE: u16 = 2;
    /// In chunks, each with its place.
    pub const CHUNKS: u16 = 4;
}

/// What names of xattrs begin with, by number.
pub(super) const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// The kinds, as directories number them from 1.
pub(super) const KINDS: [Kind; 7] =
    [Kind::File, Kind::Directory, Kind::CharDevice, Kind::BlockDevice, Kind::Fifo, Kind::Socket, Kind::Symlink];

/// CRC-32C as the super block has it: without the final inversion.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(!super::crc32c(b"123456789"), 0xe306_9283);
    }
}
