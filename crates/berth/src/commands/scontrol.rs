//! `berth scontrol`.

use std::ffi::OsString;

use crate::ExitCode;

/// Does it, with the arguments behind the verb.
pub fn main(_arguments: &[OsString]) -> ExitCode {
    eprintln!("scontrol: error: not there yet");
    ExitCode::from(1)
}
