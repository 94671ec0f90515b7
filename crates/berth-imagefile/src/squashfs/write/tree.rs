//! Inodes and directories, from the tree that was kept.
//!
//! An inode must be placed before it can be listed, so what a directory holds comes before the directory. What one directory
//! holds lies together: few headers, and a listing that is walked leads to inodes side by side.

use std::collections::BTreeMap;
use std::collections::HashMap;

use super::contents::Done;
use super::contents::FileId;
use super::contents::Stored;
use super::table::TableWriter;
use super::table::Xattrs;
use crate::codec::Encoder;
use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::squashfs::layout::DIRECTORY_EXTRA;
use crate::squashfs::layout::HEADER_ENTRIES;
use crate::squashfs::layout::NONE;
use crate::squashfs::layout::XATTR_PREFIXES;
use crate::squashfs::layout::encode_device;
use crate::squashfs::layout::inode;
use crate::tree::Kind;
use crate::tree::Xattr;
use crate::write::nodes::Body;
use crate::write::nodes::Node;
use crate::write::nodes::NodeId;
use crate::write::nodes::Nodes;
use crate::write::nodes::ROOT;

/// What the tree became.
pub(super) struct Tree {
    /// The inode table.
    pub inodes: Vec<u8>,
    /// The directory table.
    pub directories: Vec<u8>,
    /// Entries of the id table.
    pub ids: Vec<u8>,
    /// Entries of the export table.
    pub references: Vec<u8>,
    pub xattrs: Option<Xattrs>,
    pub xattrs_left_out: u64,
    /// Reference of the root.
    pub root: u64,
    /// Number of inodes.
    pub count: u32,
}

/// A directory's listing in the directory table.
#[derive(Clone, Debug, Default)]
struct Listing {
    start: u32,
    offset: u16,
    size: u32,
    /// Entries of its index: offset in the listing, metadata block, first name.
    index: Vec<(u32, u32, Box<[u8]>)>,
}

/// Where an inode is: its metadata block, offset, number.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    block: u32,
    offset: u16,
    number: u32,
}

/// Owners, each once, by when they came first.
#[derive(Default)]
struct Ids {
    numbers: HashMap<u32, u16>,
    table: Vec<u8>,
}

impl Ids {
    fn number(&mut self, id: u32) -> Result<u16> {
        if let Some(&number) = self.numbers.get(&id) {
            return Ok(number);
        }
        let number = u16::try_from(self.numbers.len()).ok().filter(|&number| number < u16::MAX);
        let number =
            number.ok_or_else(|| Error::BadSetting("squashfs has room for 65,535 different owners".to_owned()))?;
        self.numbers.insert(id, number);
        self.table.extend_from_slice(&id.to_le_bytes());
        Ok(number)
    }
}

/// Lays a tree out.
pub(super) fn lay_out(nodes: &Nodes<FileId>, done: &Done, encoder: &mut Encoder) -> Result<Tree> {
    let order = nodes.order();
    let count = u32::try_from(order.len()).map_err(|_| Error::BadSetting("too many files for squashfs".to_owned()))?;
    let mut places = HashMap::with_capacity(order.len());
    let mut parents: HashMap<NodeId, NodeId> = HashMap::new();
    for (at, &id) in order.iter().enumerate() {
        places.insert(id, Place { number: at as u32 + 1, ..Place::default() });
        if let Body::Directory(children) = &nodes.get(id).body {
            parents.extend(children.values().map(|&child| (child, id)));
        }
    }
    let (xattrs, sets, xattrs_left_out) = write_xattrs(nodes.xattr_sets(), encoder)?;
    // Two tables grow side by side, and one encoder packs both.
    let (mut inodes, mut listings) = (TableWriter::default(), TableWriter::default());
    let mut ids = Ids::default();
    let mut references = Vec::with_capacity(order.len() * 8);
    let mut root = 0;
    for &id in &order {
        let node = nodes.get(id);
        let listing = match &node.body {
            Body::Directory(children) => write_listing(nodes, children, &places, &mut listings, encoder)?,
            _ => Listing::default(),
        };
        let parent = match parents.get(&id) {
            Some(parent) => places.get(parent).map_or(0, |place| place.number),
            // As mksquashfs: a number that no inode has.
            None => count + 1,
        };
        let (block, offset) = inodes.position();
        let place = places.entry(id).or_default();
        place.block = u32::try_from(block).map_err(|_| Error::BadSetting("the inode table is too large".to_owned()))?;
        place.offset = offset;
        let reference = block << 16 | u64::from(offset);
        references.extend_from_slice(&reference.to_le_bytes());
        if id == ROOT {
            root = reference;
        }
        let number = place.number;
        let xattrs = sets.get(node.xattrs as usize).copied().unwrap_or(NONE);
        let stored = match &node.body {
            Body::File(file) => done.files.get(*file),
            _ => None,
        };
        let subdirectories = match &node.body {
            Body::Directory(children) => {
                children.values().filter(|&&child| nodes.get(child).body.kind() == Kind::Directory).count() as u32
            }
            _ => 0,
        };
        let (uid, gid) = (ids.number(node.uid)?, ids.number(node.gid)?);
        let bytes =
            write_inode(&Inode { node, number, parent, uid, gid, xattrs, subdirectories, listing: &listing, stored })?;
        inodes.write(&bytes, encoder)?;
    }
    Ok(Tree {
        inodes: inodes.finish(encoder)?,
        directories: listings.finish(encoder)?,
        ids: ids.table,
        references,
        xattrs,
        xattrs_left_out,
        root,
        count,
    })
}

/// Writes the listing of a directory.
fn write_listing(
    nodes: &Nodes<FileId>,
    children: &BTreeMap<Box<[u8]>, NodeId>,
    places: &HashMap<NodeId, Place>,
    table: &mut TableWriter,
    encoder: &mut Encoder,
) -> Result<Listing> {
    let (start, offset) = table.position();
    let mut listing = Listing {
        start: u32::try_from(start).map_err(|_| Error::BadSetting("the directory table is too large".to_owned()))?,
        offset,
        ..Listing::default()
    };
    let children: Vec<_> =
        children.iter().map(|(name, id)| (name, *id, places.get(id).copied().unwrap_or_default())).collect();
    let mut rest = children.as_slice();
    let mut last_block = start;
    while let Some((first_name, _, first)) = rest.first() {
        let fits = |place: &Place| {
            place.block == first.block && i16::try_from(i64::from(place.number) - i64::from(first.number)).is_ok()
        };
        let run = rest.iter().take(HEADER_ENTRIES as usize).take_while(|(_, _, place)| fits(place)).count();
        let (entries, later) = rest.split_at(run);
        rest = later;
        let (block, _) = table.position();
        if block != last_block && listing.index.len() < usize::from(u16::MAX) {
            last_block = block;
            listing.index.push((listing.size, block as u32, (*first_name).clone()));
        }
        let mut bytes = Vec::new();
        for value in [run as u32 - 1, first.block, first.number] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        for (name, id, place) in entries {
            let kind = basic_type(nodes.get(*id).body.kind());
            let delta = place.number.wrapping_sub(first.number) as u16;
            for value in [place.offset, delta, kind, name.len() as u16 - 1] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            bytes.extend_from_slice(name);
        }
        table.write(&bytes, encoder)?;
        let size = u32::try_from(bytes.len()).ok().and_then(|bytes| listing.size.checked_add(bytes));
        let size = size.filter(|&size| size < u32::MAX - DIRECTORY_EXTRA);
        listing.size = size.ok_or_else(|| Error::CannotWrite {
            path: printable(first_name),
            reason: "its directory has too many names".to_owned(),
        })?;
    }
    Ok(listing)
}

fn basic_type(kind: Kind) -> u16 {
    match kind {
        Kind::Directory => inode::DIRECTORY,
        Kind::File => inode::FILE,
        Kind::Symlink => inode::SYMLINK,
        Kind::BlockDevice => inode::BLOCK_DEVICE,
        Kind::CharDevice => inode::CHAR_DEVICE,
        Kind::Fifo => inode::FIFO,
        Kind::Socket => inode::SOCKET,
    }
}

/// What goes into an inode.
struct Inode<'a> {
    node: &'a Node<FileId>,
    number: u32,
    /// Number of the directory above.
    parent: u32,
    uid: u16,
    gid: u16,
    xattrs: u32,
    /// Directories that it holds.
    subdirectories: u32,
    listing: &'a Listing,
    stored: Option<&'a Stored>,
}

/// The bytes of an inode: of the basic type where that has room for all.
fn write_inode(it: &Inode<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    let node = it.node;
    let has_xattrs = it.xattrs != NONE;
    let head = |bytes: &mut Vec<u8>, kind: u16| {
        for value in [kind, node.mode as u16, it.uid, it.gid] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        // Times before 1970 and after 2106 are not known to squashfs.
        let mtime = node.mtime.0.clamp(0, i64::from(u32::MAX)) as u32;
        for value in [mtime, it.number] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    };
    let extend_if = |kind: u16, extended: bool| if extended { kind + inode::EXTENDED } else { kind };
    let basic = basic_type(node.body.kind());
    match &node.body {
        Body::Directory(_) => {
            let listing = it.listing;
            // The kernel counts a directory's names in its parent, in itself, and in its subdirectories.
            let links = 2 + it.subdirectories;
            let size = listing.size + DIRECTORY_EXTRA;
            match u16::try_from(size) {
                Ok(size) if !has_xattrs && listing.index.is_empty() => {
                    head(&mut bytes, basic);
                    push32(&mut bytes, &[listing.start, links]);
                    push16(&mut bytes, &[size, listing.offset]);
                    push32(&mut bytes, &[it.parent]);
                }
                _ => {
                    head(&mut bytes, basic + inode::EXTENDED);
                    push32(&mut bytes, &[links, size, listing.start, it.parent]);
                    push16(&mut bytes, &[listing.index.len() as u16, listing.offset]);
                    push32(&mut bytes, &[it.xattrs]);
                    for (at, block, name) in &listing.index {
                        push32(&mut bytes, &[*at, *block, name.len() as u32 - 1]);
                        bytes.extend_from_slice(name);
                    }
                }
            }
        }
        Body::File(_) => {
            let stored = it.stored.ok_or_else(|| Error::BadSetting("a file without contents".to_owned()))?;
            let (fragment, offset) = stored.fragment.unwrap_or((NONE, 0));
            match (u32::try_from(stored.start), u32::try_from(stored.size)) {
                (Ok(start), Ok(size)) if node.links == 1 && !has_xattrs && stored.sparse == 0 => {
                    head(&mut bytes, basic);
                    push32(&mut bytes, &[start, fragment, offset, size]);
                }
                _ => {
                    head(&mut bytes, basic + inode::EXTENDED);
                    for value in [stored.start, stored.size, stored.sparse] {
                        bytes.extend_from_slice(&value.to_le_bytes());
                    }
                    push32(&mut bytes, &[node.links, fragment, offset, it.xattrs]);
                }
            }
            push32(&mut bytes, &stored.blocks);
        }
        Body::Symlink(target) => {
            head(&mut bytes, extend_if(basic, has_xattrs));
            push32(&mut bytes, &[node.links, target.len() as u32]);
            bytes.extend_from_slice(target);
        }
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            head(&mut bytes, extend_if(basic, has_xattrs));
            push32(&mut bytes, &[node.links, encode_device((*major, *minor))]);
        }
        Body::Fifo | Body::Socket => {
            head(&mut bytes, extend_if(basic, has_xattrs));
            push32(&mut bytes, &[node.links]);
        }
    }
    if has_xattrs && !matches!(node.body, Body::Directory(_) | Body::File(_)) {
        push32(&mut bytes, &[it.xattrs]);
    }
    Ok(bytes)
}

fn push16(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn push32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Writes the sets of xattrs. Gives, for each set, its number in the image, and how many xattrs the format has no name for.
fn write_xattrs(sets: &[Vec<Xattr>], encoder: &mut Encoder) -> Result<(Option<Xattrs>, Vec<u32>, u64)> {
    let mut pairs = TableWriter::default();
    let (mut ids, mut numbers) = (Vec::new(), Vec::new());
    let (mut count, mut left_out) = (0, 0);
    for set in sets {
        let (block, offset) = pairs.position();
        let mut bytes = Vec::new();
        let mut known = 0u32;
        for (name, value) in set {
            let prefix =
                XATTR_PREFIXES.iter().enumerate().find_map(|(kind, prefix)| Some((kind, name.strip_prefix(*prefix)?)));
            let Some((kind, rest)) = prefix else {
                left_out += 1;
                continue;
            };
            push16(&mut bytes, &[kind as u16, rest.len() as u16]);
            bytes.extend_from_slice(rest);
            push32(&mut bytes, &[value.len() as u32]);
            bytes.extend_from_slice(value);
            known += 1;
        }
        if known == 0 {
            numbers.push(NONE);
            continue;
        }
        numbers.push(count);
        count += 1;
        pairs.write(&bytes, encoder)?;
        ids.extend_from_slice(&(block << 16 | u64::from(offset)).to_le_bytes());
        push32(&mut ids, &[known, bytes.len() as u32]);
    }
    let xattrs = if count > 0 { Some(Xattrs { pairs: pairs.finish(encoder)?, ids, count }) } else { None };
    Ok((xattrs, numbers, left_out))
}
