//! The rootless launcher.

pub mod environment;
pub mod fake;
pub mod volume;
