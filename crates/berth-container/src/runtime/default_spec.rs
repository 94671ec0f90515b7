//! The configuration that `spec` writes: a shell, confined as engines confine by default.

use serde_json::json;

use crate::oci::{Capabilities, IdMap, Linux, Mount, Namespace, NamespaceKind, Process, Rlimit, Root, Spec};

/// What the command may do, in all sets but the inheritable one.
const CAPABILITIES: &[&str] = &["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// What tells of the host, or lets it be disturbed.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The configuration, for the bundle `rootfs` beside it. `rootless` has the ids that are root inside: where nobody has more
/// than those, some things must be left out.
pub fn default_spec(rootless: Option<(u32, u32)>) -> Spec {
    let mut namespaces = vec![NamespaceKind::Pid, NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Mount];
    // An ordinary user has no network to put into a new namespace.
    namespaces.push(if rootless.is_some() { NamespaceKind::User } else { NamespaceKind::Network });
    namespaces.push(NamespaceKind::Cgroup);
    let map = |id| vec![IdMap { container_id: 0, host_id: id, size: 1 }];
    let (uid_mappings, gid_mappings) = rootless.map(|(uid, gid)| (map(uid), map(gid))).unwrap_or_default();
    // No devices but the usual ones. A user cannot set limits on devices.
    let resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
    Spec {
        process: Some(process()),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: Some("berth".to_owned()),
        mounts: mounts(rootless.is_some()),
        linux: Some(Linux {
            namespaces: namespaces.into_iter().map(Namespace::new).collect(),
            uid_mappings,
            gid_mappings,
            resources: if rootless.is_some() { None } else { serde_json::from_value(resources).ok() },
            masked_paths: MASKED.iter().map(Into::into).collect(),
            readonly_paths: READONLY.iter().map(Into::into).collect(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

fn process() -> Process {
    let capabilities: Vec<String> = CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
    Process {
        terminal: true,
        args: vec!["sh".to_owned()],
        env: vec![format!("PATH={}", crate::launch::DEFAULT_PATH), "TERM=xterm".to_owned()],
        cwd: "/".into(),
        capabilities: Some(Capabilities {
            bounding: capabilities.clone(),
            effective: capabilities.clone(),
            inheritable: Vec::new(),
            permitted: capabilities.clone(),
            ambient: capabilities,
        }),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), soft: 1024, hard: 1024 }],
        no_new_privileges: true,
        ..Process::default()
    }
}

fn mounts(rootless: bool) -> Vec<Mount> {
    let named = |name: &str, mount: Mount| Mount { source: Some(name.into()), ..mount };
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !rootless {
        // The group `tty`, which a user has no way to map.
        terminals.push("gid=5");
    }
    let sys = if rootless {
        // A new one belongs to a network namespace, and there is no new one.
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        named("/sys", Mount::of_type("none", "/sys", &options))
    } else {
        Mount::of_type("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        Mount::of_type("proc", "/proc", &[]),
        Mount::of_type("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount::of_type("devpts", "/dev/pts", &terminals),
        named("shm", Mount::of_type("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])),
        Mount::of_type("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        Mount::of_type("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    /// What runc writes, or `None` without runc.
    fn of_runc(arguments: &[&str]) -> Option<Value> {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("runc").arg("spec").args(arguments).current_dir(dir.path()).status().ok()?;
        assert!(status.success());
        Some(serde_json::from_slice(&std::fs::read(dir.path().join("config.json")).unwrap()).unwrap())
    }

    /// Takes out what we have on purpose, and what comes in no particular order or depends on runc's version and host.
    fn comparable(mut spec: Value) -> Value {
        for field in ["/ociVersion", "/hostname"] {
            assert!(spec.pointer(field).is_some_and(Value::is_string), "{field}");
            *spec.pointer_mut(field).unwrap() = Value::Null;
        }
        let sorted = |list: &mut Value, left_out: &[Value]| {
            let list = list.as_array_mut().unwrap();
            list.retain(|entry| !left_out.contains(entry));
            list.sort_by_key(Value::to_string);
        };
        // runc adds this one where cgroup v2 is all that there is.
        sorted(&mut spec["linux"]["namespaces"], &[json!({"type": "cgroup"})]);
        let newer = ["/sys/devices/virtual/powercap", "/proc/interrupts", "/sys/devices/system/cpu"];
        sorted(&mut spec["linux"]["maskedPaths"], &newer.map(Value::from));
        spec
    }

    #[test]
    fn it_is_what_runc_writes() {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        for (arguments, rootless) in [(&[][..], None), (&["--rootless"][..], Some((uid, gid)))] {
            let Some(theirs) = of_runc(arguments) else {
                assert!(std::env::var_os("CI").is_none(), "runc is not installed");
                eprintln!("skipped: runc is not installed");
                return;
            };
            let ours = serde_json::to_value(default_spec(rootless)).unwrap();
            assert_eq!(comparable(ours), comparable(theirs), "{arguments:?}");
        }
    }

    #[test]
    fn without_privileges_nothing_is_asked_for_that_a_user_cannot_have() {
        let spec = default_spec(Some((1000, 100)));
        let linux = spec.linux.unwrap();
        assert!(linux.namespaces.iter().all(|namespace| namespace.kind != NamespaceKind::Network));
        assert!(linux.resources.is_none());
        assert_eq!(linux.uid_mappings, [IdMap { container_id: 0, host_id: 1000, size: 1 }]);
        assert_eq!(linux.gid_mappings, [IdMap { container_id: 0, host_id: 100, size: 1 }]);
        assert!(spec.mounts.iter().flat_map(|mount| &mount.options).all(|option| !option.starts_with("gid=")));
    }
}
