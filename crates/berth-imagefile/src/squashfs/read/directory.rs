//! Listings of directories.
//!
//! A listing is runs of entries, each run below a header that says in which metadata block their inodes begin. Names are
//! sorted. Large directories have an index of some of their headers.

use super::Squashfs;
use super::inode::Body;
use super::inode::Directory;
use super::metadata::Cursor;
use super::metadata::Position;
use crate::error::Error;
use crate::error::Result;
use crate::squashfs::layout::HEADER_ENTRIES;
use crate::squashfs::layout::METADATA;
use crate::squashfs::layout::NAME;
use crate::squashfs::layout::inode;
use crate::tree::DirEntry;
use crate::tree::Kind;

/// Bytes of a header.
const HEADER: u32 = 12;
/// Bytes of an entry before its name.
const ENTRY: u32 = 8;
/// Bits of an offset that say how far behind its header an entry is; a run has less than 2^17 bytes.
const IN_RUN: u32 = 17;

/// Where in a listing to begin: bytes from its start, and where these are.
struct Begin {
    at: u32,
    position: Position,
}

impl Squashfs {
    fn listing(&self, directory: u64) -> Result<Directory> {
        match self.inode(directory)?.body {
            Body::Directory(listing) => Ok(listing),
            _ => Err(Error::NotADirectory),
        }
    }

    pub(super) fn list(&self, directory: u64, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let listing = self.listing(directory)?;
        let (header, in_run) = ((offset >> IN_RUN), (offset & ((1 << IN_RUN) - 1)) as u32);
        let header = u32::try_from(header).unwrap_or(u32::MAX);
        if header >= listing.size {
            return Ok(());
        }
        let mut cursor = Cursor::new(self, listing.listing, self.directories_end);
        cursor.skip(u64::from(header))?;
        let begin = Begin { at: header, position: cursor.position() };
        self.entries(directory, &listing, begin, header.saturating_add(in_run), each)
    }

    pub(super) fn find(&self, directory: u64, name: &[u8]) -> Result<Option<u64>> {
        let listing = self.listing(directory)?;
        if name.is_empty() || name.len() > NAME {
            return Ok(None);
        }
        let begin = self.indexed(&listing, name)?;
        let mut found = None;
        self.entries(directory, &listing, begin, 0, &mut |entry| {
            if entry.name == name {
                found = Some((entry.node, entry.kind));
            }
            // Sorted by the kernel's rule: only the first byte is relied upon.
            found.is_none() && entry.name[0] <= name[0]
        })?;
        let Some((node, kind)) = found else { return Ok(None) };
        // A directory that is listed as something else was not looked at above.
        if self.inode(node)?.attributes.kind != kind {
            return Err(self.file.damaged(format!("directory {directory:#x}: an entry of the wrong type")));
        }
        Ok(Some(node))
    }

    /// The last header of the index whose first name is not behind `name`.
    fn indexed(&self, listing: &Directory, name: &[u8]) -> Result<Begin> {
        let mut begin = Begin { at: 0, position: listing.listing };
        let Some((position, entries)) = listing.index else { return Ok(begin) };
        let mut cursor = Cursor::new(self, position, self.directory_table);
        for _ in 0..entries {
            let (at, start, size) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
            if size as usize >= NAME || at >= listing.size {
                return Err(self.file.damaged("the index of a directory"));
            }
            let first = cursor.bytes(size as usize + 1)?;
            if first.as_slice() > name {
                break;
            }
            let place = self.directory_table.saturating_add(u64::from(start));
            let offset = (listing.listing.offset as u64 + u64::from(at)) % METADATA as u64;
            begin = Begin { at, position: Position { place, offset: offset as usize } };
        }
        Ok(begin)
    }

    /// Gives the entries from a header on, without those before `from`.
    fn entries(
        &self,
        directory: u64,
        listing: &Directory,
        begin: Begin,
        from: u32,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let fault = |reason: &str| self.file.damaged(format!("directory {directory:#x}: {reason}"));
        let mut cursor = Cursor::new(self, begin.position, self.directories_end);
        let mut at = begin.at;
        let mut name = [0; NAME];
        while at < listing.size {
            let header = at;
            let count = cursor.u32()?;
            let start = u64::from(cursor.u32()?);
            let number = cursor.u32()?;
            if count >= HEADER_ENTRIES {
                return Err(fault("too many entries below one header"));
            }
            at += HEADER.min(listing.size - at);
            for _ in 0..=count {
                let offset = u64::from(cursor.u16()?);
                let delta = cursor.u16()? as i16;
                let kind = cursor.u16()?;
                let length = usize::from(cursor.u16()?) + 1;
                if length > NAME {
                    return Err(fault("a name is too long"));
                }
                cursor.read(&mut name[..length])?;
                let bytes = ENTRY + length as u32;
                if listing.size - at < bytes {
                    return Err(fault("an entry runs over the end"));
                }
                let this = at;
                at += bytes;
                if this < from {
                    continue;
                }
                let name = &name[..length];
                if name.contains(&b'/') || name.contains(&0) || name == b"." || name == b".." {
                    return Err(fault("a name that no file can have"));
                }
                let kind = entry_kind(kind).ok_or_else(|| fault("an entry of unknown type"))?;
                let node = start << 16 | offset;
                // Writers know an inode's place before they can list it, so a directory always lies behind those that it
                // holds. What breaks this rule could be a loop.
                if kind == Kind::Directory && node >= directory {
                    return Err(fault("it holds a directory that lies behind it, perhaps itself"));
                }
                let inode = u64::from(number.wrapping_add_signed(i32::from(delta)));
                let next = u64::from(header) << IN_RUN | u64::from(at - header);
                if !each(DirEntry { name, node, inode, kind, next }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn entry_kind(kind: u16) -> Option<Kind> {
    Some(match if kind > inode::EXTENDED { kind - inode::EXTENDED } else { kind } {
        inode::DIRECTORY => Kind::Directory,
        inode::FILE => Kind::File,
        inode::SYMLINK => Kind::Symlink,
        inode::BLOCK_DEVICE => Kind::BlockDevice,
        inode::CHAR_DEVICE => Kind::CharDevice,
        inode::FIFO => Kind::Fifo,
        inode::SOCKET => Kind::Socket,
        _ => return None,
    })
}
