//! `--container-slurm`: Slurm's commands in the container.
//!
//! An image has its own C library, older or newer than the node's, or another kind. So the node's commands are run with
//! the node's own loader and libraries: the node's root is shown read-only at [`HOST`], and for each command there is a
//! script in [`BIN`], last in the `PATH`, that calls it from there. What they need at its own place is shown there: the
//! configuration, plugins, munge's socket.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use berth_container::bundle::GeneratedFile;
use berth_container::{Rootfs, environment};

use super::options::volume_text;
use crate::lower::Lowered;

/// Where the node's root is.
const HOST: &str = "/run/berth/host";
/// Where the scripts are.
const BIN: &str = "/run/berth/bin";

/// The commands, of those that the node has.
const COMMANDS: [&str; 18] = [
    "munge", "sacct", "sacctmgr", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "sdiag", "sinfo",
    "sprio", "squeue", "sreport", "srun", "sshare", "sstat", "unmunge",
];

/// Where programs, libraries and Slurm's plugins are, on the systems that clusters run.
const PROGRAMS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/local/slurm/bin"];
const LOADERS: [&str; 3] = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib64/ld64.so.2"];
const LIBRARIES: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/local/lib",
];
const PLUGINS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/slurm-wlm",
    "/usr/lib/aarch64-linux-gnu/slurm-wlm",
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
    "/usr/local/lib/slurm",
    "/opt/slurm/lib/slurm",
];
/// Where munge listens.
pub const MUNGE: &str = "/run/munge";
/// What the commands read and talk to.
const NEEDED: [&str; 4] = ["/etc/slurm", "/etc/slurm-llnl", MUNGE, "/run/slurm"];

/// What of the node has to be seen at its own place.
pub fn mounts(mounts: &mut Vec<String>) {
    let mut show = |path: &Path| mounts.push(volume_text(&path.display().to_string(), path, "ro"));
    let conf = std::env::var_os("SLURM_CONF").map(PathBuf::from);
    let conf_directory =
        conf.as_deref().and_then(Path::parent).filter(|path| !NEEDED.iter().any(|n| Path::new(n) == *path));
    for path in NEEDED.iter().chain(&PLUGINS).map(Path::new).chain(conf_directory) {
        if path.is_dir() {
            show(path);
        }
    }
    let directory = conf_directory.unwrap_or(Path::new("/etc/slurm"));
    for plugin in spank_plugins(&directory.join("plugstack.conf"), 0) {
        show(&plugin);
    }
    mounts.push(volume_text("/", Path::new(HOST), "ro"));
}

/// Plugins that commands load, as far as they are named by a path.
fn spank_plugins(file: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(text) = std::fs::read_to_string(file) else { return found };
    for line in text.lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        match words[..] {
            ["include", pattern, ..] if depth < 4 => {
                // Only the usual form: a directory, and a pattern for its files.
                let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
                let directory = pattern.parent().map(Path::to_owned).unwrap_or_default();
                for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                    found.extend(spank_plugins(&entry.path(), depth + 1));
                }
            }
            ["required" | "optional", path, ..] if path.starts_with('/') && Path::new(path).is_file() => {
                found.push(PathBuf::from(path));
            }
            _ => {}
        }
    }
    found
}

/// Adds the scripts, and the account that Slurm's configuration names.
pub fn add(lowered: &mut Lowered) {
    let Rootfs::Overlay { generated, .. } = &mut lowered.bundle.rootfs else { return };
    // Links that start at the root would lead into the image.
    let real = |path: &&str| Path::new(path).canonicalize().ok().map(|path| format!("{HOST}{}", path.display()));
    let Some(loader) = LOADERS.iter().find_map(real) else { return };
    let mut libraries: Vec<String> = Vec::new();
    for library in LIBRARIES.iter().filter_map(real) {
        if !libraries.contains(&library) {
            libraries.push(library);
        }
    }
    for command in COMMANDS {
        let found = PROGRAMS.iter().map(|directory| Path::new(directory).join(command)).find(|path| path.exists());
        let Some(program) = found.and_then(|path| path.canonicalize().ok()) else { continue };
        let script = format!(
            "#!/bin/sh\nexec {loader} --library-path {} {HOST}{} \"$@\"\n",
            libraries.join(":"),
            program.display()
        );
        generated.push(GeneratedFile { path: Path::new(BIN).join(command), mode: 0o755, content: script.into_bytes() });
    }
    add_account(generated);
    if let Some(process) = &mut lowered.bundle.spec.process {
        let path = process.env.iter_mut().find(|entry| entry.starts_with("PATH="));
        match path {
            Some(path) => path.push_str(&format!(":{BIN}")),
            None => process.env.push(format!("PATH={}:{BIN}", environment::DEFAULT_PATH)),
        }
    }
}

/// The configuration, where Slurm's commands look for it.
fn configuration() -> String {
    let named = std::env::var_os("SLURM_CONF").map(PathBuf::from);
    let known =
        ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/etc/slurm-llnl/slurm.conf"].map(PathBuf::from);
    let found = named.into_iter().chain(known).find_map(|path| std::fs::read_to_string(path).ok());
    found.unwrap_or_default()
}

/// What the configuration says of a key; of several lines the last one counts.
fn setting(wanted: &str) -> Option<String> {
    let text = configuration();
    let value = text.lines().rev().find_map(|line| {
        let (key, value) = line.split('#').next()?.split_once('=')?;
        key.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
    });
    value.filter(|value| !value.is_empty())
}

/// What the site runs in front of every task: Slurm starts it after a task has joined its container, so it has to be there.
pub fn task_prolog() -> Option<PathBuf> {
    setting("TaskProlog").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_file())
}

/// Slurm's commands look up who Slurm runs as.
fn add_account(generated: &mut [GeneratedFile]) {
    let Some(user) = setting("SlurmUser") else { return };
    let name = user.split(['(', ' ']).next().unwrap_or_default();
    let Ok(passwd) = std::fs::read_to_string("/etc/passwd") else { return };
    let starts = format!("{name}:");
    let Some(line) = passwd.lines().find(|line| line.starts_with(&starts)) else { return };
    for file in generated.iter_mut().filter(|file| file.path == OsStr::new("/etc/passwd")) {
        let text = String::from_utf8_lossy(&file.content).into_owned();
        if !text.lines().any(|known| known.starts_with(&starts)) {
            file.content.extend_from_slice(format!("{line}\n").as_bytes());
        }
    }
}
