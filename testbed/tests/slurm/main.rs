//! berth in real Slurm, of the three releases that Debian packages.
//!
//! As the OCI runtime: the configurations of Slurm's guide to containers, word for word, and the one that berth's
//! documentation advises. As a plugin ([`plugin`]): what people type for pyxis.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::process::ExitCode;

use testbed::fixture;
use testbed::harness;
use testbed::harness::Need;
use testbed::harness::Prepared;
use testbed::slurm;
use testbed::slurm::Release;

/// Lists tests that take a release: each becomes three, in a chapter for each release. Those of the plugin, whose chapters
/// have `with registry` behind their names, need a registry, and those `with runtimes` runc and crun.
macro_rules! on_each_release {
    ($chapter:literal: $($name:ident),+ $(,)?) => {
        on_each_release!(@all $chapter, needs, $($name),+);
    };
    ($chapter:literal with registry: $($name:ident),+ $(,)?) => {
        on_each_release!(@all $chapter, needs_with_registry, $($name),+);
    };
    ($chapter:literal with runtimes: $($name:ident),+ $(,)?) => {
        on_each_release!(@all $chapter, needs_with_runtimes, $($name),+);
    };
    (@all $chapter:literal, $needs:ident, $($name:ident),+) => {
        /// The tests of this file, by release.
        pub const CHAPTERS: [testbed::harness::Chapter; 3] = [
            on_each_release!(@one concat!("slurm_22_05::", $chapter), Bookworm, $needs, $($name),+),
            on_each_release!(@one concat!("slurm_24_11::", $chapter), Trixie, $needs, $($name),+),
            on_each_release!(@one concat!("slurm_26_05::", $chapter), Forky, $needs, $($name),+),
        ];
    };
    (@one $chapter:expr, $release:ident, $needs:ident, $($name:ident),+) => {
        testbed::harness::Chapter {
            name: $chapter,
            cases: &[$(testbed::harness::Case {
                name: stringify!($name),
                needs: &const { crate::$needs(testbed::slurm::Release::$release) },
                limit: testbed::harness::LIMIT,
                run: || $name(testbed::slurm::Release::$release),
            }),+],
        }
    };
}

mod compare;
mod container;
mod create;
mod doctor;
mod faults;
mod hostile;
mod inside;
mod kills;
mod load;
mod oci_conf;
mod plugin;
mod run;
mod site;
mod subid;
mod world;

const fn needs(release: Release) -> [Need; 3] {
    [Need::Root, Need::Program("mmdebstrap", "mmdebstrap"), Need::Slurm(release)]
}

const fn needs_with_registry(release: Release) -> [Need; 5] {
    let [root, program, slurm] = needs(release);
    [root, program, slurm, harness::REGISTRY, Need::Program("openssl", "openssl")]
}

const fn needs_with_runtimes(release: Release) -> [Need; 5] {
    let [root, program, slurm] = needs(release);
    [root, program, slurm, Need::Program("runc", "runc"), Need::Program("crun", "crun")]
}

/// The programs that boxes see; removed when dropped.
#[derive(Debug)]
struct Run {
    _programs: tempfile::TempDir,
}

/// Makes the root folders, the images and copies of the programs. Without a mirror of Debian the tests say what they need.
fn prepare() -> io::Result<Prepared<Run>> {
    let testbed = env!("CARGO_BIN_EXE_testbed");
    let programs = fixture::shared_dir("berth-slurm-bin-")?;
    fs::copy(testbed, programs.path().join("testbed"))?;
    fs::copy(fixture::berth_program(testbed)?, programs.path().join("berth"))?;
    fs::copy(fixture::spank_plugin(testbed)?, programs.path().join("spank_berth.so"))?;
    let mut env: Vec<(&'static str, OsString)> = vec![(slurm::PROGRAMS, programs.path().into())];
    if rustix::process::getuid().is_root() && harness::found("mmdebstrap") {
        for (_, error) in slurm::root::ensure(&Release::ALL) {
            eprintln!("testbed: {error}");
        }
    }
    if harness::found("docker-registry") && harness::found("openssl") {
        slurm::registries::certificate(programs.path())?;
        env.push((slurm::registries::STORAGE, slurm::registries::storage()?.into()));
    }
    Ok(Prepared { env, keep: Run { _programs: programs } })
}

fn main() -> ExitCode {
    if env::args().any(|word| word == "--write") {
        return match compare::write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("docs/jobs-compared.md: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let mut chapters = Vec::new();
    chapters.extend(run::CHAPTERS);
    chapters.extend(create::CHAPTERS);
    chapters.extend(site::CHAPTERS);
    chapters.extend(subid::CHAPTERS);
    chapters.extend(container::CHAPTERS);
    chapters.extend(doctor::CHAPTERS);
    chapters.extend(plugin::CHAPTERS.concat());
    chapters.extend(inside::CHAPTERS.concat());
    chapters.extend(faults::CHAPTERS);
    chapters.extend(kills::CHAPTERS);
    chapters.extend(hostile::CHAPTERS);
    chapters.extend(load::CHAPTERS);
    chapters.extend(oci_conf::CHAPTERS);
    chapters.extend(oci_conf::files::CHAPTERS);
    chapters.push(compare::CHAPTER);
    // Most of a test's time is Slurm's, which waits for seconds before it kills, and for half a minute before it looks at
    // time limits.
    harness::main_with(2 * harness::default_threads(), &chapters, prepare)
}
