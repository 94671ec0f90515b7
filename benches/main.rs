//! `bench`: berth beside its peers. See README.md.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;

use testbed::harness;
use testbed::image::Layout;
use testbed::process;
use testbed::recipes;
use testbed::recipes::Images;
use testbed::recipes::Recipe;
use testbed::registry::Options;
use testbed::registry::Registry;
use testbed::user::User;

mod imports;
mod jobs;
mod report;
mod runtime;
mod starts;
mod steps;

/// What a benchmark works with.
#[derive(Debug)]
pub struct World {
    /// Who runs what is measured.
    pub user: User,
    /// A folder of the user's on the machine's own file system.
    pub dir: PathBuf,
    /// Copies of the programs that the user can start.
    pub berth: PathBuf,
    /// This program.
    pub bench: PathBuf,
    /// All images.
    pub layout: Layout,
    /// Serves them.
    pub registry: Registry,
    /// Which of medium and large.
    pub images: Vec<Recipe>,
    /// Runs of each import.
    pub rounds: usize,
}

impl World {
    /// A command of the user's with its folders in `dir`.
    pub fn command(&self, program: impl AsRef<Path>, dir: &Path) -> Command {
        let mut command = self.user.command(program);
        command.env("HOME", dir).env("TMPDIR", dir).env("XDG_RUNTIME_DIR", self.dir.join("run")).current_dir(dir);
        command
    }

    /// A new folder of the user's.
    pub fn new_dir(&self, path: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        self.user.own(path)?;
        Ok(path.to_owned())
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    // The inner halves run as the user and only measure.
    let result = match words.first().map(String::as_str) {
        Some("measure") => starts::measure(&words[1..]),
        Some("measure-runtimes") => runtime::measure(&words[1..]),
        _ => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    for (program, package) in [
        ("docker-registry", ""),
        ("podman", ""),
        ("crun", ""),
        ("runc", ""),
        ("skopeo", ""),
        ("umoci", ""),
        ("cc", "gcc"),
    ] {
        if !harness::found(program) {
            let package = if package.is_empty() { program } else { package };
            return Err(io::Error::other(format!("needs {program}: apt-get install {package}")));
        }
    }
    let list = |name: &str, default: &str| -> Vec<String> {
        let text = env::var(name).unwrap_or_else(|_| default.to_owned());
        text.split_whitespace().map(str::to_owned).collect()
    };
    let images: Vec<Recipe> = list("IMAGES", "medium large").iter().filter_map(|name| Recipe::named(name)).collect();
    let rounds = env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let made = Images::ensure(&recipes::cache(), &[&[Recipe::Debian, Recipe::Medium], &images[..]].concat())?;

    // podman leaves processes behind that hold mounts: they are ended after each run, wherever they went.
    process::adopt_orphans();
    let root = rustix::process::getuid().is_root();
    if root {
        User::remove_stale();
        harness::private_mounts()?;
    }
    let user = if root { User::create("bench", true)? } else { User::current() };
    let scratch = tempfile::Builder::new().prefix("berth-bench-").tempdir_in(env::temp_dir())?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
    let dir = scratch.path().to_owned();
    let beside = env::current_exe()?;
    let berth = dir.join("berth");
    fs::copy(env::var_os("BERTH_BIN").map_or_else(|| beside.with_file_name("berth"), PathBuf::from), &berth)?;
    let bench = dir.join("bench");
    fs::copy(&beside, &bench)?;
    let registry = Registry::start(&dir.join("registry"), &dir.join("storage"), &Options::default())?;
    for recipe in [Recipe::Debian, Recipe::Medium].iter().chain(&images) {
        made.layout.push(recipe.name(), registry.address(), recipe.name())?;
    }
    let world = World { user, dir, berth, bench, layout: made.layout, registry, images, rounds };
    world.new_dir(&world.dir.join("home"))?;
    world.new_dir(&world.dir.join("run"))?;

    let result = measure_all(&world, &list("BENCH", "starts runtime steps jobs imports"));
    // Folders without write permission are in every tree of an image.
    let _ = process::run(Command::new("chmod").args(["-R", "u+rwX"]).arg(scratch.path()));
    process::end_descendants("podman");
    if root {
        world.user.remove();
    }
    result
}

fn measure_all(world: &World, what: &[String]) -> io::Result<()> {
    let out = PathBuf::from("target/bench");
    fs::create_dir_all(&out)?;
    let mut text = report::head()?;
    if what.iter().any(|word| word == "starts") {
        let rows = starts::run(world)?;
        report::starts(&rows, &mut text);
        fs::write(out.join("starts.svg"), report::starts_svg(&rows))?;
    }
    if what.iter().any(|word| word == "runtime") {
        report::runtime(&runtime::run(world)?, &mut text);
    }
    if what.iter().any(|word| word == "steps") {
        let rows = steps::run()?;
        report::steps(&rows, &mut text);
        fs::write(out.join("steps.svg"), report::steps_svg(&rows))?;
    }
    if what.iter().any(|word| word == "jobs") {
        report::jobs(&jobs::run()?, &mut text);
    }
    if what.iter().any(|word| word == "imports") {
        let rows = imports::run(world)?;
        report::imports(&rows, &mut text);
        fs::write(out.join("imports.svg"), report::imports_svg(&rows))?;
        imports::sharing(world, &mut text)?;
    }
    print!("{text}");
    fs::write(out.join("report.md"), text)?;
    println!("\nWritten to {}: report.md, and drawings beside it.", out.display());
    Ok(())
}
