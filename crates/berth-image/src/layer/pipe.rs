//! A bounded pipe of recycled buffers between two threads.
//!
//! A fresh buffer per chunk is dear (page faults dominate; see spec/performance.md, trap 3), so the same few buffers go
//! round: filled by the writer, read as a [`BufRead`], sent back empty. Memory is bounded by `depth * size` whatever the
//! speeds of the two sides.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of one buffer: large enough that handing over costs nothing, small enough to stay in the second-level cache.
pub const BUFFER: usize = 256 << 10;
/// Buffers in one pipe.
pub const DEPTH: usize = 4;

/// The writing end.
#[derive(Debug)]
pub struct PipeWriter {
    full: SyncSender<Option<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The reading end.
#[derive(Debug)]
pub struct PipeReader {
    full: Receiver<Option<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    ended: bool,
}

/// The other side is gone: it failed, and its own error says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The error of a reader whose writer went away before it said that it had finished.
pub const WRITER_GONE: &str = "the thread that feeds this one failed";

/// Makes a pipe.
pub fn pipe() -> (PipeWriter, PipeReader) {
    let (full_in, full_out) = sync_channel(DEPTH);
    let (empty_in, empty_out) = sync_channel(DEPTH);
    for _ in 0..DEPTH {
        // Capacity is the number of buffers: this cannot block.
        let _ = empty_in.send(Vec::new());
    }
    (
        PipeWriter { full: full_in, empty: empty_out },
        PipeReader { full: full_out, empty: empty_in, current: Vec::new(), used: 0, ended: false },
    )
}

impl PipeWriter {
    /// An empty buffer of [`BUFFER`] bytes; waits until the reader gives one back.
    pub fn buffer(&self) -> Result<Vec<u8>, Gone> {
        let mut buffer = self.empty.recv().map_err(|_| Gone)?;
        buffer.resize(BUFFER, 0);
        Ok(buffer)
    }

    /// Hands over a filled buffer.
    pub fn send(&self, buffer: Vec<u8>) -> Result<(), Gone> {
        self.full.send(Some(buffer)).map_err(|_| Gone)
    }

    /// Says that everything was written. A writer that is dropped without it makes the reader fail.
    pub fn finish(self) {
        let _ = self.full.send(None);
    }
}

impl PipeReader {
    fn next_buffer(&mut self) -> io::Result<()> {
        let spent = std::mem::take(&mut self.current);
        if spent.capacity() > 0 {
            let _ = self.empty.try_send(spent);
        }
        self.used = 0;
        match self.full.recv() {
            Ok(Some(buffer)) => self.current = buffer,
            Ok(None) => self.ended = true,
            Err(_) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, WRITER_GONE)),
        }
        Ok(())
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.current.len() && !self.ended {
            self.next_buffer()?;
        }
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, bytes: usize) {
        self.used += bytes;
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let take = available.len().min(into.len());
        into[..take].copy_from_slice(&available[..take]);
        self.consume(take);
        Ok(take)
    }
}

/// Fills `buffer` as far as the input reaches; fewer bytes than its length mean the input's end.
pub fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_order_and_the_end_is_seen() {
        let (writer, mut reader) = pipe();
        let sent: Vec<u8> = (0..2_000_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let thread = std::thread::spawn(move || {
            for chunk in sent.chunks(100_003) {
                let mut buffer = writer.buffer().unwrap();
                buffer.truncate(chunk.len());
                buffer.copy_from_slice(chunk);
                writer.send(buffer).unwrap();
            }
            writer.finish();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_writer_that_dies_is_no_end_of_file() {
        let (writer, mut reader) = pipe();
        drop(writer);
        assert!(reader.fill_buf().is_err());
    }

    #[test]
    fn a_reader_that_goes_away_stops_the_writer() {
        let (writer, reader) = pipe();
        drop(reader);
        let mut sent = 0;
        while let Ok(buffer) = writer.buffer() {
            if writer.send(buffer).is_err() {
                break;
            }
            sent += 1;
            assert!(sent <= 2 * DEPTH);
        }
    }
}
