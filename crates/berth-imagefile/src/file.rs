//! The file below an image: reads at a place, from any thread.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::Error;
use crate::error::Result;

/// An open image file.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    name: String,
    size: u64,
}

impl ImageFile {
    /// Takes an open file. `name` is for messages.
    pub fn new(file: File, name: &str) -> Result<ImageFile> {
        let metadata = file.metadata().map_err(|source| Error::Io { action: "read", name: name.to_owned(), source })?;
        if !metadata.is_file() {
            return Err(Error::NotAnImage { name: name.to_owned() });
        }
        Ok(ImageFile { file, name: name.to_owned(), size: metadata.len() })
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.size) {
            return Err(Error::Truncated { name: self.name.clone() });
        }
        self.file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Truncated { name: self.name.clone() },
            _ => Error::Io { action: "read", name: self.name.clone(), source },
        })
    }

    /// An error that says what is wrong with the image.
    pub(crate) fn damaged(&self, reason: impl Into<String>) -> Error {
        Error::Damaged { name: self.name.clone(), reason: reason.into() }
    }

    /// An error that says what is not read.
    pub(crate) fn unsupported(&self, reason: impl Into<String>) -> Error {
        Error::Unsupported { name: self.name.clone(), reason: reason.into() }
    }
}
