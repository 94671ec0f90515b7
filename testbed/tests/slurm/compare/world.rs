//! Runs the rows under both.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use testbed::slurm::Cluster;
use testbed::slurm::Options;
use testbed::slurm::Release;

use super::GROUPS;
use super::row::Row;
use super::same;
use super::same::FIRST_JOB;
use super::same::Jobs;

/// What every script can say.
///
/// * `job …` submits and prints the job's number; `wrap …` likewise, with no output file of the job's own;
/// * `ended JOB` waits until it is over, `runs JOB` until it runs, `there FILE` until a file is there;
/// * `state JOB` prints state, reason and exit code.
pub const PRELUDE: &str = r#"
job() { sbatch --parsable "$@"; }
wrap() { sbatch --parsable -o /dev/null "$@"; }
ended() { while [ -n "$(squeue -h -j "$1" -t PD,R,CG -o %i 2>/dev/null)" ]; do sleep 0.1; done; }
runs() { until [ "$(squeue -h -j "$1" -o %T)" = RUNNING ]; do sleep 0.1; done; }
there() { until [ -e "$1" ]; do sleep 0.05; done; }
state() { scontrol show job "$1" | grep -oE '(JobState|Reason|ExitCode)=[^ ]*' | paste -sd' ' | sed 's/ JobState/\nJobState/g'; }
"#;

/// Where berth's commands have Slurm's names.
const LINKS: &str = "/opt/berth/bin";

/// Seconds that a script may take: none takes a fifth of it.
const PATIENCE: &str = "50";

/// In front of what was written to standard error.
const STDERR: &str = "stderr: ";

/// The commands.
const COMMANDS: &str = "srun sbatch salloc squeue scancel sattach sacct scontrol sinfo";

/// Users that run rows at the same time. Each has its own directory and, under berth, its own queue.
const USERS: [&str; 4] = ["tuser1", "tuser2", "tuser3", "tuser4"];

fn cluster() -> Cluster {
    let options = Options {
        slurm_conf: format!("ClusterName=local\nFirstJobId={FIRST_JOB}\nMpiDefault=none\n"),
        node_conf: "RealMemory=4096".to_owned(),
        partition: "local".to_owned(),
        run_user: true,
        ..Options::default()
    };
    let cluster = Cluster::start(Release::Trixie, &options).expect("a cluster");
    let line = format!("mkdir -p {LINKS} && for name in {COMMANDS}; do ln -s /usr/bin/berth {LINKS}/$name; done");
    cluster.root().shell(&line).ok();
    cluster
}

/// Every row, under both; panics with all that is not as its row says.
pub fn jobs_are_alike_under_both() {
    let cluster = cluster();
    for user in USERS {
        // berth counts from where Slurm does.
        let line = format!(
            "berth squeue --embedded >/dev/null && echo {FIRST_JOB} >$(echo ~/.local/state/berth/queue/*)/next"
        );
        cluster.node("n1").user(user).shell(&line).ok();
    }
    let only = std::env::var("BERTH_COMPARE_ROWS").unwrap_or_default();
    let rows: Vec<&Row> =
        GROUPS.iter().flat_map(|(_, rows)| rows.iter()).filter(|row| row.name.contains(&only)).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for user in USERS {
            let (cluster, rows, next, wrong) = (&cluster, &rows, &next, &wrong);
            scope.spawn(move || {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(report) = compare_patiently(cluster, user, row) {
                        wrong.lock().expect("no panic while locked").push(report);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic while locked");
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Which of Slurm's processes speaks first is a matter of chance on a busy machine; a difference is not, and comes each time.
fn compare_patiently(cluster: &Cluster, user: &'static str, row: &Row) -> Result<(), String> {
    compare(cluster, user, row).or_else(|_| compare(cluster, user, row)).or_else(|_| compare(cluster, user, row))
}

/// Runs a row under both, and says what is not as it should be.
fn compare(cluster: &Cluster, user: &'static str, row: &Row) -> Result<(), String> {
    let slurm = observe(cluster, user, row, false);
    let berth = observe(cluster, user, row, true);
    let (slurm_lines, berth_lines): (Vec<&str>, Vec<&str>) = (slurm.lines().collect(), berth.lines().collect());
    let (only_slurm, only_berth) = same::difference(&slurm_lines, &berth_lines);
    let listed = |pick: fn(&super::row::Difference) -> &'static [&'static str]| {
        row.differs.iter().flat_map(|difference| pick(difference).iter().copied()).collect::<Vec<&str>>()
    };
    let (listed_slurm, listed_berth) = (listed(|difference| difference.slurm), listed(|difference| difference.berth));
    if only_slurm == listed_slurm && only_berth == listed_berth {
        return Ok(());
    }
    let show =
        |sign: &str, lines: &[&str]| lines.iter().take(60).map(|line| format!("  {sign} {line}\n")).collect::<String>();
    Err(format!(
        "---- {}\n{}{}listed:\n{}{}",
        row.name,
        show("slurm", &only_slurm),
        show("berth", &only_berth),
        show("slurm", &listed_slurm),
        show("berth", &listed_berth),
    ))
}

/// What a script prints and leaves, with numbers and times made alike.
fn observe(cluster: &Cluster, user: &'static str, row: &Row, under_berth: bool) -> String {
    let place = format!("/home/{user}/here");
    let session = cluster.node("n1").user(user);
    session.shell("rm -rf ~/here && mkdir ~/here").ok();
    let mut session = session.dir(&place);
    if under_berth {
        session = session
            .env("PATH", &format!("{LINKS}:{}", "/usr/local/bin:/usr/bin:/bin"))
            .env("BERTH_ENGINE", "embedded")
            .env("BERTH_JOB_CPUS", "64")
            .env("BERTH_JOB_MEMORY", "4096")
            .env("BERTH_JOB_KILL_WAIT", "3");
    } else {
        session = session.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    }
    let said = session.run(&["timeout", "-k1", PATIENCE, "bash", "-c", &format!("{PRELUDE}{}", row.script)]);
    session
        .run(&["bash", "-c", "scancel -u $(id -un); until [ -z \"$(squeue -h -u $(id -un))\" ]; do sleep 0.1; done"])
        .ok();
    let mut jobs = Jobs::default();
    let mut text = String::new();
    let mut add = |sign: &str, lines: &str| {
        let lines = lines.replace(&place, "HERE").replace(user, "USER");
        let lines = lines.replace(&numeric_id(user), "USERID");
        // A task that runs is not known to Slurm's srun until the node has said so.
        let lines = lines.replace("task 0: unknown", "task 0: running");
        let kept = lines.lines().filter(|line| !is_of_chance(line));
        let mut normal: Vec<String> = kept.map(|line| jobs.normalize(line)).collect();
        if sign == STDERR {
            // Slurm's processes write there side by side.
            normal.sort_unstable();
        }
        for line in normal {
            text.push_str(&format!("{sign}{line}\n"));
        }
    };
    add("", &said.stdout);
    add(STDERR, &said.stderr);
    add("exit code ", &said.code().to_string());
    for (name, content) in files(cluster, &place) {
        add("file ", &name);
        add("  ", &content);
    }
    text
}

/// Whether a line tells that a job or a step has to wait for its turn, or how far it was when it was ended: that depends on
/// when the scheduler looks.
fn is_of_chance(line: &str) -> bool {
    let words = [
        "queued and waiting for resources",
        "has been allocated resources",
        "Pending job allocation",
        "Step creation temporarily disabled",
        "Step created for",
        "has been revoked",
        "aborted before step completely launched",
    ];
    words.iter().any(|words| line.contains(words))
}

fn numeric_id(user: &str) -> String {
    testbed::slurm::USERS.iter().find(|(name, _)| *name == user).expect("a user of every box").1.to_string()
}

/// The files of a directory, by name.
fn files(cluster: &Cluster, place: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(cluster.path(place)).expect("the directory of a row");
    let mut files: Vec<(String, String)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| {
            let content = fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), String::from_utf8_lossy(&content).into_owned())
        })
        .collect();
    files.sort();
    files
}
