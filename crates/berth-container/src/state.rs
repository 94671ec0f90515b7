//! Named containers: what is kept between runs, and who runs now.
//!
//! ```text
//! containers/
//!   NAME/
//!     container.json      what it is and how it was started last (written whole, then renamed)
//!     upper/  work/       its changes, and overlayfs' own directory
//!     lock                flock(2): held from the decision to start, join or remove until that is done
//!     pids/PID            one file a process that was started or joined: host, boot, start time
//!   .NAME.PID.new         being created: appears by rename
//!   .NAME.PID.old         being removed: disappears by rename first
//! ```
//!
//! * Whoever starts a container holds the lock until its command is executed: the descriptor closes then, also if the
//!   starter is killed. So who has the lock sees either no process, or one whose namespaces are complete.
//! * A container runs while any process has it as its root. The registered ones are looked at first: a process id counts
//!   only together with the boot and the start time. Processes that were left behind by registered ones are found by the
//!   name of their root mount, which is [`Record::label`].
//! * A directory shared between machines shows containers that run elsewhere as such; only removing by force ignores it.

mod processes;
mod remove;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use processes::rooted_in;
pub use processes::{Rooted, rooted, step_mark};
pub(crate) use processes::{boot_id, start_time};

/// The longest name of a container.
const MAX_NAME: usize = 64;

/// What is written down about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// When it was created, in seconds since 1970.
    pub created: u64,
    /// Tells it from an earlier container of the same name.
    pub id: String,
    /// The image, as it was asked for.
    pub image: String,
    /// The manifest digest of that image.
    pub digest: Option<String>,
    /// How it was started last. Its process is what joiners are like.
    pub bundle: Bundle,
    /// Whether ownership calls are answered as done (see [`crate::fake`]).
    pub fake_ownership: bool,
    /// The signal that ends it politely.
    pub stop_signal: Option<String>,
}

impl Record {
    /// The name of the container's root mount.
    pub fn label(&self) -> String {
        label(&self.name, &self.id)
    }
}

fn label(name: &str, id: &str) -> String {
    format!("berth:{name}:{id}")
}

/// Checks a name: `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}`.
pub fn check_name(name: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if first && name.len() <= MAX_NAME && name.bytes().all(legal) {
        return Ok(());
    }
    Err(Error::BadName { name: name.chars().take(MAX_NAME + 1).collect() })
}

/// All named containers of a user.
#[derive(Debug, Clone)]
pub struct Containers {
    directory: PathBuf,
}

impl Containers {
    /// Those in this directory, which need not exist yet.
    pub fn at(directory: impl Into<PathBuf>) -> Containers {
        Containers { directory: directory.into() }
    }

    /// Creates a container. Its directory appears whole, or not at all.
    ///
    /// # Errors
    /// [`Error::ContainerState`] if there is one of that name.
    pub fn create(&self, record: &Record) -> Result<Container> {
        check_name(&record.name)?;
        let temporary = self.directory.join(format!(".{}.{}.new", record.name, std::process::id()));
        let _ = remove::tree(&temporary, None);
        for part in ["upper", "work", "pids"] {
            let path = temporary.join(part);
            std::fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
        }
        let container = Container { name: record.name.clone(), directory: temporary.clone() };
        container.write_record(record)?;
        container.open_lock()?;
        let place = self.directory.join(&record.name);
        // Onto an existing container the rename fails, because that directory is not empty.
        let renamed = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &temporary,
            rustix::fs::CWD,
            &place,
            rustix::fs::RenameFlags::empty(),
        );
        if let Err(error) = renamed {
            let _ = remove::tree(&temporary, None);
            return Err(match error {
                rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST => exists(&record.name),
                other => Error::io("create", &place, other),
            });
        }
        Ok(Container { name: record.name.clone(), directory: place })
    }

    /// The container of a name.
    pub fn get(&self, name: &str) -> Result<Container> {
        check_name(name)?;
        let directory = self.directory.join(name);
        match std::fs::symlink_metadata(directory.join("container.json")) {
            Ok(_) => Ok(Container { name: name.to_owned(), directory }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NoContainer {
                name: name.to_owned(),
                hint: Some("`berth ps` lists the named containers; `berth run --name` makes one".to_owned()),
            }),
            Err(e) => Err(Error::io("read", directory, e)),
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Container>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", &self.directory, e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.directory, e))?;
            names.extend(entry.file_name().into_string().ok().filter(|name| check_name(name).is_ok()));
        }
        names.sort_unstable();
        // One that is removed meanwhile is not there any more.
        Ok(names.iter().filter_map(|name| self.get(name).ok()).collect())
    }

    /// Removes what creations and removals left that were killed. Harmless at any time.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name
                .strip_suffix(".new")
                .or(name.strip_suffix(".old"))
                .and_then(|n| n.rsplit('.').next()?.parse().ok());
            if name.starts_with('.') && pid.is_some_and(|pid: u32| start_time(pid).is_none()) {
                let _ = remove::tree(&entry.path(), None);
            }
        }
    }
}

fn exists(name: &str) -> Error {
    Error::ContainerState {
        name: name.to_owned(),
        reason: "exists already".to_owned(),
        hint: Some("use another name, or remove it with `berth rm`".to_owned()),
    }
}

/// One named container.
#[derive(Debug, Clone)]
pub struct Container {
    name: String,
    directory: PathBuf,
}

/// A process that belongs to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// On this machine.
    Here(u32),
    /// On another, as far as is known.
    On {
        /// Its host name.
        host: String,
        /// Its process id there.
        pid: u32,
    },
}

/// What `pids/PID` holds.
#[derive(Serialize, Deserialize)]
struct Entry {
    host: String,
    boot: String,
    pid: u32,
    start: u64,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its changes are.
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// Overlayfs' own directory.
    pub fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// What is written down about it.
    pub fn record(&self) -> Result<Record> {
        let path = self.directory.join("container.json");
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        serde_json::from_slice(&text).map_err(|e| Error::io("understand", &path, io::Error::other(e)))
    }

    /// Replaces what is written down about it.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let text =
            serde_json::to_vec_pretty(record).map_err(|e| Error::io("write", &self.directory, io::Error::other(e)))?;
        self.write_whole(Path::new("container.json"), &text)
    }

    fn write_whole(&self, name: &Path, content: &[u8]) -> Result<()> {
        let place = self.directory.join(name);
        let temporary = self.directory.join(format!(".{}.tmp", std::process::id()));
        File::create(&temporary)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| std::fs::rename(&temporary, &place))
            .map_err(|e| Error::io("write", &place, e))
    }

    fn open_lock(&self) -> Result<OwnedFd> {
        let path = self.directory.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| Error::io("open", path, e))
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// [`Error::NoContainer`] if the container was removed meanwhile.
    pub fn lock(&self) -> Result<Lock> {
        self.lock_or_tell(&mut || {})
    }

    /// The same, and `tell` is called if it takes longer than a start or a removal does: a process may be stuck.
    ///
    /// # Errors
    /// As [`Container::lock`].
    pub fn lock_or_tell(&self, tell: &mut dyn FnMut()) -> Result<Lock> {
        let fd = match self.open_lock() {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Err(self.gone()),
            other => other?,
        };
        // flock(2) knows no limit of time: until that is over it is asked now and then, and after that it waits.
        let start = std::time::Instant::now();
        let mut how = FlockOperation::NonBlockingLockExclusive;
        loop {
            match flock(&fd, how) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    tell();
                    how = FlockOperation::LockExclusive;
                }
                Err(error) => return Err(Error::io("lock", self.directory.join("lock"), error)),
            }
        }
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let mine = rustix::fs::fstat(&fd).map(identity);
        let named = rustix::fs::stat(self.directory.join("lock")).map(identity);
        if mine.is_err() || mine != named { Err(self.gone()) } else { Ok(Lock(fd)) }
    }

    fn gone(&self) -> Error {
        Error::NoContainer { name: self.name.clone(), hint: Some("it was removed meanwhile".to_owned()) }
    }

    /// Writes a process down as one of this container's.
    pub fn register(&self, pid: u32) -> Result<()> {
        let start =
            start_time(pid).ok_or_else(|| Error::io("read", format!("/proc/{pid}/stat"), io::ErrorKind::NotFound))?;
        let entry = Entry { host: host_name(), boot: boot_id(), pid, start };
        let text = serde_json::to_vec(&entry).map_err(|e| Error::io("write", &self.directory, io::Error::other(e)))?;
        self.write_whole(&Path::new("pids").join(format!("{pid}@{}", entry.host)), &text)
    }

    /// The processes that belong to it and live: the registered ones, or else what those left behind. Forgets the dead.
    pub fn members(&self) -> Result<Vec<Member>> {
        let directory = self.directory.join("pids");
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("list", directory, e)),
        };
        let (host, boot) = (host_name(), boot_id());
        let (mut members, mut dead) = (Vec::new(), Vec::new());
        for entry in entries.flatten() {
            let path = entry.path();
            let Some(found) = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Entry>(&text).ok())
            else {
                continue;
            };
            if found.host != host {
                members.push(Member::On { host: found.host, pid: found.pid });
            } else if found.boot == boot && start_time(found.pid) == Some(found.start) {
                members.push(Member::Here(found.pid));
            } else {
                dead.push((path, found.boot == boot));
            }
        }
        if members.is_empty() && dead.iter().any(|(_, this_boot)| *this_boot) {
            let record = self.record()?;
            members = rooted_in(&record.label()).into_iter().map(Member::Here).collect();
        }
        // While something was left behind, the entry says where to look for it.
        if members.iter().all(|member| matches!(member, Member::On { .. })) {
            for (path, _) in dead {
                let _ = std::fs::remove_file(path);
            }
        }
        Ok(members)
    }

    /// Removes it with its changes.
    ///
    /// # Errors
    /// [`Error::ContainerState`] if it runs. With `elsewhere_too`, processes on other machines don't count.
    pub fn remove(self, elsewhere_too: bool) -> Result<()> {
        let _lock = self.lock()?;
        for member in self.members()? {
            match member {
                Member::Here(pid) => {
                    return Err(Error::ContainerState {
                        name: self.name,
                        reason: format!("is running (process {pid})"),
                        hint: Some("stop it first with `berth stop`, or use `berth rm --force`".to_owned()),
                    });
                }
                Member::On { host, .. } if !elsewhere_too => {
                    return Err(Error::ContainerState {
                        name: self.name,
                        reason: format!("is running on {host}"),
                        hint: Some(format!("stop it there; if {host} is gone, use `berth rm --force`")),
                    });
                }
                Member::On { .. } => {}
            }
        }
        // A record that cannot be read must not keep a container from being removed.
        let spec = self.record().ok().map(|record| record.bundle.spec);
        let old = self.directory.with_file_name(format!(".{}.{}.old", self.name, std::process::id()));
        std::fs::rename(&self.directory, &old).map_err(|e| Error::io("remove", &self.directory, e))?;
        remove::tree(&old, spec.as_ref())
    }
}

/// The lock of a container; free when it and all copies that forks made are closed, at the latest by execve(2).
#[derive(Debug)]
pub struct Lock(OwnedFd);

/// How long a container's lock is waited for in silence.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);

impl Lock {
    /// Leaves the lock to the process `pid`, which is this one or its child, until that executes its command.
    pub fn hand_over(self, pid: u32) {
        if pid == std::process::id() {
            // Closed by execve(2), or by the end of the process.
            std::mem::forget(self.0);
        }
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.replace(['/', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Rootfs;
    use crate::oci::Spec;

    fn record(name: &str) -> Record {
        Record {
            name: name.to_owned(),
            created: 1,
            id: "1".to_owned(),
            image: "busybox".to_owned(),
            digest: None,
            bundle: Bundle { spec: Spec::default(), rootfs: Rootfs::Dir("/".into()) },
            fake_ownership: false,
            stop_signal: None,
        }
    }

    #[test]
    fn names_are_safe_as_file_names_and_in_messages() {
        for good in ["a", "0", "my-job_1.2", &"x".repeat(64)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_container_is_created_once_found_listed_and_removed() {
        let place = tempfile::tempdir().unwrap();
        let containers = Containers::at(place.path().join("containers"));
        assert!(containers.list().unwrap().is_empty());
        let made = containers.create(&record("one")).unwrap();
        assert!(made.upper().is_dir() && made.work().is_dir());
        assert!(matches!(containers.create(&record("one")), Err(Error::ContainerState { .. })));
        containers.create(&record("another")).unwrap();
        let names: Vec<_> = containers.list().unwrap().iter().map(|c| c.name().to_owned()).collect();
        assert_eq!(names, ["another", "one"]);
        assert_eq!(containers.get("one").unwrap().record().unwrap(), record("one"));
        containers.get("one").unwrap().remove(false).unwrap();
        assert!(matches!(containers.get("one"), Err(Error::NoContainer { .. })));
        let left: Vec<_> =
            std::fs::read_dir(place.path().join("containers")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["another"]);
    }

    #[test]
    fn a_living_process_is_a_member_and_keeps_the_container() {
        let place = tempfile::tempdir().unwrap();
        let container = Containers::at(place.path()).create(&record("one")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        container.register(child.id()).unwrap();
        assert_eq!(container.members().unwrap(), [Member::Here(child.id())]);
        assert!(matches!(container.clone().remove(true), Err(Error::ContainerState { .. })));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(container.members().unwrap(), []);
        container.remove(false).unwrap();
    }

    #[test]
    fn a_reused_process_id_and_an_earlier_boot_are_no_members() {
        let place = tempfile::tempdir().unwrap();
        let container = Containers::at(place.path()).create(&record("one")).unwrap();
        let own = std::process::id();
        let start = start_time(own).unwrap();
        for (boot, start) in [(boot_id(), start + 1), ("another".to_owned(), start)] {
            let entry = Entry { host: host_name(), boot, pid: own, start };
            container.write_whole(Path::new("pids/x"), &serde_json::to_vec(&entry).unwrap()).unwrap();
            assert_eq!(container.members().unwrap(), []);
        }
    }

    #[test]
    fn a_process_on_another_machine_keeps_the_container_unless_forced() {
        let place = tempfile::tempdir().unwrap();
        let container = Containers::at(place.path()).create(&record("one")).unwrap();
        let entry = Entry { host: "elsewhere".to_owned(), boot: "b".to_owned(), pid: 1, start: 1 };
        container.write_whole(Path::new("pids/x"), &serde_json::to_vec(&entry).unwrap()).unwrap();
        assert_eq!(container.members().unwrap(), [Member::On { host: "elsewhere".to_owned(), pid: 1 }]);
        assert!(container.clone().remove(false).unwrap_err().to_string().contains("elsewhere"));
        container.remove(true).unwrap();
    }

    #[test]
    fn directories_without_permissions_and_very_deep_ones_are_removed() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let container = Containers::at(place.path()).create(&record("one")).unwrap();
        let locked = container.upper().join("a/b");
        std::fs::create_dir_all(&locked).unwrap();
        std::fs::write(locked.join("file"), "x").unwrap();
        for directory in [locked.clone(), locked.parent().unwrap().to_owned()] {
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o0)).unwrap();
        }
        let deep = File::open(container.upper()).unwrap();
        let mut at: OwnedFd = deep.into();
        for _ in 0..600 {
            rustix::fs::mkdirat(&at, "a-rather-long-name-of-a-directory", Mode::from_raw_mode(0o755)).unwrap();
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, "a-rather-long-name-of-a-directory", flags, Mode::empty()).unwrap();
        }
        container.remove(false).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_removed_container_cannot_be_locked_by_who_waited() {
        let place = tempfile::tempdir().unwrap();
        let containers = Containers::at(place.path());
        let container = containers.create(&record("one")).unwrap();
        container.clone().remove(false).unwrap();
        assert!(matches!(container.lock(), Err(Error::NoContainer { .. })));
    }

    #[test]
    fn leftovers_of_killed_creators_are_swept_and_living_ones_are_not() {
        let place = tempfile::tempdir().unwrap();
        let containers = Containers::at(place.path());
        // No process has this id: it is above the kernel's limit.
        std::fs::create_dir_all(place.path().join(".one.4194999.new/upper")).unwrap();
        std::fs::create_dir_all(place.path().join(format!(".two.{}.new", std::process::id()))).unwrap();
        containers.sweep();
        let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [format!(".two.{}.new", std::process::id()).as_str()]);
    }
}
