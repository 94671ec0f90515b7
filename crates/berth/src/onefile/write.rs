//! Writing an image into one file.
//!
//! A file is written in one pass, under no name, and gets its name when it is whole: a kill leaves nothing. Beside the
//! image's own files it has what enroot puts into such files (`/etc/environment`, `/etc/rc`, `/etc/fstab`), so that enroot
//! starts it as the image wants, and the image's configuration as it was, so that berth does.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use berth_image::Digest;
use berth_image::Reference;
use berth_image::layer::merge::Above;
use berth_image::layer::pack;
use berth_image::manifest::ResolvedImage;
use berth_image::manifest::RunConfig;
use berth_image::progress::Progress;
use berth_image::registry;
use berth_image::source::Opened;
use berth_image::source::Source;
use berth_image::store::ImportOptions;
use berth_imagefile::Compression;
use berth_imagefile::erofs::ErofsWriter;
use berth_imagefile::squashfs::SquashfsWriter;
use berth_imagefile::write::Summary;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::CommandError;
use crate::Context;
use crate::cli::options::SourceOptions;
use crate::fetch;
use crate::onefile::config::CONFIG;
use crate::units;

/// Most logical bytes of an image.
const LARGEST_IMAGE: u64 = 4 << 40;

/// How a file is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// `zstd`, `gzip:9`, …
    pub compression: Option<&'a str>,
    /// Bytes of a block.
    pub block_size: Option<u64>,
    /// Whether a file that is there may be replaced.
    pub replace: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The manifest of the image.
    pub digest: Digest,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The two formats, with what each can be told.
enum Format {
    Squashfs(berth_imagefile::squashfs::Options),
    Erofs,
}

/// Writes the image that `text` means into a file.
pub fn write(
    text: &str,
    file: &Path,
    wish: Wish<'_>,
    options: &SourceOptions,
    context: &Context,
) -> Result<Written, CommandError> {
    let format = format_of(file, wish)?;
    if !wish.replace && file.symlink_metadata().is_ok() {
        return Err(CommandError::failure(format!("{} is there already", file.display()))
            .with_hint("choose another name, or replace it with --force"));
    }
    let reference = Reference::parse(text)?;
    let source = open(&reference, options)?;
    let platform = fetch::platform(options)?.unwrap_or_else(|| ImportOptions::default().platform);
    let progress = context.progress(&reference.to_string());
    let image = source.resolve(&platform, progress.as_ref())?;
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let output = Output::create(directory, file)?;
    let summary = fill(&output, format, source.as_ref(), &image, directory, progress.as_ref())?;
    // The bars go before anything is printed.
    drop(progress);
    if summary.xattrs_left_out > 0 {
        context.explain(|| format!("{} attributes have no place in the format", summary.xattrs_left_out));
    }
    output.finish(wish.replace)?;
    Ok(Written { digest: image.digest, bytes: summary.bytes })
}

fn format_of(file: &Path, wish: Wish<'_>) -> Result<Format, CommandError> {
    let erofs = file.extension().is_some_and(|extension| extension == "erofs");
    if erofs {
        if wish.compression.is_some_and(|text| text != "none") || wish.block_size.is_some() {
            return Err(CommandError::usage("EROFS files are written without compression")
                .with_hint("name the file .sqsh for a compressed one"));
        }
        return Ok(Format::Erofs);
    }
    let mut options = berth_imagefile::squashfs::Options::default();
    if let Some(text) = wish.compression {
        options.compression = Compression::parse(text)?;
    }
    if let Some(bytes) = wish.block_size {
        options.block_size = u32::try_from(bytes).unwrap_or(u32::MAX);
    }
    Ok(Format::Squashfs(options))
}

fn open(reference: &Reference, options: &SourceOptions) -> Result<Box<dyn Source>, CommandError> {
    let stream = || {
        CommandError::failure(format!("{reference} comes from front to back, and a file needs the newest layer first"))
            .with_hint("save it as an archive first, for example `podman save --format oci-archive -o FILE IMAGE`, and give `oci-archive:FILE`")
    };
    match reference {
        Reference::Registry(_) => Ok(Box::new(registry::open(reference, &fetch::registry_options(options))?)),
        Reference::Path { transport, path, selector } => {
            match fetch::open_path(*transport, path, selector.as_deref())? {
                Opened::Source(source) => Ok(source),
                Opened::Stream(_) => Err(stream()),
            }
        }
        Reference::Engine { .. } => Err(stream()),
    }
}

fn fill(
    output: &Output,
    format: Format,
    source: &dyn Source,
    image: &ResolvedImage,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<Summary, CommandError> {
    let name = output.path.display().to_string();
    let file = output.file.try_clone().map_err(|error| CommandError::io("open", &output.path, error))?;
    let limits = pack::Limits {
        bounds: ImportOptions::default().bounds,
        entries: ImportOptions::default().entries,
        bytes: LARGEST_IMAGE,
    };
    let made = image.config.created.as_deref().and_then(units::parse_rfc3339).unwrap_or(0);
    let above = above(image, &source.name());
    let never = AtomicBool::new(false);
    match format {
        Format::Squashfs(mut options) => {
            options.made = u32::try_from(made).unwrap_or(0);
            let mut writer = SquashfsWriter::create(file, &name, options)?;
            pack::pack(source, image, &above, &mut writer, directory, limits, &never, progress)?;
            Ok(writer.finish()?)
        }
        Format::Erofs => {
            let mut writer = ErofsWriter::create(file, &name, berth_imagefile::erofs::Options { made })?;
            pack::pack(source, image, &above, &mut writer, directory, limits, &never, progress)?;
            Ok(writer.finish()?)
        }
    }
}

/// The files that say how the image is run: to enroot, and to berth.
fn above(image: &ResolvedImage, name: &str) -> Vec<Above> {
    let config = &image.config.config;
    let file = |path: &str, mode, content: Vec<u8>| Above { path: path.to_owned(), mode, content };
    // A value of several lines cannot be told to enroot.
    let environment: String =
        config.env.iter().filter(|line| !line.contains('\n')).map(|line| format!("{line}\n")).collect();
    let volumes: String = config
        .volumes
        .keys()
        .filter(|path| path.starts_with('/') && !path.contains(char::is_whitespace))
        .map(|path| format!("${{ENROOT_ROOTFS}}{path} {path} none x-create=dir,bind,rw,nosuid,nodev\n"))
        .collect();
    vec![
        file("etc/environment", 0o644, environment.into_bytes()),
        file("etc/fstab", 0o644, volumes.into_bytes()),
        file("etc/rc", 0o755, rc(config, name).into_bytes()),
        file("etc/rc.local", 0o755, Vec::new()),
        file(CONFIG, 0o644, image.config_bytes.clone()),
    ]
}

/// What enroot runs a command by: it goes where the image wants, and puts the image's entrypoint before the command.
fn rc(config: &RunConfig, name: &str) -> String {
    let quoted = |words: &[String]| words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    let directory = quote(if config.working_dir.is_empty() { "/" } else { &config.working_dir });
    let default =
        if config.cmd.is_empty() && config.entrypoint.is_empty() { quote("/bin/sh") } else { quoted(&config.cmd) };
    let entrypoint = quoted(&config.entrypoint);
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    format!(
        "# {name}\n\
         mkdir -p {directory} 2>/dev/null\n\
         cd {directory} && unset OLDPWD || exit 1\n\
         [ -s /etc/rc.local ] && . /etc/rc.local\n\
         [ $# -gt 0 ] || set -- {default}\n\
         exec {entrypoint} \"$@\"\n"
    )
}

/// A word that a shell takes as it is.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A file without a name, until it is whole.
struct Output {
    file: File,
    path: PathBuf,
    /// Its name meanwhile, on file systems where it must have one.
    temporary: Option<PathBuf>,
}

impl Output {
    fn create(directory: &Path, path: &Path) -> Result<Output, CommandError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => Ok(Output { file: File::from(file), path: path.to_owned(), temporary: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let temporary = temporary_name(path);
                let file = File::options().read(true).write(true).create_new(true).open(&temporary);
                let file = file.map_err(|error| CommandError::io("create", &temporary, error))?;
                Ok(Output { file, path: path.to_owned(), temporary: Some(temporary) })
            }
            Err(error) => Err(CommandError::io("create a file in", directory, error)),
        }
    }

    /// Gives the file its name.
    fn finish(mut self, replace: bool) -> Result<(), CommandError> {
        let path = self.path.clone();
        let fault = |error: Errno| match error {
            Errno::EXIST => CommandError::failure(format!("{} has appeared meanwhile", path.display())),
            error => CommandError::io("give its name to", &path, error),
        };
        if self.temporary.is_none() {
            let itself = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let name = if replace { temporary_name(&self.path) } else { self.path.clone() };
            rustix::fs::linkat(CWD, &itself, CWD, &name, AtFlags::SYMLINK_FOLLOW).map_err(fault)?;
            if !replace {
                return Ok(());
            }
            self.temporary = Some(name);
        }
        let temporary = self.temporary.clone().unwrap_or_default();
        if !replace {
            // A link does not replace.
            rustix::fs::linkat(CWD, &temporary, CWD, &self.path, AtFlags::empty()).map_err(fault)?;
            return Ok(());
        }
        rustix::fs::rename(&temporary, &self.path).map_err(fault)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_for_enroot_quotes_what_the_image_says() {
        let config = RunConfig {
            entrypoint: vec!["/bin/it's".to_owned(), "$HOME".to_owned()],
            cmd: vec!["a b".to_owned()],
            working_dir: "/work dir".to_owned(),
            ..RunConfig::default()
        };
        let text = rc(&config, "registry/name:tag");
        assert!(text.starts_with("# registry/name:tag\n"), "{text}");
        assert!(text.contains("cd '/work dir' && "), "{text}");
        assert!(text.contains("set -- 'a b'\n"), "{text}");
        assert!(text.ends_with("exec '/bin/it'\\''s' '$HOME' \"$@\"\n"), "{text}");
    }

    #[test]
    fn the_name_says_the_format() {
        let format = |name: &str, wish| format_of(Path::new(name), wish);
        assert!(matches!(format("x.erofs", Wish::default()), Ok(Format::Erofs)));
        assert!(matches!(format("x.sqsh", Wish::default()), Ok(Format::Squashfs(_))));
        let gzip = Wish { compression: Some("gzip:1"), ..Wish::default() };
        assert!(
            matches!(format("x", gzip), Ok(Format::Squashfs(options)) if options.compression == Compression::Gzip(1))
        );
        assert!(format("x.erofs", gzip).is_err());
    }
}
