//! A blob as one unbroken stream, whatever happens to the connections below it.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::BodyReader;

use super::client::{BlobBody, Client, Note, describe_io};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// How much must arrive for a connection to count as progress, in bytes: a server that gives one byte a connection is
/// not making any.
const PROGRESS: u64 = 64 << 10;

/// Reads a blob, resuming where a connection broke, from the next place that has it where one gives up.
///
/// It gives at most one byte more than `size`, so that the caller sees that there is too much without reading it all.
pub(super) struct BlobReader {
    places: Vec<Arc<Client>>,
    place: usize,
    digest: Digest,
    size: u64,
    offset: u64,
    body: Option<BodyReader<'static>>,
    /// Failures since the last progress.
    failures: u32,
    /// The offset that the last progress reached.
    mark: u64,
}

impl BlobReader {
    /// Opens the blob at the first of `places` that has it.
    pub fn open(places: Vec<Arc<Client>>, digest: Digest, size: u64, note: Note<'_>) -> Result<BlobReader> {
        let mut reader = BlobReader { places, place: 0, digest, size, offset: 0, body: None, failures: 0, mark: 0 };
        reader.connect(note)?;
        Ok(reader)
    }

    /// Gets a body that continues at the offset; `false` where the server says that there is no more.
    fn connect(&mut self, note: Note<'_>) -> Result<bool> {
        loop {
            let Some(client) = self.places.get(self.place) else {
                return Err(Error::NotFound { name: format!("layer {}", self.digest), reason: None });
            };
            match client.blob(&self.digest, self.offset, note) {
                Ok(BlobBody::End) => return Ok(false),
                Ok(BlobBody::From(body)) => {
                    self.body = Some(body);
                    return Ok(true);
                }
                Ok(BlobBody::Whole(mut body)) => {
                    // Skipped with the same patience as the rest: a break here is a failure like any other.
                    match io::copy(&mut (&mut body).take(self.offset), &mut io::sink()) {
                        Ok(skipped) if skipped == self.offset => {
                            self.body = Some(body);
                            return Ok(true);
                        }
                        Ok(_) => self.failed("the connection ended too early".to_owned())?,
                        Err(e) => self.failed(describe_io(&e))?,
                    }
                }
                Err(e) => {
                    if self.place + 1 >= self.places.len() {
                        return Err(e);
                    }
                    note(&format!("{e}; trying {}", self.places[self.place + 1].endpoint.registry));
                    self.place += 1;
                    self.failures = 0;
                }
            }
        }
    }

    /// Counts a failure and waits; an error where there were too many without progress.
    fn failed(&mut self, reason: String) -> Result<()> {
        self.body = None;
        let Some(client) = self.places.get(self.place) else { return Ok(()) };
        if self.offset >= self.mark + PROGRESS {
            self.failures = 0;
        }
        self.mark = self.mark.max(self.offset);
        self.failures += 1;
        if self.failures < client.retry().attempts {
            std::thread::sleep(client.retry().wait(self.failures));
            return Ok(());
        }
        if self.place + 1 < self.places.len() {
            self.place += 1;
            self.failures = 0;
            return Ok(());
        }
        Err(Error::Registry {
            registry: client.endpoint.registry.clone(),
            reason: format!(
                "cannot fetch layer {}: {reason}, {} times, at byte {} of {}",
                self.digest, self.failures, self.offset, self.size
            ),
            hint: Some("try again later; what arrived of other layers is kept".to_owned()),
            status: None,
        })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from((self.size + 1).saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(0);
        }
        loop {
            let Some(body) = &mut self.body else {
                if !self.connect(&|_| {}).map_err(io::Error::other)? {
                    return Ok(0);
                }
                continue;
            };
            match body.read(&mut buffer[..length]) {
                Ok(0) if self.offset >= self.size => return Ok(0),
                Ok(0) => self.failed("the connection ended too early".to_owned()).map_err(io::Error::other)?,
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // All there should be is here; how the connection ended does not matter.
                Err(_) if self.offset >= self.size => return Ok(0),
                Err(e) => self.failed(describe_io(&e)).map_err(io::Error::other)?,
            }
        }
    }
}
