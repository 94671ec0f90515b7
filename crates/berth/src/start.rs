//! x
use crate::cli::options::ContainerOptions;
use crate::{CommandError, Context};
use std::{ffi::OsString, process::ExitCode};
/// x
#[derive(Debug)]
pub enum What<'a> {
    /// x
    Shell,
    /// x
    Command(&'a [OsString]),
}
/// x
pub fn start(_: &ContainerOptions, _image: &str, _what: What<'_>, _: &Context) -> Result<ExitCode, CommandError> {
    Err(CommandError::failure("run is not there yet"))
}
