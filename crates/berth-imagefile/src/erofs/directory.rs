//! Listings of directories: blocks of entries, sorted by name over all of them.

use super::layout::DIRENT;
use super::layout::KINDS;
use super::read::Erofs;
use super::read::Inode;
use super::read::u16_at;
use super::read::u64_at;
use crate::error::Error;
use crate::error::Result;
use crate::tree::DirEntry;
use crate::tree::Kind;

/// Longest name.
const LONGEST_NAME: usize = 255;
/// Bits of an offset that number the entry in its block.
const IN_BLOCK: u32 = 16;

/// A block of a listing.
struct Page {
    bytes: Vec<u8>,
    entries: usize,
}

/// What an entry says.
struct Entry<'a> {
    name: &'a [u8],
    node: u64,
    kind: Kind,
}

impl Erofs {
    fn directory(&self, node: u64) -> Result<Inode> {
        let inode = self.inode(node)?;
        match inode.attributes.kind {
            Kind::Directory => Ok(inode),
            _ => Err(Error::NotADirectory),
        }
    }

    fn pages(&self, directory: &Inode) -> u64 {
        directory.attributes.size.div_ceil(self.block_size())
    }

    fn page(&self, directory: &Inode, number: u64) -> Result<Page> {
        let offset = number * self.block_size();
        let length = directory.attributes.size.saturating_sub(offset).min(self.block_size());
        let mut bytes = vec![0; length as usize];
        self.contents(directory, offset, &mut bytes)?;
        // Where the first name begins is where the entries end.
        let names = if bytes.len() < DIRENT { 0 } else { usize::from(u16_at(&bytes, 8)) };
        if names < DIRENT || names > bytes.len() || !names.is_multiple_of(DIRENT) {
            return Err(self.bad_directory(directory, "a block without entries"));
        }
        Ok(Page { bytes, entries: names / DIRENT })
    }

    fn entry<'a>(&self, directory: &Inode, page: &'a Page, number: usize) -> Result<Entry<'a>> {
        let fault = |reason| self.bad_directory(directory, reason);
        let at = number * DIRENT;
        let begin = usize::from(u16_at(&page.bytes, at + 8));
        let last = number + 1 == page.entries;
        let end = if last { page.bytes.len() } else { usize::from(u16_at(&page.bytes, at + DIRENT + 8)) };
        let mut name = page.bytes.get(begin..end).ok_or_else(|| fault("a name outside its block"))?;
        if last {
            name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        }
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains(&b'/') || name.contains(&0) {
            return Err(fault("a name that no file can have"));
        }
        let kind = usize::from(page.bytes[at + 10]).checked_sub(1).and_then(|kind| KINDS.get(kind));
        let kind = *kind.ok_or_else(|| fault("an entry of unknown type"))?;
        Ok(Entry { name, node: u64_at(&page.bytes, at), kind })
    }

    pub(super) fn list(&self, node: u64, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        let directory = self.directory(node)?;
        let (first, mut from) = (offset >> IN_BLOCK, (offset & ((1 << IN_BLOCK) - 1)) as usize);
        for number in first..self.pages(&directory) {
            let page = self.page(&directory, number)?;
            for index in from..page.entries {
                let entry = self.entry(&directory, &page, index)?;
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                self.check_child(node, &entry)?;
                let next = number << IN_BLOCK | (index as u64 + 1);
                let entry = DirEntry { name: entry.name, node: entry.node, inode: entry.node, kind: entry.kind, next };
                if !each(entry) {
                    return Ok(());
                }
            }
            from = 0;
        }
        Ok(())
    }

    pub(super) fn find(&self, node: u64, name: &[u8]) -> Result<Option<u64>> {
        let directory = self.directory(node)?;
        if name == b"." || name == b".." {
            return Ok(None);
        }
        match self.search(&directory, name)? {
            Some((child, kind)) => {
                self.check_child(node, &Entry { name, node: child, kind })?;
                // A directory that is listed as something else was not looked at.
                if self.inode(child)?.attributes.kind != kind {
                    return Err(self.bad_directory(&directory, "an entry of the wrong type"));
                }
                Ok(Some(child))
            }
            None => Ok(None),
        }
    }

    /// Finds a name by halving: first the block, then the entry in it.
    fn search(&self, directory: &Inode, name: &[u8]) -> Result<Option<(u64, Kind)>> {
        let (mut low, mut high) = (0, self.pages(directory));
        let mut candidate = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let page = self.page(directory, middle)?;
            let first = self.entry(directory, &page, 0)?;
            if first.name <= name {
                low = middle + 1;
                candidate = Some(page);
            } else {
                high = middle;
            }
        }
        let Some(page) = candidate else { return Ok(None) };
        let (mut low, mut high) = (0, page.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(directory, &page, middle)?;
            match entry.name.cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Some((entry.node, entry.kind))),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Each directory says which one it lies in, so it can lie in no other: there are no loops.
    fn check_child(&self, directory: u64, entry: &Entry<'_>) -> Result<()> {
        if entry.kind == Kind::Directory && (entry.node == self.root_node() || self.parent_of(entry.node)? != directory)
        {
            let name = crate::error::printable(entry.name);
            return Err(self.file.damaged(format!("the directory `{name}` lies in another one, perhaps in itself")));
        }
        Ok(())
    }

    /// What a directory says of where it lies.
    pub(super) fn parent_of(&self, node: u64) -> Result<u64> {
        let directory = self.directory(node)?;
        let parent = self.search(&directory, b"..")?;
        Ok(parent.ok_or_else(|| self.bad_directory(&directory, "it has no parent"))?.0)
    }

    fn root_node(&self) -> u64 {
        crate::tree::Tree::root(self)
    }

    fn bad_directory(&self, directory: &Inode, reason: &str) -> Error {
        self.file.damaged(format!("directory {}: {reason}", directory.attributes.inode))
    }
}
