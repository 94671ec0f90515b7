//! `testbed`: the fixtures as commands, for the tests (which need a lister of trees inside namespaces), the demo and
//! people.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use testbed::fixture;
use testbed::recipes;
use testbed::recipes::Images;
use testbed::recipes::Recipe;
use testbed::registry::Options;
use testbed::registry::Registry;
use testbed::slurm;
use testbed::slurm::Cluster;
use testbed::slurm::Release;
use testbed::tree;
use testbed::tree::Tree;

const USAGE: &str = "\
usage: testbed tree [--namespace] DIR          list a folder, as JSON
       testbed layers LAYER...                 list layers (lowest first) as the kernel merges them, as JSON
       testbed image NAME...                   make images: small distroless odd framework debian mpi mpi5 mpich python medium large
       testbed push NAME LOOPBACK:PORT         push one of them to a registry
       testbed registry STORAGE                serve a folder on a free port until killed; prints the address
       testbed demo BERTH                      show what berth does with a real image
       testbed slurm RELEASE [COMMAND...]      run a command (a shell) in a cluster: 22.05 24.11 26.05 (as root)
       testbed cache                           print the cache folder
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    match words {
        ["tree", dir] => print(&Tree::of(Path::new(dir))?),
        ["tree", "--namespace", dir] => {
            tree::become_namespace_root()?;
            print(&Tree::of(Path::new(dir))?)
        }
        ["layers", layers @ ..] if !layers.is_empty() => {
            let target = tempfile::tempdir()?;
            let layers: Vec<PathBuf> = layers.iter().map(PathBuf::from).collect();
            tree::become_namespace_root()?;
            tree::mount_layers(&layers, target.path())?;
            let listed = Tree::of(&target.path().join("merged"));
            rustix::mount::unmount(target.path().join("merged"), rustix::mount::UnmountFlags::empty())?;
            rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::empty())?;
            print(&listed?)
        }
        ["image", names @ ..] if !names.is_empty() => {
            let recipes: Option<Vec<Recipe>> = names.iter().map(|name| Recipe::named(name)).collect();
            let recipes = recipes.ok_or_else(|| io::Error::other(USAGE))?;
            let images = Images::ensure(&recipes::cache(), &recipes)?;
            for name in names {
                println!("oci:{}:{name}", images.layout.dir().display());
            }
            Ok(())
        }
        ["push", name, address] => {
            let recipe = Recipe::named(name).ok_or_else(|| io::Error::other(USAGE))?;
            let images = Images::ensure(&recipes::cache(), &[recipe])?;
            let address = address.parse().map_err(io::Error::other)?;
            println!("{}", images.layout.push(name, address, name)?.digest);
            Ok(())
        }
        ["registry", storage] => {
            let work = tempfile::tempdir()?;
            let registry = Registry::start(work.path(), Path::new(storage), &Options::default())?;
            println!("{}", registry.address());
            loop {
                std::thread::park();
            }
        }
        ["demo", berth] => testbed::demo::run(Path::new(berth)),
        ["slurm", release, command @ ..] => slurm(release, command),
        ["slurm-box"] => slurm::inside::run(),
        ["cache"] => {
            println!("{}", recipes::cache().display());
            Ok(())
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

fn print(tree: &Tree) -> io::Result<()> {
    println!("{}", serde_json::to_string(tree)?);
    Ok(())
}

/// A cluster of four nodes for people: with the programs beside this one, berth as Slurm's runtime, the plugin where it was
/// built, and a registry by the names of public ones.
fn slurm(release: &str, command: &[&str]) -> io::Result<()> {
    let release = Release::named(release).ok_or_else(|| io::Error::other(USAGE))?;
    if let Some((_, error)) = slurm::root::ensure(&[release]).pop() {
        return Err(error);
    }
    let own = std::env::current_exe()?;
    let programs = fixture::shared_dir("berth-slurm-bin-")?;
    let programs = programs.path();
    std::os::unix::fs::symlink(&own, programs.join("testbed"))?;
    let own = own.to_string_lossy();
    std::os::unix::fs::symlink(fixture::berth_program(&own)?, programs.join("berth"))?;
    let mut options = slurm::Options { nodes: 4, ..slurm::Options::default() };
    options = options.file("oci.conf", slurm::oci::run(release));
    match fixture::spank_plugin(&own) {
        Ok(plugin) => {
            std::os::unix::fs::symlink(plugin, programs.join("spank_berth.so"))?;
            options = options.plugin("");
        }
        Err(error) => eprintln!("testbed: without the plugin: {error}"),
    }
    slurm::registries::certificate(programs)?;
    let storage = slurm::registries::storage()?;
    let cluster = Cluster::with(programs, release, &options)?;
    let _registry = slurm::registries::start(&cluster, programs, &storage, slurm::registries::Kind::Public)?;
    let command = if command.is_empty() { &["bash", "-i"] } else { command };
    cluster.as_user("tuser1").command(command).status()?;
    Ok(())
}
