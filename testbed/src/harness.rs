//! Runs end-to-end tests: each in a process of its own with a limit on its time, and nothing of it survives.
//!
//! The test runner of the language knows no limits, cannot skip at run time with a reason, and shares one process between
//! all tests. Here the parent runs itself once for each test. Orphans of a test stay below its process, which is their
//! reaper, so that whatever still runs when the test ends is found, told and killed. As root each test also has a mount
//! namespace of its own: its scratch mounts vanish with it.

#![allow(unsafe_code)] // unshare and mount, before any thread starts.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::process;
use crate::slurm;
use crate::slurm::Release;
use crate::user::User;

/// What a test cannot do without. A missing one is a failure where `CI` is set, and a skip that is told elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Real root: to be several users, to make file systems, to look where an ordinary user cannot.
    Root,
    /// A program of some package.
    Program(&'static str, &'static str),
    /// An ordinary user's right to make user namespaces and mount overlays in them.
    Namespaces,
    /// The user who runs the tests has subordinate ids.
    SubIds,
    /// Control groups in the form that crun accepts: the new one, which root can mount for the tests.
    ControlGroups,
    /// A root folder with a release of Slurm, which the runner makes from Debian's packages.
    Slurm(Release),
}

/// docker-registry.
pub const REGISTRY: Need = Need::Program("docker-registry", "docker-registry");
/// umoci.
pub const UMOCI: Need = Need::Program("umoci", "umoci");
/// podman, with what it needs for an ordinary user.
pub const PODMAN: Need = Need::Program("podman", "podman uidmap");
/// skopeo.
pub const SKOPEO: Need = Need::Program("skopeo", "skopeo");

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Behaviour that it shows.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// Longest that it may take.
    pub limit: Duration,
    /// Panics where the behaviour is not as named.
    pub run: fn(),
}

/// A file of tests.
#[derive(Debug, Clone, Copy)]
pub struct Chapter {
    /// Its name.
    pub name: &'static str,
    /// Its tests.
    pub cases: &'static [Case],
}

/// Lists a chapter: `chapter!("pull", [REGISTRY]; name, name; [REGISTRY, Need::Root]; name)`.
#[macro_export]
macro_rules! chapter {
    ($chapter:literal, $($needs:tt: $($name:ident),+);+ $(;)?) => {
        /// The tests of this file.
        pub const CHAPTER: $crate::harness::Chapter = $crate::harness::Chapter {
            name: $chapter,
            cases: &[$($($crate::harness::Case {
                name: stringify!($name),
                needs: &$needs,
                limit: $crate::harness::LIMIT,
                run: $name,
            }),+),+],
        };
    };
}

/// Longest that one test may take.
pub const LIMIT: Duration = Duration::from_secs(300);

impl Need {
    /// Why it is not there, or nothing.
    fn missing(self) -> Option<String> {
        match self {
            Need::Root => (!rustix::process::getuid().is_root()).then(|| "needs root".to_owned()),
            Need::Program(program, packages) => {
                (!found(program)).then(|| format!("needs {program} (as root: apt-get install {packages})"))
            }
            Need::Namespaces => (!namespaces()).then(|| {
                "needs user namespaces (sysctl kernel.unprivileged_userns_clone=1, or on newer Ubuntu \
                 kernel.apparmor_restrict_unprivileged_userns=0)"
                    .to_owned()
            }),
            Need::ControlGroups => {
                let there =
                    rustix::process::getuid().is_root() || PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
                (!there).then(|| "needs control groups of version 2 (or root)".to_owned())
            }
            Need::Slurm(release) => slurm::root::find(release)
                .is_none()
                .then(|| format!("needs Slurm {} from the packages of Debian {}", release.version(), release.suite())),
            Need::SubIds => {
                let user = User::current();
                let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
                let has = user.uid == 0 || ranges.lines().any(|line| line.starts_with(&format!("{}:", user.name)));
                (!has).then(|| {
                    format!(
                        "needs subordinate ids (as root: usermod --add-subuids 100000-165535 \
                     --add-subgids 100000-165535 {})",
                        user.name
                    )
                })
            }
        }
    }
}

/// Whether a program is in the path.
pub fn found(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir: PathBuf| dir.join(program).exists())
}

fn namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "true"]);
    process::run(&mut command).status.success()
}

/// What was made before the first test.
#[derive(Debug)]
pub struct Prepared<T> {
    /// Environment for the tests' processes.
    pub env: Vec<(&'static str, OsString)>,
    /// Dropped after the last test.
    pub keep: T,
}

type Env = [(&'static str, OsString)];

/// How a test ended.
#[derive(Debug)]
pub enum Outcome {
    /// It showed its behaviour.
    Passed,
    /// It did not: what it printed.
    Failed(String),
    /// It could not be run here: why.
    Skipped(String),
    /// It did not, and was not meant to: why.
    Known(String),
}

/// Runs what the command line asks for; to be called from a test target's `main`.
///
/// `--list`, `--exact`, `--test-threads N` and words to look for in the names are understood as by the language's own
/// runner; `prepare` is called once, before the first test, and its return value is dropped after the last.
pub fn main<T>(chapters: &[Chapter], prepare: impl FnOnce() -> io::Result<Prepared<T>>) -> ExitCode {
    main_with(default_threads(), chapters, prepare)
}

/// The same with a number of tests side by side, for tests that wait more than they compute.
pub fn main_with<T>(
    threads: usize,
    chapters: &[Chapter],
    prepare: impl FnOnce() -> io::Result<Prepared<T>>,
) -> ExitCode {
    run_asked(threads, chapters, prepare, |_, outcome| outcome)
}

/// [`main`], where `judge` has the last word on what the outcome of the test of that name is worth.
pub fn judged<T>(
    chapters: &[Chapter],
    prepare: impl FnOnce() -> io::Result<Prepared<T>>,
    judge: impl Fn(&str, Outcome) -> Outcome + Sync,
) -> ExitCode {
    run_asked(default_threads(), chapters, prepare, judge)
}

fn run_asked<T>(
    threads: usize,
    chapters: &[Chapter],
    prepare: impl FnOnce() -> io::Result<Prepared<T>>,
    judge: impl Fn(&str, Outcome) -> Outcome + Sync,
) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--one"
    {
        return one(chapters, name);
    }
    let value = |flag: &str| {
        arguments.iter().position(|word| word == flag).and_then(|at| arguments.get(at + 1)).map(String::as_str)
    };
    let threads = value("--test-threads").and_then(|count| count.parse().ok()).unwrap_or(threads);
    let exact = arguments.iter().any(|word| word == "--exact");
    let words: Vec<&str> = arguments
        .iter()
        .enumerate()
        .filter(|(at, word)| !word.starts_with("--") && (*at == 0 || arguments[at - 1] != "--test-threads"))
        .map(|(_, word)| word.as_str())
        .collect();
    let wanted = |name: &str| {
        words.is_empty() || words.iter().any(|word| if exact { name == *word } else { name.contains(word) })
    };
    let all: Vec<(String, &Case)> = chapters
        .iter()
        .flat_map(|chapter| chapter.cases.iter().map(|case| (format!("{}::{}", chapter.name, case.name), case)))
        .collect();
    let filtered = all.iter().filter(|(name, _)| !wanted(name)).count();
    let cases: Vec<(String, &Case)> = all.into_iter().filter(|(name, _)| wanted(name)).collect();
    if arguments.iter().any(|word| word == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    let start = Instant::now();
    if cases.is_empty() {
        return report(&cases, &[], filtered, start.elapsed());
    }
    let prepared = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            println!("the fixtures could not be made: {error}\n");
            println!("test result: FAILED. 0 passed; {} failed; 0 ignored; 0 measured; 0 filtered out", cases.len());
            return ExitCode::FAILURE;
        }
    };
    let outcomes = run_all(&cases, threads, &prepared.env, &judge);
    drop(prepared);
    report(&cases, &outcomes, filtered, start.elapsed())
}

/// As many as the machine has processors, within reason.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(2, |count| count.get().min(8))
}

fn run_all(
    cases: &[(String, &Case)],
    threads: usize,
    env: &Env,
    judge: &(impl Fn(&str, Outcome) -> Outcome + Sync),
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, case)) = cases.get(at) else { return };
                    let start = Instant::now();
                    let outcome = judge(name, run_case(name, case, env));
                    let word = match &outcome {
                        Outcome::Passed => "ok".to_owned(),
                        Outcome::Failed(_) => "FAILED".to_owned(),
                        Outcome::Skipped(why) => format!("ignored, {why}"),
                        Outcome::Known(why) => format!("ignored, it fails: {why}"),
                    };
                    println!("test {name} ... {word} ({:.1} s)", start.elapsed().as_secs_f64());
                    outcomes.lock().expect("no panic while locked").push((at, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no panic while locked");
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

fn run_case(name: &str, case: &Case, env: &Env) -> Outcome {
    if let Some(why) = case.needs.iter().find_map(|need| need.missing()) {
        return if env::var_os("CI").is_some() { Outcome::Failed(why) } else { Outcome::Skipped(why) };
    }
    match spawn_case(name, case, env) {
        Ok(None) => Outcome::Passed,
        Ok(Some(report)) => Outcome::Failed(report),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn spawn_case(name: &str, case: &Case, env: &Env) -> io::Result<Option<String>> {
    let log = tempfile::NamedTempFile::new()?;
    let output = log.reopen()?;
    let mut command = Command::new(env::current_exe()?);
    command.args(["--one", name]).envs(env.iter().map(|(key, value)| (key, value)));
    reset_signals(&mut command);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let mut child = process::die_with_parent(&mut command).spawn()?;
    let ended = process::wait(&mut child, case.limit);
    let mut text = fs::read(log.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?;
    match ended {
        Ok((status, _)) if status.success() => return Ok(None),
        Ok((status, _)) => text.push_str(&format!("\n{status}")),
        Err(error) => text.push_str(&format!("\n{error}")),
    }
    Ok(Some(text))
}

/// Gives a command the signals' default effects: whoever runs the tests in the background has some ignored, and every
/// command below would inherit that.
fn reset_signals(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: signal is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM, libc::SIGUSR1] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

/// Runs one test in this process.
fn one(chapters: &[Chapter], wanted: &str) -> ExitCode {
    let case = chapters.iter().find_map(|chapter| {
        let name = wanted.strip_prefix(chapter.name)?.strip_prefix("::")?;
        chapter.cases.iter().find(|case| case.name == name)
    });
    let Some(case) = case else {
        eprintln!("no test {wanted}");
        return ExitCode::FAILURE;
    };
    process::adopt_orphans();
    if rustix::process::getuid().is_root()
        && let Err(error) = private_mounts()
    {
        eprintln!("no mount namespace of its own: {error}");
        return ExitCode::FAILURE;
    }
    let passed = std::panic::catch_unwind(case.run).is_ok();
    let left = leftovers();
    for pid in &left {
        println!("still running at the end of the test: {pid} {}", process::name(*pid));
    }
    process::end_all(&left);
    let _ = io::stdout().flush();
    if passed && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Processes below this one after they had a moment to end by themselves: a killed process takes time to go.
fn leftovers() -> Vec<i32> {
    let own = std::process::id() as i32;
    // The server of an image in one file stays for some seconds.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // podman's pause process outlives its command on purpose, and conmon what it writes: not of this test's doing.
        let (peers, left): (Vec<i32>, Vec<i32>) = process::descendants(own)
            .into_iter()
            .partition(|pid| ["podman", "conmon", "catatonit"].iter().any(|peer| process::name(*pid).contains(peer)));
        if left.is_empty() || Instant::now() > deadline {
            process::end_all(&peers);
            return left;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Moves the process (root's, with one thread) into a mount namespace whose mounts nobody else sees, with control groups
/// in the one form that every peer understands.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: unshare takes flags only; no thread was started yet.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    use rustix::mount::MountPropagationFlags;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // Rootless containers of podman want the root shared with their own namespaces, as a session has it.
    rustix::mount::mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
    if !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
        // crun refuses the mixture of old and new; the new one alone is enough to start containers.
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, None)?;
    }
    Ok(())
}

fn report(cases: &[(String, &Case)], outcomes: &[Outcome], filtered: usize, wall: Duration) -> ExitCode {
    let (mut passed, mut failed, mut skipped, mut known) = (0, Vec::new(), Vec::new(), 0);
    for ((name, _), outcome) in cases.iter().zip(outcomes) {
        match outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(report) => failed.push((name, report)),
            Outcome::Skipped(why) => skipped.push((name, why)),
            Outcome::Known(_) => known += 1,
        }
    }
    for (name, report) in &failed {
        println!("\n---- {name} ----\n{report}");
    }
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|(name, _)| println!("    {name}"));
    }
    if !skipped.is_empty() {
        println!("\nnot run here:");
        let mut reasons: Vec<&String> = skipped.iter().map(|(_, why)| *why).collect();
        reasons.sort();
        reasons.dedup();
        for reason in reasons {
            println!("    {} tests: {reason}", skipped.iter().filter(|(_, why)| *why == reason).count());
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len(),
        skipped.len() + known,
        wall.as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
