//! The kernel: settings, namespaces, devices, control groups, security modules.

use std::path::Path;

use super::Attempt;
use super::Fix;
use super::Host;
use super::Notes;

/// What no longer works without user namespaces.
const ALL: &str = "no container can be started by an ordinary user";

/// Fewer user namespaces than this are used up by a node full of containers.
const FEW: u64 = 1000;

/// What distributions set where they limit it at all.
const ENOUGH: &str = "63414";

/// The oldest kernel that has what berth needs, and the text for it.
const OLDEST: ((u32, u32), &str) = ((5, 13), "5.13");

/// The profile that lets berth, and nothing else, make user namespaces.
const PROFILE: &str = "/etc/apparmor.d/berth";

/// What is in it.
const PROFILE_TEXT: &str = "\
abi <abi/4.0>,
include <tunables/global>

# berth makes user namespaces; everything else stays as it was.
profile berth /usr/{,local/}{bin/berth,bin/berth-runtime} flags=(unconfined) {
  userns,
}
";

/// Limits on the other kinds that a container may have, and what those are.
const OTHER_NAMESPACES: [(&str, &str); 5] = [
    ("user.max_mnt_namespaces", "mount"),
    ("user.max_pid_namespaces", "process id"),
    ("user.max_net_namespaces", "network"),
    ("user.max_ipc_namespaces", "IPC"),
    ("user.max_uts_namespaces", "host name"),
];

fn sysctl(host: &Host, key: &str) -> Option<String> {
    host.line(&format!("/proc/sys/{}", key.replace('.', "/")))
}

/// What the kernel is and what it was told.
pub fn settings(host: &Host, notes: &mut Notes) {
    let release = sysctl(host, "kernel.osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST.0 {
        notes
            .fault("kernel-old", format!("the kernel is {release}; berth needs {} or later", OLDEST.1))
            .breaks("overlays in user namespaces, and with them every container")
            .mend("update the kernel: Debian 12, Ubuntu 22.04, RHEL 9 and later have one");
    }
    match sysctl(host, "user.max_user_namespaces").and_then(|text| text.parse::<u64>().ok()) {
        Some(0) => {
            notes
                .fault("userns-off", "user namespaces are switched off: user.max_user_namespaces = 0")
                .breaks(ALL)
                .fix(Fix::Sysctl { key: "user.max_user_namespaces", value: ENOUGH });
        }
        Some(limit) if limit < FEW => {
            notes
                .advice(
                    "userns-few",
                    format!("each user may have only {limit} user namespaces (user.max_user_namespaces)"),
                )
                .breaks("a node full of containers runs out of them: \"No space left on device\"")
                .fix(Fix::Sysctl { key: "user.max_user_namespaces", value: ENOUGH });
        }
        _ => {}
    }
    for (key, what) in OTHER_NAMESPACES {
        let limit = sysctl(host, key).and_then(|text| text.parse::<u64>().ok());
        if let Some(limit) = limit.filter(|&limit| limit < FEW) {
            notes
                .fault("namespaces-few", format!("each user may have only {limit} {what} namespaces ({key})"))
                .breaks("containers beyond that number: \"No space left on device\"")
                .fix(Fix::Sysctl { key, value: ENOUGH });
        }
    }
    if sysctl(host, "kernel.unprivileged_userns_clone").as_deref() == Some("0") {
        notes
            .fault("userns-clone", "ordinary users may not make user namespaces: kernel.unprivileged_userns_clone = 0")
            .breaks(ALL)
            .fix(Fix::Sysctl { key: "kernel.unprivileged_userns_clone", value: "1" });
    }
    if host.read("/proc/filesystems").is_ok_and(|text| !text.split_whitespace().any(|word| word == "overlay")) {
        notes
            .fault("overlay-missing", "the kernel has not loaded its module overlay, which only root can do")
            .breaks("the root file system of every container")
            .mend("modprobe overlay && echo overlay >/etc/modules-load.d/berth.conf")
            .fix(Fix::Line {
                path: "/etc/modules-load.d/berth.conf".to_owned(),
                line: "overlay".to_owned(),
                then: &["modprobe", "overlay"],
            });
    }
    if notes.findings.is_empty() {
        notes.fine(format!("Linux {release}, with user namespaces for ordinary users"));
    }
}

/// What the kernel does when it is asked.
pub fn namespaces(host: &Host, notes: &mut Notes) {
    if let Err(reason) = host.tries.attempt(Attempt::UserNamespace, Path::new("/")) {
        notes
            .fault("userns-fails", format!("no user namespace can be made as {}: {reason}", host.person.name))
            .breaks(ALL)
            .mend("sysctl user.max_user_namespaces kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns");
        return;
    }
    notes.fine("a user namespace was made");
    match host.tries.attempt(Attempt::Overlay, Path::new("/")) {
        Ok(()) => notes.fine("an overlay was mounted in it"),
        Err(reason) => {
            notes
                .fault("overlay-fails", format!("no overlay can be mounted in a user namespace: {reason}"))
                .breaks("the root file system of every container")
                .mend("modprobe overlay; dmesg | tail    # the kernel says there what it objects to");
        }
    }
}

/// Whether berth itself starts a container.
pub fn container(host: &Host, notes: &mut Notes) {
    match host.tries.attempt(Attempt::Container, Path::new("/")) {
        Ok(()) => notes.fine(format!("berth started a container as {}", host.person.name)),
        Err(reason) => {
            notes
                .fault("container-fails", format!("berth cannot start a container as {}: {reason}", host.person.name))
                .breaks("every container")
                .mend("berth info    # as that user: tells which part of it does not work");
        }
    }
}

/// /dev/fuse.
pub fn devices(host: &Host, notes: &mut Notes) {
    let breaks = "squashfuse and fuse-overlayfs: image files and podman's storage on network file systems";
    match host.stat("/dev/fuse") {
        None => {
            notes
                .advice("fuse-missing", "there is no /dev/fuse")
                .breaks(breaks)
                .mend("modprobe fuse && echo fuse >/etc/modules-load.d/fuse.conf");
        }
        Some(stat) if stat.mode & 0o006 != 0o006 => {
            notes
                .advice(
                    "fuse-closed",
                    format!("/dev/fuse has the mode {:04o}: ordinary users cannot open it", stat.mode),
                )
                .breaks(breaks)
                .fix(Fix::Mode { path: "/dev/fuse".to_owned(), mode: 0o666 });
        }
        Some(_) => match host.tries.attempt(Attempt::Fuse, &host.path("/dev/fuse")) {
            Ok(()) => notes.fine("a FUSE file system was mounted in a user namespace"),
            Err(reason) => {
                notes
                    .advice("fuse-fails", format!("/dev/fuse is of no use to users: {reason}"))
                    .breaks(breaks)
                    .mend("modprobe fuse; grep -s devices /proc/self/cgroup    # a device rule may forbid it");
            }
        },
    }
}

/// Which control groups there are, and what users may do with them.
pub fn control_groups(host: &Host, notes: &mut Notes) {
    let unified = host.exists("/sys/fs/cgroup/cgroup.controllers");
    if !unified {
        if host.program("podman").is_some() {
            notes
                .advice("cgroup-v1", "this host has control groups of version 1")
                .breaks("podman's limits on memory and processors for ordinary users; Slurm's own are in force")
                .mend(
                    "grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1 && reboot    \
                     # Debian: GRUB_CMDLINE_LINUX, update-grub",
                );
        } else {
            notes.fine("control groups of version 1; Slurm's limits are in force");
        }
        return;
    }
    let uid = host.person.uid;
    let group = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
    if let Some(have) = host.line(&group).filter(|_| host.program("podman").is_some() && uid != 0) {
        let missing: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|name| !have.split_whitespace().any(|word| word == *name))
            .collect();
        if !missing.is_empty() {
            let path = "/etc/systemd/system/user@.service.d/berth-delegate.conf";
            notes
                .advice(
                    "cgroup-delegation",
                    format!("systemd does not hand {} to sessions of users", missing.join(", ")),
                )
                .breaks("podman run --memory, --cpus and --pids-limit as an ordinary user")
                .mend(format!(
                    "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' >{path} && systemctl daemon-reload"
                ))
                .fix(Fix::File {
                    path: path.to_owned(),
                    content: "[Service]\nDelegate=cpu cpuset io memory pids\n".to_owned(),
                    then: &["systemctl", "daemon-reload"],
                });
            return;
        }
    }
    notes.fine("control groups of version 2");
}

/// AppArmor and SELinux.
pub fn security_modules(host: &Host, notes: &mut Notes) {
    let mut said = Vec::new();
    for key in ["kernel.apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_unconfined"] {
        if sysctl(host, key).as_deref() != Some("1") {
            continue;
        }
        said.push("AppArmor restricts user namespaces");
        if key.ends_with("_userns") && !lets_berth(host) {
            notes
                .fault(
                    "apparmor-userns",
                    format!(
                        "AppArmor lets only programs with a profile make user namespaces ({key}), and berth has none"
                    ),
                )
                .breaks("every container of an ordinary user: \"Permission denied\" while its ids are mapped")
                .mend(format!("berth doctor --fix    # writes {PROFILE}; or: sysctl -w {key}=0, for all programs"))
                .fix(Fix::File {
                    path: PROFILE.to_owned(),
                    content: PROFILE_TEXT.to_owned(),
                    then: &["apparmor_parser", "-r", PROFILE],
                });
        }
    }
    if host.line("/sys/fs/selinux/enforce").as_deref() == Some("1") {
        said.push("SELinux is enforcing");
        let home = host.person.home.clone().unwrap_or_default();
        let network = host.file_system(&home).is_some_and(|(kind, _)| super::host::is_network(&kind));
        let off = host.line("/sys/fs/selinux/booleans/use_nfs_home_dirs").is_some_and(|text| text.starts_with('0'));
        if network && off {
            notes
                .fault(
                    "selinux-nfs-home",
                    "SELinux keeps containers away from homes on network file systems (use_nfs_home_dirs is off)",
                )
                .breaks("a container's sight of the home directory: \"Permission denied\" in what its user owns")
                .mend("setsebool -P use_nfs_home_dirs on");
        }
    }
    if notes.findings.is_empty() {
        notes.fine(if said.is_empty() {
            "nothing restricts user namespaces".to_owned()
        } else {
            format!("{}, and lets berth work", said.join("; "))
        });
    }
}

/// Whether some profile of AppArmor lets berth make user namespaces.
fn lets_berth(host: &Host) -> bool {
    host.list("/etc/apparmor.d").iter().any(|name| {
        let text = host.read(&format!("/etc/apparmor.d/{name}")).unwrap_or_default();
        text.contains("bin/berth") && text.lines().any(|line| line.trim() == "userns,")
    })
}
