//! containerd with berth below its shim, driven by ctr.

use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use testbed::chapter;
use testbed::engine;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::process;
use testbed::process::Output;
use testbed::terminal::Terminal;

const CONTAINERD: Need = Need::Program("containerd", "containerd");

chapter!("containerd",
    [CONTAINERD, Need::Root]:
        output_and_exit_codes_come_back,
        a_task_is_executed_in_frozen_and_killed;
);

/// containerd of the test's own.
struct Containerd {
    fixture: Fixture,
    daemon: Child,
    first_mounts: BTreeSet<String>,
}

impl Containerd {
    fn start() -> Containerd {
        engine::own_places();
        let fixture = Fixture::as_oneself();
        let dir = fixture.make_dir("containerd", 0o755);
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n",
            path("root"),
            path("state"),
            path("sock")
        );
        let config = fixture.write("containerd/config.toml", config);
        let log = File::create(dir.join("log")).expect("a log");
        let mut command = fixture.command("containerd", &["-c", &config.display().to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let daemon = process::die_with_parent(&mut command).spawn().expect("a started containerd");
        let mut containerd = Containerd { fixture, daemon, first_mounts: BTreeSet::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !containerd.call(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(dir.join("log")).unwrap_or_default());
            thread::sleep(Duration::from_millis(50));
        }
        let archive = containerd.fixture.archive_of(engine::IMAGE).display().to_string();
        containerd.call(&["images", "import", "--snapshotter=native", &archive]).ok();
        containerd.first_mounts = engine::mounts();
        containerd
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.fixture.command("ctr", &[]);
        command.arg("--address").arg(self.fixture.path("containerd/sock")).args(words);
        command
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> Output {
        process::run(&mut self.command(words))
    }

    fn image(&self) -> String {
        let names = self.call(&["images", "list", "-q"]).ok();
        names.lines().next().expect("an image").to_owned()
    }

    /// `ctr run` with berth, and these options.
    fn run_words(&self, options: &[&str], command: &[&str]) -> Vec<String> {
        let runtime = engine::runtime(&self.fixture).display().to_string();
        let root = self.fixture.path("containerd/runtime").display().to_string();
        let mut words: Vec<String> = ["run", "--snapshotter=native", "--runc-binary", &runtime, "--runc-root", &root]
            .map(str::to_owned)
            .to_vec();
        words.extend(options.iter().map(|word| (*word).to_owned()));
        words.push(self.image());
        words.push("task".to_owned());
        words.extend(command.iter().map(|word| (*word).to_owned()));
        words
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let words = self.run_words(options, command);
        self.command(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Waits for the state of the one task there is.
    #[track_caller]
    fn wait_for(&self, state: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let told = self.call(&["tasks", "list"]).ok();
            if told.lines().any(|line| line.starts_with("task") && line.ends_with(state)) {
                return;
            }
            assert!(Instant::now() < deadline, "never {state}: {told}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn nothing_stays(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut left: Vec<String> = process::descendants(std::process::id() as i32)
                .into_iter()
                .filter(|pid| *pid != self.daemon.id() as i32)
                .map(process::name)
                .collect();
            let state = fs::read_dir(self.fixture.path("containerd/runtime/default")).into_iter().flatten().flatten();
            let state = state.map(|entry| entry.file_name().to_string_lossy().into_owned());
            left.extend(state.filter(|name| !name.starts_with('~')));
            left.extend(engine::mounts().difference(&self.first_mounts).cloned());
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left: {left:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        process::kill(self.daemon.id() as i32, libc::SIGTERM);
        let _ = process::wait(&mut self.daemon, Duration::from_secs(20));
        engine::unmount_below(&self.fixture.path("containerd"));
    }
}

fn output_and_exit_codes_come_back() {
    let containerd = Containerd::start();
    let run = |options: &[&str], command: &[&str]| {
        let all = [&["--rm"], options].concat();
        process::run(&mut containerd.run(&all, command))
    };
    let done = run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code(), done.stdout.as_str(), done.stderr.as_str()), (7, "out\n", "err\n"), "{}", done.report());
    let told = run(&["--net-host"], &["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(told.trim_end(), fs::read_link("/proc/self/ns/net").expect("a link").to_string_lossy());
    let options = ["--env=GIVEN=it", "--cwd=/tmp", "--read-only"];
    let script = "echo $GIVEN; pwd; id -un; echo x 2>/dev/null > /file || echo closed";
    assert_eq!(run(&options, &["sh", "-c", script]).ok(), "it\n/tmp\nroot\nclosed\n");
    let failed = run(&[], &["/no/such/command"]);
    let told = failed.stderr.contains("OCI runtime create failed") && failed.stderr.contains("/no/such/command");
    assert!(!failed.status.success() && told, "{}", failed.report());
    let mut command = containerd.run(&["--rm", "-t"], &["sh", "-c", "tty; read x; exit $x"]);
    let mut terminal = Terminal::start(&mut command).expect("a terminal");
    terminal.wait_for("/dev/pts/0\n");
    terminal.keys("5\n");
    assert_eq!(terminal.end().0, 5);
    containerd.nothing_stays();
}

fn a_task_is_executed_in_frozen_and_killed() {
    let containerd = Containerd::start();
    let group = format!("berth-e2e-ctr-{}", std::process::id());
    let script = "trap 'echo bye; exit 3' TERM; while :; do usleep 20000; done";
    let cgroup = format!("/{group}/task");
    let mut command = containerd.run(&["-d", "--cgroup", &cgroup, "--memory-limit=50000000"], &["sh", "-c", script]);
    process::run(&mut command).ok();
    containerd.wait_for("RUNNING");
    let exec =
        |name: &str, words: &[&str]| containerd.call(&[&["tasks", "exec", "--exec-id", name, "task"], words].concat());
    let done = exec("one", &["sh", "-c", "echo joined; exit 4"]);
    assert_eq!((done.code(), done.stdout.as_str()), (4, "joined\n"), "{}", done.report());
    let limits = engine::control_groups_below(&group)
        .into_iter()
        .flat_map(|dir| ["memory.max", "memory.limit_in_bytes"].map(|name| fs::read_to_string(dir.join(name))));
    let limit: u64 = limits.flatten().next().expect("a limit").trim_end().parse().expect("a number");
    assert!((49_990_000..=50_000_000).contains(&limit), "{limit}");
    let pids = containerd.call(&["tasks", "ps", "task"]).ok();
    assert!(pids.lines().count() >= 2, "{pids}");
    containerd.call(&["tasks", "pause", "task"]).ok();
    containerd.wait_for("PAUSED");
    containerd.call(&["tasks", "resume", "task"]).ok();
    containerd.wait_for("RUNNING");
    containerd.call(&["tasks", "kill", "-s", "SIGTERM", "task"]).ok();
    containerd.wait_for("STOPPED");
    let removed = containerd.call(&["tasks", "rm", "task"]);
    assert!(removed.stderr.contains("exit code 3"), "{}", removed.report());
    containerd.call(&["containers", "rm", "task"]).ok();
    containerd.nothing_stays();
    assert_eq!(engine::control_groups_below(&group), Vec::<std::path::PathBuf>::new());
    engine::remove_control_group(&group);
}
