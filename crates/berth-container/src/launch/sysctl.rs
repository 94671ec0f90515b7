//! Kernel parameters of the container's namespaces.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::namespaces::{flag_of, in_words};
use super::sys;
use crate::error::{Error, Result};
use crate::oci::{NamespaceKind, Spec};

/// A kernel parameter: its path below `/proc/sys`, and its value.
#[derive(Debug)]
pub struct Sysctl {
    path: CString,
    value: String,
}

/// Kernel parameters as files; only those that belong to a namespace of the container, never the host's.
pub fn sysctls(spec: &Spec) -> Result<Vec<Sysctl>> {
    /// Prefixes, and the namespace that makes them the container's own.
    const OWNERS: &[(&str, NamespaceKind)] = &[
        ("net/", NamespaceKind::Network),
        ("fs/mqueue/", NamespaceKind::Ipc),
        ("kernel/msgmax", NamespaceKind::Ipc),
        ("kernel/msgmnb", NamespaceKind::Ipc),
        ("kernel/msgmni", NamespaceKind::Ipc),
        ("kernel/msg_next_id", NamespaceKind::Ipc),
        ("kernel/sem", NamespaceKind::Ipc),
        ("kernel/sem_next_id", NamespaceKind::Ipc),
        ("kernel/shmall", NamespaceKind::Ipc),
        ("kernel/shmmax", NamespaceKind::Ipc),
        ("kernel/shmmni", NamespaceKind::Ipc),
        ("kernel/shm_next_id", NamespaceKind::Ipc),
        ("kernel/shm_rmid_forced", NamespaceKind::Ipc),
        ("kernel/domainname", NamespaceKind::Uts),
        ("kernel/hostname", NamespaceKind::Uts),
        ("user/", NamespaceKind::User),
    ];
    let mut files = Vec::new();
    for (name, value) in spec.linux.iter().flat_map(|linux| &linux.sysctl) {
        let field = || format!("linux.sysctl[{name}]");
        let path = sysctl_path(name);
        let owner = OWNERS
            .iter()
            .find(|(prefix, _)| if prefix.ends_with('/') { path.starts_with(prefix) } else { path == *prefix })
            .map(|row| row.1);
        match owner {
            Some(kind) if super::has(spec, kind) => {}
            Some(kind) => {
                let words = in_words(flag_of(kind));
                return Err(Error::bad_spec(field(), format!("would be the host's: it needs a {words} namespace")));
            }
            None => return Err(Error::bad_spec(field(), "does not belong to a namespace of this container")),
        }
        // The specification has fields for the two names; a second value would contradict them.
        if path == "kernel/hostname" && spec.hostname.as_ref().is_some_and(|hostname| hostname != value) {
            return Err(Error::bad_spec(field(), "contradicts `hostname`"));
        }
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Error::bad_spec(field(), "is no name of a kernel parameter"));
        }
        files.push(Sysctl { path: super::c_string(path.as_ref(), field)?, value: value.clone() });
    }
    Ok(files)
}

/// As sysctl(8): the separator is whichever of `.` and `/` comes first, and the other is a part of a name
/// (`net/ipv4/conf/eth0.1/forwarding`, `net.ipv4.conf.eth0/1.forwarding`).
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Writes them, to the host's /proc/sys, which shows the namespaces of who looks.
pub fn set_sysctls(sysctls: &[Sysctl]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let failed = |sysctl: Option<&Sysctl>, e: io::Error| {
        let path = sysctl.map_or("", |sysctl| sysctl.path.to_str().unwrap_or("?"));
        Error::io("set the kernel parameter", Path::new("/proc/sys").join(path), e)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(c"/proc/sys", flags, Mode::empty()).map_err(|e| failed(None, e.into()))?;
    if !sys::is_procfs(top.as_fd()) {
        return Err(failed(None, io::Error::other("/proc is not a proc file system")));
    }
    for sysctl in sysctls {
        write_sysctl(top.as_fd(), sysctl).map_err(|e| failed(Some(sysctl), e))?;
    }
    Ok(())
}

fn write_sysctl(top: BorrowedFd<'_>, sysctl: &Sysctl) -> io::Result<()> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = rustix::fs::openat2(top, &sysctl.path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), how)?;
    let written = rustix::io::write(&file, sysctl.value.as_bytes())?;
    if written == sysctl.value.len() { Ok(()) } else { Err(io::Error::other("the value is too long")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parameters_take_both_separators() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn kernel_parameters_of_the_host_are_refused() {
        let spec = |name: &str, kinds: &[NamespaceKind]| Spec {
            linux: Some(crate::oci::Linux {
                namespaces: kinds.iter().map(|&kind| crate::oci::Namespace::new(kind)).collect(),
                sysctl: [(name.to_owned(), "1".to_owned())].into(),
                ..crate::oci::Linux::default()
            }),
            ..Spec::default()
        };
        for (name, kind) in [
            ("net.ipv4.ip_forward", NamespaceKind::Network),
            ("net/ipv4/ip_forward", NamespaceKind::Network),
            ("kernel.shmmax", NamespaceKind::Ipc),
            ("fs.mqueue.msg_max", NamespaceKind::Ipc),
            ("kernel.domainname", NamespaceKind::Uts),
        ] {
            assert!(sysctls(&spec(name, &[kind])).is_ok(), "{name}");
            assert!(sysctls(&spec(name, &[NamespaceKind::Mount])).is_err(), "{name}");
        }
        let all = super::super::namespaces::KINDS.iter().map(|row| row.0).collect::<Vec<_>>();
        for name in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net.../kernel.panic",
            "net/../kernel/panic",
            "kernel.shmmaxx",
            "net",
            "",
        ] {
            assert!(sysctls(&spec(name, &all)).is_err(), "{name}");
        }
    }
}
