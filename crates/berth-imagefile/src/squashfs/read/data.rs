//! Contents of files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::Squashfs;
use super::inode::FileBody;
use super::inode::block_size_word;
use super::metadata::Cursor;
use super::metadata::Position;
use crate::cache::Block;
use crate::error::Result;
use crate::squashfs::layout::FRAGMENT_ENTRY;

/// Blocks between two checkpoints of a file.
const STRIDE: u64 = 1024;
/// Files whose checkpoints are kept.
const FILES: usize = 64;

/// Where block `STRIDE × index` of a file is. A block's place is the sum of the sizes before it; who reads a large file from
/// its middle should not have to add up all of them each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checkpoint {
    sizes: Position,
    place: u64,
}

/// Goes over the blocks of a file.
struct Blocks<'a> {
    cursor: Cursor<'a>,
    /// Where the next block is.
    place: u64,
}

/// Where a block is.
struct Location {
    place: u64,
    /// Bytes in the image; 0 for a hole.
    stored: u32,
    /// Stored as it is.
    plain: bool,
}

impl Squashfs {
    pub(super) fn read_file(&self, node: u64, file: &FileBody, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = file.size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..length];
        if buffer.is_empty() {
            return Ok(0);
        }
        let block_size = u64::from(self.block_size);
        let first = offset / block_size;
        let mut blocks = if first < file.blocks { Some(self.blocks_from(node, file, first)?) } else { None };
        let mut filled = 0;
        while filled < length {
            let at = offset + filled as u64;
            let (index, within) = (at / block_size, (at % block_size) as usize);
            // Of the whole block, and of what is wanted of it.
            let whole = (file.size - index * block_size).min(block_size) as usize;
            let wanted = (whole - within).min(length - filled);
            let part = &mut buffer[filled..filled + wanted];
            match &mut blocks {
                Some(blocks) if index < file.blocks => {
                    let location = self.next_block(blocks)?;
                    self.read_block(&location, whole, within, part)?;
                }
                _ => self.read_fragment(file, within, part)?,
            }
            filled += wanted;
        }
        Ok(length)
    }

    fn next_block(&self, blocks: &mut Blocks<'_>) -> Result<Location> {
        let word = blocks.cursor.u32()?;
        let (stored, plain) = block_size_word(word)
            .filter(|&(stored, _)| stored <= self.block_size)
            .ok_or_else(|| self.file.damaged(format!("the size of a block, {word:#x}")))?;
        let place = blocks.place;
        blocks.place = place.saturating_add(u64::from(stored));
        Ok(Location { place, stored, plain })
    }

    /// The blocks of a file from number `index` on.
    fn blocks_from(&self, node: u64, file: &FileBody, index: u64) -> Result<Blocks<'_>> {
        let begin = Checkpoint { sizes: file.sizes, place: file.start };
        let blocks_at = |checkpoint: Checkpoint| Blocks {
            cursor: Cursor::new(self, checkpoint.sizes, self.directory_table),
            place: checkpoint.place,
        };
        let mut blocks = blocks_at(begin);
        let mut next = 0;
        if index >= STRIDE {
            let known = self.checkpoints_of(node);
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_empty() {
                known.push(begin);
            }
            let wanted = (index / STRIDE) as usize;
            let nearest = wanted.min(known.len() - 1);
            blocks = blocks_at(known[nearest]);
            next = nearest as u64 * STRIDE;
            while known.len() <= wanted {
                for _ in 0..STRIDE {
                    self.next_block(&mut blocks)?;
                }
                next += STRIDE;
                known.push(Checkpoint { sizes: blocks.cursor.position(), place: blocks.place });
            }
        }
        for _ in next..index {
            self.next_block(&mut blocks)?;
        }
        Ok(blocks)
    }

    fn checkpoints_of(&self, node: u64) -> Arc<Mutex<Vec<Checkpoint>>> {
        let mut files: std::sync::MutexGuard<'_, HashMap<_, _>> =
            self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= FILES && !files.contains_key(&node) {
            files.clear();
        }
        Arc::clone(files.entry(node).or_default())
    }

    /// Part of a block that is `whole` bytes long.
    fn read_block(&self, location: &Location, whole: usize, within: usize, part: &mut [u8]) -> Result<()> {
        if location.stored == 0 {
            part.fill(0);
            return Ok(());
        }
        if location.plain {
            if location.stored as usize != whole {
                return Err(self.wrong_length(location.place, location.stored as usize, whole));
            }
            return self.file.read_exact(part, location.place + within as u64);
        }
        let key = (location.place, location.stored);
        if part.len() == whole && self.data.peek(key).is_none() {
            // All of it is wanted: straight to where it goes. The kernel keeps the pages, so nobody will ask again soon.
            let length = self.decompress(location, part)?;
            return if length == whole { Ok(()) } else { Err(self.wrong_length(location.place, length, whole)) };
        }
        let block = self.block(location)?;
        if block.data.len() != whole {
            return Err(self.wrong_length(location.place, block.data.len(), whole));
        }
        part.copy_from_slice(&block.data[within..within + part.len()]);
        Ok(())
    }

    fn read_fragment(&self, file: &FileBody, within: usize, part: &mut [u8]) -> Result<()> {
        let (index, offset) =
            file.fragment.ok_or_else(|| self.file.damaged("a file has neither blocks nor a fragment"))?;
        if index >= self.fragments {
            return Err(self.file.damaged(format!("fragment {index} of {}", self.fragments)));
        }
        let position = self.table_position(self.fragment_table, u64::from(index), FRAGMENT_ENTRY)?;
        let mut cursor = Cursor::new(self, position, self.bytes_used);
        let place = cursor.u64()?;
        let word = cursor.u32()?;
        let (stored, plain) = block_size_word(word)
            .filter(|&(stored, _)| stored <= self.block_size && stored > 0)
            .ok_or_else(|| self.file.damaged(format!("the size of fragment block {index}, {word:#x}")))?;
        let begin = offset as usize + within;
        let location = Location { place, stored, plain };
        if plain {
            if begin + part.len() > stored as usize {
                return Err(self.file.damaged("a file ends outside its fragment block"));
            }
            return self.file.read_exact(part, place.saturating_add(begin as u64));
        }
        let block = self.block(&location)?;
        let data = block.data.get(begin..begin + part.len());
        part.copy_from_slice(data.ok_or_else(|| self.file.damaged("a file ends outside its fragment block"))?);
        Ok(())
    }

    /// A compressed block, from the cache.
    fn block(&self, location: &Location) -> Result<Arc<Block>> {
        self.data.get((location.place, location.stored), |block| {
            block.data.resize(self.block_size as usize, 0);
            let length = self.decompress(location, &mut block.data)?;
            block.data.truncate(length);
            Ok(())
        })
    }

    fn decompress(&self, location: &Location, output: &mut [u8]) -> Result<usize> {
        self.with_worker(|worker| {
            worker.input.resize(location.stored as usize, 0);
            self.file.read_exact(&mut worker.input, location.place)?;
            let fault = |reason| self.file.damaged(format!("the block at {}: {reason}", location.place));
            worker.decoder.decode(&worker.input, output).map_err(fault)
        })
    }

    fn wrong_length(&self, place: u64, length: usize, expected: usize) -> crate::error::Error {
        self.file.damaged(format!("the block at {place} has {length} bytes instead of {expected}"))
    }
}
