//! `berth verify`

use crate::ExitCode;

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
    /// Remove damaged layers, so that the next pull fetches them again
    #[arg(long)]
    pub repair: bool,
}

/// Verifies, and prints what was found, one finding on a line.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let names = args.images.iter().map(|image| fetch::store_name(&store, image)).collect::<Result<Vec<_>, _>>()?;
    let progress = context.progress("verify");
    let report = store.verify(&names, args.repair, progress.as_ref())?;
    drop(progress);
    if context.json() {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|f| serde_json::json!({ "path": f.path, "problem": f.problem, "image": f.image }))
            .collect();
        output::json(&serde_json::json!({
            "findings": findings, "images": report.images, "layers": report.layers, "entries": report.entries,
            "removed": report.removed,
        }))?;
    } else {
        output::lines(report.findings.iter().map(|finding| {
            let image = finding.image.as_deref().map(|image| format!(" (of {image})")).unwrap_or_default();
            format!("{}: {}{image}", finding.path.display(), finding.problem)
        }))?;
    }
    if report.findings.is_empty() {
        context.note(&format!("{} images, {} layers, {} entries: whole", report.images, report.layers, report.entries));
        Ok(ExitCode::SUCCESS)
    } else {
        if !args.repair {
            context.note("`berth verify --repair` removes damaged layers, so that the next pull fetches them again");
        }
        Err(CommandError::new(Kind::Findings, "the store is not as it should be"))
    }
}
