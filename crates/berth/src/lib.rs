//! The berth command as a library: what it is asked ([`cli`]), what it reads ([`config`]), how a request becomes a
//! bundle ([`lower`]), and how it answers ([`output`], [`progress`], [`command_error`]).
//!
//! The images and the containers themselves are elsewhere, in `berth-image` and `berth-container`; here only meet what a
//! person typed, what an image says and what this host is like. Images in one file are mounted here too ([`onefile`]). It is a library so that `xtask` can make man pages,
//! completions and the reference from the same definition of the command line that the binary parses.

pub mod cli;
pub mod command_error;
pub mod commands;
pub mod config;
pub mod context;
pub mod exit_code;
pub mod fetch;
pub mod jobs;
pub mod lower;
pub mod onefile;
pub mod output;
pub mod progress;
pub mod running;
pub mod signals;
pub mod slurm;
pub mod start;
pub mod step;
pub mod units;

pub use command_error::{CommandError, Kind};
pub use context::Context;
pub use exit_code::ExitCode;
