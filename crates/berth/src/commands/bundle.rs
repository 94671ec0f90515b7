//! `berth bundle`
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;

use berth_container::launch;
use berth_image::merge;
use serde_json::json;

use crate::ExitCode;
use crate::cli::PullPolicy;
use crate::cli::options::SourceOptions;
use crate::command_error::CommandError;
use crate::context::Context;
use crate::fetch;
use crate::lower;
use crate::output;

/// Make an OCI bundle of an image, for `srun --container`, runc, crun and others
///
/// The directory gets `rootfs`, a copy of the image's files, and `config.json`, with the image's command, variables, directory and
/// labels. It appears when it is whole, and its path is printed. As an ordinary user, the bundle is for that user.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  berth bundle debian:12 ~/debian
  srun --container ~/debian /bin/cat /etc/os-release
  berth bundle dir:/srv/tree ~/bundle")]
pub struct Args {
    /// The image: [docker://]NAME[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE (- is standard input), dir:PATH, containers-storage:NAME, dockerd://NAME, podman://NAME
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where to; it is made, or is empty
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Only the caller's own ids are mapped, as root inside; without this only where root asks the ids stay
    #[arg(long)]
    pub rootless: bool,
    /// When to fetch the image
    #[arg(long, value_enum, value_name = "POLICY")]
    pub pull: Option<PullPolicy>,
    /// See [`SourceOptions`].
    #[command(flatten)]
    pub source: SourceOptions,
}

/// Makes it.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode, CommandError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let rootless = args.rootless || !uid.is_root();
    let target = std::path::absolute(&args.directory).map_err(|e| CommandError::io("find", &args.directory, e))?;
    check_free(&target)?;
    let (image, lease) = fetch::image(&args.image, args.pull.unwrap_or_default(), &args.source, context)?;
    let (spec, notes) = lower::bundle::spec(&image, rootless.then_some((uid.as_raw(), gid.as_raw())))?;
    for note in notes {
        context.note(&note);
    }
    let part = Part::new(&target)?;
    if !uid.is_root() {
        // Files that their own modes close to their owner are the image's, too. Where that is refused, they are told by name.
        if let Err(error) = launch::become_own_root() {
            context.explain(|| format!("without a user namespace: {error}"));
        }
    }
    let rootfs = part.0.join("rootfs");
    make_directory(&rootfs, 0o755)?;
    merge::copy(&image.layers, &rootfs, !rootless).map_err(|error| {
        let hint = matches!(error.source.kind(), io::ErrorKind::PermissionDenied)
            .then_some("the files of a directory have to be one's own: root's need root");
        CommandError::failure(format!("{}: {error}", image.name)).with_hint_if(hint)
    })?;
    drop(lease);
    let mut text = serde_json::to_vec_pretty(&spec)?;
    text.push(b'\n');
    let config = part.0.join("config.json");
    fs::write(&config, text).map_err(|e| CommandError::io("write", &config, e))?;
    part.finish(&target)?;
    if context.json() {
        let digest = image.digest.map(|digest| digest.to_string());
        output::json(&json!({ "bundle": target, "image": image.name, "digest": digest, "rootless": rootless }))?;
    } else {
        output::lines([target.display().to_string()])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is nothing yet, before anything is fetched.
fn check_free(target: &Path) -> Result<(), CommandError> {
    let full = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(CommandError::io("use", target, error)),
    };
    if full {
        return Err(CommandError::failure(format!("{} is there already, and not empty", target.display()))
            .with_hint("choose another directory, or remove it"));
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), CommandError> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(|e| CommandError::io("make", path, e))
}

/// The bundle beside its place while it is made. What a killed process leaves has its number in its name.
struct Part(PathBuf);

impl Part {
    fn new(target: &Path) -> Result<Part, CommandError> {
        let name = target.file_name().ok_or_else(|| CommandError::usage("a bundle needs a directory of its own"))?;
        let part = format!(".{}.{}.part", name.display(), std::process::id());
        let part = target.with_file_name(part);
        make_directory(&part, 0o755)?;
        Ok(Part(part))
    }

    fn finish(self, target: &Path) -> Result<(), CommandError> {
        fs::rename(&self.0, target).map_err(|e| CommandError::io("make", target, e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is gone after the rename.
        let _ = fs::remove_dir_all(&self.0);
    }
}
