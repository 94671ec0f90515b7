//! Which directories of the host a container sees without being told, and where its command starts.
//!
//! The rule, and the reason: a person who puts `berth run IMAGE` before a command that worked expects it to find the same
//! files, so the home directory and the current directory are there under their own paths and the command starts where
//! the person stands. What must not happen is that the host's system hides the image's: a directory that belongs to the
//! system (`/usr/lib/python3`, say) is not shown, and the command starts where the image wants instead.

use std::path::{Path, PathBuf};

/// Directories that belong to the system: they and all below them are the image's. `/proc`, `/sys` and `/dev` are there in
/// any case.
const SYSTEM_TREES: &[&str] =
    &["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"];

/// Directories that are the image's themselves, while what is below them may be somebody's data: a job's scratch
/// directory in `/var/tmp`, a mount in `/mnt`.
const SYSTEM_PARENTS: &[&str] =
    &["/", "/home", "/media", "/mnt", "/opt", "/run", "/srv", "/tmp", "/var", "/var/cache", "/var/lib", "/var/log"];

/// What the person wants and where the person is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standpoint<'a> {
    /// The home directory, if it exists and is to be shown.
    pub home: Option<&'a Path>,
    /// The current directory, if it is to be shown.
    pub cwd: Option<&'a Path>,
    /// Directories that are shown at the same path anyway, with all below them.
    pub shown: &'a [&'a Path],
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Directories to bind at the same path, parents before what is below them.
    pub binds: Vec<PathBuf>,
    /// Where to start, if the current directory is kept.
    pub start: Option<PathBuf>,
}

/// Decides.
pub fn place(standpoint: Standpoint<'_>) -> Place {
    let mut place = Place::default();
    if let Some(home) = standpoint.home.filter(|home| is_clean(home) && !is_system(home))
        && !is_below_any(home, standpoint.shown)
    {
        place.binds.push(home.to_owned());
    }
    if let Some(cwd) = standpoint.cwd.filter(|cwd| is_clean(cwd)) {
        let seen = is_below_any(cwd, standpoint.shown) || place.binds.iter().any(|bind| cwd.starts_with(bind));
        if seen {
            place.start = Some(cwd.to_owned());
        } else if !is_system(cwd) {
            place.binds.push(cwd.to_owned());
            place.start = Some(cwd.to_owned());
        }
        // A home below the current directory is shown by it.
        if let [home, cwd] = place.binds.as_slice()
            && home.starts_with(cwd)
        {
            place.binds.remove(0);
        }
    }
    place
}

fn is_below_any(path: &Path, parents: &[&Path]) -> bool {
    parents.iter().any(|parent| path.starts_with(parent))
}

fn is_system(path: &Path) -> bool {
    SYSTEM_TREES.iter().any(|tree| path.starts_with(tree))
        || SYSTEM_PARENTS.iter().any(|parent| path == Path::new(parent))
}

/// Absolute and without `..`: HOME may hold anything.
fn is_clean(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(home: &str, cwd: &str) -> (Vec<String>, Option<String>) {
        let shown = [Path::new("/tmp"), Path::new("/scratch")];
        let standpoint = Standpoint {
            home: (!home.is_empty()).then(|| Path::new(home)),
            cwd: (!cwd.is_empty()).then(|| Path::new(cwd)),
            shown: &shown,
        };
        let place = place(standpoint);
        let text = |path: &PathBuf| path.display().to_string();
        (place.binds.iter().map(text).collect(), place.start.as_ref().map(text))
    }

    #[test]
    fn home_and_current_directory_are_shown_once_and_the_latter_is_kept() {
        for (home, cwd, binds, start) in [
            ("/home/me", "/home/me/work", &["/home/me"][..], Some("/home/me/work")),
            ("/home/me", "/home/me", &["/home/me"], Some("/home/me")),
            ("/home/me", "/data/x", &["/home/me", "/data/x"], Some("/data/x")),
            ("/home/me", "/home/melon", &["/home/me", "/home/melon"], Some("/home/melon")),
            ("/data/home/me", "/data", &["/data"], Some("/data")),
            ("", "/data", &["/data"], Some("/data")),
            ("/home/me", "", &["/home/me"], None),
            ("", "", &[], None),
            // Shown anyway.
            ("/tmp/me", "/tmp", &[], Some("/tmp")),
            ("/home/me", "/scratch/me/run1", &["/home/me"], Some("/scratch/me/run1")),
            // Data below directories of the system.
            ("/var/lib/slurm", "/var/tmp/job1", &["/var/lib/slurm", "/var/tmp/job1"], Some("/var/tmp/job1")),
            ("/root", "/opt/app/src", &["/root", "/opt/app/src"], Some("/opt/app/src")),
        ] {
            let expected = (binds.iter().map(|&b| b.to_owned()).collect(), start.map(str::to_owned));
            assert_eq!(decide(home, cwd), expected, "home {home}, current directory {cwd}");
        }
    }

    #[test]
    fn the_hosts_system_never_hides_the_images() {
        for cwd in
            ["/", "/usr", "/usr/lib/python3", "/etc", "/bin", "/lib64", "/var", "/opt", "/home", "/proc/1", "/dev/shm"]
        {
            assert_eq!(decide("", cwd), (vec![], None), "current directory {cwd}");
        }
        for home in ["/", "/usr/share/nobody", "/bin", "/home", "relative", "/home/../etc"] {
            assert_eq!(decide(home, ""), (vec![], None), "home {home}");
        }
    }
}
