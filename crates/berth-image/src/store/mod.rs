//! The store.

pub mod record;

pub use record::{ImageRecord, LayerRecord};
