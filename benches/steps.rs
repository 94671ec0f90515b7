//! Steps of real Slurm: what `srun --container-image` adds to plain `srun`.
//!
//! On a cluster of one node with Slurm 22.05, everything in turns, timed by a shell in the cluster. Needs root. pyxis and enroot
//! are in no distribution: where `BENCH_PYXIS` names a command that runs the shell script on its standard input in a cluster
//! that has them, their steps are timed beside.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::fixture;
use testbed::process;
use testbed::slurm;
use testbed::slurm::Cluster;
use testbed::slurm::Release;
use testbed::slurm::registries;

/// Rounds of all commands in turns; `STEP_ROUNDS` says another number.
const ROUNDS: usize = 25;

/// Longest that one cluster's measurements may take.
const LIMIT: Duration = Duration::from_secs(900);

/// One kind of step.
pub struct Row {
    /// What it is.
    pub name: String,
    /// Number of tasks.
    pub tasks: u32,
    /// Milliseconds of each, sorted.
    pub times: Vec<f64>,
    /// Steps that failed.
    pub failures: usize,
}

impl Row {
    /// The value in the middle.
    pub fn median(&self) -> f64 {
        self.times.get(self.times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// What is timed with berth: a name, the number of tasks, and options of `srun`.
const STEPS: [(&str, u32, &str); 5] = [
    ("srun true", 1, "-n1"),
    ("berth, busybox", 1, "-n1 --container-image=registry.test:5000/team/small:1.0"),
    ("berth, Debian", 1, "-n1 --container-image=registry.test:5000/library/debian:12"),
    ("srun true", 32, "-n32"),
    ("berth, busybox", 32, "-n32 --container-image=registry.test:5000/team/small:1.0"),
];

/// Measures.
pub fn run() -> io::Result<Vec<Row>> {
    if !rustix::process::getuid().is_root() {
        return Err(io::Error::other("steps of real Slurm are measured as root"));
    }
    let release = Release::Bookworm;
    if let Some((_, error)) = slurm::root::ensure(&[release]).pop() {
        return Err(error);
    }
    let own = std::env::current_exe()?;
    let beside = own.to_string_lossy();
    let programs = fixture::shared_dir("berth-bench-bin-")?;
    let programs = programs.path();
    std::os::unix::fs::symlink(own.with_file_name("testbed"), programs.join("testbed"))?;
    std::os::unix::fs::symlink(fixture::berth_program(&beside)?, programs.join("berth"))?;
    std::os::unix::fs::symlink(fixture::spank_plugin(&beside)?, programs.join("spank_berth.so"))?;
    registries::certificate(programs)?;
    let storage = registries::storage()?;
    let cluster = Cluster::with(programs, release, &slurm::Options::default().plugin(""))?;
    let registry = registries::start(&cluster, programs, &storage, registries::Kind::Plain)?;
    let rounds = std::env::var("STEP_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let steps: Vec<(String, u32, String)> = STEPS
        .iter()
        .map(|(name, tasks, options)| ((*name).to_owned(), *tasks, format!("srun {options} true")))
        .collect();
    let said = process::run_with(
        &mut cluster.as_user("tuser1").command(&["bash", "-s"]),
        script(&steps, rounds).as_bytes(),
        LIMIT,
    );
    let mut rows = parse(&steps, &said.ok());
    drop(registry);
    drop(cluster);
    if let Some(command) = std::env::var_os("BENCH_PYXIS") {
        rows.extend(pyxis(Path::new(&command), rounds)?);
    }
    Ok(rows)
}

/// Steps of pyxis, which the command's cluster must have as `bb.sqsh` and `deb.sqsh` in the working directory, and as `bb`
/// in a registry at `127.0.0.1:5000`.
fn pyxis(command: &Path, rounds: usize) -> io::Result<Vec<Row>> {
    let steps = [
        ("pyxis cluster: srun true", "srun true"),
        ("pyxis, busybox from a file", "srun --container-image=./bb.sqsh true"),
        ("pyxis, Debian from a file", "srun --container-image=./deb.sqsh true"),
        ("pyxis, busybox from a registry", "srun --container-image=127.0.0.1:5000#bb true"),
    ];
    let steps: Vec<(String, u32, String)> =
        steps.iter().map(|(name, line)| ((*name).to_owned(), 1, (*line).to_owned())).collect();
    let said = process::run_with(&mut Command::new(command), script(&steps, rounds.min(10)).as_bytes(), LIMIT);
    Ok(parse(&steps, &said.ok()))
}

/// Runs each line once, and then all in turns, telling `number milliseconds exit-code`.
pub fn script(steps: &[(String, u32, String)], rounds: usize) -> String {
    let mut text = String::new();
    for (_, _, line) in steps {
        text.push_str(&format!("{line} </dev/null >/dev/null 2>&1\n"));
    }
    text.push_str(&format!("for round in $(seq {rounds}); do\n"));
    for (at, (_, _, line)) in steps.iter().enumerate() {
        text.push_str(&format!(
            "a=${{EPOCHREALTIME/./}}; {line} </dev/null >/dev/null 2>&1; code=$?; b=${{EPOCHREALTIME/./}}; echo {at} $((b - a)) $code\n"
        ));
    }
    text.push_str("done\n");
    text
}

/// Reads what [`script`] tells.
pub fn parse(steps: &[(String, u32, String)], said: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = steps
        .iter()
        .map(|(name, tasks, _)| Row { name: name.clone(), tasks: *tasks, times: Vec::new(), failures: 0 })
        .collect();
    for line in said.lines() {
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [at, microseconds, code] = numbers[..] else { continue };
        let Some(row) = rows.get_mut(at as usize) else { continue };
        row.times.push(microseconds as f64 / 1000.0);
        row.failures += usize::from(code != 0);
    }
    for row in &mut rows {
        row.times.sort_by(f64::total_cmp);
    }
    rows
}
