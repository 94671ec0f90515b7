//! What is done as root: a node's directories, and the end of a job.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use berth_slurm::settings::{Scope, Settings};

use crate::slurm::{self, Item, Spank};

/// Where the command is, unless the site says otherwise.
const PLACES: [&str; 3] = ["/usr/bin/berth", "/usr/local/bin/berth", "/opt/berth/bin/berth"];

/// The command.
pub fn berth(settings: &Settings) -> Result<PathBuf, String> {
    if let Some(path) = &settings.berth {
        return Ok(path.clone());
    }
    PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        format!(
            "berth: the command is not installed on this node (looked at {}); install it, or name it in plugstack.conf: berth=PATH",
            PLACES.join(", ")
        )
    })
}

/// In slurmd: makes the directory below which users' named containers are.
pub fn prepare(settings: &Settings) {
    let version = env!("CARGO_PKG_VERSION");
    slurm::info(&format!("berth: plugin version {version}, named containers in {}", settings.runtime_path.display()));
    if let Err(error) = make_directory(&settings.runtime_path, 0o755, None) {
        slurm::error(&format!("berth: cannot make {}: {error}", settings.runtime_path.display()));
    }
    if let Err(message) = berth(settings) {
        slurm::error(&message);
    }
    sweep_after_boot(settings);
}

/// In slurmstepd, as root: the user's own directory on this node.
pub fn user_directory(settings: &Settings, uid: u32, gid: u32) -> std::io::Result<PathBuf> {
    make_directory(&settings.runtime_path, 0o755, None)?;
    let path = settings.runtime_path.join(uid.to_string());
    make_directory(&path, 0o700, Some((uid, gid)))?;
    Ok(path)
}

/// Makes a directory, or sees to it that the one that is there is nobody else's.
fn make_directory(path: &Path, mode: libc::mode_t, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C string and numbers.
    if unsafe { libc::mkdir(name.as_ptr(), mode) } != 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        let there = std::fs::symlink_metadata(path)?;
        let wanted = owner.map_or(0, |(uid, _)| uid);
        let is_safe = there.is_dir() && there.mode() & 0o022 == 0;
        if is_safe && there.uid() == wanted {
            return Ok(());
        }
        // Root's own, where only root makes names: another step of the user's has just made it, or was killed then.
        if !is_safe || there.uid() != 0 {
            return Err(std::io::Error::other(format!(
                "{} is not a directory of user {wanted} that nobody else can write",
                path.display()
            )));
        }
    }
    // The umask may have taken bits away.
    // SAFETY: a C string and numbers.
    if unsafe { libc::chmod(name.as_ptr(), mode) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    if let Some((uid, gid)) = owner {
        // SAFETY: a C string and numbers.
        if unsafe { libc::lchown(name.as_ptr(), uid, gid) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// At the end of a job, as root: has the user's command remove what was the job's.
pub fn clean_up(spank: &Spank, settings: &Settings) {
    let (Some(uid), Some(job)) = (spank.number(Item::Uid), spank.number(Item::Job)) else { return };
    let directory = settings.runtime_path.join(uid.to_string());
    if settings.container_scope == Scope::Job && directory.is_dir() {
        clean(settings, &directory, uid, &format!("--job={job}"), &format!("epilog: containers of job {job}"));
    }
}

/// At the start of slurmd, as root: where the machine has been started anew since the last time, no job of before is there
/// to end, and what was theirs goes now.
fn sweep_after_boot(settings: &Settings) {
    if settings.container_scope != Scope::Job {
        return;
    }
    let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return };
    let mark = settings.runtime_path.join(format!(".boot-{}", host_name()));
    if std::fs::read_to_string(&mark).is_ok_and(|last| last == boot) {
        return;
    }
    for entry in std::fs::read_dir(&settings.runtime_path).into_iter().flatten().flatten() {
        let Some(uid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        clean(settings, &entry.path(), uid, "--boot", &format!("start: containers of user {uid}"));
    }
    if let Err(error) = std::fs::write(&mark, boot) {
        slurm::error(&format!("berth: cannot write {}: {error}", mark.display()));
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Has the command clean a user's directory, with the user's rights.
fn clean(settings: &Settings, directory: &Path, uid: u32, what: &str, in_words: &str) {
    let Ok(program) = berth(settings) else { return };
    let arguments = [
        program.as_os_str().as_bytes().to_vec(),
        b"step".to_vec(),
        b"--clean".to_vec(),
        what.as_bytes().to_vec(),
        [b"--containers=".as_slice(), directory.as_os_str().as_bytes()].concat(),
    ];
    let arguments: Vec<CString> = arguments.into_iter().filter_map(|word| CString::new(word).ok()).collect();
    let environment = [c"PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_owned()];
    let Some(gid) = group_of(directory) else { return };
    match berth_slurm::task::run(&arguments, &environment, None, Some((uid, gid))) {
        Ok(0) => {}
        Ok(code) => slurm::error(&format!("berth: {in_words} were not removed (exit code {code})")),
        Err(error) => slurm::error(&format!("berth: cannot call {}: {error}", program.display())),
    }
}

/// The group that slurmstepd gave the directory.
fn group_of(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|metadata| metadata.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_made_and_not_given_yet_is_given_and_anothers_is_not_taken() {
        use std::os::unix::fs::MetadataExt;
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let place = std::env::temp_dir().join(format!("berth-site-{}", std::process::id()));
        let path = place.join("12345");
        make_directory(&place, 0o755, None).unwrap();
        make_directory(&path, 0o700, None).unwrap();
        for _ in 0..2 {
            make_directory(&path, 0o700, Some((12345, 12345))).unwrap();
            let there = std::fs::metadata(&path).unwrap();
            assert_eq!((there.uid(), there.gid(), there.mode() & 0o777), (12345, 12345, 0o700));
        }
        assert!(make_directory(&path, 0o700, Some((54321, 54321))).is_err());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
