//! `berth inspect`

use crate::ExitCode;
use std::path::PathBuf;

use berth_image::manifest::RunConfig;
use serde::Serialize;

use crate::{CommandError, Context, fetch, output};

/// Show what the store knows of images, as JSON
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Names or digests
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// An image as it is shown; the names of the fields are those of podman and docker where these have them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    name: String,
    digest: String,
    config_digest: String,
    source: String,
    created: Option<String>,
    architecture: String,
    os: String,
    config: RunConfig,
    layers: Vec<InspectedLayer>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedLayer {
    digest: String,
    diff_id: String,
    size: u64,
    path: Option<PathBuf>,
}

/// Prints an array, one element for each argument.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let mut result = Vec::new();
    for image in &args.images {
        let (name, record) = fetch::lookup(&store, image)?;
        let layers = record.layers.iter().map(|layer| InspectedLayer {
            digest: layer.digest.to_string(),
            diff_id: layer.diff_id.to_string(),
            size: layer.size,
            path: store.layer_path(&layer.digest),
        });
        result.push(Inspected {
            layers: layers.collect(),
            name,
            digest: record.digest.to_string(),
            config_digest: record.config_digest.to_string(),
            source: record.source,
            created: record.created,
            architecture: record.architecture,
            os: record.os,
            config: record.config,
        });
    }
    output::json(&result)?;
    Ok(ExitCode::SUCCESS)
}
