//! The host that containers run on: what an administrator prepares, checks and mends.

pub mod subid;
