//! Devices by the Container Device Interface: `--device vendor.com/class=name`.
//!
//! A vendor's tool writes, once a host, what a container needs to use a device: nodes, libraries to mount, variables, programs to
//! run. The files lie in `/etc/cdi` and `/var/run/cdi`, `*.json`, `*.yaml` or `*.yml`; where two define a device, the one in the
//! later directory counts, and two in the same directory are an error for whoever asks for the device. A file that can't be used hides
//! none of the others; it is named when a device isn't found.
//!
//! Plain nodes (`/dev/fuse`, `/dev/ttyS0:/dev/modem:rw`) are asked for with the same option.

mod spec;
pub mod yaml;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

pub use spec::{CdiDevice, CdiHook, CdiMount, CdiSpec, ContainerEdits, DeviceNode};

use crate::oci;

/// Where specifications are looked for; later ones win.
pub const DEFAULT_DIRS: &[&str] = &["/etc/cdi", "/var/run/cdi"];

/// Larger than any specification: a node with 16 GPUs cut into 7 parts each has 300 kB.
const MAX_FILE: u64 = 8 << 20;

/// More files in a directory are not looked at.
const MAX_FILES: usize = 256;

/// How many devices an error lists.
const MAX_LISTED: usize = 24;

/// A device asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceRequest {
    /// `vendor.com/class=name`; the name `all` is all devices of the kind unless there is one of that name.
    Cdi {
        /// `vendor.com/class`.
        kind: String,
        /// Name in the kind.
        name: String,
    },
    /// `/dev/X[:TARGET[:PERMISSIONS]]`.
    Node(NodeRequest),
}

/// A plain device node asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRequest {
    /// Where, on the host.
    pub host_path: PathBuf,
    /// Where, inside.
    pub path: PathBuf,
    /// Whether it may only be read.
    pub readonly: bool,
}

/// Why a device can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant is its message.
pub enum CdiError {
    #[error("device `{text}`: {problem}")]
    BadRequest { text: String, problem: &'static str },
    #[error("no device `{device}`{}", found(known, *more))]
    NotFound { device: String, known: Vec<String>, more: usize, dirs: Vec<PathBuf>, broken: Vec<String> },
    #[error("device `{device}` is defined twice: in {} and {}", first.display(), second.display())]
    Conflict { device: String, first: PathBuf, second: PathBuf },
    #[error("device `{device}` needs {}: {source}", path.display())]
    Node { device: String, path: PathBuf, source: io::Error },
}

fn found(known: &[String], more: usize) -> String {
    match (known.is_empty(), more) {
        (true, _) => "; there are none".to_owned(),
        (false, 0) => format!("; there are {}", known.join(", ")),
        (false, more) => format!("; there are {} and {more} more", known.join(", ")),
    }
}

impl CdiError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            CdiError::BadRequest { .. } => "the forms are vendor.com/class=name and /dev/X[:TARGET[:rwm]]".to_owned(),
            CdiError::NotFound { broken, .. } if !broken.is_empty() => format!("not usable: {}", broken.join("; ")),
            CdiError::NotFound { dirs, device, .. } => {
                let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
                let tool = if device.starts_with("nvidia.com/") { ", for example by `nvidia-ctk cdi generate`" } else { "" };
                format!("specifications are looked for in {}; the vendor's tool makes them{tool}", dirs.join(" and "))
            }
            CdiError::Conflict { .. } => "remove one of the two files".to_owned(),
            CdiError::Node { .. } => {
                "is the driver loaded? If the specification is older than the driver, make it anew with the vendor's tool".to_owned()
            }
        }
    }
}

impl DeviceRequest {
    /// Reads the argument of `--device`.
    ///
    /// # Errors
    /// [`CdiError::BadRequest`] for a text of neither form.
    pub fn parse(text: &str) -> Result<DeviceRequest, CdiError> {
        let fail = |problem| CdiError::BadRequest { text: text.to_owned(), problem };
        if text.starts_with('/') {
            let mut parts = text.split(':');
            let host_path = parts.next().unwrap_or_default();
            let (mut path, mut permissions) = (host_path, "rwm");
            match (parts.next(), parts.next(), parts.next()) {
                (None, ..) => {}
                // As in docker, the second part alone may be the permissions.
                (Some(one), None, _) if !one.is_empty() && spec::is_permissions(one) => permissions = one,
                (Some(target), None, _) => path = target,
                (Some(target), Some(letters), None) => (path, permissions) = (target, letters),
                _ => return Err(fail("more than three parts")),
            }
            let clean = |path: &str| {
                let dots = Path::new(path).components().any(|part| part == std::path::Component::ParentDir);
                path.len() > 1 && path.starts_with('/') && !path.contains('\0') && !dots
            };
            if !clean(path) || !clean(host_path) {
                return Err(fail("not an absolute path without `..`"));
            }
            if permissions.is_empty() || !spec::is_permissions(permissions) {
                return Err(fail("permissions are letters of `rwm`"));
            }
            let readonly = !permissions.contains('w');
            return Ok(DeviceRequest::Node(NodeRequest { host_path: host_path.into(), path: path.into(), readonly }));
        }
        let (kind, name) = text.split_once('=').ok_or_else(|| fail("no `=` and not a path"))?;
        if spec::split_kind(kind).is_none() {
            return Err(fail("the part before `=` is not of the form vendor.com/class"));
        }
        if !spec::is_device_name(name) {
            return Err(fail("the part after `=` is not a device name"));
        }
        Ok(DeviceRequest::Cdi { kind: kind.to_owned(), name: name.to_owned() })
    }
}

/// What a node of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDevice {
    /// `c`, `b` or `p`, as in [`oci::Device::kind`].
    pub kind: &'static str,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// Looks at a node of the host, links followed.
///
/// # Errors
/// Those of stat(2), and `InvalidInput` for what is no device.
pub fn host_device(path: &Path) -> io::Result<HostDevice> {
    let metadata = std::fs::metadata(path)?;
    let file_type = metadata.file_type();
    let kind = match () {
        () if file_type.is_char_device() => "c",
        () if file_type.is_block_device() => "b",
        () if file_type.is_fifo() => "p",
        () => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device")),
    };
    let device = metadata.rdev();
    Ok(HostDevice { kind, major: rustix::fs::major(device), minor: rustix::fs::minor(device) })
}

/// The specifications of a host.
#[derive(Debug, Default)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    specs: Vec<Loaded>,
    broken: Vec<String>,
}

#[derive(Debug)]
struct Loaded {
    /// Index of the directory: the higher, the stronger.
    rank: usize,
    path: PathBuf,
    spec: CdiSpec,
}

impl Registry {
    /// Reads all specifications of `dirs`, the later the stronger. Directories and files that can't be read are told about when
    /// a device isn't found.
    pub fn load(dirs: &[PathBuf]) -> Registry {
        let mut registry = Registry { dirs: dirs.to_vec(), ..Registry::default() };
        for (rank, dir) in dirs.iter().enumerate() {
            let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| is_spec_name(path)).collect(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    registry.broken.push(format!("{}: {error}", dir.display()));
                    continue;
                }
            };
            files.sort();
            files.truncate(MAX_FILES);
            for path in files {
                match read_spec(&path) {
                    Ok(spec) => registry.specs.push(Loaded { rank, path, spec }),
                    Err(problem) => registry.broken.push(format!("{}: {problem}", path.display())),
                }
            }
        }
        registry
    }

    /// The qualified names of all devices, sorted.
    pub fn devices(&self) -> Vec<String> {
        let names = |loaded: &Loaded| {
            let kind = loaded.spec.kind.clone();
            loaded.spec.devices.iter().map(move |device| format!("{kind}={}", device.name)).collect::<Vec<_>>()
        };
        let mut names: Vec<_> = self.specs.iter().flat_map(names).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Files and directories that could not be used, and why.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// The strongest definition of a device, if there is one.
    fn find(&self, kind: &str, name: &str) -> Result<Option<(&Loaded, &CdiDevice)>, CdiError> {
        // Directories were read weakest first.
        let of_kind = self.specs.iter().rev().filter(|loaded| loaded.spec.kind == kind);
        let mut definitions = of_kind.filter_map(|loaded| {
            let device = loaded.spec.devices.iter().find(|device| device.name == name)?;
            Some((loaded, device))
        });
        let best = definitions.next();
        if let (Some((one, _)), Some((other, _))) = (best, definitions.next())
            && one.rank == other.rank
        {
            let (first, second) = (other.path.clone(), one.path.clone());
            return Err(CdiError::Conflict { device: format!("{kind}={name}"), first, second });
        }
        Ok(best)
    }

    fn not_found(&self, device: String) -> CdiError {
        let mut known = self.devices();
        let more = known.len().saturating_sub(MAX_LISTED);
        known.truncate(MAX_LISTED);
        CdiError::NotFound { device, known, more, dirs: self.dirs.clone(), broken: self.broken.clone() }
    }

    /// Puts the devices asked for into a configuration. The edits of a file that all its devices share are made once.
    ///
    /// A node that has the same path on both sides becomes an entry of `linux.devices`; one with another path, or one that may only
    /// be read, becomes a bind mount, which is the only way for a launcher that can't make nodes. Nodes are looked at by
    /// `host_device` (the function of this module, outside of tests).
    ///
    /// # Errors
    /// A device that isn't there, is defined twice, or whose nodes aren't on this host. The configuration is to be thrown away then.
    pub fn apply(
        &self,
        requests: &[DeviceRequest],
        oci: &mut oci::Spec,
        host_device: impl Fn(&Path) -> io::Result<HostDevice>,
    ) -> Result<(), CdiError> {
        let mut chosen: Vec<(&Loaded, &CdiDevice)> = Vec::new();
        for request in requests {
            let (kind, name) = match request {
                DeviceRequest::Cdi { kind, name } => (kind, name),
                DeviceRequest::Node(node) => {
                    let as_node = DeviceNode {
                        path: node.path.clone(),
                        host_path: Some(node.host_path.clone()),
                        permissions: node.readonly.then(|| "r".to_owned()),
                        ..DeviceNode::default()
                    };
                    let label = node.host_path.display().to_string();
                    add_node(oci, &as_node, &label, &host_device)?;
                    continue;
                }
            };
            if let Some(found) = self.find(kind, name)? {
                chosen.push(found);
            } else if name == "all" {
                let all = self.all_of(kind)?;
                if all.is_empty() {
                    return Err(self.not_found(format!("{kind}={name}")));
                }
                chosen.extend(all);
            } else {
                return Err(self.not_found(format!("{kind}={name}")));
            }
        }
        let mut done: Vec<(&Path, Option<&str>)> = Vec::new();
        for (loaded, device) in chosen {
            let label = format!("{}={}", loaded.spec.kind, device.name);
            let edits = [(None, &loaded.spec.container_edits), (Some(device.name.as_str()), &device.container_edits)];
            for (name, edits) in edits {
                if !done.contains(&(&loaded.path, name)) {
                    done.push((&loaded.path, name));
                    add_edits(oci, edits, &label, &host_device)?;
                }
            }
        }
        Ok(())
    }

    fn all_of(&self, kind: &str) -> Result<Vec<(&Loaded, &CdiDevice)>, CdiError> {
        let of_kind = self.specs.iter().filter(|loaded| loaded.spec.kind == kind);
        let mut names: BTreeMap<&str, ()> = BTreeMap::new();
        names.extend(of_kind.flat_map(|loaded| &loaded.spec.devices).map(|device| (device.name.as_str(), ())));
        let found = names.into_keys().map(|name| self.find(kind, name));
        Ok(found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}

fn is_spec_name(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("json" | "yaml" | "yml"))
}

fn read_spec(path: &Path) -> Result<CdiSpec, String> {
    let describe = |error: io::Error| error.to_string();
    let mut text = String::new();
    // Not opened before it is known to be a file: a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(describe)?.is_file() {
        return Err("not a regular file".to_owned());
    }
    let file = File::open(path).map_err(describe)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(describe)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json { CdiSpec::from_json(&text) } else { CdiSpec::from_yaml(&text) }
}

fn add_edits(
    oci: &mut oci::Spec,
    edits: &ContainerEdits,
    label: &str,
    host_device: &impl Fn(&Path) -> io::Result<HostDevice>,
) -> Result<(), CdiError> {
    for node in &edits.device_nodes {
        add_node(oci, node, label, host_device)?;
    }
    for mount in &edits.mounts {
        add_mount(oci, mount);
    }
    for hook in &edits.hooks {
        add_hook(&mut oci.hooks, hook);
    }
    let process = oci.process.get_or_insert_default();
    for entry in &edits.env {
        let name = entry.split('=').next().unwrap_or_default();
        process.env.retain(|old| old.split('=').next() != Some(name));
        process.env.push(entry.clone());
    }
    for &gid in &edits.additional_gids {
        if gid != 0 && !process.user.additional_gids.contains(&gid) {
            process.user.additional_gids.push(gid);
        }
    }
    Ok(())
}

fn add_node(
    oci: &mut oci::Spec,
    node: &DeviceNode,
    label: &str,
    host_device: &impl Fn(&Path) -> io::Result<HostDevice>,
) -> Result<(), CdiError> {
    let host_path = node.host_path.as_ref().unwrap_or(&node.path);
    let found = host_device(host_path).map_err(|source| CdiError::Node {
        device: label.to_owned(),
        path: host_path.clone(),
        source,
    })?;
    let readonly = node.permissions.as_deref().is_some_and(|letters| !letters.is_empty() && !letters.contains('w'));
    if readonly || *host_path != node.path {
        oci.mounts.retain(|mount| mount.destination != node.path);
        let mut options = vec!["bind".to_owned(), "nosuid".to_owned(), "noexec".to_owned()];
        if readonly {
            options.push("ro".to_owned());
        }
        oci.mounts.push(oci::Mount {
            destination: node.path.clone(),
            kind: Some("bind".to_owned()),
            source: Some(host_path.clone()),
            options,
            ..oci::Mount::default()
        });
        return Ok(());
    }
    let devices = &mut oci.linux.get_or_insert_default().devices;
    devices.retain(|device| device.path != node.path);
    devices.push(oci::Device {
        kind: node.kind.clone().unwrap_or_else(|| found.kind.to_owned()),
        path: node.path.clone(),
        major: node.major.or(Some(found.major.into())),
        minor: node.minor.or(Some(found.minor.into())),
        file_mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    });
    Ok(())
}

/// A later mount at the same place takes it over.
fn add_mount(oci: &mut oci::Spec, mount: &CdiMount) {
    let kind = mount.kind.clone().unwrap_or_else(|| "bind".to_owned());
    let mut options = mount.options.clone();
    if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.insert(0, "rbind".to_owned());
    }
    oci.mounts.retain(|other| other.destination != mount.container_path);
    oci.mounts.push(oci::Mount {
        destination: mount.container_path.clone(),
        kind: Some(kind),
        source: Some(mount.host_path.clone()),
        options,
        ..oci::Mount::default()
    });
}

fn add_hook(hooks: &mut oci::Hooks, hook: &CdiHook) {
    let list = match hook.hook_name.as_str() {
        "prestart" => &mut hooks.prestart,
        "createRuntime" => &mut hooks.create_runtime,
        "createContainer" => &mut hooks.create_container,
        "startContainer" => &mut hooks.start_container,
        "poststart" => &mut hooks.poststart,
        // The name was checked when the document was read.
        _ => &mut hooks.poststop,
    };
    let CdiHook { path, args, env, timeout, .. } = hook.clone();
    list.push(oci::Hook { path, args, env, timeout });
}

#[cfg(test)]
mod tests;
