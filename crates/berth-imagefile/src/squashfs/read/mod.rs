//! The reader.

mod data;
mod directory;
mod inode;
mod metadata;
mod xattr;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::layout::METADATA;
use super::layout::NO_TABLE;
use super::layout::SUPER_BLOCK;
use super::layout::SuperBlock;
use super::layout::flags;
use crate::cache::BlockCache;
use crate::codec::Compressor;
use crate::codec::Decoder;
use crate::error::Error;
use crate::error::Result;
use crate::file::ImageFile;
use crate::tree::Attributes;
use crate::tree::DirEntry;
use crate::tree::Statistics;
use crate::tree::Tree;
use crate::tree::Xattr;
use data::Checkpoint;
use inode::Body;
use metadata::Cursor;
use metadata::Position;

/// Bounds on the memory of a reader.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of contents kept decompressed.
    pub data: usize,
    /// Bytes of tables kept decompressed.
    pub metadata: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { data: 64 << 20, metadata: 16 << 20 }
    }
}

/// An open squashfs image. Nodes are named by their place in the inode table.
pub struct Squashfs {
    file: ImageFile,
    compressor: Compressor,
    block_size: u32,
    root: u64,
    bytes_used: u64,
    inode_table: u64,
    directory_table: u64,
    /// Where directories must have ended.
    directories_end: u64,
    ids: Vec<u32>,
    fragments: u32,
    fragment_table: u64,
    xattr_table: Option<xattr::XattrTable>,
    inodes: u64,
    metadata: BlockCache,
    data: BlockCache,
    workers: Mutex<Vec<Worker>>,
    checkpoints: Mutex<HashMap<u64, Arc<Mutex<Vec<Checkpoint>>>>>,
}

/// What a thread needs while it decompresses a block.
struct Worker {
    decoder: Decoder,
    input: Vec<u8>,
}

impl fmt::Debug for Squashfs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Squashfs").field("file", &self.file).field("compressor", &self.compressor).finish()
    }
}

impl Squashfs {
    /// Opens an image with the usual bounds.
    pub fn open(file: ImageFile) -> Result<Squashfs> {
        Squashfs::open_within(file, Limits::default())
    }

    /// Opens an image.
    pub fn open_within(file: ImageFile, limits: Limits) -> Result<Squashfs> {
        let mut bytes = [0; SUPER_BLOCK];
        file.read_exact(&mut bytes, 0)?;
        let head = SuperBlock::parse(&bytes).map_err(|reason| file.damaged(reason))?;
        let compressor = head
            .known_compressor()
            .ok_or_else(|| file.unsupported(format!("it is compressed by an unknown method ({})", head.compressor)))?;
        let decoder = Decoder::new(compressor).map_err(|reason| file.unsupported(reason))?;
        if head.bytes_used > file.size() {
            return Err(Error::Truncated { name: file.name().to_owned() });
        }
        let end = head.bytes_used;
        if head.inode_table < SUPER_BLOCK as u64
            || head.inode_table >= head.directory_table
            || head.directory_table >= end
            || head.id_table >= end
        {
            return Err(file.damaged("its tables are out of order"));
        }
        // What comes first behind the directories; the tables that may be there begin with blocks that lie before their
        // lookup tables, so this is a bound and not the exact end.
        let directories_end = [head.fragment_table, head.export_table, head.id_table, head.xattr_table]
            .into_iter()
            .filter(|&table| table != NO_TABLE && table > head.directory_table)
            .min()
            .unwrap_or(end)
            .min(end);
        let mut image = Squashfs {
            compressor,
            block_size: head.block_size,
            root: head.root,
            bytes_used: end,
            inode_table: head.inode_table,
            directory_table: head.directory_table,
            directories_end,
            ids: Vec::new(),
            fragments: head.fragments,
            fragment_table: head.fragment_table,
            xattr_table: None,
            inodes: u64::from(head.inodes),
            metadata: BlockCache::new(limits.metadata),
            data: BlockCache::new(limits.data),
            workers: Mutex::new(vec![Worker { decoder, input: Vec::new() }]),
            checkpoints: Mutex::default(),
            file,
        };
        image.ids = image.read_ids(head.id_table, head.ids)?;
        if head.xattr_table != NO_TABLE && head.flags & flags::NO_XATTRS == 0 {
            image.xattr_table = image.read_xattr_table(head.xattr_table)?;
        }
        match image.inode(head.root)?.body {
            Body::Directory(_) => Ok(image),
            _ => Err(image.file.damaged("its root is no directory")),
        }
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The compressor that the super block names.
    pub fn compressor(&self) -> Compressor {
        self.compressor
    }

    /// Calls `work` with a decoder of this thread's own.
    fn with_worker<T>(&self, work: impl FnOnce(&mut Worker) -> Result<T>) -> Result<T> {
        let idle = self.workers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker {
                decoder: Decoder::new(self.compressor).map_err(|reason| self.file.unsupported(reason))?,
                input: Vec::new(),
            },
        };
        let result = work(&mut worker);
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        result
    }

    /// The position of entry `index` in a table with a lookup table: a list of the places of its metadata blocks.
    fn table_position(&self, lookup: u64, index: u64, entry: usize) -> Result<Position> {
        let per_block = (METADATA / entry) as u64;
        let mut place = [0; 8];
        let at = (index / per_block).checked_mul(8).and_then(|at| at.checked_add(lookup));
        let at = at.filter(|at| at.saturating_add(8) <= self.bytes_used);
        self.file.read_exact(&mut place, at.ok_or_else(|| self.file.damaged("a table lies outside the image"))?)?;
        Ok(Position { place: u64::from_le_bytes(place), offset: (index % per_block) as usize * entry })
    }

    fn read_ids(&self, table: u64, count: u16) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(usize::from(count));
        let per_block = METADATA / 4;
        while ids.len() < usize::from(count) {
            let position = self.table_position(table, ids.len() as u64, 4)?;
            let mut cursor = Cursor::new(self, position, self.bytes_used);
            for _ in 0..per_block.min(usize::from(count) - ids.len()) {
                ids.push(cursor.u32()?);
            }
        }
        Ok(ids)
    }

    fn id(&self, index: u16) -> Result<u32> {
        self.ids.get(usize::from(index)).copied().ok_or_else(|| self.file.damaged(format!("owner number {index}")))
    }
}

impl Tree for Squashfs {
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
        let Body::Symlink(target) = inode.body else { return Err(Error::WrongKind) };
        // Bounded when the inode was read.
        Cursor::new(self, target, self.directory_table).bytes(inode.attributes.size as usize)
    }

    fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.inode(node)?.body {
            Body::File(file) => self.read_file(node, &file, offset, buffer),
            Body::Directory(_) => Err(Error::IsADirectory),
            _ => Err(Error::WrongKind),
        }
    }

    fn xattrs(&self, node: u64) -> Result<Vec<Xattr>> {
        match (&self.xattr_table, self.inode(node)?.xattrs) {
            (Some(table), Some(index)) => self.read_xattrs(table, index),
            _ => Ok(Vec::new()),
        }
    }

    fn has_xattrs(&self) -> bool {
        self.xattr_table.is_some()
    }

    fn statistics(&self) -> Statistics {
        Statistics { bytes: self.bytes_used, nodes: self.inodes, block_size: self.block_size }
    }
}
