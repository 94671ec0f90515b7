//! What a start reads of the configuration and of the host, beside the image: options completed, files read.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use berth_container::environment::{self, Setting};
use berth_container::etc::HostFiles;
use berth_container::oci::IdMap;
use berth_container::subid;
use berth_container::volume::Volume;
use berth_host::subid::{Rule, nsswitch};

use crate::cli::options::{ContainerOptions, Namespace};
use crate::command_error::{CommandError, Kind};
use crate::config::{self, RunDefaults};
use crate::lower::host::Host;
use crate::lower::{Request, What};
use crate::units::parse_size;

/// Files of the host larger than this are not taken over.
const MAX_FILE: u64 = 1 << 20;
/// The highest id that an image may want to use with `--subid`: `nobody`.
const HIGHEST_ID: u32 = 65_534;

/// The options with those of the configuration under them.
pub fn with_defaults(typed: &ContainerOptions, defaults: &RunDefaults) -> Result<ContainerOptions, CommandError> {
    let mut options = typed.clone();
    options.no_home |= defaults.home == Some(false);
    options.no_cwd |= defaults.cwd == Some(false);
    options.contained |= defaults.contained == Some(true);
    options.pull = options.pull.or(defaults.pull);
    if options.user.is_none() && !options.remap_root {
        options.user = defaults.user.clone();
    }
    // `self` is how a person takes back a user that the site's file names.
    options.user = options.user.filter(|user| user != "self");
    if let (None, Some(text)) = (options.overlay_size, &defaults.overlay_size) {
        let size = parse_size(text).map_err(|reason| in_configuration("overlay-size", &reason))?;
        options.overlay_size = Some(size);
    }
    options.devices = [defaults.devices.clone(), options.devices].concat();
    Ok(options)
}

fn in_configuration(key: &str, reason: &str) -> CommandError {
    CommandError::new(Kind::Config, format!("the configuration's run.{key}: {reason}"))
}

/// What was read, so that a [`Request`] can borrow it.
#[derive(Debug, Default)]
pub struct Inputs {
    settings: Vec<Setting>,
    keep_env: Vec<String>,
    default_volumes: Vec<Volume>,
    volumes: Vec<Volume>,
    subid: Option<(Vec<IdMap>, Vec<IdMap>)>,
    hosts: Vec<u8>,
    resolv_conf: Vec<u8>,
    localtime: Vec<u8>,
    host_name: String,
    host_has_mqueue: bool,
}

impl Inputs {
    /// Reads it.
    pub fn read(options: &ContainerOptions, defaults: &RunDefaults, host: &Host) -> Result<Inputs, CommandError> {
        let cwd = host.cwd.clone().unwrap_or_else(|| PathBuf::from("/"));
        let inherit = !options.clear_env && !options.contained;
        Ok(Inputs {
            settings: settings(options, defaults)?,
            keep_env: defaults.keep_env.clone(),
            default_volumes: default_volumes(options, defaults)?,
            volumes: options.mounts.iter().map(|text| volume(text, &cwd)).collect::<Result<_, _>>()?,
            subid: if options.subid && !host.is_root() { Some(subordinate_ids(host)?) } else { None },
            hosts: small_file("/etc/hosts"),
            resolv_conf: small_file("/etc/resolv.conf"),
            localtime: if inherit { small_file("/etc/localtime") } else { Vec::new() },
            host_has_mqueue: options.ipc == Some(Namespace::Private) && Path::new("/dev/mqueue").is_dir(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        })
    }

    /// The request that lowering takes.
    pub fn request<'a>(&'a self, options: &'a ContainerOptions, what: What<'a>) -> Request<'a> {
        Request {
            options,
            what,
            settings: &self.settings,
            keep_env: &self.keep_env,
            default_volumes: &self.default_volumes,
            volumes: &self.volumes,
            subid: self.subid.as_ref().map(|(uids, gids)| (uids.as_slice(), gids.as_slice())),
            host_files: HostFiles { hosts: &self.hosts, resolv_conf: &self.resolv_conf, localtime: &self.localtime },
            host_name: &self.host_name,
            host_has_mqueue: self.host_has_mqueue,
        }
    }
}

/// `-e` and `--env-file`, after those of the configuration. Files come before `-e` however the line orders them, as in
/// podman and docker.
pub fn settings(options: &ContainerOptions, defaults: &RunDefaults) -> Result<Vec<Setting>, CommandError> {
    let mut settings = Vec::new();
    for text in &defaults.env {
        settings.push(Setting::parse(OsStr::new(text)).map_err(|e| in_configuration("env", &e.to_string()))?);
    }
    for path in &options.env_file {
        let content = fs::read(path).map_err(|e| CommandError::io("read", path, e))?;
        let parsed = environment::parse_env_file(&content);
        settings.extend(parsed.map_err(|e| CommandError::usage(format!("{}: {e}", path.display())))?);
    }
    settings.extend(parse_settings(&options.env)?);
    Ok(settings)
}

/// Arguments of `-e`.
pub fn parse_settings(texts: &[String]) -> Result<Vec<Setting>, CommandError> {
    let parse = |text: &String| Setting::parse(OsStr::new(text)).map_err(|e| CommandError::usage(e.to_string()));
    texts.iter().map(parse).collect()
}

fn volume(text: &str, cwd: &Path) -> Result<Volume, CommandError> {
    let volume =
        Volume::parse(text, cwd).map_err(|e| CommandError::usage(format!("invalid mount {e}")).with_hint(e.hint()))?;
    // The kernel's "no such file" does not say which of the two is missing; and a source that is missing is usually a
    // typing error, so it is not made, as docker does.
    if let Some(source) = volume.source.as_deref().filter(|source| source.symlink_metadata().is_err()) {
        let hint = if text.starts_with(['/', '.']) || text.contains('=') {
            "create it, or correct the path: berth does not make missing sources".to_owned()
        } else {
            format!("a relative source starts at the current directory, {}", cwd.display())
        };
        return Err(CommandError::failure(format!("cannot mount {}: no such file or directory", source.display()))
            .with_hint(hint));
    }
    Ok(volume)
}

/// Mounts of the configuration. A site's file serves many hosts: what this one does not have is left out.
fn default_volumes(options: &ContainerOptions, defaults: &RunDefaults) -> Result<Vec<Volume>, CommandError> {
    let mut volumes = Vec::new();
    if options.contained {
        return Ok(volumes);
    }
    for text in &defaults.mounts {
        let text = config::expand(text, |name| env::var(name).ok()).map_err(|e| in_configuration("mounts", &e))?;
        let volume = Volume::parse(&text, Path::new("/")).map_err(|e| in_configuration("mounts", &e.to_string()))?;
        if volume.source.as_deref().is_none_or(|source| source.symlink_metadata().is_ok()) {
            volumes.push(volume);
        }
    }
    Ok(volumes)
}

fn subordinate_ids(host: &Host) -> Result<(Vec<IdMap>, Vec<IdMap>), CommandError> {
    let request = subid::Request {
        name: Some(&host.user.name),
        uid: host.user.uid,
        gid: host.user.gid,
        layout: subid::Layout::Root,
        highest: HIGHEST_ID,
    };
    let text = |path| String::from_utf8_lossy(&small_file(path)).into_owned();
    let (uids, gids) = if nsswitch::is_berth(&text("/etc/nsswitch.conf")) {
        // The files are not asked then. newuidmap loads the module; the same rule, asked here, needs no library.
        let entry = entry_by_rule(host.user.uid)?;
        (entry.clone(), entry)
    } else {
        (text(subid::IdKind::User.file()), text(subid::IdKind::Group.file()))
    };
    subid::maps(&request, &uids, &gids).map_err(|e| CommandError::from(berth_container::Error::from(e)))
}

/// What `/etc/subuid` would say of a uid if the rule were written to it.
fn entry_by_rule(uid: u32) -> Result<String, CommandError> {
    let failed = |reason: String| CommandError::failure(format!("cannot map user ids into the container: {reason}"));
    let rule = Rule::load().map_err(|error| failed(error.to_string()))?;
    let range = rule.range(uid).map_err(|reason| {
        failed(reason.to_string()).with_hint("`berth subid explain` tells the rule; --remap-root needs no further ids")
    })?;
    Ok(format!("{uid}:{}:{}\n", range.first, range.count))
}

/// A file of the host, empty if it is not there or too large for what it should be.
fn small_file(path: &str) -> Vec<u8> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    // Room for all that such a file usually has: one read instead of many.
    let mut content = Vec::with_capacity(4096);
    match file.take(MAX_FILE + 1).read_to_end(&mut content) {
        Ok(length) if length as u64 <= MAX_FILE => content,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_fills_in_what_was_not_typed() {
        let defaults = RunDefaults {
            home: Some(false),
            user: Some("image".to_owned()),
            overlay_size: Some("2G".to_owned()),
            devices: vec!["/dev/fuse".to_owned()],
            ..RunDefaults::default()
        };
        let typed = ContainerOptions { devices: vec!["/dev/kvm".to_owned()], ..ContainerOptions::default() };
        let options = with_defaults(&typed, &defaults).unwrap();
        assert!(options.no_home && !options.no_cwd);
        assert_eq!(options.user.as_deref(), Some("image"));
        assert_eq!(options.overlay_size, Some(2 << 30));
        assert_eq!(options.devices, ["/dev/fuse", "/dev/kvm"]);
        let typed = ContainerOptions { user: Some("self".to_owned()), ..ContainerOptions::default() };
        assert_eq!(with_defaults(&typed, &defaults).unwrap().user, None);
        let typed = ContainerOptions { remap_root: true, ..ContainerOptions::default() };
        assert_eq!(with_defaults(&typed, &defaults).unwrap().user, None);
        let wrong = RunDefaults { overlay_size: Some("much".to_owned()), ..RunDefaults::default() };
        assert_eq!(with_defaults(&typed, &wrong).unwrap_err().kind(), Kind::Config);
    }

    #[test]
    fn environment_files_come_before_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        fs::write(&file, "A=file\n").unwrap();
        let options =
            ContainerOptions { env: vec!["A=typed".to_owned()], env_file: vec![file], ..ContainerOptions::default() };
        let defaults = RunDefaults { env: vec!["A=site".to_owned()], ..RunDefaults::default() };
        let values: Vec<_> = settings(&options, &defaults).unwrap();
        let set = |value: &str| Setting::Set("A".into(), value.into());
        assert_eq!(values, [set("site"), set("file"), set("typed")]);
    }

    #[test]
    fn a_missing_source_is_an_error_when_typed_and_nothing_when_configured() {
        let error = volume("/no/such/directory:/x", Path::new("/")).unwrap_err();
        assert_eq!(error.to_string(), "cannot mount /no/such/directory: no such file or directory");
        let error = volume("data:/x", Path::new("/no/such")).unwrap_err();
        assert!(error.hint().unwrap().contains("/no/such"), "{error:?}");
        let defaults = RunDefaults {
            mounts: vec!["/no/such/directory".to_owned(), "/".to_owned() + "tmp"],
            ..RunDefaults::default()
        };
        let volumes = default_volumes(&ContainerOptions::default(), &defaults).unwrap();
        assert_eq!(volumes.len(), 1);
    }
}
