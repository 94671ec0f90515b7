//! From a request to a bundle: what a person typed, what the configuration says, what the image says and what this host
//! is like, lowered to an OCI specification and a root file system.
//!
//! Everything here is a function of its arguments: [`Host`](host::Host) was read before, files are looked at by closures
//! that the caller gives. So each rule can be tested as a table, and `berth run` has one place where it meets the system
//! (`crate::start`).

pub mod command;
pub mod host;
pub mod ids;
pub mod place;
