//! `make demo`: from the distribution's packages to a running container, with the time of each step.

use std::fs;
use std::io;
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::recipes;
use crate::recipes::Images;
use crate::recipes::Recipe;
use crate::registry::Options;
use crate::registry::Registry;

/// What runs inside.
const PROGRAM: &str = r#"
import os, platform, ssl, sys
print("    Python", platform.python_version(), "of", next(l for l in open("/etc/os-release") if l.startswith("PRETTY_NAME"))[13:-2])
print("    as user", os.getuid(), "in", os.getcwd())
print("    root file system:", next(l.split()[2] for l in open("/proc/mounts") if l.split()[1] == "/"), "with", ssl.OPENSSL_VERSION)
"#;

/// Starts counted for the median.
const STARTS: usize = 25;

struct Show {
    colour: bool,
}

impl Show {
    fn step(&self, text: &str) {
        if self.colour { println!("\n\x1b[1m{text}\x1b[0m") } else { println!("\n{text}") }
    }

    fn typed(&self, line: &str) {
        if self.colour { println!("  \x1b[36m$ {line}\x1b[0m") } else { println!("  $ {line}") }
    }

    fn took(&self, what: &str, time: Duration) {
        println!("  {what}: {}", words(time));
    }
}

fn words(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{:.2} s", ms / 1e3) }
}

/// Shows it all; leaves nothing behind but the package cache, from which the image can be run again.
pub fn run(berth: &Path) -> io::Result<()> {
    let show = Show { colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    let start = Instant::now();
    show.step("1. A real image: Debian's or Ubuntu's own packages, as layers (no root, nothing installed)");
    let images = Images::ensure(&recipes::cache(), &[Recipe::Python])?;
    let program = images.registry_program()?;
    let manifest = images.layout.find("python")?;
    let parts = images.layout.parts(&manifest)?;
    let size: u64 = parts.iter().map(|part| part.size).sum();
    show.took(&format!("{} layers, {:.0} MB compressed", parts.len() - 1, size as f64 / 1e6), start.elapsed());

    show.step("2. A real registry on a loopback port, and the image pushed to it");
    let work = tempfile::tempdir()?;
    let options = Options { program: Some(program), ..Options::default() };
    let start = Instant::now();
    let registry = Registry::start(&work.path().join("registry"), &work.path().join("storage"), &options)?;
    images.layout.push("python", registry.address(), "demo/python")?;
    show.took(&format!("docker-registry on {}", registry.address()), start.elapsed());

    let image = registry.reference("demo/python:python");
    let store = work.path().join("store");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(berth);
        command.arg("--store").arg(&store).args(arguments).stdin(Stdio::null());
        command
    };
    show.step("3. Pulled: fetched, verified, unpacked and ready to run");
    show.typed(&format!("berth pull {image}"));
    let start = Instant::now();
    succeed(command(&["pull", &image]))?;
    show.took("registry to runnable", start.elapsed());

    show.step("4. Run");
    show.typed(&format!("berth run --timings {image} python3 -c '…'"));
    let start = Instant::now();
    succeed(command(&["run", "--timings", &image, "python3", "-c", PROGRAM]))?;
    show.took("start to end, Python's own start included", start.elapsed());

    show.step("5. And again: what a start costs");
    show.typed(&format!("berth run {image} /bin/true"));
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let start = Instant::now();
        succeed(command(&["run", &image, "/bin/true"]))?;
        times.push(start.elapsed());
    }
    times.sort();
    show.took(&format!("median of {STARTS} starts"), times[STARTS / 2]);

    show.step("6. As a job, in Slurm's words, without Slurm: two tasks, and a script");
    let queue = work.path().join("queue");
    // Jobs are at work in a directory of their own.
    let berth = &fs::canonicalize(berth)?;
    let job = |arguments: &[&str]| {
        let mut command = Command::new(berth);
        // What the machine has is what the demo needs; a cluster around it is left alone.
        command.args(arguments).env("BERTH_STORE", &store).env("BERTH_QUEUE", &queue).env("BERTH_ENGINE", "embedded");
        command.env("BERTH_JOB_CPUS", "2").current_dir(work.path()).stdin(Stdio::null());
        command
    };
    let option = format!("--container-image={image}");
    let hello =
        "import os; print('    Hello from task', os.environ['SLURM_PROCID'], 'of job', os.environ['SLURM_JOB_ID'])";
    show.typed(&format!("berth srun -n 2 {option} python3 -c '…'"));
    let start = Instant::now();
    succeed(job(&["srun", "-n", "2", &option, "python3", "-c", hello]))?;
    show.took("two tasks, start to end", start.elapsed());
    let script =
        format!("#!/bin/sh\n#SBATCH --container-image={image}\n#SBATCH --output=job.out\npython3 -c \"{hello}\"\n");
    fs::write(work.path().join("job.sh"), &script)?;
    script.lines().for_each(|line| println!("      {line}"));
    show.typed("berth sbatch --wait job.sh; cat job.out");
    let start = Instant::now();
    succeed(job(&["sbatch", "--wait", "job.sh"]))?;
    print!("{}", fs::read_to_string(work.path().join("job.out"))?);
    show.took("submitted, run and over", start.elapsed());
    drop(registry);
    // Read-only folders of the image are the user's own: they only need to become writable to go.
    let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(work.path()).status();
    fs::remove_dir_all(work.path())?;

    show.step("Next, with the same image from the package cache");
    let image = format!("oci:{}:python", images.layout.dir().display());
    println!("  {} run {image} python3", berth.display());
    println!("  {} shell {image}", berth.display());
    println!("  {} run --remap-root {image} apt-get --version", berth.display());
    println!("  {} --help", berth.display());
    println!("  make test, make bench, make install PREFIX=~/.local");
    Ok(())
}

fn succeed(mut command: Command) -> io::Result<()> {
    let status = command.status()?;
    let line = crate::process::line(&command);
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{line} ended with {status}"))) }
}
