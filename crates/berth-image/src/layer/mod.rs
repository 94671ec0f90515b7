//! Layers: from the stream of a blob to a tree.
//!
//! A blob goes through once and is never kept:
//!
//! ```text
//! source ─► [fetch: count, hash] ─pipe─► [decode: gunzip, bound] ─pipe─► [write: tar ─► tree + index]
//! ```
//!
//! One thread each, so that decompression, the slowest part, has a core for itself; several layers run side by side.
//! The tree is written under a temporary name and counts for nothing until digest and size of the blob were found right.

pub mod decode;
pub(crate) mod file;
pub mod index;
pub mod merge;
pub mod pack;
mod path;
pub mod pipe;
pub mod tar;
pub mod tree;
pub mod whiteout;

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use decode::{Bounds, Decoder};
use pipe::{Gone, PipeReader, PipeWriter};
use tree::{Policy, TreeWriter, Written};

/// What a blob must turn out to be.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// For messages: `sha256:… of docker.io/library/debian:12`.
    pub name: &'a str,
    /// The blob's digest, where it is known beforehand.
    pub digest: Option<&'a Digest>,
    /// The blob's size in bytes, likewise.
    pub size: Option<u64>,
}

/// How to unpack.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    /// How the tree is written.
    pub policy: Policy,
    /// Bounds on the uncompressed stream.
    pub bounds: Bounds,
    /// Set by somebody to make the unpacking stop soon.
    pub cancel: &'a AtomicBool,
}

/// A layer that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// What the tree holds.
    pub written: Written,
}

/// Why a stage stopped.
enum Stop {
    /// The next stage is gone; its error counts.
    Gone,
    /// Its own error.
    Failed(Error),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

/// Unpacks the blob that `input` gives into `dir/tree` and `dir/index`. `dir` must exist and be of no account: on an
/// error it holds anything. `advanced` is called with the bytes of each piece that arrived.
pub fn unpack(
    input: &mut dyn Read,
    expected: &Expected<'_>,
    dir: &Path,
    unpacking: &Unpacking<'_>,
    advanced: &(dyn Fn(u64) + Sync),
) -> Result<Unpacked> {
    let writer = TreeWriter::create(dir, expected.name, unpacking.policy)?;
    let (digest, size, written) =
        through(input, expected, &unpacking.bounds, unpacking.cancel, advanced, |input| write(writer, input))?;
    Ok(Unpacked { digest, size, written })
}

/// Sends a blob through the stages; `write` is the last one and gets the uncompressed stream. Gives digest and size of the
/// blob, and what `write` made.
fn through<T: Send>(
    input: &mut dyn Read,
    expected: &Expected<'_>,
    bounds: &Bounds,
    cancel: &AtomicBool,
    advanced: &(dyn Fn(u64) + Sync),
    write: impl FnOnce(PipeReader) -> Result<T> + Send,
) -> Result<(Digest, u64, T)> {
    let (blob_in, blob_out) = pipe::pipe();
    let (tar_in, tar_out) = pipe::pipe();
    let fetched = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let write = scope.spawn(|| write(tar_out));
        let decode = scope.spawn(|| decode(blob_out, tar_in, expected.name, bounds, &fetched));
        let fetched = fetch(input, blob_in, expected, cancel, &fetched, advanced);
        let decoded = decode.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let written = write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The first stage that failed by itself tells why; what the others saw is a consequence.
        let ends = match fetched {
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Gone) => None,
            Ok(ends) => Some(ends),
        };
        if let Err(Stop::Failed(error)) = decoded {
            return Err(error);
        }
        let written = written?;
        // A stage is gone only after it failed.
        let (digest, size) = ends.ok_or_else(|| cancelled(expected.name))?;
        Ok((digest, size, written))
    })
}

/// First stage: reads the blob, counts and hashes it.
fn fetch(
    input: &mut dyn Read,
    output: PipeWriter,
    expected: &Expected<'_>,
    cancel: &AtomicBool,
    fetched: &AtomicU64,
    advanced: &(dyn Fn(u64) + Sync),
) -> Result<(Digest, u64), Stop> {
    let mut hasher = Hasher::new(expected.digest.map_or(Algorithm::Sha256, Digest::algorithm));
    let mut size = 0u64;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Stop::Failed(cancelled(expected.name)));
        }
        let mut buffer = output.buffer()?;
        let bytes = pipe::fill(input, &mut buffer).map_err(|error| Stop::Failed(read_error(error, expected.name)))?;
        if bytes == 0 {
            break;
        }
        buffer.truncate(bytes);
        size += bytes as u64;
        if let Some(expected_size) = expected.size.filter(|&expected_size| size > expected_size) {
            let what = expected.name.to_owned();
            return Err(Stop::Failed(Error::SizeMismatch { what, expected: expected_size, actual: size }));
        }
        hasher.update(&buffer);
        fetched.store(size, Ordering::Relaxed);
        advanced(bytes as u64);
        output.send(buffer)?;
    }
    if let Some(expected_size) = expected.size.filter(|&expected_size| size != expected_size) {
        let what = expected.name.to_owned();
        return Err(Stop::Failed(Error::SizeMismatch { what, expected: expected_size, actual: size }));
    }
    let actual = hasher.finish();
    if let Some(digest) = expected.digest.filter(|&digest| *digest != actual) {
        let what = expected.name.to_owned();
        return Err(Stop::Failed(Error::DigestMismatch { what, expected: digest.clone(), actual }));
    }
    // Only now does the next stage see a proper end.
    output.finish();
    Ok((actual, size))
}

/// Second stage: decompresses, within bounds.
fn decode(
    mut input: PipeReader,
    output: PipeWriter,
    name: &str,
    bounds: &Bounds,
    fetched: &AtomicU64,
) -> Result<(), Stop> {
    let result = decode_all(&mut input, &output, name, bounds, fetched);
    match result {
        Ok(()) => output.finish(),
        // The rest of the blob is still read: when its digest is wrong, that is the message that counts.
        Err(Stop::Failed(Error::BadLayer { .. })) | Err(Stop::Gone) => drain(&mut input),
        Err(Stop::Failed(_)) => {}
    }
    result
}

fn decode_all(
    input: &mut PipeReader,
    output: &PipeWriter,
    name: &str,
    bounds: &Bounds,
    fetched: &AtomicU64,
) -> Result<(), Stop> {
    let fault = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the compressed data ends too early".to_owned(),
            _ => format!("the compressed data is damaged: {error}"),
        };
        Stop::Failed(Error::BadLayer { layer: name.to_owned(), entry: None, reason })
    };
    let mut decoder = Decoder::new(&mut *input).map_err(fault)?;
    let mut total = 0u64;
    loop {
        let mut buffer = output.buffer()?;
        let bytes = pipe::fill(&mut decoder, &mut buffer).map_err(fault)?;
        if bytes == 0 {
            break;
        }
        total += bytes as u64;
        if let Some(reason) = bounds.check(fetched.load(Ordering::Relaxed), total) {
            return Err(Stop::Failed(Error::TooLarge { what: format!("layer {name}"), reason }));
        }
        buffer.truncate(bytes);
        output.send(buffer)?;
    }
    // What follows the compressed stream belongs to the blob too.
    drop(decoder);
    drain(input);
    Ok(())
}

/// Third stage: writes the tree.
fn write(writer: TreeWriter<'_>, input: PipeReader) -> Result<Written> {
    let mut reader = tar::Reader::new(input, tar::Limits::default());
    let written = writer.write_all(&mut reader);
    drain_after(&written, reader);
    written
}

/// Reads what is left of the stream where the blob's digest still matters.
fn drain_after<T>(result: &Result<T>, reader: tar::Reader<PipeReader>) {
    if matches!(result, Ok(_) | Err(Error::BadLayer { .. })) {
        drain(&mut reader.into_inner());
    }
}

fn drain(input: &mut PipeReader) {
    loop {
        match input.fill_buf().map(<[u8]>::len) {
            Ok(0) | Err(_) => return,
            Ok(bytes) => input.consume(bytes),
        }
    }
}

/// The error of a source's reader: its own, where it wrapped one.
fn read_error(error: std::io::Error, name: &str) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Io { action: "read", path: name.into(), source: error },
    }
}

fn cancelled(name: &str) -> Error {
    Error::Io { action: "finish", path: name.into(), source: std::io::Error::from(std::io::ErrorKind::Interrupted) }
}

/// Whether an error only says that the work was called off.
pub fn is_cancelled(error: &Error) -> bool {
    matches!(error, Error::Io { action: "finish", source, .. } if source.kind() == std::io::ErrorKind::Interrupted)
}
