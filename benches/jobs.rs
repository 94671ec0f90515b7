//! Jobs without a cluster beside real Slurm's on one node: `srun true` and `sbatch`.
//!
//! On a cluster of one node with Slurm 24.11, in turns, timed by a shell in the cluster. Needs root. The real command has a
//! controller and a daemon on the node to talk to, which is what the embedded engine saves; both end with a record of the job.

use std::io;
use std::time::Duration;

use testbed::fixture;
use testbed::process;
use testbed::slurm;
use testbed::slurm::Cluster;
use testbed::slurm::Release;

use crate::steps::Row;
use crate::steps::parse;
use crate::steps::script;

/// Rounds of all commands in turns; `JOB_ROUNDS` says another number.
const ROUNDS: usize = 25;

/// Longest that the measurements may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What is timed: Slurm's own, and ours, in pairs.
pub const JOBS: [(&str, &str); 4] = [
    ("Slurm, srun true", "srun true"),
    ("berth srun true", "berth srun --embedded true"),
    ("Slurm, sbatch", "sbatch -Q -o /dev/null --wrap true"),
    ("berth sbatch", "berth sbatch --embedded -Q -o /dev/null --wrap true"),
];

/// Measures.
pub fn run() -> io::Result<Vec<Row>> {
    if !rustix::process::getuid().is_root() {
        return Err(io::Error::other("jobs are measured beside real Slurm's as root"));
    }
    let release = Release::Trixie;
    if let Some((_, error)) = slurm::root::ensure(&[release]).pop() {
        return Err(error);
    }
    let own = std::env::current_exe()?;
    let programs = fixture::shared_dir("berth-bench-bin-")?;
    let programs = programs.path();
    std::os::unix::fs::symlink(own.with_file_name("testbed"), programs.join("testbed"))?;
    std::os::unix::fs::symlink(fixture::berth_program(&own.to_string_lossy())?, programs.join("berth"))?;
    let cluster = Cluster::with(programs, release, &slurm::Options::default())?;
    let rounds = std::env::var("JOB_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let lines: Vec<(String, u32, String)> =
        JOBS.iter().map(|(name, line)| ((*name).to_owned(), 1, (*line).to_owned())).collect();
    let mut shell = cluster.as_user("tuser1").command(&["bash", "-s"]);
    let said = process::run_with(&mut shell, script(&lines, rounds).as_bytes(), LIMIT);
    Ok(parse(&lines, &said.ok()))
}
