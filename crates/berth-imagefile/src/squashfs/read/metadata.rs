//! Reading tables: streams in metadata blocks.

use std::sync::Arc;

use super::Squashfs;
use crate::cache::Block;
use crate::error::Result;
use crate::squashfs::layout::METADATA;
use crate::squashfs::layout::METADATA_STORED;

/// A place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Where the metadata block begins in the image.
    pub place: u64,
    /// Offset in it, once decompressed.
    pub offset: usize,
}

impl Position {
    /// The position that a reference in the image means, in a table that begins at `table`.
    pub fn from_reference(table: u64, reference: u64) -> Position {
        Position { place: table.saturating_add(reference >> 16), offset: (reference & 0xffff) as usize }
    }
}

/// Reads a table from some position on. It only ever goes forward, and not beyond `end`.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    image: &'a Squashfs,
    block: Option<Arc<Block>>,
    position: Position,
    end: u64,
}

impl<'a> Cursor<'a> {
    pub fn new(image: &'a Squashfs, position: Position, end: u64) -> Cursor<'a> {
        Cursor { image, block: None, position, end }
    }

    /// Where the next byte comes from.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The rest of the current block, never empty.
    fn rest(&mut self) -> Result<&[u8]> {
        loop {
            let block = match self.block.take() {
                Some(block) => block,
                None => self.image.metadata_block(self.position.place, self.end)?,
            };
            if self.position.offset < block.data.len() {
                let offset = self.position.offset;
                return Ok(&self.block.insert(block).data[offset..]);
            }
            if self.position.offset > block.data.len() {
                return Err(self.image.file.damaged("a reference leads behind the end of a metadata block"));
            }
            // A block that is not full is the last of its table: what comes behind is none of ours.
            if block.data.len() < METADATA {
                return Err(self.image.file.damaged("a table ends too early"));
            }
            self.position = Position { place: block.next, offset: 0 };
        }
    }

    /// Fills `buffer`.
    pub fn read(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let rest = self.rest()?;
            let take = rest.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(take);
            now.copy_from_slice(&rest[..take]);
            buffer = later;
            self.position.offset += take;
        }
        Ok(())
    }

    /// Goes over so many bytes.
    pub fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let rest = self.rest()?.len() as u64;
            let take = rest.min(bytes);
            self.position.offset += take as usize;
            bytes -= take;
        }
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// So many bytes; the caller has bounded them.
    pub fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }
}

impl Squashfs {
    /// The metadata block at a place, of a table that ends before `end`.
    fn metadata_block(&self, place: u64, end: u64) -> Result<Arc<Block>> {
        let block = self.metadata.get((place, 0), |block| {
            if place.checked_add(2).is_none_or(|header| header > self.bytes_used) {
                return Err(self.file.damaged("a metadata block lies outside the image"));
            }
            // Header and contents in one read: most blocks are shorter, but reading is dearer than copying.
            let ready = (2 + METADATA as u64).min(self.bytes_used - place) as usize;
            self.with_worker(|worker| {
                worker.input.resize(ready, 0);
                self.file.read_exact(&mut worker.input, place)?;
                let header = u16::from_le_bytes([worker.input[0], worker.input[1]]);
                let size = usize::from(header & !METADATA_STORED);
                if size == 0 || size > ready - 2 {
                    return Err(self.file.damaged(format!("a metadata block of {size} bytes at {place}")));
                }
                let input = &worker.input[2..2 + size];
                if header & METADATA_STORED != 0 {
                    block.data.extend_from_slice(input);
                } else {
                    block.data.resize(METADATA, 0);
                    let length = worker
                        .decoder
                        .decode(input, &mut block.data)
                        .map_err(|reason| self.file.damaged(format!("a metadata block at {place}: {reason}")))?;
                    block.data.truncate(length);
                }
                block.next = place + 2 + size as u64;
                Ok(())
            })
        })?;
        if block.next > end {
            return Err(self.file.damaged(format!("a table runs into the next one at {place}")));
        }
        Ok(block)
    }
}
