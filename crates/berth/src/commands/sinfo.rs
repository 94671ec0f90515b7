//! `berth sinfo`.

use std::ffi::OsString;

use crate::ExitCode;

/// Does it, with the arguments behind the verb.
pub fn main(_arguments: &[OsString]) -> ExitCode {
    eprintln!("sinfo: error: not there yet");
    ExitCode::from(1)
}
