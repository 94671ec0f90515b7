//! Extended attributes: behind the inode, or shared.

use super::layout::PREFIXES;
use super::layout::XATTR_HEADER;
use super::read::Erofs;
use super::read::Inode;
use super::read::u16_at;
use super::read::u32_at;
use crate::error::Result;
use crate::tree::Xattr;

/// Bytes of an entry before its name.
const ENTRY: u64 = 4;
/// Set in a name's number where its beginning is listed elsewhere.
const LONG_PREFIX: u8 = 0x80;

impl Erofs {
    pub(super) fn read_xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let (at, length) = inode.xattrs;
        let mut xattrs = Vec::new();
        if length < XATTR_HEADER as u64 {
            return Ok(xattrs);
        }
        let mut header = [0; XATTR_HEADER];
        self.metadata(at, &mut header)?;
        let shared = u64::from(header[4]);
        let end = at + length;
        let mut place = at + XATTR_HEADER as u64 + 4 * shared;
        if place > end {
            return Err(self.file.damaged("more shared xattrs than there is room for"));
        }
        for index in 0..shared {
            let mut number = [0; 4];
            self.metadata(at + XATTR_HEADER as u64 + 4 * index, &mut number)?;
            let place = self.xattrs_at + 4 * u64::from(u32_at(&number, 0));
            self.xattr(place, u64::MAX, &mut xattrs)?;
        }
        while place + ENTRY <= end {
            place = self.xattr(place, end, &mut xattrs)?;
        }
        Ok(xattrs)
    }

    /// Reads one entry and says where the next one is.
    fn xattr(&self, place: u64, end: u64, xattrs: &mut Vec<Xattr>) -> Result<u64> {
        let mut head = [0; ENTRY as usize];
        self.metadata(place, &mut head)?;
        let (name_length, prefix, size) = (u64::from(head[0]), head[1], u64::from(u16_at(&head, 2)));
        let behind = place + (ENTRY + name_length + size).next_multiple_of(4);
        // Zeros at the end are room that is not used.
        if name_length == 0 && prefix == 0 && size == 0 {
            return Ok(behind);
        }
        if behind > end {
            return Err(self.file.damaged("an xattr runs over the end"));
        }
        let mut name = vec![0; name_length as usize];
        let mut value = vec![0; size as usize];
        self.metadata(place + ENTRY, &mut name)?;
        self.metadata(place + ENTRY + name_length, &mut value)?;
        if prefix & LONG_PREFIX != 0 {
            return Err(self.file.unsupported("names of its xattrs are shortened"));
        }
        // As the kernel: what is not known is not shown.
        if let Some((_, known)) = PREFIXES.iter().find(|(number, _)| *number == prefix)
            && !name.contains(&0)
        {
            xattrs.push(([known, name.as_slice()].concat(), value));
        }
        Ok(behind)
    }
}
