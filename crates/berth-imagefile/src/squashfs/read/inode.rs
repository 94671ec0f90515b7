//! Inodes, of every type.

use super::Squashfs;
use super::metadata::Cursor;
use super::metadata::Position;
use crate::error::Result;
use crate::squashfs::layout::BLOCK_STORED;
use crate::squashfs::layout::DIRECTORY_EXTRA;
use crate::squashfs::layout::METADATA;
use crate::squashfs::layout::NONE;
use crate::squashfs::layout::decode_device;
use crate::squashfs::layout::inode;
use crate::tree::Attributes;
use crate::tree::Kind;

/// Longest target of a symbolic link, as Linux has it.
const LONGEST_TARGET: u32 = 65_536;

/// An inode.
#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub attributes: Attributes,
    /// Index in the xattr id table.
    pub xattrs: Option<u32>,
    pub body: Body,
}

/// What an inode has beyond attributes.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Directory(Directory),
    File(FileBody),
    /// Where the target is, of [`Attributes::size`] bytes.
    Symlink(Position),
    Other,
}

/// Where the listing of a directory is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    /// The listing's begin.
    pub listing: Position,
    /// Bytes of the listing.
    pub size: u32,
    /// Its index: where, how many entries.
    pub index: Option<(Position, u16)>,
}

/// Where the contents of a file are.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileBody {
    /// Place of the first block.
    pub start: u64,
    pub size: u64,
    /// Fragment block and offset in it.
    pub fragment: Option<(u32, u32)>,
    /// Where the sizes of the blocks are.
    pub sizes: Position,
    /// How many blocks there are.
    pub blocks: u64,
}

impl Squashfs {
    /// The inode that a reference means.
    pub(super) fn inode(&self, node: u64) -> Result<Inode> {
        let position = Position::from_reference(self.inode_table, node);
        if position.place >= self.directory_table || position.offset >= METADATA || node >> 48 != 0 {
            return Err(self.file.damaged(format!("a reference to inode {node:#x}, outside the inode table")));
        }
        let mut cursor = Cursor::new(self, position, self.directory_table);
        let kind = cursor.u16()?;
        let mode = u32::from(cursor.u16()?) & 0o7777;
        let (uid, gid) = (self.id(cursor.u16()?)?, self.id(cursor.u16()?)?);
        let mtime = i64::from(cursor.u32()?);
        let number = u64::from(cursor.u32()?);
        let mut attributes = Attributes {
            kind: Kind::File,
            inode: number,
            mode,
            uid,
            gid,
            size: 0,
            blocks: 0,
            links: 1,
            mtime,
            mtime_nanoseconds: 0,
            device: (0, 0),
        };
        let extended = kind > inode::EXTENDED;
        let basic = if extended { kind - inode::EXTENDED } else { kind };
        let (xattrs, body) = match basic {
            inode::DIRECTORY => self.directory(&mut cursor, &mut attributes, extended)?,
            inode::FILE => self.regular(&mut cursor, &mut attributes, extended)?,
            inode::SYMLINK => {
                attributes.kind = Kind::Symlink;
                attributes.links = cursor.u32()?;
                let size = cursor.u32()?;
                if size > LONGEST_TARGET {
                    return Err(self.file.damaged(format!("the target of a link has {size} bytes")));
                }
                attributes.size = u64::from(size);
                let target = cursor.position();
                let xattrs = if extended {
                    cursor.skip(u64::from(size))?;
                    cursor.u32()?
                } else {
                    NONE
                };
                (xattrs, Body::Symlink(target))
            }
            inode::BLOCK_DEVICE | inode::CHAR_DEVICE | inode::FIFO | inode::SOCKET => {
                attributes.links = cursor.u32()?;
                attributes.kind = match basic {
                    inode::BLOCK_DEVICE => Kind::BlockDevice,
                    inode::CHAR_DEVICE => Kind::CharDevice,
                    inode::FIFO => Kind::Fifo,
                    _ => Kind::Socket,
                };
                if basic == inode::BLOCK_DEVICE || basic == inode::CHAR_DEVICE {
                    attributes.device = decode_device(cursor.u32()?);
                }
                (if extended { cursor.u32()? } else { NONE }, Body::Other)
            }
            _ => return Err(self.file.damaged(format!("an inode of type {kind}"))),
        };
        Ok(Inode { attributes, xattrs: Some(xattrs).filter(|&index| index != NONE), body })
    }

    fn directory(&self, cursor: &mut Cursor<'_>, attributes: &mut Attributes, extended: bool) -> Result<(u32, Body)> {
        attributes.kind = Kind::Directory;
        let (size, start, offset, index, xattrs);
        if extended {
            attributes.links = cursor.u32()?;
            size = cursor.u32()?;
            start = cursor.u32()?;
            let _parent = cursor.u32()?;
            let entries = cursor.u16()?;
            offset = cursor.u16()?;
            xattrs = cursor.u32()?;
            index = (entries > 0).then(|| (cursor.position(), entries));
        } else {
            start = cursor.u32()?;
            attributes.links = cursor.u32()?;
            size = u32::from(cursor.u16()?);
            offset = cursor.u16()?;
            let _parent = cursor.u32()?;
            (index, xattrs) = (None, NONE);
        }
        attributes.size = u64::from(size);
        let listing =
            Position { place: self.directory_table.saturating_add(u64::from(start)), offset: usize::from(offset) };
        let size = size.saturating_sub(DIRECTORY_EXTRA);
        Ok((xattrs, Body::Directory(Directory { listing, size, index })))
    }

    fn regular(&self, cursor: &mut Cursor<'_>, attributes: &mut Attributes, extended: bool) -> Result<(u32, Body)> {
        let (start, size, sparse, fragment, offset, xattrs);
        if extended {
            start = cursor.u64()?;
            size = cursor.u64()?;
            sparse = cursor.u64()?;
            attributes.links = cursor.u32()?;
            fragment = cursor.u32()?;
            offset = cursor.u32()?;
            xattrs = cursor.u32()?;
        } else {
            start = u64::from(cursor.u32()?);
            fragment = cursor.u32()?;
            offset = cursor.u32()?;
            size = u64::from(cursor.u32()?);
            (sparse, xattrs) = (0, NONE);
        }
        if i64::try_from(size).is_err() {
            return Err(self.file.damaged(format!("a file of {size} bytes")));
        }
        let block_size = u64::from(self.block_size);
        let fragment = (fragment != NONE).then_some((fragment, offset));
        let blocks = if fragment.is_some() { size / block_size } else { size.div_ceil(block_size) };
        // Every block has its size in the inode table, which can hold only so much.
        if blocks > (self.directory_table - self.inode_table).saturating_mul(METADATA as u64) / 4 {
            return Err(self.file.damaged(format!("a file of {size} bytes, more than its inode can describe")));
        }
        attributes.size = size;
        attributes.blocks = size.saturating_sub(sparse).div_ceil(512);
        let sizes = cursor.position();
        Ok((xattrs, Body::File(FileBody { start, size, fragment, sizes, blocks })))
    }
}

/// What a block's size says: bytes in the image (0 for a hole), and whether they are stored as they are.
pub(super) fn block_size_word(word: u32) -> Option<(u32, bool)> {
    (word < BLOCK_STORED << 1).then_some((word & (BLOCK_STORED - 1), word & BLOCK_STORED != 0))
}
