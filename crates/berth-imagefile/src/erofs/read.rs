//! The reader.

use std::sync::Arc;

use super::layout::CHUNKED;
use super::layout::COMPACT;
use super::layout::COMPRESSED;
use super::layout::EXTENDED;
use super::layout::HOLE;
use super::layout::MAGIC;
use super::layout::SLOT;
use super::layout::SUPER_BLOCK;
use super::layout::SUPER_OFFSET;
use super::layout::XATTR_HEADER;
use super::layout::data;
use crate::cache::Block;
use crate::cache::BlockCache;
use crate::error::Error;
use crate::error::Result;
use crate::file::ImageFile;
use crate::squashfs::layout::decode_device;
use crate::tree::Attributes;
use crate::tree::DirEntry;
use crate::tree::Kind;
use crate::tree::Statistics;
use crate::tree::Tree;
use crate::tree::Xattr;

/// Bytes of tables kept in memory.
const METADATA: usize = 16 << 20;
/// Longest target of a symbolic link.
const LONGEST_TARGET: u64 = 65_536;
/// Largest block that is read, as a power of two; Linux reads none above its pages.
const LARGEST_BLOCK: u8 = 16;

/// An open EROFS image. Nodes are named by their place, as in the image.
#[derive(Debug)]
pub struct Erofs {
    pub(super) file: ImageFile,
    block_bits: u8,
    root: u64,
    /// Where inodes are counted from.
    inodes_at: u64,
    /// Where shared xattrs are counted from.
    pub(super) xattrs_at: u64,
    made: (u64, u32),
    nodes: u64,
    metadata: BlockCache,
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub attributes: Attributes,
    /// Where xattrs begin, behind the inode, and how long they are.
    pub xattrs: (u64, u64),
    layout: u16,
    /// A block's number, or what else the layout has in its place.
    union: u32,
}

impl Erofs {
    /// Opens an image.
    pub fn open(file: ImageFile) -> Result<Erofs> {
        let mut head = [0; SUPER_BLOCK];
        file.read_exact(&mut head, SUPER_OFFSET)?;
        let (magic, block_bits) = (u32_at(&head, 0), head[12]);
        if magic != MAGIC {
            return Err(file.damaged("it does not begin as EROFS does"));
        }
        if !(9..=LARGEST_BLOCK).contains(&block_bits) {
            return Err(file.damaged(format!("blocks of 2^{block_bits} bytes")));
        }
        let features = u32_at(&head, 80);
        if features & COMPRESSED != 0 {
            return Err(file.unsupported("it is a compressed EROFS image, which we do not read"));
        }
        if features & !CHUNKED != 0 || u16_at(&head, 86) > 0 {
            return Err(
                file.unsupported(format!("it is an EROFS image with features that we do not read ({features:#x})"))
            );
        }
        if head[90] != 0 {
            return Err(file.unsupported("it is an EROFS image with directory blocks of a size of their own"));
        }
        let erofs = Erofs {
            block_bits,
            root: u64::from(u16_at(&head, 14)),
            inodes_at: u64::from(u32_at(&head, 40)) << block_bits,
            xattrs_at: u64::from(u32_at(&head, 44)) << block_bits,
            made: (u64_at(&head, 24), u32_at(&head, 32)),
            nodes: u64_at(&head, 16),
            metadata: BlockCache::new(METADATA),
            file,
        };
        if u64::from(u32_at(&head, 36)) << block_bits > erofs.file.size() {
            return Err(Error::Truncated { name: erofs.file.name().to_owned() });
        }
        match erofs.inode(erofs.root)?.attributes.kind {
            Kind::Directory if erofs.parent_of(erofs.root)? == erofs.root => Ok(erofs),
            Kind::Directory => Err(erofs.file.damaged("its root lies in another directory")),
            _ => Err(erofs.file.damaged("its root is no directory")),
        }
    }

    /// Bytes of a block.
    pub(super) fn block_size(&self) -> u64 {
        1 << self.block_bits
    }

    /// Reads some part of the tables, through the cache.
    pub(super) fn metadata(&self, mut at: u64, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let start = at & !(self.block_size() - 1);
            let block = self.metadata_block(start)?;
            let offset = (at - start) as usize;
            let rest = block.data.get(offset..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or_else(|| Error::Truncated { name: self.file.name().to_owned() })?;
            let take = rest.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(take);
            now.copy_from_slice(&rest[..take]);
            (buffer, at) = (later, at + take as u64);
        }
        Ok(())
    }

    fn metadata_block(&self, start: u64) -> Result<Arc<Block>> {
        self.metadata.get((start, 0), |block| {
            // The last block may be shorter.
            let length = self.file.size().saturating_sub(start).min(self.block_size());
            block.data.resize(length as usize, 0);
            self.file.read_exact(&mut block.data, start)
        })
    }

    pub(super) fn inode(&self, node: u64) -> Result<Inode> {
        let outside = || self.file.damaged(format!("a reference to inode {node}, outside the image"));
        let at = node.checked_mul(SLOT).and_then(|at| at.checked_add(self.inodes_at)).ok_or_else(outside)?;
        if at.saturating_add(COMPACT as u64) > self.file.size() {
            return Err(outside());
        }
        let mut bytes = [0; EXTENDED];
        self.metadata(at, &mut bytes[..COMPACT])?;
        let format = u16_at(&bytes, 0);
        let extended = format & 1 == 1;
        if extended {
            self.metadata(at, &mut bytes)?;
        }
        let mode = u32::from(u16_at(&bytes, 4));
        let kind = Kind::from_mode(mode).ok_or_else(|| self.file.damaged(format!("an inode of mode {mode:#o}")))?;
        let (links, size, uid, gid, mtime, inode_bytes);
        if extended {
            size = u64_at(&bytes, 8);
            (uid, gid) = (u32_at(&bytes, 24), u32_at(&bytes, 28));
            mtime = (u64_at(&bytes, 32), u32_at(&bytes, 40));
            links = u32_at(&bytes, 44);
            inode_bytes = EXTENDED;
        } else {
            links = u32::from(u16_at(&bytes, 6));
            size = u64::from(u32_at(&bytes, 8));
            (uid, gid) = (u32::from(u16_at(&bytes, 24)), u32::from(u16_at(&bytes, 26)));
            mtime = self.made;
            inode_bytes = COMPACT;
        }
        if i64::try_from(size).is_err() {
            return Err(self.file.damaged(format!("a file of {size} bytes")));
        }
        let union = u32_at(&bytes, 16);
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let xattr_count = u64::from(u16_at(&bytes, 2));
        let xattr_bytes = if xattr_count == 0 { 0 } else { XATTR_HEADER as u64 + 4 * (xattr_count - 1) };
        Ok(Inode {
            attributes: Attributes {
                kind,
                inode: node,
                mode: mode & 0o7777,
                uid,
                gid,
                size: if device { 0 } else { size },
                blocks: if device { 0 } else { size.div_ceil(512) },
                links,
                mtime: mtime.0 as i64,
                mtime_nanoseconds: mtime.1.min(999_999_999),
                device: if device { decode_device(union) } else { (0, 0) },
            },
            xattrs: (at + inode_bytes as u64, xattr_bytes),
            layout: (format >> 1) & 7,
            union,
        })
    }

    /// Contents of any inode, in one of the layouts. Gives how many bytes.
    pub(super) fn contents(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = inode.attributes.size;
        let length = size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..length];
        let behind = inode.xattrs.0 + inode.xattrs.1;
        let start = u64::from(inode.union) << self.block_bits;
        match inode.layout {
            data::PLAIN => self.file.read_exact(buffer, start.saturating_add(offset))?,
            data::INLINE => {
                let in_blocks = size & !(self.block_size() - 1);
                let split = in_blocks.saturating_sub(offset).min(length as u64) as usize;
                let (blocks, tail) = buffer.split_at_mut(split);
                if !blocks.is_empty() {
                    self.file.read_exact(blocks, start.saturating_add(offset))?;
                }
                if !tail.is_empty() {
                    self.metadata(behind + (offset + split as u64 - in_blocks), tail)?;
                }
            }
            data::CHUNKS => self.chunks(inode, behind, offset, buffer)?,
            layout => return Err(self.file.unsupported(format!("a file in it is compressed (layout {layout})"))),
        }
        Ok(length)
    }

    fn chunks(&self, inode: &Inode, behind: u64, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bits = u32::from(self.block_bits) + (inode.union & 0x1f);
        let indexes = inode.union & 0x20 != 0;
        if inode.union & 0xffc0 != 0 || bits > 40 {
            return Err(self.file.damaged(format!("chunks of format {:#x}", inode.union)));
        }
        let (map, entry) = if indexes { (behind.next_multiple_of(8), 8) } else { (behind.next_multiple_of(4), 4) };
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let (chunk, within) = (at >> bits, at & ((1 << bits) - 1));
            let take = ((1u64 << bits) - within).min((buffer.len() - filled) as u64) as usize;
            let mut bytes = [0; 8];
            self.metadata(map.saturating_add(chunk.saturating_mul(entry)), &mut bytes[..entry as usize])?;
            if indexes && u16_at(&bytes, 2) != 0 {
                return Err(self.file.unsupported("contents of it are in another file"));
            }
            let block = u32_at(&bytes, if indexes { 4 } else { 0 });
            let part = &mut buffer[filled..filled + take];
            if block == HOLE {
                part.fill(0);
            } else {
                self.file.read_exact(part, (u64::from(block) << self.block_bits).saturating_add(within))?;
            }
            filled += take;
        }
        Ok(())
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Tree for Erofs {
    fn root(&self) -> u64 {
        self.root
    }

    fn attributes(&self, node: u64) -> Result<Attributes> {
        Ok(self.inode(node)?.attributes)
    }

    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Option<u64>> {
        self.find(directory, name)
    }

    fn read_dir(&self, directory: u64, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.list(directory, offset, each)
    }

    fn read_link(&self, node: u64) -> Result<Vec<u8>> {
        let inode = self.inode(node)?;
        if inode.attributes.kind != Kind::Symlink {
            return Err(Error::WrongKind);
        }
        if inode.attributes.size > LONGEST_TARGET {
            return Err(self.file.damaged(format!("the target of a link has {} bytes", inode.attributes.size)));
        }
        let mut target = vec![0; inode.attributes.size as usize];
        self.contents(&inode, 0, &mut target)?;
        Ok(target)
    }

    fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let inode = self.inode(node)?;
        match inode.attributes.kind {
            Kind::File => self.contents(&inode, offset, buffer),
            Kind::Directory => Err(Error::IsADirectory),
            _ => Err(Error::WrongKind),
        }
    }

    fn xattrs(&self, node: u64) -> Result<Vec<Xattr>> {
        self.read_xattrs(&self.inode(node)?)
    }

    fn has_xattrs(&self) -> bool {
        // The super block does not tell.
        true
    }

    fn statistics(&self) -> Statistics {
        Statistics { bytes: self.file.size(), nodes: self.nodes, block_size: 1 << self.block_bits }
    }
}
