//! Numbers of the format that reader and writer share.

use crate::codec::Compressor;

/// The first four bytes: `hsqs`.
pub const MAGIC: u32 = 0x7371_7368;
/// Bytes of the super block.
pub const SUPER_BLOCK: usize = 96;
/// Bytes of a metadata block, once decompressed.
pub const METADATA: usize = 8192;
/// Set in a metadata block's size where it is stored as it is.
pub const METADATA_STORED: u16 = 1 << 15;
/// Set in a block's size where it is stored as it is.
pub const BLOCK_STORED: u32 = 1 << 24;
/// "There is none", as an index of a fragment or of xattrs.
pub const NONE: u32 = u32::MAX;
/// "There is none", as the place of a table.
pub const NO_TABLE: u64 = u64::MAX;
/// Bytes that a directory's size has beyond those of its listing (`.` and `..` in the kernel's eyes).
pub const DIRECTORY_EXTRA: u32 = 3;
/// Most entries below one header of a directory.
pub const HEADER_ENTRIES: u32 = 256;
/// Longest name.
pub const NAME: usize = 256;
/// Bytes of an entry of the fragment table.
pub const FRAGMENT_ENTRY: usize = 16;
/// Bytes of an entry of the xattr id table.
pub const XATTR_ENTRY: usize = 16;
/// An xattr's value lies elsewhere, and its place is stored instead.
pub const XATTR_ELSEWHERE: u16 = 0x100;
/// What names of xattrs begin with, by type.
pub const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Smallest and largest block.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// Flags of the super block.
pub mod flags {
    /// Inodes are stored as they are.
    pub const STORED_INODES: u16 = 1;
    /// So is data.
    pub const STORED_DATA: u16 = 1 << 1;
    /// So are fragment blocks.
    pub const STORED_FRAGMENTS: u16 = 1 << 3;
    /// No ends of files share blocks.
    pub const NO_FRAGMENTS: u16 = 1 << 4;
    /// Equal contents are stored once.
    pub const DUPLICATES: u16 = 1 << 6;
    /// There is a table of inodes by their number, which NFS export wants.
    pub const EXPORTABLE: u16 = 1 << 7;
    /// Xattrs are stored as they are.
    pub const STORED_XATTRS: u16 = 1 << 8;
    /// There are no xattrs.
    pub const NO_XATTRS: u16 = 1 << 9;
    /// Compressor options follow the super block.
    pub const COMPRESSOR_OPTIONS: u16 = 1 << 10;
    /// Ids are stored as they are.
    pub const STORED_IDS: u16 = 1 << 11;
}

/// Types of inodes. The extended ones are these plus [`EXTENDED`].
pub mod inode {
    /// A directory.
    pub const DIRECTORY: u16 = 1;
    /// A regular file.
    pub const FILE: u16 = 2;
    /// A symbolic link.
    pub const SYMLINK: u16 = 3;
    /// A block device.
    pub const BLOCK_DEVICE: u16 = 4;
    /// A character device.
    pub const CHAR_DEVICE: u16 = 5;
    /// A named pipe.
    pub const FIFO: u16 = 6;
    /// A socket.
    pub const SOCKET: u16 = 7;
    /// From a type to its extended form.
    pub const EXTENDED: u16 = 7;
}

/// The super block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperBlock {
    /// Number of inodes.
    pub inodes: u32,
    /// Seconds since the epoch at which it was made.
    pub made: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Entries of the fragment table.
    pub fragments: u32,
    /// Which compressor.
    pub compressor: u16,
    /// See [`flags`].
    pub flags: u16,
    /// Entries of the id table.
    pub ids: u16,
    /// The root directory: place of its metadata block in the inode table `<< 16`, and offset in it.
    pub root: u64,
    /// Bytes of the image without padding.
    pub bytes_used: u64,
    /// Where the lookup table of ids is.
    pub id_table: u64,
    /// Where the header of xattrs is.
    pub xattr_table: u64,
    /// Where inodes begin.
    pub inode_table: u64,
    /// Where directories begin.
    pub directory_table: u64,
    /// Where the lookup table of fragments is.
    pub fragment_table: u64,
    /// Where the lookup table of the export table is.
    pub export_table: u64,
}

impl SuperBlock {
    /// Reads a super block, or says what is wrong with it.
    pub fn parse(bytes: &[u8; SUPER_BLOCK]) -> Result<SuperBlock, String> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let (major, minor) = (u16_at(28), u16_at(30));
        if u32_at(0) != MAGIC {
            return Err("it does not begin as squashfs does".to_owned());
        }
        if (major, minor) != (4, 0) {
            return Err(format!("it is squashfs {major}.{minor}, and only 4.0 is read"));
        }
        let block_size = u32_at(12);
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            return Err(format!("blocks of {block_size} bytes"));
        }
        if u32::from(u16_at(22)) != block_size.trailing_zeros() {
            return Err("the size of a block and its logarithm disagree".to_owned());
        }
        Ok(SuperBlock {
            inodes: u32_at(4),
            made: u32_at(8),
            block_size,
            fragments: u32_at(16),
            compressor: u16_at(20),
            flags: u16_at(24),
            ids: u16_at(26),
            root: u64_at(32),
            bytes_used: u64_at(40),
            id_table: u64_at(48),
            xattr_table: u64_at(56),
            inode_table: u64_at(64),
            directory_table: u64_at(72),
            fragment_table: u64_at(80),
            export_table: u64_at(88),
        })
    }

    /// The bytes of this super block.
    pub fn to_bytes(&self) -> [u8; SUPER_BLOCK] {
        let mut bytes = Vec::with_capacity(SUPER_BLOCK);
        for value in [MAGIC, self.inodes, self.made, self.block_size, self.fragments] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let log = self.block_size.trailing_zeros() as u16;
        for value in [self.compressor, log, self.flags, self.ids, 4, 0] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        for value in [
            self.root,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let mut block = [0; SUPER_BLOCK];
        block.copy_from_slice(&bytes);
        block
    }

    /// The compressor, if its number is known.
    pub fn known_compressor(&self) -> Option<Compressor> {
        Compressor::from_id(self.compressor)
    }
}

/// A device number as inodes have it: the kernel's "new" encoding.
pub fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The device number that an inode has: major, minor.
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_come_back() {
        for device in [(0, 0), (1, 3), (195, 255), (4095, 1_048_575), (10, 229)] {
            assert_eq!(decode_device(encode_device(device)), device);
        }
    }
}
