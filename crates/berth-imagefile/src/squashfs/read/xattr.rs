//! Extended attributes.

use super::Squashfs;
use super::metadata::Cursor;
use super::metadata::Position;
use crate::error::Result;
use crate::squashfs::layout::XATTR_ELSEWHERE;
use crate::squashfs::layout::XATTR_ENTRY;
use crate::squashfs::layout::XATTR_PREFIXES;
use crate::tree::Xattr;

/// Longest value, and longest list of all names of a node, as Linux has them.
const LONGEST: usize = 65_536;
/// Longest name, as Linux has it, with its prefix.
const LONGEST_NAME: usize = 255;

/// Where xattrs are.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrTable {
    /// Names and values.
    pairs: u64,
    /// The lookup table of the id table.
    lookup: u64,
    ids: u32,
}

impl Squashfs {
    pub(super) fn read_xattr_table(&self, place: u64) -> Result<Option<XattrTable>> {
        let mut header = [0; 16];
        if place.checked_add(16).is_none_or(|end| end > self.bytes_used) {
            return Err(self.file.damaged("its xattrs lie outside the image"));
        }
        self.file.read_exact(&mut header, place)?;
        let (pairs, rest) = header.split_at(8);
        let pairs = u64::from_le_bytes(pairs.try_into().unwrap_or_default());
        let ids = u32::from_le_bytes(rest[..4].try_into().unwrap_or_default());
        if ids == 0 {
            return Ok(None);
        }
        if pairs >= place {
            return Err(self.file.damaged("its xattrs are out of order"));
        }
        Ok(Some(XattrTable { pairs, lookup: place + 16, ids }))
    }

    pub(super) fn read_xattrs(&self, table: &XattrTable, index: u32) -> Result<Vec<Xattr>> {
        let fault = |reason: &str| self.file.damaged(format!("xattrs {index}: {reason}"));
        if index >= table.ids {
            return Err(fault("there is no such set"));
        }
        let position = self.table_position(table.lookup, u64::from(index), XATTR_ENTRY)?;
        let mut cursor = Cursor::new(self, position, self.bytes_used);
        let (reference, count) = (cursor.u64()?, cursor.u32()?);
        let mut cursor = Cursor::new(self, Position::from_reference(table.pairs, reference), self.bytes_used);
        let mut xattrs = Vec::new();
        let (mut names, mut values) = (0, 0);
        for _ in 0..count {
            let kind = cursor.u16()?;
            let length = usize::from(cursor.u16()?);
            let rest = cursor.bytes(length)?;
            let size = cursor.u32()? as usize;
            let value = if kind & XATTR_ELSEWHERE != 0 {
                let reference = cursor.u64()?;
                let elsewhere = Position::from_reference(table.pairs, reference);
                let mut elsewhere = Cursor::new(self, elsewhere, self.bytes_used);
                let size = elsewhere.u32()? as usize;
                self.value(&mut elsewhere, size, &mut values)?
            } else {
                self.value(&mut cursor, size, &mut values)?
            };
            let Some(prefix) = XATTR_PREFIXES.get(usize::from(kind & !XATTR_ELSEWHERE)) else {
                // As the kernel: types that are not known are not shown.
                continue;
            };
            let name = [prefix, rest.as_slice()].concat();
            names += name.len() + 1;
            if name.len() > LONGEST_NAME || names > LONGEST || name.contains(&0) {
                return Err(fault("names that no file can have"));
            }
            xattrs.push((name, value));
        }
        Ok(xattrs)
    }

    fn value(&self, cursor: &mut Cursor<'_>, size: usize, total: &mut usize) -> Result<Vec<u8>> {
        *total += size;
        // Many references can name one long value: what all of them say together is bounded too.
        if size > LONGEST || *total > 64 * LONGEST {
            return Err(self.file.damaged(format!("an xattr of {size} bytes")));
        }
        cursor.bytes(size)
    }
}
