//! The rootless launcher.

pub mod accounts;
pub mod environment;
pub mod fake;
pub mod volume;
