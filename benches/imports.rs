//! From a registry on loopback to a tree that can be started.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use testbed::process;
use testbed::recipes::Recipe;

use crate::World;

/// Longest that one import may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Who imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `berth pull`.
    Berth,
    /// `skopeo copy` and `umoci unpack`.
    Umoci,
    /// `podman pull`.
    Podman,
}

impl Tool {
    /// As people type it.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Berth => "berth pull",
            Tool::Umoci => "skopeo copy + umoci unpack",
            Tool::Podman => "podman pull",
        }
    }
}

/// One tool's figures for one image on one file system.
pub struct Row {
    /// Image.
    pub image: &'static str,
    /// File system.
    pub place: &'static str,
    /// Tool.
    pub tool: Tool,
    /// Seconds of each run, sorted.
    pub walls: Vec<f64>,
    /// Peak memory of the largest process, in bytes.
    pub peak: u64,
    /// Most space used beyond what is left at the end, in bytes, and what is left (where nobody else uses the file system).
    pub space: Option<(u64, u64)>,
}

impl Row {
    /// Median seconds.
    pub fn median(&self) -> f64 {
        self.walls[self.walls.len() / 2]
    }
}

struct Place {
    name: &'static str,
    dir: PathBuf,
    /// Nobody else writes there, and removing files costs the next run nothing.
    own: bool,
    /// What is used can be told to the block: not on xfs, which reserves room for growing files, nor where others write.
    exact: bool,
}

/// Measures every tool, image and place, in turns.
pub fn run(world: &World) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let large = world.images.contains(&Recipe::Large);
    for place in places(world, large)? {
        for image in &world.images {
            let mut here: Vec<Row> = [Tool::Berth, Tool::Umoci, Tool::Podman]
                .map(|tool| Row {
                    image: image.name(),
                    place: place.name,
                    tool,
                    walls: Vec::new(),
                    peak: 0,
                    space: None,
                })
                .into();
            // Every large import on the machine's own disk leaves gigabytes that are removed only at the end.
            let rounds = if *image == Recipe::Large && !place.own { 1 } else { world.rounds };
            // The tmpfs tells what space is needed; as root, xfs tells how long it takes.
            let rounds = if place.exact && rustix::process::getuid().is_root() { 1 } else { rounds };
            for round in 0..rounds {
                for row in &mut here {
                    let dir = world.new_dir(&place.dir.join(format!("{}-{}-{round}", image.name(), row.tool as u8)))?;
                    one(world, &place, &dir, image.name(), row)?;
                    if place.own {
                        remove(world, &dir);
                    }
                }
            }
            here.iter_mut().for_each(|row| row.walls.sort_by(f64::total_cmp));
            rows.extend(here);
        }
    }
    Ok(rows)
}

fn places(world: &World, large: bool) -> io::Result<Vec<Place>> {
    let mut places = Vec::new();
    let own = world.new_dir(&world.dir.join("own"))?;
    if rustix::process::getuid().is_root() {
        let image = world.dir.join("xfs.img");
        let fast = world.dir.join("xfs");
        fs::create_dir(&fast)?;
        fs::File::create(&image)?.set_len(if large { 24 << 30 } else { 8 << 30 })?;
        process::run(Command::new("mkfs.xfs").args(["-q"]).arg(&image)).ok();
        // In a mount namespace that nobody else is in: it goes with this process.
        process::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&fast)).ok();
        world.user.own(&fast)?;
        places.push(Place { name: "xfs on a loop device", dir: fast, own: true, exact: false });
    }
    if let Ok(dir) = tempfile::Builder::new().prefix("berth-bench-").tempdir_in("/dev/shm") {
        // Each run's files are removed at once: they are in the machine's memory.
        let dir = world.new_dir(&dir.keep())?;
        places.push(Place { name: "tmpfs", dir, own: true, exact: true });
    }
    places.push(Place { name: "the machine's own disk", dir: own, own: false, exact: false });
    Ok(places)
}

fn one(world: &World, place: &Place, dir: &Path, image: &str, row: &mut Row) -> io::Result<()> {
    rustix::fs::sync();
    let watch = place.exact.then(|| Watch::start(&place.dir));
    let start = Instant::now();
    for mut command in commands(world, dir, image, row.tool) {
        let output = process::run_with(&mut command, b"", LIMIT);
        row.peak = row.peak.max(output.peak);
        output.ok();
    }
    row.walls.push(start.elapsed().as_secs_f64());
    process::end_descendants("podman");
    if let Some(watch) = watch {
        row.space = Some(watch.end(&place.dir));
    }
    eprintln!("bench: {image} on {}: {} {:.2} s", place.name, row.tool.name(), start.elapsed().as_secs_f64());
    Ok(())
}

fn commands(world: &World, dir: &Path, image: &str, tool: Tool) -> Vec<Command> {
    let source = format!("docker://{}/{image}", world.registry.address());
    let text = |name: &str| dir.join(name).display().to_string();
    match tool {
        Tool::Berth => {
            let mut pull = world.command(&world.berth, dir);
            pull.args(["-q", "--store", &text("store"), "pull", &format!("{source}:{image}")]);
            vec![pull]
        }
        Tool::Umoci => {
            let mut copy = world.command("skopeo", dir);
            let target = format!("oci:{}:x", text("oci"));
            copy.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]);
            copy.args([&format!("{source}:{image}"), &target]);
            let mut unpack = world.command("umoci", dir);
            unpack.args(["unpack", "--rootless", "--image", &format!("{}:x", text("oci")), &text("bundle")]);
            vec![copy, unpack]
        }
        Tool::Podman => {
            let mut pull = world.command("podman", dir);
            pull.env("XDG_RUNTIME_DIR", dir).args(["--root", &text("storage"), "--runroot", &text("run")]);
            pull.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "pull", "-q", "--tls-verify=false"]);
            pull.arg(format!("{source}:{image}"));
            vec![pull]
        }
    }
}

/// Removes what a tool made; podman's files belong to other ids, which only its own namespace may remove.
fn remove(world: &World, dir: &Path) {
    let script = "chmod -R u+rwX -- \"$0\" 2>/dev/null; rm -rf -- \"$0\"";
    let mut command = if rustix::process::getuid().is_root() {
        Command::new("sh")
    } else {
        let mut command = world.command("podman", &world.dir);
        command.args(["unshare", "sh"]);
        command
    };
    let _ = process::run_with(command.args(["-c", script]).arg(dir), b"", LIMIT);
}

/// Watches how full a file system gets.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    before: u64,
    thread: thread::JoinHandle<()>,
}

fn used(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |stat| (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
}

impl Watch {
    fn start(dir: &Path) -> Watch {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, until, dir) = (Arc::clone(&most), Arc::clone(&stop), dir.to_owned());
        let before = used(&dir);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                seen.fetch_max(used(&dir), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Watch { stop, most, before, thread }
    }

    fn end(self, dir: &Path) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        // Space that delayed allocation reserves ahead is not the tool's: it is given back here.
        rustix::fs::sync();
        let left = used(dir).saturating_sub(self.before);
        (self.most.load(Ordering::Relaxed).saturating_sub(self.before).saturating_sub(left), left)
    }
}

/// The five-layer image when its lowest layer is there already.
pub fn sharing(world: &World, text: &mut String) -> io::Result<()> {
    let mut walls = Vec::new();
    for (round, first) in [None, Some("debian"), Some("medium")].into_iter().enumerate() {
        let dir = world.new_dir(&world.dir.join(format!("own/sharing-{round}")))?;
        if let Some(first) = first {
            commands(world, &dir, first, Tool::Berth).into_iter().for_each(|mut command| {
                process::run_with(&mut command, b"", LIMIT).ok();
            });
        }
        let before = world.registry.blob_fetches();
        let mut command = commands(world, &dir, "medium", Tool::Berth).remove(0);
        let output = process::run_with(&mut command, b"", LIMIT);
        let after = world.registry.blob_fetches();
        let count: usize = after.values().sum::<usize>() - before.values().sum::<usize>();
        walls.push((first, output.wall.as_secs_f64(), count));
        output.ok();
    }
    text.push_str("\n## A second image that shares layers (medium, `berth pull`)\n\n");
    text.push_str("| in the store before | seconds | blobs fetched |\n|---|---:|---:|\n");
    for (first, wall, count) in walls {
        let first = match first {
            None => "nothing",
            Some("debian") => "an image with the lowest of the five layers",
            Some(_) => "the image itself",
        };
        text.push_str(&format!("| {first} | {wall:.2} | {count} |\n"));
    }
    Ok(())
}
