//! `berth run`
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use crate::ExitCode;
use std::ffi::OsString;

use crate::cli::options::ContainerOptions;
use crate::{CommandError, Context, start};

/// Run a command in an image
///
/// Fetches the image if no store has it. The command runs as the person who asks for it, sees the home directory and the
/// current directory under their own paths, and starts in the latter; the rest of the file system is the image's.
/// Changes to it vanish when the command ends, unless the container has a name. Everything after IMAGE is the command.
#[derive(Clone, Debug, clap::Args)]
#[command(
    override_usage = "berth run [OPTIONS] IMAGE [COMMAND [ARGUMENT]...]",
    after_help = "Examples:
  berth run ubuntu:24.04 cat /etc/os-release
  berth run -v /scratch -e OMP_NUM_THREADS=8 nvcr.io#nvidia/pytorch:24.05-py3 python train.py
  berth run --remap-root --name build debian:12 apt-get install -y gcc
  berth run --contained --net busybox sh
  berth run ./tools.sqsh make"
)]
pub struct Args {
    /// See [`ContainerOptions`].
    #[command(flatten)]
    pub container: ContainerOptions,
    /// The image: [docker://]NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE (- is standard input), dir:PATH, containers-storage:NAME, dockerd://NAME, podman://NAME, or the path of an image in one file (.sqsh, .erofs)
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The command and its arguments; the image's own when left out
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// Becomes the command; returns only when that fails or when something had to wait for it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    start::start(&args.container, &args.image, start::What::Command(&args.command), context)
}
