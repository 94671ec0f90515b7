//! Decompression of layers, with bounds on what a small blob may grow to.

use std::io::{self, BufRead, Read};

use crate::manifest::Compression;

/// Bounds on the uncompressed stream of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes of the uncompressed stream.
    pub bytes: u64,
    /// Most bytes out of one byte in, once the stream is over [`Bounds::ratio_from`]. Real layers stay below 30; gzip
    /// cannot exceed 1032, zstd has no limit.
    pub ratio: u64,
    /// The size from which the ratio counts, in bytes.
    pub ratio_from: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { bytes: 512 << 30, ratio: 250, ratio_from: 1 << 30 }
    }
}

impl Bounds {
    /// What is wrong with `output` bytes made of `input` bytes, if anything.
    pub fn check(&self, input: u64, output: u64) -> Option<String> {
        if output > self.bytes {
            return Some(format!("it unpacks to more than {} GiB", self.bytes >> 30));
        }
        if output > self.ratio_from && output / input.max(1) > self.ratio {
            return Some(format!(
                "{output} bytes came out of {input}: over {} bytes for each, as in a decompression bomb",
                self.ratio
            ));
        }
        None
    }
}

/// A decompressor over a buffered input.
pub enum Decoder<R: BufRead> {
    /// The stream as it is.
    Plain(R),
    /// One or more gzip members.
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    /// One or more zstd frames; skippable frames are skipped.
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Decoder::Plain(_) => "Decoder::Plain",
            Decoder::Gzip(_) => "Decoder::Gzip",
            Decoder::Zstd(_) => "Decoder::Zstd",
        })
    }
}

impl<R: BufRead> Decoder<R> {
    /// Decompresses `input`. The manifest's word on the compression is not trusted: the first bytes decide, since
    /// registries hold layers whose media type lies (containerd and docker look at the bytes too).
    pub fn new(mut input: R) -> io::Result<Decoder<R>> {
        let found = sniff(input.fill_buf()?);
        Ok(match found {
            Compression::None => Decoder::Plain(input),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Zstd => Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?)),
        })
    }
}

/// The compression that the first bytes of a blob show.
pub fn sniff(beginning: &[u8]) -> Compression {
    match beginning {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame, as zstd:chunked and seekable archives may begin with.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Plain(input) => input.read(into),
            Decoder::Gzip(decoder) => decoder.read(into),
            Decoder::Zstd(decoder) => decoder.read(into),
        }
    }
}
