//! Starting `/bin/true` in the five-layer image.

#![allow(unsafe_code)] // wait4 that blocks: polling would be measured too.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;
use testbed::process;

use crate::World;

/// Starts one after the other, of each program.
const SEQUENTIAL: usize = 60;

/// Starts at once, and how often.
const AT_ONCE: (usize, usize) = (64, 3);

/// One program's figures.
pub struct Row {
    /// Its name.
    pub name: String,
    /// Milliseconds of each start, sorted.
    pub times: Vec<f64>,
    /// Seconds for all that started at once, sorted.
    pub at_once: Vec<f64>,
    /// Starts that failed.
    pub failures: u64,
}

impl Row {
    /// The median start in milliseconds.
    pub fn median(&self) -> f64 {
        self.times.get(self.times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures floor, berth, crun and podman.
pub fn run(world: &World) -> io::Result<Vec<Row>> {
    let home = world.dir.join("home");
    let floor = world.dir.join("floor");
    process::run(Command::new("cc").args(["-O2", "-o"]).arg(&floor).arg("benches/floor.c")).ok();
    let image = world.registry.reference("medium");
    process::run(world.command(&world.berth, &home).args(["pull", &image])).ok();
    let inspected = process::run(world.command(&world.berth, &home).args(["inspect", &image])).ok();
    let inspected: Value = serde_json::from_str(&inspected)?;
    let mut layers: Vec<String> = inspected[0]["Layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| layer["Path"].as_str().map(str::to_owned))
        .collect();
    layers.reverse();
    let bundle = bundle(world, &home)?;
    let typical = typical_bundle(world, &home, &bundle)?;
    let podman = podman(world, &home);
    let source = format!("docker://{}/medium", world.registry.address());
    process::run_with(
        world.command("podman", &home).args(&podman[1..]).args(["pull", "-q", "--tls-verify=false", &source]),
        b"",
        std::time::Duration::from_secs(600),
    )
    .ok();

    let text = |path: &Path| path.display().to_string();
    let name = source.trim_start_matches("docker://").to_owned();
    let commands: Vec<(&str, Vec<String>)> = vec![
        ("floor (C)", vec![text(&floor), layers.join(":"), "/bin/true".into()]),
        ("berth run", [vec![text(&world.berth)], strings(&["run", &image, "/bin/true"])].concat()),
        ("crun run, least specification", crun(&bundle)),
        ("crun run, crun spec --rootless", crun(&typical)),
        ("podman run, host network", [podman.clone(), in_podman(&["--net=host"], &name)].concat()),
        ("podman run", [podman, in_podman(&[], &name)].concat()),
    ];
    let mut command = world.command(&world.bench, &home);
    command.arg("measure").arg(serde_json::to_string(&commands)?);
    let told = process::run_with(&mut command, b"", std::time::Duration::from_secs(1200)).ok();
    // Pause processes of podman hold a mount namespace each: they end with their user.
    let rows: Vec<(String, Vec<f64>, Vec<f64>, u64)> = serde_json::from_str(&told)?;
    Ok(rows.into_iter().map(|(name, times, at_once, failures)| Row { name, times, at_once, failures }).collect())
}

fn crun(bundle: &Path) -> Vec<String> {
    strings(&["crun", "--cgroup-manager=disabled", "run", "--bundle", &bundle.display().to_string(), "@"])
}

fn in_podman(options: &[&str], image: &str) -> Vec<String> {
    let run = ["run", "--rm", "--cgroups=disabled", "--pull=never"];
    strings(&[&run[..], options, &[image, "/bin/true"]].concat())
}

/// A bundle with the specification that crun itself writes for an ordinary user: all namespaces, its own mounts.
fn typical_bundle(world: &World, home: &Path, least: &Path) -> io::Result<std::path::PathBuf> {
    let bundle = world.new_dir(&home.join("typical"))?;
    process::run(world.command("crun", &bundle).args(["spec", "--rootless"])).ok();
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    spec["root"] = json!({"path": least.join("rootfs"), "readonly": true});
    fs::write(file, spec.to_string())?;
    Ok(bundle)
}

/// Words of a command.
pub fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// podman with storage in the user's folder.
fn podman(world: &World, home: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let (root, runroot) = (text(&home.join("podman")), text(&world.dir.join("run/podman")));
    strings(&[
        "podman",
        "--root",
        &root,
        "--runroot",
        &runroot,
        "--storage-driver=overlay",
        "--cgroup-manager=cgroupfs",
    ])
}

/// A bundle for crun: the unpacked image and the least that a specification needs, as an ordinary user.
fn bundle(world: &World, home: &Path) -> io::Result<std::path::PathBuf> {
    let bundle = home.join("bundle");
    let image = home.join("oci");
    let from = format!("docker://{}/medium", world.registry.address());
    let oci = format!("oci:{}:medium", image.display());
    process::run(world.command("skopeo", home).args([
        "--insecure-policy",
        "copy",
        "-q",
        "--src-tls-verify=false",
        &from,
        &oci,
    ]))
    .ok();
    let target = format!("{}:medium", image.display());
    process::run(world.command("umoci", home).args(["unpack", "--rootless", "--image", &target]).arg(&bundle)).ok();
    let one = |id: u32| json!([{"containerID": id, "hostID": id, "size": 1}]);
    let bind = |dir: &str| json!({"destination": dir, "source": dir, "type": "bind", "options": ["rbind"]});
    let spec = json!({
        "ociVersion": "1.0.0",
        "process": {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"],
            "user": {"uid": world.user.uid, "gid": world.user.gid}},
        "root": {"path": "rootfs"},
        "mounts": [bind("/proc"), bind("/dev"), bind("/sys"), bind("/tmp")],
        "linux": {"namespaces": [{"type": "user"}, {"type": "mount"}],
            "uidMappings": one(world.user.uid), "gidMappings": one(world.user.gid)},
    });
    fs::write(bundle.join("config.json"), spec.to_string())?;
    Ok(bundle)
}

/// The inner half: runs the commands, in turns, and prints the figures as JSON.
pub fn measure(words: &[String]) -> io::Result<()> {
    let commands: Vec<(String, Vec<String>)> = serde_json::from_str(words.first().map_or("[]", String::as_str))?;
    let mut rows: Vec<(String, Vec<f64>, Vec<f64>, u64)> =
        commands.iter().map(|(name, _)| (name.clone(), Vec::new(), Vec::new(), 0)).collect();
    let mut serial = 0;
    for round in 0..SEQUENTIAL + 2 {
        for ((_, words), row) in commands.iter().zip(&mut rows) {
            serial += 1;
            let start = Instant::now();
            let fine = wait(spawn(words, serial)?);
            let ms = start.elapsed().as_secs_f64() * 1e3;
            // The first two fill caches.
            if round >= 2 {
                row.1.push(ms);
            }
            row.3 += u64::from(!fine);
        }
    }
    for _ in 0..AT_ONCE.1 {
        for ((_, words), row) in commands.iter().zip(&mut rows) {
            let start = Instant::now();
            let mut children = Vec::new();
            for _ in 0..AT_ONCE.0 {
                serial += 1;
                children.push(spawn(words, serial)?);
            }
            row.3 += children.into_iter().map(|child| u64::from(!wait(child))).sum::<u64>();
            row.2.push(start.elapsed().as_secs_f64());
        }
    }
    for row in &mut rows {
        row.1.sort_by(f64::total_cmp);
        row.2.sort_by(f64::total_cmp);
    }
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

/// Starts a command; `@` stands for a name that no other start has.
pub fn spawn(words: &[String], serial: u64) -> io::Result<u32> {
    let mut command = Command::new(&words[0]);
    for word in &words[1..] {
        if word == "@" {
            command.arg(format!("bench-{}-{serial}", std::process::id()))
        } else {
            command.arg(word)
        };
    }
    let quiet = if std::env::var_os("BENCH_DEBUG").is_some() { Stdio::inherit() } else { Stdio::null() };
    // The child is waited for by number: no handle of it is needed.
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(quiet).spawn()?.id())
}

/// Whether it ends well.
pub fn wait(pid: u32) -> bool {
    let mut status = 0;
    // SAFETY: the pointer is to a live local; the child is ours and nobody else waits for it.
    let ended = unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) };
    ended == pid as libc::pid_t && status == 0
}
