//! The file that is written, and tables in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Options;
use crate::codec::Compression;
use crate::codec::Encoder;
use crate::error::Error;
use crate::error::Result;
use crate::squashfs::layout::METADATA;
use crate::squashfs::layout::METADATA_STORED;

/// Where an image goes, from its begin to its end.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    name: String,
    position: u64,
}

impl Output {
    pub fn new(file: File, name: &str) -> Output {
        Output { file, name: name.to_owned(), position: 0 }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.position).map_err(|source| self.error(source))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Takes the last bytes back.
    pub fn take_back(&mut self, bytes: u64) {
        self.position -= bytes;
    }

    /// Writes a table with its lookup table and says where the latter is. An empty table is only a place.
    pub fn table(&mut self, entries: &[u8], encoder: &mut Encoder) -> Result<u64> {
        let places = self.blocks(entries, encoder)?;
        let lookup = self.position;
        self.write(&places)?;
        Ok(lookup)
    }

    /// Writes the tables of xattrs and says where their header is.
    pub fn xattrs(&mut self, xattrs: &Xattrs, encoder: &mut Encoder) -> Result<u64> {
        let pairs = self.position;
        self.write(&xattrs.pairs)?;
        let places = self.blocks(&xattrs.ids, encoder)?;
        let header = self.position;
        self.write(&pairs.to_le_bytes())?;
        self.write(&xattrs.count.to_le_bytes())?;
        self.write(&[0; 4])?;
        self.write(&places)?;
        Ok(header)
    }

    /// Writes metadata blocks and gives the list of their places.
    fn blocks(&mut self, entries: &[u8], encoder: &mut Encoder) -> Result<Vec<u8>> {
        let mut places = Vec::new();
        for block in entries.chunks(METADATA) {
            places.extend_from_slice(&self.position.to_le_bytes());
            let mut packed = Vec::new();
            pack(block, encoder, &mut Vec::new(), &mut packed)?;
            self.write(&packed)?;
        }
        Ok(places)
    }

    /// Ends the file at `bytes` and puts the super block to its begin.
    pub fn close(&mut self, bytes: u64, head: &[u8]) -> Result<()> {
        // What was taken back may lie behind the end; padding must be zeros.
        self.file.set_len(self.position).map_err(|source| self.error(source))?;
        self.file.set_len(bytes).map_err(|source| self.error(source))?;
        self.file.write_all_at(head, 0).map_err(|source| self.error(source))
    }

    fn error(&self, source: std::io::Error) -> Error {
        Error::Io { action: "write", name: self.name.clone(), source }
    }
}

/// The xattrs of an image.
#[derive(Debug)]
pub(super) struct Xattrs {
    /// Names and values, in metadata blocks.
    pub pairs: Vec<u8>,
    /// The id table.
    pub ids: Vec<u8>,
    pub count: u32,
}

/// A table that is written in pieces, in memory.
#[derive(Debug, Default)]
pub(super) struct TableWriter {
    block: Vec<u8>,
    scratch: Vec<u8>,
    packed: Vec<u8>,
}

impl TableWriter {
    /// Where the next byte goes: begin of the metadata block in the table, offset in it.
    pub fn position(&self) -> (u64, u16) {
        (self.packed.len() as u64, self.block.len() as u16)
    }

    pub fn write(&mut self, mut bytes: &[u8], encoder: &mut Encoder) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            // A full block goes out at once, so that a position always is in a block that will be there.
            if self.block.len() == METADATA {
                self.flush(encoder)?;
            }
        }
        Ok(())
    }

    /// The metadata blocks.
    pub fn finish(mut self, encoder: &mut Encoder) -> Result<Vec<u8>> {
        if !self.block.is_empty() {
            self.flush(encoder)?;
        }
        Ok(self.packed)
    }

    fn flush(&mut self, encoder: &mut Encoder) -> Result<()> {
        pack(&self.block, encoder, &mut self.scratch, &mut self.packed)?;
        self.block.clear();
        Ok(())
    }
}

/// Appends a metadata block.
fn pack(block: &[u8], encoder: &mut Encoder, scratch: &mut Vec<u8>, packed: &mut Vec<u8>) -> Result<()> {
    let shorter = encoder.encode(block, scratch).map_err(Error::BadSetting)?;
    let (stored, flag) = if shorter { (scratch.as_slice(), 0) } else { (block, METADATA_STORED) };
    packed.extend_from_slice(&(stored.len() as u16 | flag).to_le_bytes());
    packed.extend_from_slice(stored);
    Ok(())
}

/// What a reader must know, or a person may want to: empty where it goes without saying.
pub(super) fn compressor_options(options: &Options) -> Vec<u8> {
    let numbers: Vec<u32> = match options.compression {
        Compression::None => Vec::new(),
        // Level, window of 15 bits, default strategy.
        Compression::Gzip(level) if level != 9 => vec![level, 15],
        Compression::Gzip(_) => Vec::new(),
        // The kernel refuses lz4 images without: version, flags.
        Compression::Lz4 => vec![1, 0],
        // Without, the dictionary has the size of a block.
        Compression::Xz(_) => Vec::new(),
        Compression::Zstd(level) => vec![level as u32],
    };
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}
