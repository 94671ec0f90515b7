//! A host as the checks see it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::slurm::Site;

/// No file that is read here is larger.
const LARGEST: u64 = 4 << 20;

/// What the host is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Whatever is found.
    #[default]
    Any,
    /// It runs jobs.
    Node,
    /// People submit from it.
    Login,
}

/// For whom things are tried.
#[derive(Clone, Debug, Default)]
pub struct Person {
    /// The name; the number where there is none.
    pub name: String,
    /// The ids.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// The home directory, as the account has it.
    pub home: Option<String>,
    /// Whether it was asked for by name, or is who asks: not just anybody without rights.
    pub named: bool,
}

/// Where berth keeps things.
#[derive(Clone, Debug)]
pub struct Places {
    /// The store, or why it is not known.
    pub store: Result<PathBuf, String>,
    /// Stores that are read.
    pub below: Vec<PathBuf>,
    /// The named containers.
    pub containers: Option<PathBuf>,
    /// What is wrong with berth's configuration.
    pub mistake: Option<String>,
}

/// What a program said.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// How it ended; `None` where it could not be started, or was ended.
    pub code: Option<i32>,
    /// Whether it is not there.
    pub missing: bool,
    /// Whether it did not end in time.
    pub late: bool,
    /// What it printed.
    pub stdout: String,
    /// See `stdout`.
    pub stderr: String,
}

impl Ran {
    /// Whether it did what it was to do.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// The last line that tells why not.
    pub fn reason(&self) -> String {
        if self.late {
            return "no answer in time".to_owned();
        }
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing").to_owned()
    }
}

/// Something that is tried as the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Making a user namespace.
    UserNamespace,
    /// Mounting an overlay in one.
    Overlay,
    /// Opening /dev/fuse, and mounting by it in a user namespace.
    Fuse,
    /// Starting a container.
    Container,
    /// Starting one with many ids.
    ManyIds,
    /// Locking, and extended attributes, in this kind of place.
    Locks,
    /// See `Locks`.
    Attributes,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes that the person can still write.
    pub free: u64,
    /// Files that can still be made, where there is a limit.
    pub files: Option<u64>,
}

/// What is known of a file, links followed.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Whether it is a directory.
    pub dir: bool,
    /// Whether it is a regular file.
    pub file: bool,
}

/// Everything that is more than reading.
pub trait Tries: Send + Sync {
    /// Runs a program with a time limit.
    fn run(&self, words: &[&str], input: &str) -> Ran;
    /// Tries something, in this place where it needs one.
    fn attempt(&self, what: Attempt, place: &Path) -> Result<(), String>;
    /// Connects to a host and port.
    fn connect(&self, host: &str, port: u16) -> Result<(), String>;
    /// Room where this is.
    fn space(&self, path: &Path) -> Option<Space>;
    /// Seconds by which the clock of the file system is ahead of ours.
    fn clock_of(&self, dir: &Path) -> Option<i64>;
    /// Seconds since 1970.
    fn now(&self) -> u64;
    /// Whether a program has file capabilities.
    fn capable(&self, path: &Path) -> bool;
    /// Gives a file to somebody.
    fn give(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
    }
    /// The owner of a file of which the file system says this.
    fn owner(&self, _path: &Path, said: u32) -> u32 {
        said
    }
}

/// See the module.
pub struct Host {
    /// Files are below this.
    pub root: PathBuf,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// For whom things are tried.
    pub person: Person,
    /// Where berth keeps things.
    pub places: Places,
    /// Longest that all checks together may take.
    pub limit: Duration,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Everything that is more than reading.
    pub tries: Box<dyn Tries>,
    /// Asked for once, by several checks.
    pub(crate) site: OnceLock<Option<Site>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("root", &self.root).field("role", &self.role).finish_non_exhaustive()
    }
}

impl Host {
    /// Where a path of the host is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let path = self.path(path);
        let meta = fs::metadata(&path)?;
        if !meta.is_file() || meta.len() > LARGEST {
            return Err(io::Error::other("it is no file, or too large to be one of a configuration"));
        }
        Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
    }

    /// The text of a file of one line.
    pub fn line(&self, path: &str) -> Option<String> {
        self.read(path).ok().map(|text| text.trim().to_owned())
    }

    /// Whether there is something.
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What is known of a file.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        let path = self.path(path);
        let meta = fs::metadata(&path).ok()?;
        Some(Stat {
            mode: meta.mode() & 0o7777,
            uid: self.tries.owner(&path, meta.uid()),
            dir: meta.is_dir(),
            file: meta.is_file(),
        })
    }

    /// Whether a file can be changed by root only; otherwise who else can change it.
    pub fn changed_by(&self, path: &str) -> Option<String> {
        let stat = self.stat(path)?;
        if stat.uid != 0 {
            return Some(format!("its owner, {}", stat.uid));
        }
        match stat.mode & 0o022 {
            0 => None,
            mode if mode & 0o002 != 0 => Some(format!("everybody (mode {:04o})", stat.mode)),
            _ => Some(format!("its group (mode {:04o})", stat.mode)),
        }
    }

    /// Names in a directory, sorted.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Files that a pattern fits: `*` in the last part of a path, any number of times.
    pub fn glob(&self, pattern: &str) -> Vec<String> {
        if !pattern.contains(['*', '?', '[']) {
            return if self.exists(pattern) { vec![pattern.to_owned()] } else { Vec::new() };
        }
        let Some((dir, last)) = pattern.rsplit_once('/') else { return Vec::new() };
        let names = self.list(dir).into_iter().filter(|name| !name.starts_with('.') && fits(last, name));
        names.map(|name| format!("{dir}/{name}")).collect()
    }

    /// A variable that is set and not empty.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Runs a program.
    pub fn run(&self, words: &[&str]) -> Ran {
        self.tries.run(words, "")
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        self.tries.now()
    }

    /// Where a program is, in the folders that daemons look in.
    pub fn program(&self, name: &str) -> Option<String> {
        const FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let runs = |path: &String| self.stat(path).is_some_and(|stat| stat.file && stat.mode & 0o111 != 0);
        if name.starts_with('/') {
            return Some(name.to_owned()).filter(runs);
        }
        FOLDERS.iter().map(|folder| format!("{folder}/{name}")).find(runs)
    }

    /// Slurm, where there is one.
    pub fn slurm(&self) -> Option<&Site> {
        self.site.get_or_init(|| Site::find(self)).as_ref()
    }

    /// The kind of the file system that a path is on, and the options that it was mounted with.
    pub fn file_system(&self, path: &str) -> Option<(String, String)> {
        self.mounted(path).map(|(kind, options, _)| (kind, options))
    }

    /// The same, with what was mounted.
    pub fn mounted(&self, path: &str) -> Option<(String, String, String)> {
        let text = self.read("/proc/self/mountinfo").ok()?;
        let mut best: Option<(usize, (String, String, String))> = None;
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let [_, _, _, _, point, options, ..] = left.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let point = point.replace("\\040", " ");
            let inside = point == "/" || path == point || path.strip_prefix(&point).is_some_and(|r| r.starts_with('/'));
            // Of two on one place, the later one is seen.
            if inside && best.as_ref().is_none_or(|best| point.len() >= best.0) {
                let mut words = right.split_whitespace();
                let [kind, source, more] = [(); 3].map(|()| words.next().unwrap_or_default());
                best = Some((point.len(), (kind.to_owned(), format!("{options},{more}"), source.to_owned())));
            }
        }
        best.map(|(_, found)| found)
    }

    /// Where the nearest directory that exists is, from a path upwards.
    pub fn nearest_path(&self, path: &str) -> PathBuf {
        self.path(&self.nearest(Path::new(path)).to_string_lossy())
    }

    /// The nearest directory that exists, from a path upwards.
    pub fn nearest(&self, path: &Path) -> PathBuf {
        let is_dir = |path: &&Path| self.path(&path.to_string_lossy()).is_dir();
        path.ancestors().find(is_dir).unwrap_or(Path::new("/")).to_owned()
    }
}

/// File systems over which containers cannot lay changes, and which many hosts share.
pub fn is_network(kind: &str) -> bool {
    let names = ["nfs", "nfs4", "lustre", "gpfs", "ceph", "cifs", "smb3", "beegfs", "panfs", "afs", "glusterfs", "9p"];
    names.contains(&kind) || kind.starts_with("fuse.gluster") || kind.starts_with("fuse.ceph") || kind == "fuse.sshfs"
}

/// Whether a pattern with `*` and `?` fits a name.
fn fits(pattern: &str, name: &str) -> bool {
    let mut letters = pattern.chars();
    match letters.next() {
        None => name.is_empty(),
        Some('*') => (0..=name.len()).any(|at| name.is_char_boundary(at) && fits(letters.as_str(), &name[at..])),
        Some(letter) => {
            let mut rest = name.chars();
            rest.next().is_some_and(|first| letter == '?' || letter == first) && fits(letters.as_str(), rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::world::World;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, expected) in [
            ("*.conf", "berth.conf", true),
            ("*.conf", "berth.conf.bak", false),
            ("*", "", true),
            ("a?c*", "abcdef", true),
            ("a?c", "ac", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_path_is_on_the_deepest_and_latest_mount() {
        let mut world = World::bare();
        world.mount("/home", "nfs4", "rw");
        world.mount("/home/alice", "lustre", "rw,flock");
        world.mount("/home", "xfs", "ro");
        let host = world.host();
        let kind = |path: &str| host.file_system(path).map(|(kind, _)| kind);
        assert_eq!(kind("/home/alice/x").as_deref(), Some("lustre"));
        assert_eq!(kind("/home/bob").as_deref(), Some("xfs"));
        assert_eq!(kind("/homes").as_deref(), Some("ext4"));
        assert_eq!(host.mounted("/home/alice").map(|(_, _, source)| source).as_deref(), Some("server:/x"));
    }

    #[test]
    fn the_nearest_folder_of_a_path_that_is_not_there_is_above_it() {
        let host = World::bare().host();
        // The folder is gone with the world: nothing below the root is there.
        assert_eq!(host.nearest(Path::new("/home/alice/store/x/y")), Path::new("/"));
        let world = World::bare();
        assert_eq!(world.host().nearest(Path::new("/home/alice/store/x/y")), Path::new("/home/alice/store"));
    }
}
