//! The compressors of squashfs, one block at a time.
//!
//! A block is decompressed into a buffer of the size that it may have at most: whatever a block claims, it cannot become
//! longer than that.

mod lzo;

use std::io::Read;
use std::io::Write;

use flate2::Compress;
use flate2::Decompress;
use flate2::FlushCompress;
use flate2::FlushDecompress;
use flate2::Status;
use lzma_rust2::CheckType;
use lzma_rust2::LzmaReader;
use lzma_rust2::XzOptions;
use lzma_rust2::XzReader;
use lzma_rust2::XzWriter;

use crate::error::Error;
use crate::error::Result;

/// Most memory that the dictionary of an xz or lzma block may want, in KiB. The largest block has 1 MiB; encoders that take
/// the preset's dictionary instead of the block's size want up to 64 MiB.
const XZ_MEMORY_KIB: u32 = 80 << 10;

/// Smallest dictionary that squashfs knows: that of a metadata block.
const XZ_DICTIONARY: u32 = 8192;

/// A compressor, numbered as in the super block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressor {
    /// zlib.
    Gzip = 1,
    /// The older lzma format; never merged into the kernel.
    Lzma = 2,
    /// lzo1x; read, not written.
    Lzo = 3,
    /// xz.
    Xz = 4,
    /// lz4 blocks.
    Lz4 = 5,
    /// zstd frames.
    Zstd = 6,
}

impl Compressor {
    /// The compressor of a number in a super block.
    pub fn from_id(id: u16) -> Option<Compressor> {
        [Compressor::Gzip, Compressor::Lzma, Compressor::Lzo, Compressor::Xz, Compressor::Lz4, Compressor::Zstd]
            .into_iter()
            .find(|compressor| *compressor as u16 == id)
    }
}

/// How an image is compressed when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// zlib, level 1 to 9.
    Gzip(u32),
    /// lz4, its fast variant.
    Lz4,
    /// xz, preset 0 to 9.
    Xz(u32),
    /// zstd, level 1 to 22.
    Zstd(i32),
}

impl Compression {
    /// Reads a name, with or without a level: `zstd`, `gzip:9`, `none`.
    pub fn parse(text: &str) -> Result<Compression> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let number = |default: u32, low: u32, high: u32| match level.map(str::parse::<u32>) {
            None => Ok(default),
            Some(Ok(level)) if (low..=high).contains(&level) => Ok(level),
            Some(_) => {
                Err(Error::BadSetting(format!("{name} has the levels {low} to {high}, not `{}`", level.unwrap_or(""))))
            }
        };
        match name {
            "zstd" => Ok(Compression::Zstd(number(3, 1, 22)? as i32)),
            "gzip" => Ok(Compression::Gzip(number(6, 1, 9)?)),
            "xz" => Ok(Compression::Xz(number(6, 0, 9)?)),
            "lz4" | "none" if level.is_some() => Err(Error::BadSetting(format!("{name} has no levels"))),
            "lz4" => Ok(Compression::Lz4),
            "none" => Ok(Compression::None),
            _ => Err(Error::BadSetting(format!("no compression `{name}`: there are zstd, gzip, lz4, xz and none"))),
        }
    }

    /// The compressor that the super block names. An image without compression names gzip, as mksquashfs does.
    pub fn compressor(self) -> Compressor {
        match self {
            Compression::None | Compression::Gzip(_) => Compressor::Gzip,
            Compression::Lz4 => Compressor::Lz4,
            Compression::Xz(_) => Compressor::Xz,
            Compression::Zstd(_) => Compressor::Zstd,
        }
    }
}

/// Decompresses blocks, one after the other. Keeps what is dear to make.
pub(crate) enum Decoder {
    Gzip(Box<Decompress>),
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd(Box<zstd::bulk::Decompressor<'static>>),
}

impl Decoder {
    /// A decoder, or why there is none.
    pub fn new(compressor: Compressor) -> Result<Decoder, String> {
        Ok(match compressor {
            Compressor::Gzip => Decoder::Gzip(Box::new(Decompress::new(true))),
            Compressor::Lzma => Decoder::Lzma,
            Compressor::Lzo => Decoder::Lzo,
            Compressor::Xz => Decoder::Xz,
            Compressor::Lz4 => Decoder::Lz4,
            Compressor::Zstd => {
                Decoder::Zstd(Box::new(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?))
            }
        })
    }

    /// Decompresses a whole block into `output` and says how long it is. A block that is longer is an error.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, String> {
        match self {
            Decoder::Gzip(state) => {
                state.reset(true);
                match state.decompress(input, output, FlushDecompress::Finish) {
                    Ok(Status::StreamEnd) => Ok(usize::try_from(state.total_out()).unwrap_or(usize::MAX)),
                    Ok(_) => Err("a gzip block has no end, or is too long".to_owned()),
                    Err(error) => Err(format!("a gzip block: {error}")),
                }
            }
            Decoder::Lzma => {
                let reader = LzmaReader::new_mem_limit(input, XZ_MEMORY_KIB, None);
                read_all(reader.map_err(|error| format!("an lzma block: {error}"))?, output)
            }
            Decoder::Lzo => lzo::decompress(input, output).map_err(|reason| format!("an lzo block: {reason}")),
            Decoder::Xz => read_all(XzReader::new_mem_limit(input, false, XZ_MEMORY_KIB), output),
            Decoder::Lz4 => {
                lz4_flex::block::decompress_into(input, output).map_err(|error| format!("an lz4 block: {error}"))
            }
            Decoder::Zstd(state) => {
                state.decompress_to_buffer(input, output).map_err(|error| format!("a zstd block: {error}"))
            }
        }
    }
}

fn read_all(mut reader: impl Read, output: &mut [u8]) -> Result<usize, String> {
    let fault = |error: std::io::Error| format!("an xz block: {error}");
    let mut filled = 0;
    while filled < output.len() {
        match reader.read(&mut output[filled..]).map_err(fault)? {
            0 => return Ok(filled),
            bytes => filled += bytes,
        }
    }
    match reader.read(&mut [0]).map_err(fault)? {
        0 => Ok(filled),
        _ => Err("an xz block is too long".to_owned()),
    }
}

/// Compresses blocks, one after the other. Equal blocks give equal bytes.
pub(crate) enum Encoder {
    None,
    Gzip(Box<Compress>),
    Lz4,
    Xz(Box<XzOptions>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Encoder {
    /// An encoder for blocks of at most `block_size` bytes.
    pub fn new(compression: Compression, block_size: u32) -> Result<Encoder> {
        Ok(match compression {
            Compression::None => Encoder::None,
            Compression::Gzip(level) => Encoder::Gzip(Box::new(Compress::new(flate2::Compression::new(level), true))),
            Compression::Lz4 => Encoder::Lz4,
            Compression::Xz(level) => {
                let mut options = XzOptions::with_preset(level);
                options.set_check_sum_type(CheckType::Crc32);
                // The kernel reserves a dictionary of a block's size, and refuses more.
                options.lzma_options.dict_size = block_size.max(XZ_DICTIONARY);
                Encoder::Xz(Box::new(options))
            }
            Compression::Zstd(level) => Encoder::Zstd(Box::new(
                zstd::bulk::Compressor::new(level)
                    .map_err(|error| Error::BadSetting(format!("zstd level {level}: {error}")))?,
            )),
        })
    }

    /// Compresses `input` into `output`, which is cleared first. `false`: it would not become shorter.
    pub fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool, String> {
        output.clear();
        match self {
            Encoder::None => return Ok(false),
            Encoder::Gzip(state) => {
                state.reset();
                // What does not fit into the input's size is not wanted.
                output.reserve(input.len());
                let status = state.compress_vec(input, output, FlushCompress::Finish);
                if status.map_err(|error| error.to_string())? != Status::StreamEnd {
                    return Ok(false);
                }
            }
            Encoder::Lz4 => {
                output.resize(lz4_flex::block::get_maximum_output_size(input.len()), 0);
                let length = lz4_flex::block::compress_into(input, output).map_err(|error| error.to_string())?;
                output.truncate(length);
            }
            Encoder::Xz(options) => {
                let mut writer = XzWriter::new(&mut *output, (**options).clone()).map_err(|error| error.to_string())?;
                writer.write_all(input).map_err(|error| error.to_string())?;
                writer.finish().map_err(|error| error.to_string())?;
            }
            Encoder::Zstd(state) => {
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                state.compress_to_buffer(input, output).map_err(|error| error.to_string())?;
            }
        }
        Ok(output.len() < input.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| b"one file, many names\n"[at * at % 21]).collect()
    }

    #[test]
    fn what_was_compressed_comes_back() {
        for compression in
            [Compression::Gzip(6), Compression::Lz4, Compression::Xz(6), Compression::Zstd(3), Compression::Zstd(19)]
        {
            let mut encoder = Encoder::new(compression, 1 << 17).unwrap();
            let mut decoder = Decoder::new(compression.compressor()).unwrap();
            for length in [100, 8192, 1 << 17] {
                let input = text(length);
                let mut packed = Vec::new();
                assert!(encoder.encode(&input, &mut packed).unwrap(), "{compression:?} {length}");
                let mut output = vec![0; 1 << 17];
                let size = decoder.decode(&packed, &mut output).unwrap();
                assert_eq!(output[..size], input, "{compression:?} {length}");
            }
        }
    }

    #[test]
    fn a_block_longer_than_allowed_is_an_error() {
        for compression in [Compression::Gzip(6), Compression::Lz4, Compression::Xz(6), Compression::Zstd(3)] {
            let mut packed = Vec::new();
            Encoder::new(compression, 1 << 17).unwrap().encode(&vec![0; 1 << 17], &mut packed).unwrap();
            let mut decoder = Decoder::new(compression.compressor()).unwrap();
            assert!(decoder.decode(&packed, &mut vec![0; (1 << 17) - 1]).is_err(), "{compression:?}");
            // And the decoder goes on after that.
            assert_eq!(decoder.decode(&packed, &mut vec![0; 1 << 17]), Ok(1 << 17), "{compression:?}");
        }
    }

    #[test]
    fn what_does_not_become_shorter_says_so() {
        let noise: Vec<u8> = (0u32..4096).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for compression in [Compression::None, Compression::Gzip(9), Compression::Lz4, Compression::Zstd(3)] {
            let mut packed = Vec::new();
            assert!(
                !Encoder::new(compression, 4096).unwrap().encode(&noise[..64], &mut packed).unwrap(),
                "{compression:?}"
            );
        }
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(Compression::parse("zstd").unwrap(), Compression::Zstd(3));
        assert_eq!(Compression::parse("gzip:9").unwrap(), Compression::Gzip(9));
        assert!(Compression::parse("gzip:10").is_err());
        assert!(Compression::parse("lz4:1").is_err());
        assert!(Compression::parse("brotli").is_err());
    }
}
