//! The rootless launcher.

pub mod fake;
pub mod volume;
