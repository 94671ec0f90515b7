//! What a person asks of a step's container, as options of `berth run`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use berth_slurm::mounts::{self, Mount};
use berth_slurm::request::Request;
use berth_slurm::settings::size;

use super::arguments::Arguments;
use super::conf::Conf;
use crate::CommandError;
use crate::cli::options::{ContainerOptions, Namespace};

/// The wish, and what `berth run` has no option for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// What the person asks for, with what the file of `--container-conf` says under it.
    pub request: Request,
    /// For lowering.
    pub options: ContainerOptions,
    /// Mounts to leave out, with what is below them.
    pub without: Vec<PathBuf>,
    /// Whether to run the entrypoint.
    pub entrypoint: bool,
    /// Variables to take away.
    pub unset: Vec<String>,
}

/// Reads the file of `--container-conf`, if there is one, and puts all together.
pub fn wish(arguments: &Arguments) -> Result<Wish, CommandError> {
    let mut request = arguments.request.clone();
    let conf = request.conf.as_deref().map(Conf::load).transpose()?.unwrap_or_default();
    request.image = request.image.or(conf.image);
    request.workdir = request.workdir.or(conf.workdir);
    request.writable = request.writable.or(conf.writable);
    let entrypoint = request.entrypoint.or(conf.entrypoint).unwrap_or(arguments.default_entrypoint);
    let home = request.mount_home.or_else(enroot_home).unwrap_or(!arguments.default_no_home);
    let unset = conf.env.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| name.clone()).collect();
    let set = conf.env.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={value}"));
    let unshared = |kind: &str| {
        let wanted = request.unshare.as_deref().is_some_and(|list| list.split(',').any(|word| word == kind));
        wanted.then_some(Namespace::Private)
    };
    let mut options = ContainerOptions {
        read_only: request.writable == Some(false),
        writable: request.writable == Some(true),
        overlay_size: request.overlay_size.as_deref().and_then(size),
        env: set.chain(request.env_names().map(str::to_owned)).collect(),
        workdir: request.workdir.clone(),
        // Slurm starts the command; the entrypoint is run before, if it is.
        entrypoint: Some(String::new()),
        remap_root: request.remap_root == Some(true),
        net: unshared("net"),
        ipc: unshared("ipc"),
        hostname: unshared("uts").map(|_| rustix::system::uname().nodename().to_string_lossy().into_owned()),
        no_home: !home,
        // Who does not want to see it does not want to see it as the current directory either.
        no_cwd: !home && is_above_home(),
        devices: conf.devices,
        ..ContainerOptions::default()
    };
    options.devices.extend(request.device.as_deref().into_iter().flat_map(|list| list.split(',')).map(str::to_owned));
    let mut wanted = Vec::new();
    for text in conf.mounts.iter().chain(&request.mounts) {
        wanted.extend(mounts::parse(text).map_err(|e| CommandError::usage(format!("pyxis: {e}")))?);
    }
    let mut without = Vec::new();
    for mount in &wanted {
        let target = inside(&mount.target);
        if mount.is_umount() {
            without.push(target);
        } else {
            options.mounts.push(volume(mount, &target)?);
        }
    }
    Ok(Wish { request, options, without, entrypoint, unset })
}

/// Whether the current directory shows the home directory.
fn is_above_home() -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match (home, std::env::current_dir()) {
        (Some(home), Ok(cwd)) => home.starts_with(&cwd) || home.canonicalize().is_ok_and(|home| home.starts_with(&cwd)),
        _ => false,
    }
}

/// enroot's own wish, which many users of pyxis have in their environment.
fn enroot_home() -> Option<bool> {
    // enroot takes any word but a `no` for a yes.
    let value = std::env::var("ENROOT_MOUNT_HOME").ok().filter(|value| !value.is_empty())?;
    Some(!matches!(value.to_ascii_lowercase().as_str(), "no" | "n" | "false" | "f"))
}

/// A path of the container: one that is relative starts at its root.
fn inside(target: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new(target).components() {
        match part {
            std::path::Component::Normal(name) => path.push(name),
            std::path::Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    path
}

/// As `-v` takes it.
fn volume(mount: &Mount, target: &Path) -> Result<String, CommandError> {
    let source = Path::new(&mount.source);
    if source.is_absolute() && source.symlink_metadata().is_err() {
        return Err(CommandError::failure(format!(
            "pyxis: --container-mounts: source path does not exist: {}",
            mount.source
        )));
    }
    Ok(volume_text(&mount.source, target, &mount.flags.join("+")))
}

/// `SRC:DST[:FLAGS]`, with what separates nothing marked as such.
pub fn volume_text(source: &str, target: &Path, flags: &str) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let mut text = format!("{}:{}", quoted(source), quoted(&target.display().to_string()));
    if !flags.is_empty() {
        text.push(':');
        text.push_str(flags);
    }
    text
}

/// Where a file image would be, and what it is: what stands in for a name in `--container-image`.
///
/// # Errors
/// For files that are no image.
pub fn image_of_path(path: &str) -> Result<String, CommandError> {
    let metadata = std::fs::metadata(path).map_err(|e| {
        CommandError::io("open the image", path, e)
            .with_hint("a name of a registry's image does not start with `.` or `/`")
    })?;
    if metadata.is_dir() {
        let has = |name: &str| Path::new(path).join(name).exists();
        return Ok(if has("oci-layout") {
            format!("oci:{path}")
        } else if has("config.json") && has("rootfs") {
            format!("dir:{path}/rootfs")
        } else {
            format!("dir:{path}")
        });
    }
    if !metadata.is_file() {
        return Err(CommandError::failure(format!("{path} is no image: neither a file nor a directory")));
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(1 << 16).read_to_end(&mut start))
        .map_err(|e| CommandError::io("open the image", path, e))?;
    let is_tar = start.get(257..262) == Some(b"ustar".as_slice());
    if start.starts_with(b"hsqs") || start.get(1024..1028) == Some([0xe2, 0xe1, 0xf5, 0xe0].as_slice()) {
        // In one file: it is mounted as it is.
        return Ok(path.to_owned());
    }
    if is_tar || start.starts_with(&[0x1f, 0x8b]) {
        let is_layout = start.windows(10).any(|bytes| bytes == b"oci-layout");
        return Ok(if is_layout { format!("oci-archive:{path}") } else { format!("docker-archive:{path}") });
    }
    Err(CommandError::failure(format!("{path} is no image: neither a directory nor an archive of `docker save`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Wish {
        let words: Vec<std::ffi::OsString> = arguments.iter().map(Into::into).collect();
        wish(&Arguments::parse(&words).unwrap()).unwrap()
    }

    #[test]
    fn options_of_pyxis_become_those_of_run() {
        let wish = options(&[
            "--container-mounts=/tmp:./data:ro+nosuid,tmpfs:/scratch,umount:/home",
            "--container-readonly",
            "--container-env=A,B",
            "--container-unshare=net,uts",
            "--container-device=/dev/fuse,vendor.com/gpu=0",
            "--no-container-mount-home",
        ]);
        assert_eq!(wish.options.mounts, ["/tmp:/data:ro+nosuid", "tmpfs:/scratch"]);
        assert_eq!(wish.without, [PathBuf::from("/home")]);
        assert_eq!(wish.options.env, ["A", "B"]);
        assert_eq!(wish.options.devices, ["/dev/fuse", "vendor.com/gpu=0"]);
        assert!(wish.options.read_only && wish.options.no_home && !wish.entrypoint);
        assert_eq!((wish.options.net, wish.options.ipc), (Some(Namespace::Private), None));
        assert!(wish.options.hostname.is_some());
    }

    #[test]
    fn a_missing_source_is_told_in_the_words_that_scripts_know() {
        let words = ["--container-mounts=/no/such/place:/x".into()];
        let error = wish(&Arguments::parse(&words).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "pyxis: --container-mounts: source path does not exist: /no/such/place");
    }

    #[test]
    fn files_are_told_apart_by_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("x.sqsh"), b"hsqs....").unwrap();
        std::fs::write(path("text"), b"hello").unwrap();
        std::fs::create_dir_all(path("bundle/rootfs")).unwrap();
        std::fs::write(path("bundle/config.json"), b"{}").unwrap();
        assert_eq!(image_of_path(&path("x.sqsh")).unwrap(), path("x.sqsh"));
        assert!(image_of_path(&path("text")).unwrap_err().to_string().contains("is no image"));
        assert_eq!(image_of_path(&path("bundle")).unwrap(), format!("dir:{}", path("bundle/rootfs")));
        assert!(image_of_path("/no/such").is_err());
    }
}
