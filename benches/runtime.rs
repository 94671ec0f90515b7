//! OCI runtimes side by side: the same bundle, the same options, `run`, and `create`, `start`, `delete`.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use rustix::mount::UnmountFlags;
use rustix::mount::unmount;
use serde_json::Value;
use serde_json::json;
use testbed::process;
use testbed::user::User;

use crate::World;
use crate::starts::spawn;
use crate::starts::strings;
use crate::starts::wait;

/// Rounds of all commands of all runtimes in turns; `RUNTIME_ROUNDS` says another number.
const ROUNDS: usize = 60;

/// The calls that make a life of two: one after the other, of one container.
const LIFE: [&str; 3] = ["create", "start", "delete"];

/// One runtime's figures for one kind of user.
pub struct Row {
    /// `user` or `root`.
    pub who: &'static str,
    /// The runtime.
    pub name: String,
    /// Milliseconds of each `run`, sorted.
    pub run: Vec<f64>,
    /// Milliseconds of each `create`, `start` and `delete` together, sorted.
    pub life: Vec<f64>,
    /// Medians of the three calls.
    pub calls: Vec<f64>,
    /// Calls that failed.
    pub failures: u64,
}

/// The value in the middle of sorted ones.
pub fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What one round of a runtime measured: milliseconds of `run`, `create`, `start`, `delete`.
type Round = [f64; 4];

/// Measures as the ordinary user, and as root where that is who we are.
pub fn run(world: &World) -> io::Result<Vec<Row>> {
    let root = rustix::process::getuid().is_root();
    if root {
        // crun wants one version of control groups; ours is a mount namespace of our own.
        let _ = unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
    }
    let mut rows = measured(world, "user", &world.user)?;
    if root {
        rows.extend(measured(world, "root", &User::current())?);
    }
    Ok(rows)
}

fn measured(world: &World, who: &'static str, user: &User) -> io::Result<Vec<Row>> {
    let home = world.dir.join("home").join(format!("runtime-{who}"));
    fs::create_dir_all(&home)?;
    let bundle = bundle(&home, who == "user", user)?;
    // Where runtimes keep their states is memory on a real machine: /run, or /run/user/UID.
    let states = tempfile::Builder::new().prefix("berth-bench-").tempdir_in("/dev/shm")?;
    user.own(states.path())?;
    user.own(&home)?;
    let state = |name: &str| states.path().join(name).display().to_string();
    let bundle = bundle.display().to_string();
    let berth = world.berth.display().to_string();
    let runtimes: Vec<(&str, Vec<String>)> = vec![
        ("berth", strings(&[&berth, "runtime", "--cgroup-manager=disabled", "--root", &state("berth")])),
        ("crun", strings(&["crun", "--cgroup-manager=disabled", "--root", &state("crun")])),
        // It has no such option: as root it makes control groups, as a user it leaves them alone where none are asked for.
        ("runc", strings(&["runc", "--root", &state("runc")])),
    ];
    let mut command = user.command(&world.bench);
    command.env("HOME", &home).env("RUNTIME_ROUNDS", rounds().to_string()).current_dir(&home);
    command.arg("measure-runtimes").arg(serde_json::to_string(&runtimes)?).arg(&bundle);
    let told = process::run_with(&mut command, b"", Duration::from_secs(1200)).ok();
    let told: Vec<(String, Vec<Round>, u64)> = serde_json::from_str(&told)?;
    let sorted = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values
    };
    Ok(told
        .into_iter()
        .map(|(name, rounds, failures)| Row {
            who,
            name,
            run: sorted(rounds.iter().map(|round| round[0]).collect()),
            life: sorted(rounds.iter().map(|round| round[1..].iter().sum()).collect()),
            calls: (1..4).map(|call| median(&sorted(rounds.iter().map(|round| round[call]).collect()))).collect(),
            failures,
        })
        .collect())
}

fn rounds() -> usize {
    std::env::var("RUNTIME_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// What `runc spec` writes, which all three accept, less what a machine with two versions of control groups or without a
/// terminal cannot do; in it a program without libraries that ends at once.
fn bundle(home: &Path, rootless: bool, user: &User) -> io::Result<std::path::PathBuf> {
    let bundle = home.join("bundle");
    fs::create_dir_all(bundle.join("rootfs/bin"))?;
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/true"))?;
    for dir in ["dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(bundle.join("rootfs").join(dir))?;
    }
    user.own(&bundle)?;
    let spec_of = if rootless { &["spec", "--rootless"][..] } else { &["spec"] };
    process::run(user.command("runc").args(spec_of).current_dir(&bundle)).ok();
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    }
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
    }
    fs::write(&file, spec.to_string())?;
    Ok(bundle)
}

/// The inner half: runs all commands in turns and prints the figures as JSON.
pub fn measure(words: &[String]) -> io::Result<()> {
    let [runtimes, bundle] = words else { return Err(io::Error::other("measure-runtimes RUNTIMES BUNDLE")) };
    let runtimes: Vec<(String, Vec<String>)> = serde_json::from_str(runtimes)?;
    let mut told: Vec<(String, Vec<Round>, u64)> =
        runtimes.iter().map(|(name, _)| (name.clone(), Vec::new(), 0)).collect();
    let mut serial = 0;
    // The first two fill caches.
    for round in 0..rounds() + 2 {
        for ((_, words), row) in runtimes.iter().zip(&mut told) {
            let timed = |verb: &str, options: &[&str], failures: &mut u64| -> io::Result<f64> {
                let words = [&words[..], &strings(&[verb]), &strings(options), &strings(&["@"])].concat();
                let start = Instant::now();
                let fine = wait(spawn(&words, serial)?);
                *failures += u64::from(!fine);
                Ok(start.elapsed().as_secs_f64() * 1e3)
            };
            let mut figures: Round = [timed("run", &["--bundle", bundle], &mut row.2)?, 0.0, 0.0, 0.0];
            for (call, verb) in LIFE.iter().enumerate() {
                let options = match *verb {
                    "create" => &["--bundle", bundle][..],
                    // The command may not have ended yet.
                    "delete" => &["--force"],
                    _ => &[],
                };
                figures[call + 1] = timed(verb, options, &mut row.2)?;
            }
            serial += 1;
            if round >= 2 {
                row.1.push(figures);
            }
        }
    }
    println!("{}", serde_json::to_string(&told)?);
    Ok(())
}
