//! The rootless launcher.

pub mod fake;
