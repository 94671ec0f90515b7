//! `berth sacct`.

use std::ffi::OsString;

use crate::ExitCode;

/// Does it, with the arguments behind the verb.
pub fn main(_arguments: &[OsString]) -> ExitCode {
    eprintln!("sacct: error: not there yet");
    ExitCode::from(1)
}
