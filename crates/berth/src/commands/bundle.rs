//! `berth bundle`
#![allow(rustdoc::broken_intra_doc_links)] // Doc comments here are help texts, with the brackets of a usage.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;

use berth_container::launch;
use berth_image::merge;
use rustix::fs::FlockOperation;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;
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
    /// Map the caller's own ids alone, as root inside; an ordinary user's bundle is always so
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
    if image.is_directory {
        check_outside(&target, &image.layers[0])?;
    }
    if !uid.is_root() {
        // Files that their own modes close to their owner are the image's, too. Where that is refused, they are told by name.
        if let Err(error) = launch::become_own_root() {
            context.explain(|| format!("without a user namespace: {error}"));
        }
    }
    let part = Part::new(&target)?;
    let rootfs = part.path.join("rootfs");
    make_directory(&rootfs, 0o755)?;
    merge::copy(&image.layers, &rootfs, !rootless).map_err(|error| {
        let hint = matches!(error.source.kind(), io::ErrorKind::PermissionDenied)
            .then_some("the files of a directory have to be one's own: root's need root");
        CommandError::failure(format!("{}: {error}", image.name)).with_hint_if(hint)
    })?;
    drop(lease);
    let mut text = serde_json::to_vec_pretty(&spec)?;
    text.push(b'\n');
    let config = part.path.join("config.json");
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

/// A copy of a tree within the tree would have no end.
fn check_outside(target: &Path, tree: &Path) -> Result<(), CommandError> {
    let parent = target.parent().unwrap_or(Path::new("/"));
    let parent = parent.canonicalize().map_err(|e| CommandError::io("find", parent, e))?;
    let tree = tree.canonicalize().map_err(|e| CommandError::io("find", tree, e))?;
    if parent.starts_with(&tree) {
        return Err(CommandError::usage(format!("{} lies within {}", target.display(), tree.display()))
            .with_hint("choose a directory outside of the tree"));
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), CommandError> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(|e| CommandError::io("make", path, e))
}

/// The bundle beside its place while it is made: `.NAME.PID.part`, locked as long as somebody makes it.
struct Part {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Part {
    fn new(target: &Path) -> Result<Part, CommandError> {
        let name = target.file_name().ok_or_else(|| CommandError::usage("a bundle needs a directory of its own"))?;
        let (prefix, suffix) = (format!(".{}.", name.display()), ".part");
        // What a killed process has left.
        for entry in target.parent().into_iter().flat_map(fs::read_dir).flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(suffix));
            if number.is_some_and(|number| number.parse::<u32>().is_ok()) && lock(&entry.path()).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = target.with_file_name(format!("{prefix}{}{suffix}", std::process::id()));
        make_directory(&path, 0o755)?;
        let lock = lock(&path).map_err(|e| CommandError::io("lock", &path, e))?;
        Ok(Part { path, _lock: lock })
    }

    fn finish(self, target: &Path) -> Result<(), CommandError> {
        fs::rename(&self.path, target).map_err(|e| CommandError::io("make", target, e))
    }
}

fn lock(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        // A file system without locks.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is gone after the rename.
        let _ = fs::remove_dir_all(&self.path);
    }
}
