//! Real Slurm: clusters of one to four nodes, of the releases that Debian packages, in namespaces of their own.
//!
//! A [`Cluster`] is a *box*: one process tree in its own mount, pid, network, host name, IPC and cgroup namespaces, on an
//! overlay whose lower layer is a root folder with Slurm's packages ([`root`]) and whose upper layer is a tmpfs. In it run
//! munged, slurmctld on the host `ctl`, and one slurmd for each node `n1`, `n2`, …, each with its own network, host name, IPC,
//! `/tmp`, `/run` and `/dev/shm` ([`inside`]). `/home` is one file system for all nodes. Nothing outside the box is changed,
//! and killing the box's pid 1, which dropping the [`Cluster`] does, ends everything in it.
//!
//! ```no_run
//! use testbed::slurm::{Cluster, Options, Release};
//!
//! let options = Options { nodes: 2, ..Options::default() }.file("oci.conf", "RunTimeRun=\"exec …\"");
//! let cluster = Cluster::start(Release::Trixie, &options).expect("a cluster");
//! let said = cluster.as_user("tuser1").run(&["srun", "-N2", "hostname"]).ok();
//! ```

mod config;
pub mod inside;
mod nodes;
pub mod oci;
pub mod peers;
pub mod registries;
pub mod root;
mod session;
mod traces;

use std::env;
use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use crate::process;
use crate::process::Output;
use crate::registry::Registry;

pub use session::Session;
pub use traces::Traces;

/// Names under which a test runner tells its tests where its programs are: a folder with `testbed` and `berth`, and maybe
/// `spank_berth.so` and [`registries::CERTIFICATE`].
pub const PROGRAMS: &str = "BERTH_SLURM_PROGRAMS";

/// The ordinary users of every box, with their ids.
pub const USERS: [(&str, u32); 5] =
    [("tuser1", 20001), ("tuser2", 20002), ("tuser3", 20003), ("tuser4", 20004), ("tuser5", 20005)];

/// Where a box has the plugin for `plugstack.conf`.
pub const PLUGIN: &str = "/usr/lib/berth/spank_berth.so";

/// Longest that a cluster may take until all its nodes are idle.
const READY: Duration = Duration::from_secs(60);

/// Longest that Slurm may take to be done with a step or a job.
const PATIENCE: Duration = Duration::from_secs(60);

/// A release of Slurm, by the release of Debian that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Release {
    /// Slurm 22.05.
    Bookworm,
    /// Slurm 24.11.
    Trixie,
    /// Slurm 26.05.
    Forky,
}

impl Release {
    /// All of them, the oldest first.
    pub const ALL: [Release; 3] = [Release::Bookworm, Release::Trixie, Release::Forky];

    /// Debian's name.
    pub fn suite(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
            Release::Forky => "forky",
        }
    }

    /// Slurm's major version.
    pub fn version(self) -> &'static str {
        match self {
            Release::Bookworm => "22.05",
            Release::Trixie => "24.11",
            Release::Forky => "26.05",
        }
    }

    /// The release with that name or version.
    pub fn named(name: &str) -> Option<Release> {
        Release::ALL.into_iter().find(|release| [release.suite(), release.version()].contains(&name))
    }
}

/// What a cluster is made of, beyond what every cluster has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Number of nodes, 1 to 4.
    pub nodes: usize,
    /// Further files: their path (relative to `/etc/slurm`, or absolute), and what is in them.
    pub files: Vec<(String, String)>,
    /// Lines added to `slurm.conf`.
    pub slurm_conf: String,
    /// Words added to the line of the nodes in `slurm.conf`.
    pub node_conf: String,
    /// Folders or files of this machine that the box sees: where they are, and where they are put.
    pub binds: Vec<Bind>,
    /// Whether the nodes have `/run/user/UID` for each user, as a login with systemd makes it. Compute nodes, where
    /// nobody logs in, have not even `/run/user`.
    pub run_user: bool,
    /// Whether Slurm loads the plugin, on every host.
    pub plugin: bool,
    /// Name of the one partition.
    pub partition: String,
}

/// A folder or file of this machine in the box, read-only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// Where it is here.
    pub source: PathBuf,
    /// Where it is in the box.
    pub target: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 1,
            files: Vec::new(),
            slurm_conf: String::new(),
            node_conf: String::new(),
            binds: Vec::new(),
            run_user: false,
            plugin: false,
            partition: "all".to_owned(),
        }
    }
}

impl Options {
    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<String>) -> Options {
        self.files.push((path.to_owned(), content.into()));
        self
    }

    /// Makes Slurm load the plugin, with what a site would write after its name.
    #[must_use]
    pub fn plugin(mut self, arguments: &str) -> Options {
        self.plugin = true;
        self.file("plugstack.conf", format!("required {PLUGIN} {arguments}\n"))
    }

    /// Adds a folder or file of this machine.
    #[must_use]
    pub fn bind(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Options {
        self.binds.push(Bind { source: source.into(), target: target.into() });
        self
    }
}

/// What the box's first process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    release: Release,
    root: PathBuf,
    scratch: PathBuf,
    options: Options,
}

/// A running cluster; gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Which Slurm it is.
    pub release: Release,
    nodes: usize,
    outer: Child,
    /// The box's pid 1, as this machine numbers it.
    init: i32,
    /// A process of each node, at first its slurmd, as the box numbers it.
    daemons: Vec<i32>,
    scratch: tempfile::TempDir,
}

impl Cluster {
    /// Starts a cluster with the programs of the test runner: see [`PROGRAMS`].
    pub fn start(release: Release, options: &Options) -> io::Result<Cluster> {
        let programs = env::var_os(PROGRAMS).ok_or_else(|| io::Error::other(format!("{PROGRAMS} is not set")))?;
        Cluster::with(Path::new(&programs), release, options)
    }

    /// Starts a cluster with the programs `testbed` and `berth` of a folder, and waits until all nodes are idle.
    pub fn with(programs: &Path, release: Release, options: &Options) -> io::Result<Cluster> {
        assert!((1..=4).contains(&options.nodes), "one to four nodes");
        let root = root::find(release)
            .ok_or_else(|| io::Error::other(format!("no root folder with Slurm {} was made", release.version())))?;
        let scratch = tempfile::Builder::new().prefix("berth-slurm-").tempdir()?;
        let mut options = options.clone();
        for name in ["berth", "berth-runtime"] {
            options = options.bind(programs.join("berth"), Path::new("/usr/bin").join(name));
        }
        if options.plugin {
            options = options.bind(programs.join("spank_berth.so"), PLUGIN);
        }
        if let Ok(authority) = fs::read_to_string(programs.join(registries::CERTIFICATE).join("ca.crt")) {
            options = options.file("/etc/ssl/certs/ca-certificates.crt", authority);
        }
        let nodes = options.nodes;
        let plan = Plan { release, root, scratch: scratch.path().to_owned(), options };
        let log = fs::File::create(scratch.path().join("log"))?;
        let mut command = Command::new(programs.join("testbed"));
        command.arg("slurm-box").env_clear().env("PATH", session::PATH).env("LANG", "C.UTF-8").current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut outer = process::die_with_parent(&mut command).spawn()?;
        outer.stdin.take().expect("a pipe").write_all(&serde_json::to_vec(&plan)?)?;
        let mut cluster = Cluster { release, nodes, outer, init: 0, daemons: Vec::new(), scratch };
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// The box says `init PID`, with the number that this machine gives to its pid 1, and in the end `ready PID…`, with
    /// the numbers that the box gives to the nodes' daemons.
    fn wait_ready(&mut self) -> io::Result<()> {
        let mut said = BufReader::new(self.outer.stdout.take().expect("a pipe"));
        let start = Instant::now();
        loop {
            let mut line = String::new();
            // A box that never becomes ready ends by itself after READY.
            if said.read_line(&mut line)? == 0 {
                return Err(io::Error::other(format!(
                    "the cluster did not come up in {:.0} s\n{}",
                    start.elapsed().as_secs_f64(),
                    self.log()
                )));
            }
            let mut words = line.split_whitespace();
            let kind = words.next().unwrap_or_default();
            let numbers: Vec<i32> = words.filter_map(|word| word.parse().ok()).collect();
            match (kind, &numbers[..]) {
                ("init", [pid]) => self.init = *pid,
                ("ready", pids) if self.init != 0 && pids.len() == self.nodes => {
                    self.daemons = numbers;
                    return Ok(());
                }
                _ => return Err(io::Error::other(format!("the box said {line:?}"))),
            }
        }
    }

    /// Names of the nodes.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("n{number}")).collect()
    }

    /// Root on the host `ctl`, where slurmctld runs and users submit.
    pub fn root(&self) -> Session<'_> {
        Session::new(self, None, None)
    }

    /// A user on the host `ctl`.
    pub fn as_user(&self, name: &'static str) -> Session<'_> {
        self.root().user(name)
    }

    /// Root on a node.
    pub fn node(&self, name: &str) -> Session<'_> {
        let at = self.node_names().iter().position(|node| node == name).expect("a node of this cluster");
        Session::new(self, Some(self.daemons[at]), None)
    }

    /// Where this machine sees a path of the box (on the host `ctl`).
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new("/proc").join(self.init.to_string()).join("root").join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A registry with the images of the tests that every host of the box reaches by the names of public ones.
    pub fn registry(&self, kind: registries::Kind) -> Registry {
        let programs = env::var_os(PROGRAMS).unwrap_or_else(|| panic!("the test runner sets {PROGRAMS}"));
        let storage = env::var_os(registries::STORAGE).unwrap_or_else(|| panic!("{} is not set", registries::STORAGE));
        registries::start(self, Path::new(&programs), Path::new(&storage), kind).expect("a registry")
    }

    /// What the daemons wrote, for a failed assertion.
    pub fn log(&self) -> String {
        let mut text = fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
        let logs = if self.init == 0 { PathBuf::new() } else { self.path("/var/log/slurm") };
        for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
            let content = fs::read(entry.path()).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            text.push_str(&format!("--- {}\n", entry.file_name().to_string_lossy()));
            text.push_str(&lines[lines.len().saturating_sub(60)..].join("\n"));
            text.push('\n');
        }
        text
    }

    /// Everything that a step could leave: see [`Traces`].
    pub fn traces(&self) -> Traces {
        Traces::of(self)
    }

    /// The traces as soon as no job is on its way and every node is idle: what later ones are compared with.
    #[track_caller]
    pub fn idle_traces(&self) -> Traces {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let traces = self.traces();
            if traces.are_idle() {
                return traces;
            }
            assert!(Instant::now() < deadline, "the cluster is not idle: {traces:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until there is nothing that was not there `before`, and every node is idle; panics with what is left.
    #[track_caller]
    pub fn assert_clean(&self, before: &Traces) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.traces().since(before);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind:\n{}\n{}", left.join("\n"), self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "waited in vain until {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Submits a job script's command line (`sbatch --parsable …`), waits for the job's end, and gives its number.
    #[track_caller]
    pub fn batch(&self, user: &'static str, arguments: &[&str], script: &str) -> Job {
        let words = [&["sbatch", "--parsable"], arguments].concat();
        let id = self.as_user(user).run_with(&words, script.as_bytes()).ok().trim().to_owned();
        let job = Job { id };
        self.wait_until(&format!("job {} ends", job.id), || self.job_ended(&job.id));
        job
    }

    /// Whether a job came to its end, whichever; one that is held for ever did, too.
    pub fn job_ended(&self, id: &str) -> bool {
        let shown = self.job(id);
        let ended = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"];
        let held = shown.contains("Reason=launch_failed") || shown.contains("Reason=JobHeld");
        held || ended.iter().any(|state| shown.contains(&format!("JobState={state}")))
    }

    /// `scontrol show job`.
    pub fn job(&self, id: &str) -> String {
        let shown: Output = self.root().run(&["scontrol", "show", "job", id]);
        shown.stdout
    }
}

/// A job that was submitted.
#[derive(Debug)]
pub struct Job {
    /// Its number.
    pub id: String,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The kernel ends every process of a pid namespace with its first one; the outer process then removes the box's
        // control groups and ends.
        if self.init != 0 {
            process::kill(self.init, libc::SIGKILL);
        } else {
            let _ = self.outer.kill();
        }
        let _ = process::wait(&mut self.outer, Duration::from_secs(20));
    }
}
