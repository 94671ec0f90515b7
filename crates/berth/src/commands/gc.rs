//! `berth gc`

use crate::ExitCode;
use std::time::Duration;

use berth_image::store::GcOptions;

use crate::units::{format_size, parse_duration, parse_size};
use crate::{CommandError, Context, output};

/// Remove what the store no longer needs
///
/// Without options: layers that belong to no image, and what interrupted pulls left. With --keep-age and --keep-size
/// also images, the longest unused first. What running containers use always stays.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Remove images that were not used for this long, for example 30d
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub keep_age: Option<Duration>,
    /// Remove images until the store is no larger than this, for example 20G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub keep_size: Option<u64>,
    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Collects, and prints what was removed.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let options = GcOptions { keep_age: args.keep_age, keep_size: args.keep_size, dry_run: args.dry_run };
    let report = context.store()?.gc(&options)?;
    if context.json() {
        output::json(&serde_json::json!({
            "images": report.images, "layers": report.layers, "bytes": report.bytes, "dry_run": args.dry_run,
        }))?;
    } else if !context.quiet() {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        output::lines([format!(
            "{verb} {} and {}: {}",
            count(report.images.len(), "image"),
            count(report.layers.len(), "layer"),
            format_size(report.bytes)
        )])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
