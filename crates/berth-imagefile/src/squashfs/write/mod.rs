//! The writer.
//!
//! Contents go to the file as they come; the tree stays in memory and follows at the end. Equal blocks of contents are found
//! by the digest of what is stored: a file whose blocks were all stored before is taken back from the end of the image. So
//! the same entries in the same order give the same bytes, on however many threads.

mod contents;
mod pipeline;
mod table;
mod tree;

use std::fs::File;

use super::layout::BLOCK_SIZES;
use super::layout::NO_TABLE;
use super::layout::SUPER_BLOCK;
use super::layout::SuperBlock;
use super::layout::flags;
use crate::codec::Compression;
use crate::codec::Encoder;
use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::write::Content;
use crate::write::Metadata;
use crate::write::Sink;
use crate::write::Summary;
use crate::write::nodes::Body;
use crate::write::nodes::Nodes;
use contents::Contents;
use contents::FileId;
use table::Output;

/// What the image ends on a multiple of, so that it can be looped.
const PADDING: u64 = 4096;

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How it is compressed.
    pub compression: Compression,
    /// Bytes of a block: a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Whether files shorter than a block share blocks.
    pub fragments: bool,
    /// Whether equal contents are stored once.
    pub duplicates: bool,
    /// Whether there is a table for NFS export.
    pub exportable: bool,
    /// Seconds since the epoch that the image says it was made at.
    pub made: u32,
    /// Threads that compress.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            compression: Compression::Zstd(3),
            block_size: 128 << 10,
            fragments: true,
            duplicates: true,
            exportable: true,
            made: 0,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Writes a squashfs image into a file.
#[derive(Debug)]
pub struct SquashfsWriter {
    options: Options,
    nodes: Nodes<FileId>,
    contents: Contents,
}

impl SquashfsWriter {
    /// Begins an image in an empty file that is open for writing. `name` is for messages. Until [`SquashfsWriter::finish`]
    /// the file is no image; whoever made it removes it if that is never reached.
    pub fn create(file: File, name: &str, options: Options) -> Result<SquashfsWriter> {
        if !options.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&options.block_size) {
            return Err(Error::BadSetting(format!(
                "squashfs has blocks of 4096, 8192, … 1048576 bytes, not of {}",
                options.block_size
            )));
        }
        let mut output = Output::new(file, name);
        output.write(&[0; SUPER_BLOCK])?;
        let compressor_options = table::compressor_options(&options);
        if !compressor_options.is_empty() {
            // A metadata block that is always stored as it is.
            output.write(&(compressor_options.len() as u16 | super::layout::METADATA_STORED).to_le_bytes())?;
            output.write(&compressor_options)?;
        }
        Ok(SquashfsWriter { options, nodes: Nodes::new(), contents: Contents::new(output, options)? })
    }

    /// Writes what was kept, and the super block. The data is in the file then, not yet safe on the disk.
    pub fn finish(self) -> Result<Summary> {
        let SquashfsWriter { options, nodes, contents } = self;
        let mut done = contents.finish()?;
        let mut encoder = Encoder::new(options.compression, options.block_size)?;
        let tree = tree::lay_out(&nodes, &done, &mut encoder)?;
        let output = &mut done.output;
        let inode_table = output.position();
        output.write(&tree.inodes)?;
        let directory_table = output.position();
        output.write(&tree.directories)?;
        let fragment_table = output.table(&done.fragments, &mut encoder)?;
        let export_table = if options.exportable { output.table(&tree.references, &mut encoder)? } else { NO_TABLE };
        let id_table = output.table(&tree.ids, &mut encoder)?;
        let xattr_table = match &tree.xattrs {
            Some(xattrs) => output.xattrs(xattrs, &mut encoder)?,
            None => NO_TABLE,
        };
        let bytes_used = output.position();
        let mut set = 0;
        for (condition, flag) in [
            (options.compression == Compression::None, flags::STORED_INODES | flags::STORED_DATA | flags::STORED_IDS),
            (options.compression == Compression::None, flags::STORED_FRAGMENTS | flags::STORED_XATTRS),
            (!options.fragments, flags::NO_FRAGMENTS),
            (options.duplicates, flags::DUPLICATES),
            (options.exportable, flags::EXPORTABLE),
            (tree.xattrs.is_none(), flags::NO_XATTRS),
            (!table::compressor_options(&options).is_empty(), flags::COMPRESSOR_OPTIONS),
        ] {
            if condition {
                set |= flag;
            }
        }
        let head = SuperBlock {
            inodes: tree.count,
            made: options.made,
            block_size: options.block_size,
            fragments: (done.fragments.len() / super::layout::FRAGMENT_ENTRY) as u32,
            compressor: options.compression.compressor() as u16,
            flags: set,
            ids: (tree.ids.len() / 4) as u16,
            root: tree.root,
            bytes_used,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        let bytes = bytes_used.next_multiple_of(PADDING);
        output.close(bytes, &head.to_bytes())?;
        Ok(Summary { bytes, nodes: u64::from(tree.count), contents: done.bytes, xattrs_left_out: tree.xattrs_left_out })
    }
}

impl Sink for SquashfsWriter {
    fn add(&mut self, path: &[u8], metadata: &Metadata, content: Content<'_>) -> Result<()> {
        let body = match content {
            Content::HardLink(target) => return self.nodes.link(path, target),
            Content::Directory => Body::Directory(Default::default()),
            Content::File { size, data } => {
                let file = self.contents.store(size, data).map_err(|error| match error {
                    Error::Io { action: "read", source, .. } => {
                        Error::Io { action: "read", name: printable(path), source }
                    }
                    error => error,
                })?;
                Body::File(file)
            }
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
