//! The hierarchies of control groups of this host, and where in them this process is.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::mountinfo::unescape;

/// More than any list of mounts or groups has.
const MAX_FILE: u64 = 16 << 20;

/// Longest path of a group below its hierarchy, as a path is at most 4096 long with its mount point and file.
const MAX_PATH: usize = 3072;

/// What a hierarchy controls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// The one of cgroup v2.
    V2,
    /// One of cgroup v1, with its controllers; `name=systemd` is one that controls nothing.
    V1(Vec<String>),
}

impl Kind {
    pub(super) fn has(&self, controller: &str) -> bool {
        matches!(self, Kind::V1(controllers) if controllers.iter().any(|it| it == controller))
    }

    /// Whether it only sorts processes, and limits nothing.
    fn is_named(&self) -> bool {
        matches!(self, Kind::V1(controllers) if controllers.iter().all(|it| it.starts_with("name=")))
    }
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) kind: Kind,
    pub(super) mount_point: PathBuf,
    /// This process's group below the mount point; `None` where the mount does not show it.
    pub(super) own: Option<PathBuf>,
}

/// All mounted hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) hierarchies: Vec<Hierarchy>,
}

impl Host {
    /// Reads them; one file each for the mounts and for the groups of this process.
    pub(super) fn read() -> Result<Host> {
        Ok(Host::parse(&read_bounded("/proc/self/mountinfo")?, &read_bounded("/proc/self/cgroup")?))
    }

    /// `mountinfo` is as in proc(5), `groups` as in cgroups(7). Of several mounts of a hierarchy the first that shows
    /// the own group counts, else the first. Mounts that others lie over do not count: nobody can get at them.
    pub(super) fn parse(mountinfo: &str, groups: &str) -> Host {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut lines = mountinfo.lines();
        while let Some(line) = lines.next() {
            let Some((root, mount_point, kind)) = parse_mount(line) else { continue };
            if lines.clone().any(|later| hides(later, &mount_point)) {
                continue;
            }
            let own = own_group(groups, &kind).and_then(|group| below(&group, &root));
            let found = Hierarchy { kind, mount_point, own };
            match hierarchies.iter_mut().find(|it| it.kind == found.kind) {
                Some(known) if known.own.is_none() && found.own.is_some() => *known = found,
                Some(_) => {}
                None => hierarchies.push(found),
            }
        }
        Host { hierarchies }
    }

    /// Whether the only hierarchy that limits anything is that of cgroup v2.
    pub(super) fn is_pure_v2(&self) -> bool {
        self.v2().is_some() && self.hierarchies.iter().all(|it| it.kind == Kind::V2 || it.kind.is_named())
    }

    pub(super) fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|it| it.kind == Kind::V2)
    }

    pub(super) fn has_v1(&self) -> bool {
        self.hierarchies.iter().any(|it| matches!(it.kind, Kind::V1(_)))
    }
}

/// Reads a file of `/proc`, as text.
pub(super) fn read_bounded(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|source| Error::io("read", path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Root, mount point and kind of a mount of control groups.
fn parse_mount(line: &str) -> Option<(PathBuf, PathBuf, Kind)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, mount_point) = (unescape(before.next()?), unescape(before.next()?));
    let mut after = after.split(' ');
    let kind = match after.next()? {
        "cgroup2" => Kind::V2,
        "cgroup" => Kind::V1(controllers_of(after.nth(1)?)),
        _ => return None,
    };
    Some((root, mount_point, kind))
}

/// Whether a mount lies over a folder in which, or on which, something was mounted before.
fn hides(line: &str, earlier: &Path) -> bool {
    line.split(' ').nth(4).is_some_and(|mount_point| earlier.starts_with(unescape(mount_point)))
}

/// The controllers among the options of a mount of cgroup v1.
fn controllers_of(options: &str) -> Vec<String> {
    const OTHER: &[&str] =
        &["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "none"];
    options
        .split(',')
        .filter(|option| !OTHER.contains(option) && !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect()
}

/// The path of this process's group in a hierarchy.
pub(super) fn own_group(groups: &str, kind: &Kind) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match kind {
            Kind::V2 => id == "0" && names.is_empty(),
            Kind::V1(controllers) => names.split(',').any(|name| controllers.iter().any(|it| it == name)),
        };
        matches.then(|| PathBuf::from(path))
    })
}

/// A group relative to the root of a mount.
fn below(group: &Path, root: &Path) -> Option<PathBuf> {
    let relative = group.strip_prefix(root).ok()?;
    // A group outside the own cgroup namespace is shown with `..`.
    relative.components().all(|part| matches!(part, Component::Normal(_))).then(|| relative.to_owned())
}

/// Where in each hierarchy the group of a container is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Below the root of the mount.
    FromRoot(PathBuf),
    /// Below the own group.
    FromOwn(PathBuf),
}

impl Wanted {
    /// From `linux.cgroupsPath`, or from the id where there is none: an absolute path counts from the root of the
    /// hierarchy, any other one from the own group, so that the limits of a batch system go on to hold.
    pub(super) fn new(path: Option<&Path>, id: &str) -> Result<Wanted> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Wanted::FromOwn(checked(Path::new(id), "the container's id")?));
        };
        match path.strip_prefix("/") {
            Ok(relative) => checked(relative, "linux.cgroupsPath").map(Wanted::FromRoot),
            Err(_) => checked(path, "linux.cgroupsPath").map(Wanted::FromOwn),
        }
    }

    /// The directory in a hierarchy. `beside`: next to the own group instead of in it, for cgroup v2 gives controllers to
    /// no group below one that has processes, and the own one has.
    pub(super) fn in_hierarchy(&self, hierarchy: &Hierarchy, beside: bool) -> Option<PathBuf> {
        match self {
            Wanted::FromRoot(path) => Some(hierarchy.mount_point.join(path)),
            Wanted::FromOwn(path) => {
                let own = hierarchy.own.as_ref()?;
                let above = if beside { own.parent().unwrap_or(own) } else { own };
                Some(hierarchy.mount_point.join(above).join(path))
            }
        }
    }
}

/// A path that stays where it is put, and names some group.
pub(super) fn checked(path: &Path, field: &str) -> Result<PathBuf> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::bad_spec(field, format!("is longer than {MAX_PATH} bytes")));
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(Error::bad_spec(field, format!("{} leads out of its control group", path.display()))),
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(Error::bad_spec(field, "names no control group"));
    }
    use std::os::unix::ffi::OsStrExt;
    if clean.as_os_str().as_bytes().iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return Err(Error::bad_spec(field, "has a character that no control group's name may have"));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:29 /job /mnt/with\\040space rw - cgroup cgroup rw,cpu,cpuacct
";

    fn only(controllers: &[&str]) -> Kind {
        Kind::V1(controllers.iter().map(|&it| it.to_owned()).collect())
    }

    #[test]
    fn hierarchies_are_found_in_all_layouts() {
        let host = Host::parse(HYBRID, "3:cpu,cpuacct:/job/step\n2:name=systemd:/\n0::/a\n");
        assert_eq!(host.hierarchies.len(), 3);
        assert_eq!(host.hierarchies[0].kind, only(&["cpu", "cpuacct"]));
        assert_eq!(host.hierarchies[0].own.as_deref(), Some(Path::new("job/step")));
        assert_eq!(host.hierarchies[1].kind, only(&["name=systemd"]));
        assert_eq!(host.v2().unwrap().own.as_deref(), Some(Path::new("a")));
        assert!(!host.is_pure_v2() && host.has_v1());

        let pure = Host::parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", "0::/x.scope\n");
        assert!(pure.is_pure_v2() && !pure.has_v1());
        assert_eq!(Host::parse("", "0::/\n"), Host::default());
    }

    #[test]
    fn a_mount_that_shows_the_own_group_is_preferred() {
        let two = "1 0 0:1 /other /a rw - cgroup2 c rw\n2 0 0:1 /job /b\\040c rw - cgroup2 c rw\n";
        let host = Host::parse(two, "0::/job/step\n");
        assert_eq!(host.v2().unwrap().mount_point, Path::new("/b c"));
        assert_eq!(host.v2().unwrap().own.as_deref(), Some(Path::new("step")));
        assert_eq!(Host::parse(two, "0::/../elsewhere\n").v2().unwrap().own, None);
    }

    #[test]
    fn a_mount_that_another_lies_over_is_not_there() {
        let over = HYBRID.to_owned() + "60 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let over = over.replace("/mnt/with", "/sys/fs/cgroup/with");
        let host = Host::parse(&over, "3:cpu,cpuacct:/\n0::/\n");
        assert!(host.is_pure_v2());
        assert_eq!(host.v2().unwrap().mount_point, Path::new("/sys/fs/cgroup"));
        let beside = HYBRID.to_owned() + "60 31 0:99 / /sys/fs/cgroup/cpu rw - tmpfs tmpfs rw\n";
        assert_eq!(Host::parse(&beside, "").hierarchies, Host::parse(HYBRID, "").hierarchies);
    }

    #[test]
    fn absolute_paths_count_from_the_root_and_others_from_the_own_group() {
        let host = Host::parse(HYBRID, "3:cpu,cpuacct:/job/step\n2:name=systemd:/\n0::/a/b\n");
        let (cpu, v2) = (&host.hierarchies[0], host.v2().unwrap());
        let at = |path: Option<&str>, hierarchy, beside| {
            let wanted = Wanted::new(path.map(Path::new), "id").unwrap();
            wanted.in_hierarchy(hierarchy, beside).unwrap().display().to_string()
        };
        assert_eq!(at(Some("/pod/./x"), cpu, false), "/sys/fs/cgroup/cpu,cpuacct/pod/x");
        assert_eq!(at(Some("x"), cpu, false), "/sys/fs/cgroup/cpu,cpuacct/job/step/x");
        assert_eq!(at(None, v2, false), "/sys/fs/cgroup/unified/a/b/id");
        assert_eq!(at(None, v2, true), "/sys/fs/cgroup/unified/a/id");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["/a/../../b", "..", "a/..", "/", ".", "/a\nb"] {
            assert!(Wanted::new(Some(Path::new(path)), "id").is_err(), "{path}");
        }
        assert!(Wanted::new(Some(Path::new(&"x".repeat(5000))), "id").is_err());
        assert!(Wanted::new(None, "../id").is_err());
        assert!(Wanted::new(Some(Path::new("")), "id").is_ok());
    }
}
