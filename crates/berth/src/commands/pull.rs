//! `berth pull`
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use crate::ExitCode;

use crate::cli::options::SourceOptions;
use crate::{CommandError, Context, fetch, output};

/// Fetch images into the store
///
/// Prints the digest of each image's manifest. What the store has already is not fetched again, and layers that several
/// images share are kept once.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  berth pull ubuntu:24.04
  berth pull nvcr.io#nvidia/pytorch:24.05-py3
  berth pull oci:./layout:latest docker-archive:image.tar
  docker save myimage | berth pull docker-archive:-")]
pub struct Args {
    /// Images: [docker://]NAME[:TAG][@DIGEST], oci:DIR, oci-archive:FILE, docker-archive:FILE, containers-storage:NAME, dockerd://NAME, podman://NAME
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// See [`SourceOptions`].
    #[command(flatten)]
    pub source: SourceOptions,
}

/// Fetches them one after the other, and prints each digest as soon as it is there.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let store = context.store()?;
    let mut pulled = Vec::new();
    for image in &args.images {
        let record = fetch::pull(&store, image, &args.source, context)?;
        if context.json() {
            pulled.push(serde_json::json!({ "name": image, "digest": record.digest, "config": record.config_digest }));
        } else {
            output::lines([record.digest.to_string()])?;
        }
    }
    if context.json() {
        output::json(&pulled)?;
    }
    Ok(ExitCode::SUCCESS)
}
