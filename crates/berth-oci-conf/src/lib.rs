//! Slurm's `oci.conf`: read as each release reads it ([`document`]), its keys ([`keys`]) and patterns ([`patterns`]), what
//! slurmstepd makes of them for a step ([`step`], [`environment`], [`config_json`]), what is wrong with a file ([`check`]), and
//! files in which nothing is ([`write`]).
//!
//! Everything here is a function of its arguments, but for [`document::Document::load`]. What is said of releases was tried
//! with 22.05, 24.11 and 26.05, or is told by their documentation for those in between.

pub mod check;
pub mod command_line;
pub mod conf;
pub mod config_json;
pub mod document;
pub mod environment;
pub mod keys;
pub mod patterns;
pub mod regex;
pub mod release;
pub mod step;
pub mod write;

pub use conf::Conf;
pub use document::Document;
pub use document::Position;
pub use release::Release;
