//! `berth version`

use crate::ExitCode;

use crate::{CommandError, Context, output};

/// Print the version of berth
#[derive(Clone, Debug, clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json() {
        output::json(&serde_json::json!({ "version": version }))?;
    } else {
        output::lines([format!("berth {version}")])?;
    }
    Ok(ExitCode::SUCCESS)
}
