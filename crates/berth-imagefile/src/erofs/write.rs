//! The writer.
//!
//! Contents go to the file as they come, in whole blocks; short ends wait in memory for their inodes, as long as all of them
//! stay within a bound. The tree follows at the end. Blocks of zeros are holes of the image file itself.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::layout::COMPAT;
use super::layout::DIRENT;
use super::layout::EXTENDED;
use super::layout::KINDS;
use super::layout::MAGIC;
use super::layout::PREFIXES;
use super::layout::SLOT;
use super::layout::SUPER_BLOCK;
use super::layout::SUPER_OFFSET;
use super::layout::XATTR_HEADER;
use super::layout::crc32c;
use super::layout::data;
use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::squashfs::layout::encode_device;
use crate::tree::Kind;
use crate::tree::Xattr;
use crate::write::Content;
use crate::write::Metadata;
use crate::write::Sink;
use crate::write::Summary;
use crate::write::nodes::Body;
use crate::write::nodes::Node;
use crate::write::nodes::NodeId;
use crate::write::nodes::Nodes;
use crate::write::nodes::ROOT;

/// Bytes of a block: a page, on the machines that matter.
const BLOCK: usize = 4096;
/// Longest end of a file that goes behind its inode. A longer one loses less in a block of its own than it costs in memory.
const LONGEST_TAIL: usize = 1536;
/// Most bytes of ends in memory.
const TAILS: usize = 128 << 20;
/// Longest xattrs of a file whose end goes behind its inode.
const XATTRS_BESIDE_TAIL: usize = 1024;
/// Bytes copied at once.
const PIECE: usize = 256 << 10;
/// The root's number: its place is kept in 16 bits, so it comes first; not at 0, which looks like nothing.
const FIRST_SLOT: u64 = 2;

/// How an image is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Seconds since the epoch that the image says it was made at.
    pub made: u64,
}

/// Where a file's contents are.
#[derive(Debug)]
struct Stored {
    size: u64,
    block: u32,
    /// The end that goes behind the inode, if it does.
    tail: Option<Box<[u8]>>,
}

/// Writes an EROFS image into a file.
#[derive(Debug)]
pub struct ErofsWriter {
    file: File,
    name: String,
    options: Options,
    nodes: Nodes<Stored>,
    /// Number of the next block.
    next: u64,
    tails: usize,
    contents: u64,
    buffer: Vec<u8>,
}

/// Where an inode goes, and what goes with it.
#[derive(Debug, Default)]
struct Place {
    slot: u64,
    /// Behind the inode: xattrs, the end of the contents.
    xattrs: Vec<u8>,
    /// Of a directory's or a link's contents, by blocks.
    listing: Vec<u8>,
    /// First block of these.
    block: u32,
    /// Their end goes behind the inode.
    inline: bool,
}

impl ErofsWriter {
    /// Begins an image in an empty file that is open for writing. `name` is for messages. Until [`ErofsWriter::finish`] the
    /// file is no image; whoever made it removes it if that is never reached.
    pub fn create(file: File, name: &str, options: Options) -> Result<ErofsWriter> {
        Ok(ErofsWriter {
            file,
            name: name.to_owned(),
            options,
            nodes: Nodes::new(),
            next: 1,
            tails: 0,
            contents: 0,
            buffer: vec![0; PIECE],
        })
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let error = |source| Error::Io { action: "write", name: self.name.clone(), source };
        self.file.write_all_at(bytes, at).map_err(error)
    }

    fn block_number(&self) -> Result<u32> {
        let full = || Error::BadSetting("an EROFS image has at most 16 TiB".to_owned());
        u32::try_from(self.next).map_err(|_| full())
    }

    fn store(&mut self, path: &[u8], metadata: &Metadata, size: u64, from: &mut dyn Read) -> Result<Stored> {
        let read_error = |source| Error::Io { action: "read", name: printable(path), source };
        let end = (size % BLOCK as u64) as usize;
        let fits = end <= LONGEST_TAIL && xattr_bytes(&metadata.xattrs) <= XATTRS_BESIDE_TAIL;
        let inline = end > 0 && fits && self.tails + end <= TAILS;
        let block = self.block_number()?;
        let mut left = if inline { size - end as u64 } else { size };
        while left > 0 {
            let take = left.min(PIECE as u64) as usize;
            let mut buffer = std::mem::take(&mut self.buffer);
            let done = from.read_exact(&mut buffer[..take]).map_err(read_error).and_then(|()| {
                // A hole reads as zeros too.
                if buffer[..take].iter().all(|&byte| byte == 0) {
                    return Ok(());
                }
                self.write(&buffer[..take], self.next * BLOCK as u64)
            });
            self.buffer = buffer;
            done?;
            self.next += (take as u64).div_ceil(BLOCK as u64);
            left -= take as u64;
        }
        let mut tail = None;
        if inline {
            let mut bytes = vec![0; end].into_boxed_slice();
            from.read_exact(&mut bytes).map_err(read_error)?;
            self.tails += end;
            tail = Some(bytes);
        }
        self.contents += size;
        Ok(Stored { size, block, tail })
    }

    /// Writes what was kept, and the super block. The data is in the file then, not yet safe on the disk.
    pub fn finish(mut self) -> Result<Summary> {
        // Parents before children: the root must come first.
        let order: Vec<NodeId> = self.nodes.order().into_iter().rev().collect();
        let mut left_out = 0;
        let sets: Vec<Vec<u8>> = self.nodes.xattr_sets().iter().map(|set| pack_xattrs(set, &mut left_out)).collect();
        let mut places: HashMap<NodeId, Place> = HashMap::with_capacity(order.len());
        let mut parents: HashMap<NodeId, NodeId> = HashMap::from([(ROOT, ROOT)]);
        let mut end = FIRST_SLOT * SLOT;
        for &id in &order {
            let node = self.nodes.get(id);
            if let Body::Directory(children) = &node.body {
                parents.extend(children.values().map(|&child| (child, id)));
            }
            let xattrs = sets.get(node.xattrs as usize).cloned().unwrap_or_default();
            let (length, may_inline) = match &node.body {
                Body::Directory(children) => (listing_bytes(children), true),
                Body::Symlink(target) => (target.len(), true),
                Body::File(stored) => (stored.tail.as_ref().map_or(0, |tail| tail.len()), stored.tail.is_some()),
                _ => (0, false),
            };
            let tail = length % BLOCK;
            let head = EXTENDED + xattrs.len();
            let inline = may_inline && tail > 0 && head + tail <= BLOCK;
            let bytes = head + if inline { tail } else { 0 };
            // The end must lie in one block with the end of its inode's xattrs; simplest is all in one.
            let start = if end as usize % BLOCK + bytes > BLOCK && bytes <= BLOCK {
                end.next_multiple_of(BLOCK as u64)
            } else {
                end
            };
            end = (start + bytes as u64).next_multiple_of(SLOT);
            let mut block = 0;
            if !matches!(node.body, Body::File(_)) {
                block = self.block_number()?;
                let blocks = if inline { length / BLOCK } else { length.div_ceil(BLOCK) };
                self.next += blocks as u64;
            }
            places.insert(id, Place { slot: start / SLOT, xattrs, listing: Vec::new(), block, inline });
        }
        let inodes_at = self.block_number()?;
        let blocks = self.next + end.div_ceil(BLOCK as u64);
        u32::try_from(blocks).map_err(|_| Error::BadSetting("an EROFS image has at most 16 TiB".to_owned()))?;
        self.write_inodes(&order, &mut places, &parents, inodes_at)?;
        self.write_head(&places, order.len() as u64, inodes_at, blocks as u32)?;
        Ok(Summary {
            bytes: blocks * BLOCK as u64,
            nodes: order.len() as u64,
            contents: self.contents,
            xattrs_left_out: left_out,
        })
    }

    fn write_inodes(
        &self,
        order: &[NodeId],
        places: &mut HashMap<NodeId, Place>,
        parents: &HashMap<NodeId, NodeId>,
        inodes_at: u32,
    ) -> Result<()> {
        let inodes_at = u64::from(inodes_at) * BLOCK as u64;
        let mut pending = Vec::with_capacity(PIECE + BLOCK);
        let mut pending_at = inodes_at;
        for (number, &id) in order.iter().enumerate() {
            let node = self.nodes.get(id);
            let mut subdirectories = 0;
            let contents = match &node.body {
                Body::Directory(children) => {
                    let slot = |id: &NodeId| places.get(id).map_or(0, |place| place.slot);
                    let kind = |id: &NodeId| self.nodes.get(*id).body.kind();
                    subdirectories = children.values().filter(|&child| kind(child) == Kind::Directory).count() as u32;
                    let parent = parents.get(&id).copied().unwrap_or(ROOT);
                    let mut names: Vec<(&[u8], u64, Kind)> =
                        children.iter().map(|(name, id)| (&**name, slot(id), kind(id))).collect();
                    names.push((b".", slot(&id), Kind::Directory));
                    names.push((b"..", slot(&parent), Kind::Directory));
                    names.sort();
                    pack_listing(&names)
                }
                Body::Symlink(target) => target.to_vec(),
                _ => Vec::new(),
            };
            let place = places.entry(id).or_default();
            place.listing = contents;
            let bytes = inode_bytes(node, place, subdirectories, number as u32 + 1);
            let at = inodes_at + place.slot * SLOT;
            if at > pending_at + pending.len() as u64 + PIECE as u64 || pending.len() > PIECE {
                self.write(&pending, pending_at)?;
                pending.clear();
                pending_at = at;
            }
            pending.resize((at - pending_at) as usize, 0);
            pending.extend_from_slice(&bytes);
            // What does not go behind the inode goes to its blocks.
            let in_blocks = if place.inline { place.listing.len() / BLOCK * BLOCK } else { place.listing.len() };
            if in_blocks > 0 {
                self.write(&place.listing[..in_blocks], u64::from(place.block) * BLOCK as u64)?;
            }
            place.listing = Vec::new();
        }
        self.write(&pending, pending_at)
    }

    fn write_head(&self, places: &HashMap<NodeId, Place>, nodes: u64, inodes_at: u32, blocks: u32) -> Result<()> {
        // The checksum is over the whole rest of the first block.
        let mut block = vec![0; BLOCK - SUPER_OFFSET as usize];
        let root = places.get(&ROOT).map_or(0, |place| place.slot);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT.to_le_bytes());
        put(12, &[BLOCK.trailing_zeros() as u8]);
        put(14, &(root as u16).to_le_bytes());
        put(16, &nodes.to_le_bytes());
        put(24, &self.options.made.to_le_bytes());
        put(36, &blocks.to_le_bytes());
        put(40, &inodes_at.to_le_bytes());
        let checksum = crc32c(&block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
        debug_assert!(block.len() > SUPER_BLOCK);
        let error = |source| Error::Io { action: "write", name: self.name.clone(), source };
        self.file.set_len(u64::from(blocks) * BLOCK as u64).map_err(error)?;
        self.write(&block, SUPER_OFFSET)
    }
}

impl Sink for ErofsWriter {
    fn add(&mut self, path: &[u8], metadata: &Metadata, content: Content<'_>) -> Result<()> {
        if let Some((name, _)) = metadata.xattrs.iter().find(|(_, value)| value.len() > usize::from(u16::MAX)) {
            let reason = format!("the attribute {} is too long for EROFS", printable(name));
            return Err(Error::CannotWrite { path: printable(path), reason });
        }
        let body = match content {
            Content::HardLink(target) => return self.nodes.link(path, target),
            Content::Directory => Body::Directory(BTreeMap::new()),
            Content::File { size, data } => Body::File(self.store(path, metadata, size, data)?),
            Content::Symlink(target) => Body::Symlink(target.into()),
            Content::CharDevice(major, minor) => Body::CharDevice(major, minor),
            Content::BlockDevice(major, minor) => Body::BlockDevice(major, minor),
            Content::Fifo => Body::Fifo,
            Content::Socket => Body::Socket,
        };
        self.nodes.add(path, metadata, body)?;
        Ok(())
    }

    fn add_implied(&mut self, path: &[u8]) -> Result<()> {
        self.nodes.imply(path)
    }
}

/// An inode with what goes behind it.
fn inode_bytes(node: &Node<Stored>, place: &Place, subdirectories: u32, number: u32) -> Vec<u8> {
    let (size, union, tail): (u64, u32, &[u8]) = match &node.body {
        Body::File(stored) => (stored.size, stored.block, stored.tail.as_deref().unwrap_or_default()),
        Body::Directory(_) | Body::Symlink(_) => {
            let split = if place.inline { place.listing.len() / BLOCK * BLOCK } else { place.listing.len() };
            (place.listing.len() as u64, place.block, &place.listing[split..])
        }
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => (0, encode_device((*major, *minor)), &[]),
        Body::Fifo | Body::Socket => (0, 0, &[]),
    };
    let links = match node.body {
        Body::Directory(_) => 2 + subdirectories,
        _ => node.links,
    };
    let layout = if tail.is_empty() { data::PLAIN } else { data::INLINE };
    let xattr_count = if place.xattrs.is_empty() { 0 } else { (place.xattrs.len() - XATTR_HEADER) / 4 + 1 };
    let mut bytes = Vec::with_capacity(EXTENDED + place.xattrs.len() + tail.len());
    let mode = node.body.kind().mode_bits() | node.mode;
    for value in [1 | layout << 1, xattr_count as u16, mode as u16, 0] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&size.to_le_bytes());
    for value in [union, number, node.uid, node.gid] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(&node.mtime.0.to_le_bytes());
    for value in [node.mtime.1, links] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.resize(EXTENDED, 0);
    bytes.extend_from_slice(&place.xattrs);
    bytes.extend_from_slice(tail);
    bytes
}

/// How names fill blocks: calls `each` with the number of names of every block, and gives the bytes of them all.
fn fill_blocks(lengths: impl Iterator<Item = usize>, mut each: impl FnMut(usize)) -> usize {
    let (mut blocks, mut used, mut count) = (0, 0, 0);
    for length in lengths {
        let bytes = DIRENT + length;
        if used + bytes > BLOCK {
            each(count);
            (blocks, used, count) = (blocks + 1, 0, 0);
        }
        (used, count) = (used + bytes, count + 1);
    }
    each(count);
    blocks * BLOCK + used
}

fn listing_bytes(children: &BTreeMap<Box<[u8]>, NodeId>) -> usize {
    let mut lengths: Vec<(&[u8], usize)> = children.keys().map(|name| (&**name, name.len())).collect();
    lengths.extend([(b".".as_slice(), 1), (b"..".as_slice(), 2)]);
    lengths.sort();
    fill_blocks(lengths.into_iter().map(|(_, length)| length), |_| {})
}

/// A listing of names, numbers and kinds, sorted.
fn pack_listing(names: &[(&[u8], u64, Kind)]) -> Vec<u8> {
    let mut counts = Vec::new();
    fill_blocks(names.iter().map(|(name, ..)| name.len()), |count| counts.push(count));
    let mut bytes = Vec::new();
    let mut rest = names;
    for count in counts {
        // All blocks but the last are full.
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let (here, later) = rest.split_at(count);
        rest = later;
        let mut at = count * DIRENT;
        for (name, node, kind) in here {
            bytes.extend_from_slice(&node.to_le_bytes());
            bytes.extend_from_slice(&(at as u16).to_le_bytes());
            let number = KINDS.iter().position(|known| known == kind).map_or(0, |at| at as u8 + 1);
            bytes.extend_from_slice(&[number, 0]);
            at += name.len();
        }
        here.iter().for_each(|(name, ..)| bytes.extend_from_slice(name));
    }
    bytes
}

/// Bytes that xattrs take behind an inode, at most.
fn xattr_bytes(xattrs: &[Xattr]) -> usize {
    XATTR_HEADER + xattrs.iter().map(|(name, value)| (4 + name.len() + value.len()).next_multiple_of(4)).sum::<usize>()
}

/// The bytes of a set of xattrs, header included; none for none. Counts those without a name in the format.
fn pack_xattrs(set: &[Xattr], left_out: &mut u64) -> Vec<u8> {
    let mut bytes = vec![0; XATTR_HEADER];
    for (name, value) in set {
        let known = PREFIXES.iter().find_map(|(number, prefix)| Some((number, name.strip_prefix(*prefix)?)));
        let Some((number, rest)) = known.filter(|(_, rest)| rest.len() <= usize::from(u8::MAX)) else {
            *left_out += 1;
            continue;
        };
        bytes.extend_from_slice(&[rest.len() as u8, *number]);
        bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    if bytes.len() == XATTR_HEADER { Vec::new() } else { bytes }
}
