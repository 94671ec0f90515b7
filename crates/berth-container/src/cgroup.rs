//! Control groups: made where the user may, limited as asked, and left alone where not.
//!
//! Three layouts are known: cgroup v2, cgroup v1, and v1 with a v2 hierarchy beside it that has no controllers. A container is
//! put into a group of every hierarchy that is mounted. Rules that hold here:
//!
//! - An ordinary user who may not make groups, or not give them a limit, gets a warning and no error, as with crun and runc:
//!   podman asks for limits by itself. Real root gets an error.
//! - A relative path, and none, counts from the group of the caller, so that the limits of a batch system go on to hold. In
//!   cgroup v2 a group with limits is made beside that of the caller, since the kernel gives controllers to no group below one
//!   that has processes.
//! - Nobody's processes but the container's are ever moved, and nothing is removed that was not made here.

mod create;
mod devices;
mod files;
mod host;
mod limits;
mod systemd;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::oci::Resources;
use host::{Host, Kind};

/// Who makes the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// We do, as directories below `/sys/fs/cgroup`.
    #[default]
    Cgroupfs,
    /// systemd does, asked over D-Bus.
    Systemd,
    /// Nobody: the container stays where its caller is.
    Disabled,
}

/// What a container wants.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// `linux.cgroupsPath`; for [`Manager::Systemd`] it is `SLICE:PREFIX:NAME`.
    pub path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// Who makes it.
    pub manager: Manager,
}

/// What this host has, for `features`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Supported {
    /// Hierarchies of cgroup v1 are mounted.
    pub v1: bool,
    /// That of cgroup v2 is.
    pub v2: bool,
    /// systemd runs this host.
    pub systemd: bool,
    /// It can be asked by this user: systemd runs, and there is a bus.
    pub systemd_user: bool,
}

/// What this host has.
pub fn supported() -> Supported {
    let host = Host::read().unwrap_or_default();
    let systemd = Path::new("/run/systemd/system").is_dir();
    Supported { v1: host.has_v1(), v2: host.v2().is_some(), systemd, systemd_user: systemd && systemd::has_user_bus() }
}

/// The cgroup of a container, as its state keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Its directories, one for each hierarchy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    places: Vec<Place>,
    /// Whether limits are those of cgroup v2.
    pure_v2: bool,
    /// Whether others were in it before: it is not ours to stop or to limit.
    shared: bool,
    /// The first process that was put into it.
    init: u32,
    /// The unit that systemd made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<systemd::Unit>,
    #[serde(skip)]
    warnings: Vec<String>,
}

/// A directory of a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    kind: Kind,
    directory: PathBuf,
    /// Whether we made it, so that we remove it.
    made: bool,
}

impl Cgroup {
    /// Makes it and puts `pid` and the limits into it. Where this user may not, the container stays where its caller is;
    /// [`Cgroup::warnings`] says which limits are not in force then.
    pub fn create(request: &Request<'_>, pid: u32) -> Result<Cgroup> {
        match request.manager {
            Manager::Cgroupfs => create::by_hand(request, pid),
            Manager::Systemd => create::by_systemd(request, pid),
            Manager::Disabled => {
                let mut cgroup = Cgroup { init: pid, ..Cgroup::default() };
                if request.resources.is_some_and(Resources::has_limits) {
                    cgroup.warnings.push("resource limits are not in force: control groups are disabled".to_owned());
                }
                Ok(cgroup)
            }
        }
    }

    /// What was asked for and could not be done, one sentence each; empty in a cgroup read from a state.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the container has one of its own; one in which others were before is not.
    pub fn is_own(&self) -> bool {
        !self.places.is_empty() && !self.shared
    }

    /// Its directories, one for each hierarchy that it is in.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.directory.as_path())
    }

    /// Moves a process into it; `below` names a cgroup in it.
    pub fn add(&self, pid: u32, below: Option<&Path>) -> Result<()> {
        let below = below.map(|path| host::checked(path.strip_prefix("/").unwrap_or(path), "cgroup")).transpose()?;
        if let Some(below) = &below
            && !self.places.iter().any(|place| place.directory.join(below).is_dir())
        {
            let source = std::io::Error::from_raw_os_error(libc::ENOENT);
            return Err(Error::io("find the container's control group", below, source));
        }
        for place in &self.places {
            let directory = match &below {
                Some(below) if place.directory.join(below).is_dir() => place.directory.join(below),
                _ => place.directory.clone(),
            };
            match create::put(pid, &directory) {
                Ok(()) => {}
                // The container's own service manager has moved all processes further down: join them there.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && below.is_none() => {
                    let directory = self.directory_of_init(&directory).unwrap_or(directory);
                    create::put(pid, &directory).map_err(|source| cannot_put(&directory, source))?;
                }
                Err(source) => return Err(cannot_put(&directory, source)),
            }
        }
        Ok(())
    }

    fn directory_of_init(&self, top: &Path) -> Option<PathBuf> {
        let init = self.init.to_string();
        let has_init = |directory: &PathBuf| {
            files::read(directory, "cgroup.procs").is_ok_and(|text| text.lines().any(|line| line == init))
        };
        files::tree(top).ok()?.into_iter().find(has_init)
    }

    /// Changes limits; what `resources` leaves out stays as it is.
    pub fn update(&self, resources: &Resources) -> Result<()> {
        self.require_own("change the limits of")?;
        create::limit(self, resources, &mut |error| Err(error))
    }

    fn require_own(&self, action: &str) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        Err(Error::System {
            action: format!("{action} the container"),
            source: std::io::Error::new(std::io::ErrorKind::Unsupported, "it has no control group of its own"),
            hint: Some(
                "start it where you may make control groups: as root, or in `systemd-run --user --scope`".to_owned(),
            ),
        })
    }

    /// The directory that is asked about processes: all hierarchies have the same.
    fn main(&self) -> Option<&Place> {
        if self.shared {
            return None;
        }
        let rank = |place: &&Place| match place.kind {
            Kind::V2 => 0,
            Kind::V1(_) if place.kind.has("freezer") => 1,
            Kind::V1(_) if place.kind.has("pids") => 2,
            Kind::V1(_) => 3,
        };
        self.places.iter().min_by_key(rank)
    }

    /// The directory that stops processes.
    fn freezer(&self) -> Option<&Place> {
        if self.shared {
            return None;
        }
        let v1 = self.places.iter().find(|place| place.kind.has("freezer"));
        v1.or_else(|| self.places.iter().find(|place| place.kind == Kind::V2))
    }

    /// All processes in it and below it, in order of their ids; none where the container has no cgroup of its own, or that
    /// is gone.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let Some(place) = self.main() else { return Ok(Vec::new()) };
        match files::processes(&place.directory) {
            Err(error) if files::is_gone(&error) => Ok(Vec::new()),
            processes => processes.map_err(|source| Error::io("list the processes of", &place.directory, source)),
        }
    }

    /// Stops all processes (`true`), or lets them go on; returns when they have.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let action = if frozen { "pause" } else { "resume" };
        self.require_own(action)?;
        let Some(place) = self.freezer() else {
            return Err(Error::System {
                action: format!("{action} the container"),
                source: std::io::Error::new(std::io::ErrorKind::Unsupported, "no control group that can is mounted"),
                hint: Some("mount cgroup2, or the freezer of cgroup v1".to_owned()),
            });
        };
        let done = match place.kind {
            Kind::V2 => freeze_v2(&place.directory, frozen),
            Kind::V1(_) => freeze_v1(&place.directory, frozen),
        };
        done.map_err(|source| {
            let action = if frozen { "stop the processes of" } else { "let go on the processes of" };
            Error::io(action, &place.directory, source)
        })
    }

    /// Whether all processes are stopped by [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> bool {
        let Some(place) = self.freezer() else { return false };
        match place.kind {
            Kind::V2 => {
                files::read(&place.directory, "cgroup.events").is_ok_and(|text| text.lines().any(|it| it == "frozen 1"))
                    && files::read(&place.directory, "cgroup.freeze").is_ok_and(|text| text.trim() == "1")
            }
            Kind::V1(_) => files::read(&place.directory, "freezer.state").is_ok_and(|text| text.trim() == "FROZEN"),
        }
    }

    /// Sends a signal to all processes, frozen or not; none of them can fork away from it. SIGKILL reaches frozen ones by
    /// letting them go on. Without a cgroup of its own nothing is signalled.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let Some(main) = self.main() else { return Ok(()) };
        let was_frozen = self.is_frozen();
        let kills = signal == libc::SIGKILL;
        let all_at_once =
            kills && main.kind == Kind::V2 && main.made && files::write(&main.directory, "cgroup.kill", "1").is_ok();
        if !all_at_once {
            // Where nothing can be stopped, what was forked meanwhile is missed once.
            let stopped = was_frozen || self.freeze(true).is_ok();
            let sent = self.processes().and_then(|processes| send(&processes, signal));
            if stopped && !was_frozen {
                let _ = self.freeze(false);
            }
            sent?;
        }
        if kills && was_frozen {
            let _ = self.freeze(false);
        }
        Ok(())
    }

    /// Removes it, with what is left in it: processes are killed. A group that was there before stays, with its processes.
    pub fn remove(&self) -> Result<()> {
        let made = || self.places.iter().filter(|place| place.made);
        if let Some(unit) = &self.unit {
            self.kill(libc::SIGKILL)?;
            systemd::stop(unit)?;
        }
        let busy = made().any(|place| files::remove_once(&place.directory).is_err());
        if busy {
            let mine = Cgroup { places: made().cloned().collect(), ..Cgroup::default() };
            mine.kill(libc::SIGKILL)?;
            for place in made() {
                // What failed on the way into them is in some, and perhaps not in the one that knows all others.
                send(&files::processes(&place.directory).unwrap_or_default(), libc::SIGKILL)?;
            }
            for place in made() {
                files::remove(&place.directory)?;
            }
        }
        Ok(())
    }
}

fn cannot_put(directory: &Path, source: std::io::Error) -> Error {
    Error::io("put a process into the control group", directory, source)
}

#[allow(unsafe_code)]
fn send(processes: &[u32], signal: i32) -> Result<()> {
    let own = std::process::id();
    for &pid in processes.iter().filter(|&&pid| pid != own) {
        let Ok(pid) = libc::pid_t::try_from(pid) else { continue };
        // SAFETY: kill(2) has no memory to break; the id is positive, so that it names one process.
        if unsafe { libc::kill(pid, signal) } != 0 {
            let source = std::io::Error::last_os_error();
            // It may have ended meanwhile.
            if source.raw_os_error() != Some(libc::ESRCH) {
                return Err(Error::system(format!("send signal {signal} to process {pid}"), source));
            }
        }
    }
    Ok(())
}

fn freeze_v2(directory: &Path, frozen: bool) -> std::io::Result<()> {
    let (value, event) = if frozen { ("1", "frozen 1") } else { ("0", "frozen 0") };
    files::write(directory, "cgroup.freeze", value)?;
    let reached = files::wait_for_event(directory, event);
    if frozen && reached.is_err() {
        let _ = files::write(directory, "cgroup.freeze", "0");
    }
    reached
}

fn freeze_v1(directory: &Path, frozen: bool) -> std::io::Result<()> {
    let wanted = if frozen { "FROZEN" } else { "THAWED" };
    let end = Instant::now() + files::PATIENCE;
    let mut pause = Duration::from_micros(100);
    loop {
        // Written again each time: processes forked meanwhile are caught only then.
        files::write(directory, "freezer.state", wanted)?;
        if files::read(directory, "freezer.state")?.trim() == wanted {
            return Ok(());
        }
        if Instant::now() >= end {
            if frozen {
                let _ = files::write(directory, "freezer.state", "THAWED");
            }
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests;
