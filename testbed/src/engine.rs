//! Container engines that have the runtime under test behind them: podman as an ordinary user and as root, and dockerd.
//!
//! What is the same for all of them is here, and what they were given is watched: when a test is over, neither processes nor
//! mounts, control groups nor the runtime's own state may be left.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::fixture::Fixture;
use crate::process;
use crate::process::Output;
use crate::terminal::Terminal;

mod docker;
mod podman;

pub use docker::Docker;
pub use podman::Podman;

/// The image that the containers are made from: busybox, and users called root and nobody.
pub const IMAGE: &str = "small";

/// Another runtime than berth, to see whether a test is right: `/usr/bin/crun`.
const RUNTIME: &str = "BERTH_E2E_RUNTIME";

/// The runtime under test: berth, by the name that makes it one.
pub fn runtime(fixture: &Fixture) -> PathBuf {
    env::var_os(RUNTIME).map_or_else(|| fixture.program("berth-runtime"), PathBuf::from)
}

/// What the runtime calls the folder of its state: its own name.
pub fn state_name(runtime: &Path) -> String {
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches("-runtime").to_owned()
}

/// A container engine.
pub trait Engine {
    /// The world it lives in.
    fn fixture(&self) -> &Fixture;

    /// Its command line with these words, not started.
    fn command(&self, words: &[&str]) -> Command;

    /// What every container here needs: no network, as there is nothing to make one.
    fn options(&self) -> Vec<String>;

    /// Where it has the runtime keep its state.
    fn state(&self) -> PathBuf;

    /// Name of the control group that has those of all containers; none where it makes none.
    fn control_group(&self) -> Option<String>;

    /// Whether this process is the engine's own, and no container's.
    fn is_own(&self, pid: i32) -> bool;

    /// Mounts that were there before the first container.
    fn first_mounts(&self) -> &BTreeSet<String>;
}

impl dyn Engine + '_ {
    /// Runs the engine with these words to its end.
    #[track_caller]
    pub fn call(&self, words: &[impl AsRef<str>]) -> Output {
        process::run(&mut self.with(words))
    }

    fn with(&self, words: &[impl AsRef<str>]) -> Command {
        self.command(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// The words that make a container from the image and remove it after its end.
    pub fn words<'a>(&'a self, verb: &[&'a str], options: &[&'a str], command: &[&'a str]) -> Vec<String> {
        let own = self.options();
        let mut words: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
        words.extend(own);
        words.extend(options.iter().chain(&[IMAGE]).chain(command).map(|word| (*word).to_owned()));
        words
    }

    /// A command that runs a container to its end and removes it.
    pub fn container(&self, options: &[&str], command: &[&str]) -> Command {
        self.with(&self.words(&["run", "--rm"], options, command))
    }

    /// Runs a container to its end and removes it.
    #[track_caller]
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        process::run(&mut self.container(options, command))
    }

    /// Runs a script in a container to its end, and removes it.
    #[track_caller]
    pub fn shell(&self, options: &[&str], script: &str) -> Output {
        self.run(options, &["sh", "-c", script])
    }

    /// Starts a container in the background; gives its id.
    #[track_caller]
    pub fn start(&self, options: &[&str], command: &[&str]) -> String {
        let told = self.call(&self.words(&["run", "-d"], options, command)).ok();
        told.lines().last().unwrap_or_default().to_owned()
    }

    /// Starts a script in the background and waits until it has said `ready`; gives the container's id.
    #[track_caller]
    pub fn ready(&self, options: &[&str], script: &str) -> String {
        let id = self.start(options, &["sh", "-c", script]);
        self.eventually("the script says that it is ready", || self.logs(&id).contains("ready"));
        id
    }

    /// What a container wrote to both of its outputs until now.
    #[track_caller]
    pub fn logs(&self, id: &str) -> String {
        let output = self.call(&["logs", id]);
        assert!(output.status.success(), "{}", output.report());
        output.stdout + &output.stderr
    }

    /// A value of what the engine knows of a container (`{{.State.Pid}}`).
    #[track_caller]
    pub fn about(&self, id: &str, template: &str) -> String {
        self.call(&["inspect", "-f", template, id]).ok().trim_end().to_owned()
    }

    /// The exit code of a container that has ended or is about to.
    #[track_caller]
    pub fn exit_code(&self, id: &str) -> String {
        self.call(&["wait", id]).ok().trim_end().to_owned()
    }

    /// Ends a container however it resists, and removes it.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.call(&["rm", "-f", id]).ok();
    }

    /// Runs the engine on a terminal.
    #[track_caller]
    pub fn on_terminal(&self, words: &[impl AsRef<str>]) -> Terminal {
        Terminal::start(&mut self.with(words)).expect("a terminal")
    }

    /// Waits for something that comes by itself.
    #[track_caller]
    pub fn eventually(&self, what: &str, there: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !there() {
            assert!(Instant::now() < deadline, "never seen: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether limits of control groups hold here, and containers can be frozen.
    pub fn has_control_groups(&self) -> bool {
        self.control_group().is_some()
    }

    /// Removes what a test left on purpose and shows that nothing else is there.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        for id in self.call(&["ps", "-aq"]).ok().lines() {
            self.remove(id);
        }
        self.nothing_stays();
    }

    /// Waits until nothing but the engine itself is there.
    #[track_caller]
    pub fn nothing_stays(&self) {
        let what = "nothing left behind";
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{what}, but there is: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in process::descendants(std::process::id() as i32) {
            if !self.is_own(pid) {
                left.push(format!("process {pid} {}", process::name(pid)));
            }
        }
        for entry in fs::read_dir(self.state()).into_iter().flatten().flatten() {
            // berth keeps there, for all containers, what no container can be called.
            let common = entry.file_name().to_string_lossy().starts_with('~');
            if !common && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(format!("state {}", entry.path().display()));
            }
        }
        left.extend(mounts().difference(self.first_mounts()).map(|mount| format!("mount {mount}")));
        if let Some(group) = self.control_group() {
            left.extend(control_groups_below(&group).into_iter().map(|dir| format!("control group {}", dir.display())));
        }
        left
    }
}

/// Mounts that this process sees.
pub fn mounts() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// Folders of all hierarchies that hold a control group of that name.
fn hierarchies(group: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots = vec![root.to_owned()];
    roots.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
    roots.into_iter().map(|dir| dir.join(group)).filter(|dir| dir.is_dir()).collect()
}

/// Control groups of containers below one of that name, in all hierarchies.
pub fn control_groups_below(group: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> = hierarchies(group).into_iter().filter(|dir| is_control_group(dir)).collect();
    while let Some(dir) = queue.pop() {
        for path in folders(&dir) {
            // BuildKit's group for all of its containers, and podman's for a pod and for what watches the containers.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "buildkit" || (group.contains("podman") && !name.starts_with("libpod-")) {
                queue.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// Removes a control group that a test named, in all hierarchies.
pub fn remove_control_group(group: &str) {
    for dir in hierarchies(group) {
        if is_control_group(&dir) {
            remove_empty(&dir);
        } else {
            // podman takes the place of a hierarchy that the host has not mounted for one.
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn remove_empty(dir: &Path) {
    folders(dir).iter().for_each(|path| remove_empty(path));
    let _ = fs::remove_dir(dir);
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn is_control_group(dir: &Path) -> bool {
    const KINDS: [u64; 2] = [0x0027_e0eb, 0x6367_7270];
    rustix::fs::statfs(dir).is_ok_and(|stat| KINDS.contains(&(stat.f_type as u64)))
}

/// As root: the control groups of the host as they are, where the runner has laid the new ones over a mixture of both, and
/// [`own_run`].
pub fn own_places() {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let over = table.lines().filter(|line| line.split(' ').nth(4) == Some("/sys/fs/cgroup")).count();
    if over > 1 {
        rustix::mount::unmount("/sys/fs/cgroup", rustix::mount::UnmountFlags::DETACH).expect("the runner's mount");
    }
    own_run();
}

/// As root: a `/run` of the test's own, as engines keep things there whatever they are told.
fn own_run() {
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), None).expect("a mount");
}

/// Unmounts what an engine keeps mounted in a folder for ever.
pub fn unmount_below(dir: &Path) {
    for mount in mounts().iter().rev().filter(|mount| Path::new(mount).starts_with(dir)) {
        let _ = rustix::mount::unmount(mount.as_str(), rustix::mount::UnmountFlags::DETACH);
    }
}
