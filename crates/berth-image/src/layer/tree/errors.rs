//! What a writer says when it cannot go on, with the layer, the entry and the place.

use std::path::PathBuf;

use rustix::io::Errno;

use super::super::index::printable;
use super::super::tar::TarError;
use super::TreeWriter;
use crate::error::Error;

impl TreeWriter<'_> {
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(printable(path))
    }

    pub(super) fn io(&self, action: &'static str, path: &[u8], error: Errno) -> Error {
        match error {
            Errno::NAMETOOLONG => self.bad(path, "a name that is longer than this file system allows"),
            error => Error::io(action, self.shown(path), error),
        }
    }

    pub(super) fn index_error(&self, error: std::io::Error) -> Error {
        Error::io("write", self.path.with_file_name("index"), error)
    }

    pub(super) fn bad(&self, path: &[u8], reason: &str) -> Error {
        Error::BadLayer { layer: self.layer.to_owned(), entry: Some(printable(path)), reason: reason.to_owned() }
    }

    pub(super) fn too_large(&self, reason: String) -> Error {
        Error::TooLarge { what: format!("layer {}", self.layer), reason }
    }

    pub(super) fn tar_error(&self, error: TarError, path: Option<&[u8]>) -> Error {
        match error {
            TarError::Limit { .. } => self.too_large(error.to_string()),
            // Kept as it is: the pipe's end tells apart who failed first.
            TarError::Io(source) => Error::Io { action: "read", path: PathBuf::from(self.layer), source },
            other => {
                Error::BadLayer { layer: self.layer.to_owned(), entry: path.map(printable), reason: other.to_string() }
            }
        }
    }
}
