//! What images are written from.

pub mod directory;
