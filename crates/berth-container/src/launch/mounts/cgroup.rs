//! Control groups as a container sees them.
//!
//! | host | own cgroup namespace | without |
//! |---|---|---|
//! | v2 | a new cgroup2 | the host's tree |
//! | v1, hybrid | a tmpfs with each hierarchy mounted | a tmpfs with the container's directory of each, bound |
//!
//! Where the kernel refuses that, as in some user namespaces, the host's tree is shown read-only.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use super::path::by_number;
use super::{Step, clone_tree, mount_at, put};
use crate::error::Result;
use crate::launch::sys::{self, MountAttr, attr};

/// Where the host has its hierarchies.
const HOST: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const UNIFIED: i64 = 0x6367_7270;

/// How to show them.
#[derive(Debug)]
pub struct Cgroups {
    /// The container has a cgroup namespace.
    pub own: bool,
    /// Flags for mount(2), but for read-only.
    pub flags: MountFlags,
    pub readonly: bool,
}

impl Cgroups {
    /// Mounts them on the step's target.
    pub fn attach(&self, step: &Step, root: BorrowedFd<'_>) -> Result<()> {
        let wrap = |e: Errno| step.error(e.into());
        let host = rustix::fs::open(HOST, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let Ok(host) = host else { return Ok(()) };
        let target = step.place(root, true)?;
        if sys::file_system(host.as_fd()).is_ok_and(|kind| kind == UNIFIED) {
            let made = if self.own { mount_at(target.as_fd(), c"cgroup2", self.flags, c"") } else { Err(Errno::PERM) };
            return match made {
                Ok(()) if self.readonly => restrict(step.top(root)?.as_fd(), true).map_err(|e| step.error(e)),
                Ok(()) => Ok(()),
                Err(_) => self.bind_host(step, &host, target.as_fd(), self.readonly),
            };
        }
        let tmpfs = self.flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_at(target.as_fd(), c"tmpfs", tmpfs, c"mode=755").map_err(wrap)?;
        let top = step.top(root)?;
        match self.fill(&host, top.as_fd()) {
            Ok(()) => restrict(top.as_fd(), self.readonly).map_err(|e| step.error(e)),
            Err(_) => {
                unmount(by_number(&top), UnmountFlags::DETACH).map_err(wrap)?;
                self.bind_host(step, &host, target.as_fd(), true)
            }
        }
    }

    fn bind_host(&self, step: &Step, host: &OwnedFd, target: BorrowedFd<'_>, readonly: bool) -> Result<()> {
        let tree = clone_tree(host.as_fd(), c"", true).map_err(|e| step.error(e.into()))?;
        restrict(tree.as_fd(), readonly).map_err(|e| step.error(e))?;
        put(&tree, target).map_err(|e| step.error(e.into()))
    }

    fn fill(&self, host: &OwnedFd, top: BorrowedFd<'_>) -> Result<(), Errno> {
        let text = std::fs::read_to_string("/proc/self/cgroup").map_err(|_| Errno::NOENT)?;
        for hierarchy in text.lines().filter_map(Hierarchy::parse) {
            let name = CString::new(hierarchy.directory).map_err(|_| Errno::INVAL)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // Controllers without a hierarchy that is mounted are not there for a container either.
            let Ok(theirs) = openat(host, &name, flags, Mode::empty()) else { continue };
            mkdirat(top, &name, Mode::from_raw_mode(0o755))?;
            let place = openat(top, &name, flags | OFlags::NOFOLLOW, Mode::empty())?;
            if self.own {
                let flags = self.flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                let options = CString::new(hierarchy.options).map_err(|_| Errno::INVAL)?;
                mount_at(place.as_fd(), hierarchy.kind, flags, &options)?;
            } else {
                let own = hierarchy.path.strip_prefix("/").unwrap_or(hierarchy.path);
                let tree = if own.as_os_str().is_empty() {
                    clone_tree(theirs.as_fd(), c"", true)?
                } else {
                    let own = CString::new(own.as_os_str().as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
                    clone_tree(theirs.as_fd(), &own, false)?
                };
                put(&tree, place.as_fd())?;
            }
            for alias in hierarchy.directory.split(',').filter(|alias| *alias != hierarchy.directory) {
                symlinkat(name.as_c_str(), top, alias)?;
            }
        }
        Ok(())
    }
}

/// A line of `/proc/self/cgroup`.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy<'a> {
    kind: &'static std::ffi::CStr,
    /// Its directory in [`HOST`].
    directory: &'a str,
    /// For mount(2).
    options: String,
    /// Of this process.
    path: &'a Path,
}

impl Hierarchy<'_> {
    fn parse(line: &str) -> Option<Hierarchy<'_>> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, Path::new(parts.next()?));
        // What is above the root of the namespace is not the container's.
        if path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let hierarchy = match (controllers, controllers.strip_prefix("name=")) {
            ("", _) => Hierarchy { kind: c"cgroup2", directory: "unified", options: String::new(), path },
            (_, Some(name)) => {
                Hierarchy { kind: c"cgroup", directory: name, options: format!("none,name={name}"), path }
            }
            (controllers, None) => {
                Hierarchy { kind: c"cgroup", directory: controllers, options: controllers.to_owned(), path }
            }
        };
        is_name(hierarchy.directory).then_some(hierarchy)
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('.') && !text.contains('/')
}

/// Takes from these mounts what nobody needs of control groups, as a copy of the host's has the host's flags.
fn restrict(top: BorrowedFd<'_>, readonly: bool) -> std::io::Result<()> {
    let readonly = if readonly { attr::RDONLY } else { 0 };
    let set = attr::NOSUID | attr::NODEV | attr::NOEXEC | readonly;
    sys::mount_setattr(top, true, &MountAttr { set, ..MountAttr::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_name_directories_and_options() {
        let line = Hierarchy::parse("4:cpu,cpuacct:/a/b").unwrap();
        assert_eq!(
            (line.directory, line.options.as_str(), line.path),
            ("cpu,cpuacct", "cpu,cpuacct", Path::new("/a/b"))
        );
        let line = Hierarchy::parse("1:name=systemd:/").unwrap();
        assert_eq!((line.directory, line.options.as_str()), ("systemd", "none,name=systemd"));
        let line = Hierarchy::parse("0::/x:y").unwrap();
        assert_eq!((line.directory, line.kind, line.path), ("unified", c"cgroup2", Path::new("/x:y")));
    }

    #[test]
    fn nothing_above_the_namespace_and_no_other_directory_is_taken() {
        for line in ["4:cpu:/../../x", "4:../../etc:/", "1:name=../x:/", "", "4", "4:cpu"] {
            assert_eq!(Hierarchy::parse(line), None, "{line}");
        }
    }
}
