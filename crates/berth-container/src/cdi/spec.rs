//! The documents of the Container Device Interface, versions 0.3.0 to 1.0.0.
//!
//! Source: <https://github.com/cncf-tags/container-device-interface/blob/v1.0.1/SPEC.md>. Unlike elsewhere, unknown fields are
//! refused: an edit that isn't understood is one that the device needs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::yaml;

/// Versions whose fields are all known here.
const VERSIONS: &[&str] = &["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0"];

/// A specification file: devices of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiSpec {
    /// Version of the format.
    pub cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// The devices.
    pub devices: Vec<CdiDevice>,
    /// What every device of the file needs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub container_edits: ContainerEdits,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiDevice {
    /// Name, unique in its kind. People write `name: 0` in YAML and mean the text.
    #[serde(deserialize_with = "text_or_number")]
    pub name: String,
    /// Arbitrary metadata.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
    /// What the device needs.
    #[serde(default, deserialize_with = "null_is_default")]
    pub container_edits: ContainerEdits,
}

/// Changes to a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerEdits {
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Device nodes.
    #[serde(deserialize_with = "null_is_default")]
    pub device_nodes: Vec<DeviceNode>,
    /// Programs at points of the life cycle.
    #[serde(deserialize_with = "null_is_default")]
    pub hooks: Vec<CdiHook>,
    /// Mounts.
    #[serde(deserialize_with = "null_is_default")]
    pub mounts: Vec<CdiMount>,
    /// Cache and memory bandwidth classes; ignored: they need root.
    pub intel_rdt: Option<serde_json::Value>,
    /// Supplementary groups.
    #[serde(rename = "additionalGids", alias = "additionalGIDs", deserialize_with = "null_is_default")]
    pub additional_gids: Vec<u32>,
}

/// A device node.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceNode {
    /// Where, inside.
    pub path: PathBuf,
    /// Where, on the host; the same path if absent.
    #[serde(default)]
    pub host_path: Option<PathBuf>,
    /// `b`, `c`, `u` or `p`; found out if absent.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Major number; found out if absent.
    #[serde(default)]
    pub major: Option<i64>,
    /// Minor number; found out if absent.
    #[serde(default)]
    pub minor: Option<i64>,
    /// Permission bits.
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// Letters of `rwm`: what the cgroup allows; all if absent.
    #[serde(default)]
    pub permissions: Option<String>,
    /// Owner inside.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group inside.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiMount {
    /// What, on the host.
    pub host_path: PathBuf,
    /// Where, inside.
    pub container_path: PathBuf,
    /// File system type; a bind mount if absent.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Options as of mount(8).
    #[serde(default, deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

/// A program run at a point of the life cycle.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiHook {
    /// Which point, as in [`crate::oci::Hooks`].
    pub hook_name: String,
    /// The program.
    pub path: PathBuf,
    /// Arguments, the program's name first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub args: Vec<String>,
    /// The whole environment.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Seconds until it is killed.
    #[serde(default)]
    pub timeout: Option<i64>,
}

/// Go programs write an empty list as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumber {
        Text(String),
        Number(u64),
    }
    Ok(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    })
}

/// The hook names, which are those of OCI.
pub(super) const HOOK_NAMES: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

impl CdiSpec {
    /// Reads and checks a JSON document.
    ///
    /// # Errors
    /// What is wrong, with the place, as text.
    pub fn from_json(text: &str) -> Result<CdiSpec, String> {
        serde_json::from_str::<CdiSpec>(text).map_err(|error| error.to_string())?.checked()
    }

    /// Reads and checks a YAML document.
    ///
    /// # Errors
    /// What is wrong, with the place, as text.
    pub fn from_yaml(text: &str) -> Result<CdiSpec, String> {
        let value = yaml::parse(text).map_err(|error| error.to_string())?;
        serde_json::from_value::<CdiSpec>(value).map_err(|error| error.to_string())?.checked()
    }

    fn checked(self) -> Result<CdiSpec, String> {
        if !VERSIONS.contains(&self.cdi_version.as_str()) {
            return Err(format!("cdiVersion {} is not known; known are {}", self.cdi_version, VERSIONS.join(", ")));
        }
        if split_kind(&self.kind).is_none() {
            return Err(format!("kind `{}` is not of the form vendor.com/class", self.kind));
        }
        self.container_edits.check().map_err(|problem| format!("containerEdits: {problem}"))?;
        for (index, device) in self.devices.iter().enumerate() {
            if !is_device_name(&device.name) {
                return Err(format!("devices[{index}]: `{}` is not a device name", device.name));
            }
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(format!("device `{}` is there twice", device.name));
            }
            device.container_edits.check().map_err(|problem| format!("device `{}`: {problem}", device.name))?;
        }
        Ok(self)
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        for entry in &self.env {
            if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) || entry.contains('\0') {
                return Err(format!("env `{entry}` is not NAME=value"));
            }
        }
        for node in &self.device_nodes {
            absolute("path of a device node", &node.path)?;
            absolute("hostPath of a device node", node.host_path.as_ref().unwrap_or(&node.path))?;
            let kind = node.kind.as_deref().unwrap_or("c");
            if !matches!(kind, "b" | "c" | "u" | "p") {
                return Err(format!("type `{kind}` of {} is none of b, c, u, p", node.path.display()));
            }
            let permissions = node.permissions.as_deref().unwrap_or_default();
            if !is_permissions(permissions) {
                return Err(format!("permissions `{permissions}` of {} are not of r, w, m", node.path.display()));
            }
        }
        for mount in &self.mounts {
            absolute("containerPath", &mount.container_path)?;
            let named = mount.kind.as_deref().is_some_and(|kind| kind != "bind");
            if !named {
                absolute("hostPath", &mount.host_path)?;
            }
        }
        for hook in &self.hooks {
            absolute("path of a hook", &hook.path)?;
            if !HOOK_NAMES.contains(&hook.hook_name.as_str()) {
                return Err(format!("hookName `{}` is none of {}", hook.hook_name, HOOK_NAMES.join(", ")));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(format!("timeout of the hook {} is not positive", hook.path.display()));
            }
        }
        Ok(())
    }
}

fn absolute(what: &str, path: &std::path::Path) -> Result<(), String> {
    let dots = path.components().any(|part| part == std::path::Component::ParentDir);
    if path.is_absolute() && !dots && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(format!("{what}: `{}` is not an absolute path without `..`", path.display()))
}

/// Letters of `rwm`, each at most once, in any order; empty is all.
pub(super) fn is_permissions(text: &str) -> bool {
    text.len() <= 3
        && text.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm'))
        && (1..text.len()).all(|at| !text[..at].contains(&text[at..=at]))
}

/// Vendor and class of `vendor.com/class`.
pub(super) fn split_kind(kind: &str) -> Option<(&str, &str)> {
    kind.split_once('/').filter(|(vendor, class)| is_name(vendor, "_-.") && is_name(class, "_-."))
}

/// Begins with a letter, ends with a letter or digit, and has letters, digits and `special` between.
fn is_name(name: &str, special: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || special.contains(character))
}

/// As [`is_name`], with a digit allowed in front and colons inside (MIG devices are `0:1`).
pub(super) fn is_device_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_name(&format!("a{name}"), "_-.:")
}
