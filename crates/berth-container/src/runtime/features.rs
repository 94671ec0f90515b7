//! The features document: what a configuration may ask for, as engines read it.
//!
//! Names are what is *recognised*, on any kernel, as the specification wants it; they come from the tables by which
//! configurations are read, so that no list can promise more than is done. What depends on libseccomp, which may not be
//! there, is asked from it.
//!
//! Source: <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/features.md> and `features-linux.md`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::oci::{IdMap, Mount, NamespaceKind, VERSION};
use crate::{launch, seccomp};

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// The oldest version of the specification that is understood.
    pub oci_version_min: &'static str,
    /// The newest.
    pub oci_version_max: &'static str,
    /// Stages of hooks.
    pub hooks: Vec<&'static str>,
    /// Words for mounts, without those that are for file systems.
    pub mount_options: Vec<&'static str>,
    /// What only Linux has.
    pub linux: Linux,
    /// About this runtime.
    pub annotations: BTreeMap<&'static str, String>,
    /// Annotations of configurations that change what the runtime does.
    pub potentially_unsafe_config_annotations: Vec<&'static str>,
}

/// What only Linux has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Kinds of namespaces.
    pub namespaces: Vec<NamespaceKind>,
    /// Names of capabilities.
    pub capabilities: Vec<&'static str>,
    /// Control groups.
    pub cgroup: Cgroup,
    /// System call filters.
    pub seccomp: Seccomp,
    /// Profiles of AppArmor.
    pub apparmor: Enabled,
    /// Labels of SELinux.
    pub selinux: Enabled,
    /// Intel's Resource Director.
    pub intel_rdt: Enabled,
    /// Kinds of mounts.
    pub mount_extensions: MountExtensions,
}

/// Control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Made by the system's systemd.
    pub systemd: bool,
    /// Made by a user's systemd.
    pub systemd_user: bool,
    /// Limits of the controller `rdma`.
    pub rdma: bool,
}

/// System call filters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    /// Whether there are any: false without libseccomp, and then nothing else is said.
    pub enabled: bool,
    /// Names of actions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<&'static str>,
    /// Names of comparisons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<&'static str>,
    /// Names of architectures, as far as the library has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archs: Vec<&'static str>,
    /// Names of flags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known_flags: Vec<&'static str>,
    /// Those that the kernel has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_flags: Vec<&'static str>,
}

/// Whether there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enabled {
    /// Whether.
    pub enabled: bool,
}

/// Kinds of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MountExtensions {
    /// Mounts with ids mapped, by `uidMappings` and `gidMappings` of the mount.
    pub idmap: Enabled,
}

/// What this build does.
pub fn features() -> Features {
    let yes = Enabled { enabled: true };
    let no = Enabled { enabled: false };
    let library = seccomp::Library::load().ok();
    let map = vec![IdMap { container_id: 0, host_id: 100_000, size: 1 }];
    let id_mapped = Mount { uid_mappings: map.clone(), gid_mappings: map, ..Mount::rbind("/srv", "/srv") };
    let mut annotations = BTreeMap::from([
        ("org.opencontainers.runc.checkpoint.enabled", "false".to_owned()),
        ("run.oci.crun.checkpoint.enabled", "false".to_owned()),
    ]);
    if let Some(library) = &library {
        annotations.insert("io.github.seccomp.libseccomp.version", library.version().to_string());
    }
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: VERSION,
        hooks: vec!["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: launch::mount_options().collect(),
        linux: Linux {
            namespaces: NamespaceKind::ALL.to_vec(),
            capabilities: launch::CAPABILITIES.to_vec(),
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: true, rdma: true },
            seccomp: library.as_ref().map(seccomp).unwrap_or_default(),
            apparmor: yes,
            // The label of the process is set, that of mounts is not.
            selinux: no,
            intel_rdt: no,
            mount_extensions: MountExtensions { idmap: Enabled { enabled: launch::understands(id_mapped) } },
        },
        annotations,
        // None is read, so none is dangerous.
        potentially_unsafe_config_annotations: Vec::new(),
    }
}

fn seccomp(library: &seccomp::Library) -> Seccomp {
    fn names<T>(table: &'static [(&'static str, T)]) -> Vec<&'static str> {
        table.iter().map(|row| row.0).collect()
    }
    Seccomp {
        enabled: true,
        actions: names(seccomp::ACTIONS),
        operators: names(seccomp::OPERATORS),
        archs: seccomp::ARCHITECTURES
            .iter()
            .filter(|row| library.architecture(row.1).is_some())
            .map(|row| row.0)
            .collect(),
        known_flags: names(seccomp::FLAGS),
        supported_flags: seccomp::FLAGS.iter().filter(|row| seccomp::kernel_knows(row.1)).map(|row| row.0).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Namespace;

    fn document() -> Value {
        serde_json::to_value(features()).unwrap()
    }

    fn strings(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
    }

    #[test]
    fn every_namespace_that_is_named_is_read() {
        let document = document();
        for name in strings(&document["linux"]["namespaces"]) {
            serde_json::from_value::<Namespace>(json!({"type": name})).unwrap();
        }
        assert_eq!(strings(&document["linux"]["namespaces"]).len(), 8);
    }

    #[test]
    fn it_names_the_mount_options_that_engines_look_for() {
        let document = document();
        let options = strings(&document["mountOptions"]);
        for option in ["bind", "rbind", "ro", "rro", "rprivate", "nosymfollow"] {
            assert!(options.contains(&option), "{option}");
        }
        assert!(options.is_sorted() && !options.contains(&"size"));
    }

    #[test]
    fn every_filter_that_is_named_can_be_made() {
        use crate::oci::{SeccompArg, SeccompRule};
        let document = document();
        let seccomp = &document["linux"]["seccomp"];
        assert_eq!(seccomp["enabled"], true, "the package libseccomp2 is needed for this test");
        let list = |name: &str| strings(&seccomp[name]).into_iter().map(str::to_owned).collect::<Vec<_>>();
        for action in list("actions") {
            for op in list("operators") {
                let rule = SeccompRule {
                    names: vec!["mkdirat".to_owned()],
                    action: action.clone(),
                    args: vec![SeccompArg { index: 1, value: 2, value_two: 2, op }],
                    ..SeccompRule::default()
                };
                let rules = crate::oci::Seccomp {
                    default_action: "SCMP_ACT_ALLOW".to_owned(),
                    flags: list("supportedFlags"),
                    listener_path: Some("/agent".into()),
                    syscalls: vec![rule],
                    ..crate::oci::Seccomp::default()
                };
                crate::seccomp::compile(&rules).unwrap();
            }
        }
        assert!(list("archs").len() >= 16);
        assert!(list("supportedFlags").contains(&"SECCOMP_FILTER_FLAG_LOG".to_owned()));
    }
}
