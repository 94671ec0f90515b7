//! A user's queue in the test's folder, and what is asked of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use testbed::fixture::Fixture;
use testbed::process;
use testbed::process::Output;

/// Longest that a test waits for something to happen.
const PATIENCE: Duration = Duration::from_secs(240);

/// See the module.
pub struct World {
    pub fixture: Fixture,
}

impl World {
    pub fn new() -> World {
        let world = World { fixture: Fixture::new() };
        world.fixture.make_dir("queue", 0o700);
        world
    }

    /// A command of the user's: a machine of four CPUs that is told from Slurm's, with a short KillWait.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.fixture.berth_command(arguments);
        command
            .env("BERTH_QUEUE", self.fixture.path("queue"))
            .env("BERTH_ENGINE", "embedded")
            .env("BERTH_JOB_CPUS", "4")
            .env("BERTH_JOB_MEMORY", "4096")
            .env("BERTH_JOB_KILL_WAIT", "3");
        command
    }

    #[track_caller]
    pub fn berth(&self, arguments: &[&str]) -> Output {
        process::run(&mut self.command(arguments))
    }

    /// Submits a line; gives the job's number.
    #[track_caller]
    pub fn submit(&self, options: &[&str], line: &str) -> u32 {
        let said =
            self.berth(&[&["sbatch", "--parsable", "-o", "/dev/null"], options, &["--wrap", line]].concat()).ok();
        said.trim().parse().expect("a number")
    }

    /// The queue's directory of this machine.
    pub fn queue(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.fixture.path("queue")).expect("a queue").flatten();
        entries.next().expect("a machine's queue").path()
    }

    /// A job's record.
    #[track_caller]
    pub fn job(&self, id: u32) -> Value {
        let text = fs::read(self.queue().join(format!("jobs/{id}/job.json"))).expect("a record");
        serde_json::from_slice(&text).expect("a whole record")
    }

    /// State and exit, as sacct would print them.
    #[track_caller]
    pub fn end(&self, id: u32) -> String {
        let job = self.job(id);
        format!("{} {}:{}", job["state"].as_str().expect("a state"), job["exit"]["code"], job["exit"]["signal"])
    }

    /// Numbers of all jobs, ascending.
    pub fn ids(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.queue().join("jobs")).expect("jobs").flatten();
        let mut ids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether nothing waits or runs any more.
    pub fn is_idle(&self) -> bool {
        fs::read(self.queue().join("active")).is_ok_and(|active| active.is_empty())
    }

    #[track_caller]
    pub fn wait_until_idle(&self) {
        wait_for("the queue is not empty", || self.is_idle());
    }

    #[track_caller]
    pub fn wait_for_file(&self, name: &str) {
        let path = self.fixture.path(name);
        wait_for(name, || path.exists());
    }

    /// Keepers and supervisors of this queue.
    pub fn keepers(&self) -> Vec<i32> {
        let queue = self.fixture.path("queue");
        let queue = queue.to_str().expect("a path of text").as_bytes();
        let is_ours = |pid: &i32| is_keeper(*pid, queue);
        let all = fs::read_dir("/proc").expect("processes").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Kills one, unless it has become a script since it was found.
    pub fn kill(&self, pid: i32) -> bool {
        let queue = self.fixture.path("queue");
        let is_still = is_keeper(pid, queue.to_str().expect("a path of text").as_bytes());
        if is_still {
            process::kill(pid, libc::SIGKILL);
        }
        is_still
    }
}

/// Whether it is a keeper or a supervisor of a queue, by what it was started as.
fn is_keeper(pid: i32, queue: &[u8]) -> bool {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    read("environ").windows(queue.len()).any(|window| window == queue)
        && read("cmdline").ends_with(b"job-keeper\0")
        // What is about to become a script is the job itself.
        && read("comm") != b"berth-script\n"
}

/// Waits for a condition.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: still after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
