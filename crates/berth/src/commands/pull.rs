//! `berth pull`
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use crate::ExitCode;

use std::path::PathBuf;

use crate::cli::options::SourceOptions;
use crate::onefile;
use crate::{CommandError, Context, fetch, output};

/// Fetch images into the store
///
/// Prints the digest of each image's manifest. What the store has already is not fetched again, and layers that several
/// images share are kept once. With --output the image goes into one file instead, and into no store.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  berth pull ubuntu:24.04
  berth pull nvcr.io#nvidia/pytorch:24.05-py3
  berth pull oci:./layout:latest docker-archive:image.tar
  berth pull --output ubuntu.sqsh ubuntu:24.04
  docker save myimage | berth pull docker-archive:-")]
pub struct Args {
    /// Images: [docker://]NAME[:TAG][@DIGEST], oci:DIR, oci-archive:FILE, docker-archive:FILE, containers-storage:NAME, dockerd://NAME, podman://NAME
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Write the image into this one file, which must not be there yet: squashfs, or EROFS if its name ends in .erofs
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file of --output if it is there
    #[arg(long, requires = "output")]
    pub force: bool,
    /// Compress the file of --output so: zstd, gzip, xz (all with a level, as in zstd:19), lz4 or none [default: zstd:3]
    #[arg(long, value_name = "METHOD[:LEVEL]", requires = "output")]
    pub compression: Option<String>,
    /// Compress blocks of this size: a power of two from 4K to 1M [default: 128K]
    #[arg(long, value_name = "SIZE", requires = "output", value_parser = crate::units::parse_size)]
    pub block_size: Option<u64>,
    /// See [`SourceOptions`].
    #[command(flatten)]
    pub source: SourceOptions,
}

/// Fetches them one after the other, and prints each digest as soon as it is there.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    if let Some(output) = &args.output {
        return into_file(args, output, context);
    }
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

/// `--output`
fn into_file(args: &Args, file: &std::path::Path, context: &Context) -> Result<ExitCode, CommandError> {
    let [image] = args.images.as_slice() else {
        return Err(CommandError::usage("--output takes one image: a file holds no more"));
    };
    let wish = onefile::write::Wish {
        compression: args.compression.as_deref(),
        block_size: args.block_size,
        replace: args.force,
    };
    let written = onefile::write::write(image, file, wish, &args.source, context)?;
    if context.json() {
        output::json(&serde_json::json!({ "name": image, "digest": written.digest, "bytes": written.bytes }))?;
    } else {
        output::lines([written.digest.to_string()])?;
    }
    Ok(ExitCode::SUCCESS)
}
