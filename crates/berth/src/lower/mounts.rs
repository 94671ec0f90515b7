//! The mounts of a container, in the order in which they are made: what every program expects, what is shown of the host,
//! what the configuration adds, what the person asks for. Later ones lie over earlier ones.

use std::path::{Path, PathBuf};

use berth_container::oci::Mount;
use berth_container::volume::{Kind, Volume};

use crate::lower::place::{Place, Standpoint, place};

/// What decides about the mounts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Nothing of the host.
    pub contained: bool,
    /// New namespaces.
    pub private_pid: bool,
    /// See `private_pid`.
    pub private_ipc: bool,
    /// See `private_pid`.
    pub private_net: bool,
    /// Whether the host's `/dev` has a place for message queues; nobody but root can make one there.
    pub host_has_mqueue: bool,
    /// The home directory, if it is to be shown.
    pub home: Option<&'a Path>,
    /// The home directory inside if it is not shown: an empty one takes its place.
    pub empty_home: Option<&'a Path>,
    /// The current directory, if it is to be shown.
    pub cwd: Option<&'a Path>,
    /// From the configuration, those whose source exists.
    pub defaults: &'a [Volume],
    /// From the command line.
    pub volumes: &'a [Volume],
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The mounts.
    pub mounts: Vec<Mount>,
    /// Where to start, if the current directory is kept.
    pub start: Option<PathBuf>,
    /// Directories that are the same inside and outside, with all below them.
    pub shown: Vec<PathBuf>,
}

/// Decides.
pub fn plan(wish: Wish<'_>) -> Plan {
    let mut plan = Plan::default();
    plan.system(&wish);
    let same = |volume: &&Volume| volume.source.as_deref() == Some(&volume.target);
    let asked: Vec<&Path> = wish.defaults.iter().chain(wish.volumes).filter(same).map(|v| v.target.as_path()).collect();
    let shown: Vec<&Path> = plan.shown.iter().map(PathBuf::as_path).chain(asked.iter().copied()).collect();
    let Place { binds, start } = place(Standpoint { home: wish.home, cwd: wish.cwd, shown: &shown });
    if let Some(home) = wish.empty_home.filter(|home| home.is_absolute() && *home != Path::new("/")) {
        // A bind below it must not be hidden: it comes first.
        plan.mounts.push(Mount::of_type("tmpfs", home, &["nosuid", "nodev", "mode=0700"]));
    }
    for bind in binds {
        plan.mounts.push(Mount::rbind(&bind, &bind));
        plan.shown.push(bind);
    }
    plan.mounts.extend(wish.defaults.iter().chain(wish.volumes).map(lower_volume));
    plan.shown.extend(asked.into_iter().map(Path::to_owned));
    plan.start = start;
    plan
}

impl Plan {
    fn system(&mut self, wish: &Wish<'_>) {
        let mounts = &mut self.mounts;
        if wish.private_pid {
            mounts.push(Mount::of_type("proc", "/proc", &["nosuid", "noexec", "nodev"]));
        } else {
            mounts.push(Mount::rbind("/proc", "/proc"));
        }
        // A sysfs shows the network devices of the network namespace of whoever mounted it; only a new network may mount
        // a new one.
        if wish.private_net {
            mounts.push(Mount::of_type("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]));
        } else {
            let mut sys = Mount::rbind("/sys", "/sys");
            if wish.contained {
                sys.options.push("rro".to_owned());
            }
            mounts.push(sys);
        }
        if wish.contained {
            mounts.push(Mount::of_type("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
            mounts.push(Mount::of_type(
                "devpts",
                "/dev/pts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            ));
            mounts.push(Mount::of_type("tmpfs", "/dev/shm", &["nosuid", "nodev", "noexec", "mode=1777"]));
            mounts.push(Mount::of_type("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777"]));
        } else {
            mounts.push(Mount::rbind("/dev", "/dev"));
            if wish.private_ipc {
                mounts.push(Mount::of_type("tmpfs", "/dev/shm", &["nosuid", "nodev", "noexec", "mode=1777"]));
            }
            mounts.push(Mount::rbind("/tmp", "/tmp"));
            self.shown.extend(["/dev", "/tmp"].map(PathBuf::from));
        }
        if wish.private_ipc && (wish.contained || wish.host_has_mqueue) {
            self.mounts.push(Mount::of_type("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]));
        }
    }
}

fn lower_volume(volume: &Volume) -> Mount {
    Mount {
        destination: volume.target.clone(),
        kind: Some(volume.kind.as_oci().to_owned()),
        source: match volume.kind {
            Kind::Bind => volume.source.clone(),
            Kind::Tmpfs => Some(PathBuf::from("tmpfs")),
        },
        options: volume.options.clone(),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `type target` for each mount.
    fn targets(plan: &Plan) -> Vec<String> {
        let kind = |mount: &Mount| mount.kind.clone().unwrap_or_default();
        plan.mounts.iter().map(|mount| format!("{} {}", kind(mount), mount.destination.display())).collect()
    }

    #[test]
    fn by_default_the_host_is_there_where_programs_expect_it() {
        let (home, cwd) = (Path::new("/home/me"), Path::new("/data/run"));
        let plan = plan(Wish { home: Some(home), cwd: Some(cwd), ..Wish::default() });
        assert_eq!(
            targets(&plan),
            ["bind /proc", "bind /sys", "bind /dev", "bind /tmp", "bind /home/me", "bind /data/run"]
        );
        assert_eq!(plan.start.as_deref(), Some(cwd));
        assert!(plan.mounts.iter().all(|mount| mount.options == ["rbind"]));
    }

    #[test]
    fn contained_shows_nothing_of_the_host_that_can_be_written() {
        let plan = plan(Wish { contained: true, empty_home: Some(Path::new("/home/me")), ..Wish::default() });
        let binds: Vec<&Mount> = plan.mounts.iter().filter(|mount| mount.is_bind()).collect();
        assert_eq!(binds.iter().map(|m| m.destination.to_str().unwrap()).collect::<Vec<_>>(), ["/proc", "/sys"]);
        assert!(binds[1].options.contains(&"rro".to_owned()));
        assert_eq!(targets(&plan).last().unwrap(), "tmpfs /home/me");
        assert_eq!(plan.shown, Vec::<PathBuf>::new());
    }

    #[test]
    fn new_namespaces_bring_their_own_file_systems() {
        let plan = plan(Wish {
            private_pid: true,
            private_ipc: true,
            private_net: true,
            host_has_mqueue: true,
            ..Wish::default()
        });
        assert_eq!(
            targets(&plan),
            ["proc /proc", "sysfs /sys", "bind /dev", "tmpfs /dev/shm", "bind /tmp", "mqueue /dev/mqueue"]
        );
        let without = super::plan(Wish { private_ipc: true, ..Wish::default() });
        assert!(!targets(&without).contains(&"mqueue /dev/mqueue".to_owned()));
    }

    #[test]
    fn what_is_asked_for_lies_over_what_is_there_by_default_and_is_shown_once() {
        let parse = |text: &str| Volume::parse(text, Path::new("/")).unwrap();
        let (defaults, volumes) = ([parse("/scratch")], [parse("/a:/home/me/a:ro"), parse("tmpfs:/var/cache:size=1m")]);
        let plan = plan(Wish {
            home: Some(Path::new("/home/me")),
            cwd: Some(Path::new("/scratch/run")),
            defaults: &defaults,
            volumes: &volumes,
            ..Wish::default()
        });
        assert_eq!(targets(&plan)[4..], ["bind /home/me", "bind /scratch", "bind /home/me/a", "tmpfs /var/cache"]);
        assert_eq!(plan.start.as_deref(), Some(Path::new("/scratch/run")));
        assert_eq!(plan.mounts[6].options, ["rbind", "ro"]);
        assert_eq!(plan.mounts[7].options, ["size=1048576"]);
    }
}
