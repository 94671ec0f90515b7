//! dockerd of a test's own, with the runtime under test as its default.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::Engine;
use super::IMAGE;
use crate::fixture::Fixture;
use crate::process;

/// Longest that the daemon may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the daemon finds its own programs.
const SYSTEM_PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The control group of all of a test's containers.
fn group() -> String {
    format!("berth-e2e-docker-{}", std::process::id())
}

/// dockerd, and the client that talks to it.
#[derive(Debug)]
pub struct Docker {
    fixture: Fixture,
    daemon: Child,
    ended: bool,
    first_mounts: BTreeSet<String>,
    group: String,
}

impl Docker {
    /// A daemon whose default runtime is the one under test; as an added one it is called `added`.
    pub fn start() -> Docker {
        Docker::with(&[])
    }

    /// The same with programs that the daemon finds before all others.
    pub fn with(path: &[&Path]) -> Docker {
        super::own_places();
        Docker::on_these_groups(path)
    }

    /// The same on the new control groups alone, with whatever controllers they have here: see
    /// [`Podman::rootful_on_new_groups`](super::Podman::rootful_on_new_groups).
    pub fn on_new_groups() -> Docker {
        super::own_run();
        Docker::on_these_groups(&[])
    }

    fn on_these_groups(path: &[&Path]) -> Docker {
        let fixture = Fixture::as_oneself();
        let dir = fixture.make_dir("docker", 0o755);
        let runtime = super::runtime(&fixture);
        let name = super::state_name(&runtime);
        let mut command = fixture.command("dockerd", &[]);
        let mut path: Vec<PathBuf> = path.iter().map(|dir| (*dir).to_owned()).collect();
        path.extend(SYSTEM_PATH.map(PathBuf::from));
        command.env("PATH", std::env::join_paths(path).expect("no colon in a path"));
        command.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        command
            .arg("--host")
            .arg(format!("unix://{}", dir.join("sock").display()))
            .arg("--pidfile")
            .arg(dir.join("pid"));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]);
        command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", &format!("/{}", group())]);
        if name != "runc" {
            command.arg("--add-runtime").arg(format!("{name}={}", runtime.display()));
        }
        command.arg("--add-runtime").arg(format!("added={}", runtime.display())).args(["--default-runtime", &name]);
        Docker::started(fixture, command)
    }

    /// What a site's `daemon.json` has to say for [`Docker::by_its_file`].
    pub fn site_file(fixture: &Fixture) -> Value {
        let dir = fixture.path("docker");
        json!({
            "exec-root": dir.join("exec"), "hosts": [format!("unix://{}", dir.join("sock").display())],
            "pidfile": dir.join("pid"), "iptables": false, "ip6tables": false, "bridge": "none",
            "storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": format!("/{}", group())
        })
    }

    /// A daemon that knows nothing but what is in `/etc/docker/daemon.json`.
    pub fn by_its_file(fixture: Fixture) -> Docker {
        super::own_places();
        fixture.make_dir("docker", 0o755);
        let mut command = fixture.command("dockerd", &[]);
        command.env("PATH", std::env::join_paths(SYSTEM_PATH).expect("no colon in a path"));
        Docker::started(fixture, command)
    }

    fn started(fixture: Fixture, mut command: Command) -> Docker {
        let log = File::create(fixture.path("docker/log")).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let daemon = process::die_with_parent(&mut command).spawn().expect("a started dockerd");
        let mut docker = Docker { fixture, daemon, ended: false, first_mounts: BTreeSet::new(), group: group() };
        docker.wait();
        let archive = docker.fixture.archive_of(IMAGE);
        process::run(docker.command(&["load", "-q", "-i"]).arg(&archive)).ok();
        docker.first_mounts = super::mounts();
        // The network namespace of the host, kept for all containers that want it.
        docker.first_mounts.insert(docker.fixture.path("docker/exec/netns/default").display().to_string());
        docker
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !process::run(&mut self.command(&["version"])).status.success() {
            let ended = self.daemon.try_wait().ok().flatten();
            assert!(ended.is_none() && Instant::now() < deadline, "dockerd: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the daemon as a system that goes down does.
    pub fn end(&mut self) {
        process::kill(self.daemon.id() as i32, libc::SIGTERM);
        process::wait(&mut self.daemon, PATIENCE).expect("an end");
        self.ended = true;
    }

    /// What the daemon said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.fixture.path("docker/log")).unwrap_or_default()
    }
}

impl Engine for Docker {
    fn fixture(&self) -> &Fixture {
        &self.fixture
    }

    fn command(&self, words: &[&str]) -> Command {
        // That of the package, whatever else somebody has put into the path.
        let mut command = self.fixture.command("/usr/bin/docker", words);
        command.env("DOCKER_HOST", format!("unix://{}", self.fixture.path("docker/sock").display()));
        // The daemon's own builder: BuildKit does not ask for the default runtime.
        command.env("DOCKER_BUILDKIT", "0");
        command
    }

    fn options(&self) -> Vec<String> {
        vec!["--network=none".to_owned()]
    }

    fn state(&self) -> PathBuf {
        self.fixture.path("docker/exec/runtime-runc/moby")
    }

    fn control_group(&self) -> Option<String> {
        Some(self.group.clone())
    }

    fn is_own(&self, pid: i32) -> bool {
        pid == self.daemon.id() as i32 || process::name(pid).starts_with("containerd --config")
    }

    fn first_mounts(&self) -> &BTreeSet<String> {
        &self.first_mounts
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let words = log.lines().filter(|line| !line.contains("level=info"));
            println!("dockerd said:\n{}", words.collect::<Vec<_>>().join("\n"));
        }
        if !self.ended {
            process::kill(self.daemon.id() as i32, libc::SIGTERM);
            let _ = process::wait(&mut self.daemon, PATIENCE);
        }
        super::unmount_below(&self.fixture.path("docker"));
        super::remove_control_group(&self.group);
    }
}
