//! Root folders with Slurm in them, one for each release, from Debian's packages.
//!
//! The packages are unpacked and not configured: no script of theirs runs, which takes seconds instead of half a minute,
//! and what the scripts would make (accounts, above all) is a box's own business. Folders are kept in the cache of the
//! testbed; they are made again when this file's list of packages changes.

use std::env;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::Release;
use crate::process;
use crate::recipes;

/// Raised when the packages or what is done to them changes, so that old folders are not taken for new ones.
const VERSION: u32 = 3;

/// The packages of a box. What they depend on comes with them.
const PACKAGES: &str = "base-files,bash,bsdutils,coreutils,dash,findutils,grep,hostname,iproute2,libc-bin,login,mount,munge,\
                        procps,sed,slurm-client,slurm-wlm-basic-plugins,slurmctld,slurmd,util-linux,busybox-static";

/// What Slurm's plugin for PMIx loads, where its package does not depend on it. Debian builds no such plugin for 26.05:
/// `srun --mpi=list` has `pmi2` alone there.
fn pmix(release: Release) -> &'static str {
    match release {
        Release::Bookworm => ",libpmix2",
        Release::Trixie => ",libpmix2t64",
        Release::Forky => "",
    }
}

/// Names the mirror of Debian that the packages come from; without it, the one that this machine's apt uses.
const MIRROR: &str = "BERTH_DEBIAN_MIRROR";

/// The folders at the top are links into /usr on each of these releases, whatever a package's archive says.
pub const MERGE: &str =
    "for dir in bin sbin lib lib64; do mkdir -p \"$1/usr/$dir\"; ln -s \"usr/$dir\" \"$1/$dir\"; done";

/// Longest that one folder may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Where a release's folder is, or will be.
pub fn path(release: Release) -> PathBuf {
    recipes::cache().join(format!("slurm-v{VERSION}")).join(release.suite())
}

/// A release's folder, if it was made.
pub fn find(release: Release) -> Option<PathBuf> {
    Some(path(release)).filter(|path| path.is_dir())
}

/// Makes the folders that are missing, side by side; gives the errors. Needs root, mmdebstrap and the mirror.
pub fn ensure(releases: &[Release]) -> Vec<(Release, io::Error)> {
    thread::scope(|scope| {
        let makers: Vec<_> = releases.iter().map(|release| (*release, scope.spawn(|| ensure_one(*release)))).collect();
        makers
            .into_iter()
            .filter_map(|(release, maker)| Some((release, maker.join().expect("the maker does not panic").err()?)))
            .collect()
    })
}

fn ensure_one(release: Release) -> io::Result<()> {
    let target = path(release);
    fs::create_dir_all(target.parent().expect("it is in the cache"))?;
    let lock = File::create(target.with_extension("lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    if target.is_dir() {
        return Ok(());
    }
    let part = target.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    eprintln!("testbed: making a root folder with Slurm {} in {}", release.version(), target.display());
    unpack(release, &part)?;
    finish(&part)?;
    fs::rename(part, target)
}

fn unpack(release: Release, target: &Path) -> io::Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=extract"]);
    command.arg(format!("--setup-hook={MERGE}"));
    // A testing release's lists are good for days only, which is too short for a machine whose clock is not today's.
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"").arg("--aptopt=APT::Install-Recommends \"false\"");
    command.arg(format!("--include={PACKAGES}{}", pmix(release))).arg(release.suite()).arg(target).arg(mirror()?);
    command.env("LC_ALL", "C");
    let made = process::run_with(&mut command, b"", LIMIT);
    if made.status.success() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(target);
    Err(io::Error::other(format!(
        "no packages of Debian {} (is the mirror reachable?): {}",
        release.suite(),
        made.report()
    )))
}

/// The little that the packages' scripts would have done and a box needs.
fn finish(root: &Path) -> io::Result<()> {
    let cached = process::run(Command::new("/sbin/ldconfig").arg("-r").arg(root));
    if !cached.status.success() {
        return Err(io::Error::other(cached.report()));
    }
    for name in ["mnt", "opt", "srv"] {
        fs::create_dir_all(root.join(name))?;
    }
    for name in ["slurmctld", "slurmd", "slurmstepd"] {
        symlink(format!("{name}-wlm"), root.join("usr/sbin").join(name))?;
    }
    // 22.05's plugin looks for the name that only the package for developers has.
    let pmix = root.join("usr/lib/x86_64-linux-gnu/pmix2/lib");
    if pmix.is_dir() {
        symlink("libpmix.so.2", pmix.join("libpmix.so"))?;
    }
    fs::write(root.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
}

/// The mirror of Debian.
pub fn mirror() -> io::Result<String> {
    if let Ok(mirror) = env::var(MIRROR) {
        return Ok(mirror);
    }
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)", "Created-By: Packages"]);
    let targets = process::run(&mut command).stdout;
    let found = targets.lines().find_map(|line| {
        let [origin, component, release, address] = line.split_whitespace().collect::<Vec<&str>>()[..] else {
            return None;
        };
        (origin == "Debian" && component == "main" && !release.contains('-')).then(|| address.to_owned())
    });
    found.ok_or_else(|| io::Error::other(format!("apt is set up with no mirror of Debian here: name one in {MIRROR}")))
}
