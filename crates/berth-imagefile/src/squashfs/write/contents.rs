//! Contents of files: blocks, shared fragment blocks, and what was stored before.

use std::collections::HashMap;
use std::io::Read;

use sha2::Digest as _;
use sha2::Sha256;

use super::Options;
use super::pipeline::Packed;
use super::pipeline::Pipeline;
use super::table::Output;
use crate::error::Error;
use crate::error::Result;
use crate::squashfs::layout::BLOCK_STORED;

/// Number of a file's contents.
pub(super) type FileId = usize;

/// Where a file's contents are.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub size: u64,
    /// Place of the first block.
    pub start: u64,
    /// The size of each block as the inode has it; 0 is a hole.
    pub blocks: Vec<u32>,
    /// Fragment block and offset in it.
    pub fragment: Option<(u32, u32)>,
    /// Bytes in holes.
    pub sparse: u64,
}

/// What comes out of the pipeline.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Block(FileId),
    Hole(FileId),
    End(FileId),
    Fragment,
}

/// Takes contents and stores them.
#[derive(Debug)]
pub(super) struct Contents {
    options: Options,
    output: Output,
    pipeline: Pipeline<Mark>,
    files: Vec<Stored>,
    /// A digest of the blocks of the file that is being written.
    run: Sha256,
    /// First blocks of files, by the digest of their blocks.
    runs: HashMap<[u8; 32], u64>,
    /// Short files in fragment blocks, by digest.
    tails: HashMap<[u8; 32], (u32, u32)>,
    /// The fragment block that is being filled, and its number.
    fragment: Packed,
    fragment_number: u32,
    /// The fragment table so far.
    fragments: Vec<u8>,
    bytes: u64,
}

/// What [`Contents`] leaves.
pub(super) struct Done {
    pub output: Output,
    pub files: Vec<Stored>,
    /// The fragment table.
    pub fragments: Vec<u8>,
    /// Bytes of all contents.
    pub bytes: u64,
}

impl Contents {
    pub fn new(output: Output, options: Options) -> Result<Contents> {
        Ok(Contents {
            options,
            output,
            pipeline: Pipeline::start(options.compression, options.block_size, options.threads)?,
            files: Vec::new(),
            run: Sha256::new(),
            runs: HashMap::new(),
            tails: HashMap::new(),
            fragment: Packed::default(),
            fragment_number: 0,
            fragments: Vec::new(),
            bytes: 0,
        })
    }

    /// Stores a file of `size` bytes.
    pub fn store(&mut self, size: u64, data: &mut dyn Read) -> Result<FileId> {
        let id = self.files.len();
        self.files.push(Stored { size, ..Stored::default() });
        self.bytes += size;
        let block_size = u64::from(self.options.block_size);
        if self.options.fragments && size < block_size {
            self.store_tail(id, size, data)?;
            return Ok(id);
        }
        let mut left = size;
        while left > 0 {
            let take = left.min(block_size);
            let mut packed = self.pipeline.buffer();
            fill(&mut packed.input, take, data)?;
            left -= take;
            if is_zero(&packed.input) {
                self.files[id].sparse += take;
                self.pipeline.recycle(packed);
                self.pipeline.mark(Mark::Hole(id));
            } else {
                self.pipeline.send(Mark::Block(id), packed)?;
            }
            self.make_room()?;
        }
        if size > 0 {
            self.pipeline.mark(Mark::End(id));
        }
        Ok(id)
    }

    /// A file shorter than a block, into the fragment block.
    fn store_tail(&mut self, id: FileId, size: u64, data: &mut dyn Read) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.fragment.input.len() as u64 + size > u64::from(self.options.block_size) {
            self.send_fragment()?;
        }
        let offset = self.fragment.input.len();
        fill(&mut self.fragment.input, size, data)?;
        let here = (self.fragment_number, offset as u32);
        let mut place = here;
        if self.options.duplicates {
            let digest = Sha256::digest(&self.fragment.input[offset..]).into();
            place = *self.tails.entry(digest).or_insert(here);
            if place != here {
                self.fragment.input.truncate(offset);
            }
        }
        self.files[id].fragment = Some(place);
        Ok(())
    }

    fn send_fragment(&mut self) -> Result<()> {
        if self.fragment.input.is_empty() {
            return Ok(());
        }
        let next = self.pipeline.buffer();
        let full = std::mem::replace(&mut self.fragment, next);
        self.pipeline.send(Mark::Fragment, full)?;
        self.fragment_number += 1;
        self.make_room()
    }

    fn make_room(&mut self) -> Result<()> {
        while self.pipeline.is_full() {
            self.write_next()?;
        }
        Ok(())
    }

    /// Writes what comes out of the pipeline next; `false` when nothing does.
    fn write_next(&mut self) -> Result<bool> {
        let Some((mark, packed)) = self.pipeline.take()? else { return Ok(false) };
        match mark {
            Mark::Hole(id) => self.add_block(id, 0, &[]),
            Mark::End(id) => self.end(id),
            Mark::Block(id) => {
                if let Some(packed) = &packed {
                    let word = word(packed);
                    let place = self.output.position();
                    self.output.write(packed.stored())?;
                    if self.files[id].blocks.iter().all(|&word| word == 0) {
                        self.files[id].start = place;
                    }
                    self.add_block(id, word, &packed.digest);
                }
            }
            Mark::Fragment => {
                if let Some(packed) = &packed {
                    self.fragments.extend_from_slice(&self.output.position().to_le_bytes());
                    self.fragments.extend_from_slice(&word(packed).to_le_bytes());
                    self.fragments.extend_from_slice(&[0; 4]);
                    self.output.write(packed.stored())?;
                }
            }
        }
        if let Some(packed) = packed {
            self.pipeline.recycle(packed);
        }
        Ok(true)
    }

    fn add_block(&mut self, id: FileId, word: u32, digest: &[u8]) {
        if self.files[id].blocks.is_empty() {
            self.run = Sha256::new();
        }
        self.files[id].blocks.push(word);
        self.run.update(word.to_le_bytes());
        self.run.update(digest);
    }

    /// All blocks of a file are written; nothing was written since. If all were there before, they are taken back.
    fn end(&mut self, id: FileId) {
        let file = &mut self.files[id];
        file.blocks.shrink_to_fit();
        if !self.options.duplicates || file.blocks.iter().all(|&word| word == 0) {
            return;
        }
        let digest = std::mem::take(&mut self.run).finalize().into();
        let start = *self.runs.entry(digest).or_insert(file.start);
        if start != file.start {
            let stored: u64 = file.blocks.iter().map(|&word| u64::from(word & (BLOCK_STORED - 1))).sum();
            file.start = start;
            self.output.take_back(stored);
        }
    }

    /// Writes all that is under way.
    pub fn finish(mut self) -> Result<Done> {
        self.send_fragment()?;
        while self.write_next()? {}
        let Contents { output, files, fragments, bytes, .. } = self;
        Ok(Done { output, files, fragments, bytes })
    }
}

/// The size of a block as inodes and the fragment table have it.
fn word(packed: &Packed) -> u32 {
    packed.stored().len() as u32 | if packed.shorter { 0 } else { BLOCK_STORED }
}

fn is_zero(block: &[u8]) -> bool {
    let (chunks, rest) = block.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}

/// Appends exactly so many bytes.
fn fill(buffer: &mut Vec<u8>, bytes: u64, data: &mut dyn Read) -> Result<()> {
    let read = data.take(bytes).read_to_end(buffer);
    let read = read.map_err(|source| Error::Io { action: "read", name: String::new(), source })?;
    if read as u64 != bytes {
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        return Err(Error::Io { action: "read", name: String::new(), source });
    }
    Ok(())
}
