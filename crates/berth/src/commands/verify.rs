//! `berth verify`

use std::process::ExitCode;

use crate::command_error::Kind;
use crate::{CommandError, Context, fetch, output};

/// Check that images in the store are whole
///
/// Compares every file of every layer with what was recorded when it was unpacked. Exits with 1 when something is not as
/// it should be.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Names or digests; all images when none is given
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Verifies, and prints what was found, one finding on a line.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let names = args.images.iter().map(|image| fetch::store_name(image)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let progress = context.progress("verify");
    let report = store.verify(&names, progress.as_ref())?;
    drop(progress);
    if context.json() {
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        output::json(&serde_json::json!({ "findings": findings }))?;
    } else {
        output::lines(report.findings.iter().map(ToString::to_string))?;
    }
    if report.findings.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(CommandError::new(Kind::Findings, "the store is not as it should be"))
    }
}
