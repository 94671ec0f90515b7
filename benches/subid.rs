//! Ranges for a large site: planned and written by berth, by a rule in awk, and by the shadow tools.
//!
//! The peers check nothing: awk multiplies, as the script does that sites run hourly, and usermod adds what it is told. Needs root,
//! for an `/etc` of its own.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use testbed::cover::Cover;

use crate::World;

/// Users of a very large site.
const MANY: u32 = 1_000_000;

/// As many as usermod can be asked to serve, one call each.
const FEW: u32 = 100;

/// The first uid; nobody's here.
const FIRST: u32 = 1_000_000;

/// What was timed.
pub struct Row {
    /// What it is.
    pub name: &'static str,
    /// How many users.
    pub users: u32,
    /// Seconds of each round, sorted.
    pub times: Vec<f64>,
}

impl Row {
    /// Microseconds for each user, in the round in the middle.
    pub fn each(&self) -> f64 {
        self.median() * 1e6 / f64::from(self.users)
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        self.times.get(self.times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures.
pub fn run(world: &World) -> io::Result<Vec<Row>> {
    if !rustix::process::getuid().is_root() {
        return Err(io::Error::other("sub-ids are measured as root"));
    }
    let dir = world.new_dir(&world.dir.join("subid"))?;
    let path = |name: &str| dir.join(name).display().to_string();
    let (many, few, rule) = (path("many"), path("few"), path("rule.toml"));
    fs::write(&many, users(MANY))?;
    fs::write(&few, users(FEW))?;
    let bands = format!("[[bands]]\nuids = \"{FIRST}-{}\"\nbase = 100000000\ncount = 4096\n", FIRST + MANY - 1);
    fs::write(&rule, bands)?;
    let (subuid, subgid) = (path("subuid"), path("subgid"));
    let berth = |verb: &str, users: &str, files: &[&str]| {
        let mut command = Command::new(&world.berth);
        command.args(["subid", verb, "--users", users, "--rule", &rule]).args(files);
        command
    };
    let files = ["--subuid", subuid.as_str(), "--subgid", subgid.as_str()];
    let anew = || {
        let _ = (fs::remove_file(&subuid), fs::remove_file(&subgid));
    };
    let awk = r#"$3 >= 1000 { printf "%s:%.0f:65536\n", $1, $3 * 10000 + 1 }"#;
    let mut rows = vec![
        timed("berth subid plan", MANY, 7, || berth("plan", &many, &[]))?,
        timed("awk: uid × 10000, nothing checked", MANY, 7, || {
            let mut command = Command::new("awk");
            command.args(["-F:", awk, &many]);
            command
        })?,
        timed("berth subid write, both files", MANY, 7, || {
            anew();
            berth("write", &many, &files)
        })?,
        timed("berth subid write, both files", FEW, 7, || {
            anew();
            berth("write", &few, &files)
        })?,
    ];
    let _etc = Cover::over("/etc");
    let (accounts, shadow) = (fs::read_to_string("/etc/passwd")?, fs::read_to_string("/etc/shadow")?);
    let locked: String = (0..FEW).map(|at| format!("bench{at}:!:1::::::\n")).collect();
    fs::write("/etc/passwd", accounts + &users(FEW))?;
    fs::write("/etc/shadow", shadow + &locked)?;
    let mut script = String::from("set -e\n");
    for at in 0..FEW {
        let first = 100_000_000 + u64::from(at) * 4096;
        let span = format!("{first}-{}", first + 4095);
        // Writing to a string cannot fail.
        let _ = writeln!(script, "usermod --add-subuids {span} --add-subgids {span} bench{at}");
    }
    rows.push(timed("usermod --add-subuids --add-subgids, a call each", FEW, 3, || {
        let _ = (fs::write("/etc/subuid", ""), fs::write("/etc/subgid", ""));
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
    })?);
    Ok(rows)
}

/// Lines of as many accounts.
fn users(count: u32) -> String {
    let line = |at: u32| format!("bench{at}:x:{0}:{0}:Some Body {at}:/home/bench{at}:/bin/sh\n", FIRST + at);
    (0..count).map(line).collect()
}

fn timed(name: &'static str, users: u32, rounds: usize, mut command: impl FnMut() -> Command) -> io::Result<Row> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let mut command = command();
        let start = Instant::now();
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        times.push(start.elapsed().as_secs_f64());
        if !status.success() {
            return Err(io::Error::other(format!("{name}: {status}")));
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Row { name, users, times })
}
