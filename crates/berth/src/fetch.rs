//! From what a person typed to an image in the store.
use berth_image::store::{ImageRecord, Store};

use crate::cli::options::SourceOptions;
use crate::{CommandError, Context};

/// x
pub fn store_name(text: &str) -> Result<String, CommandError> {
    Ok(text.to_owned())
}
/// x
pub fn lookup(store: &Store, name: &str) -> Result<ImageRecord, CommandError> {
    store.lookup(name)?.ok_or_else(|| berth_image::Error::NotFound { name: name.to_owned(), reason: None }.into())
}
/// x
pub fn pull(
    _store: &Store,
    _text: &str,
    _options: &SourceOptions,
    _context: &Context,
) -> Result<ImageRecord, CommandError> {
    Err(CommandError::failure("pull is not there yet"))
}
