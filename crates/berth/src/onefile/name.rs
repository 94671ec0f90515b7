//! Which server is meant: the file as it is now, the user and group, and what ends together.

use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;

use crate::CommandError;

/// What clients and servers of one name have to agree about. Another version serves apart.
const VERSION: u32 = 1;

/// A file in a state: another one has been written, or is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// Bytes of an [`Identity`] in a message.
pub const IDENTITY: usize = 40;

impl Identity {
    /// The file that is open.
    pub fn of(file: &File) -> std::io::Result<Identity> {
        file.metadata().map(|metadata| Identity::from(&metadata))
    }

    /// For a message.
    pub fn to_bytes(self) -> [u8; IDENTITY] {
        let numbers = [self.device, self.inode, self.size, self.modified.0 as u64, self.modified.1 as u64];
        let mut bytes = [0; IDENTITY];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The name of the server's socket. It tells strangers, who can see it, nothing but whose it is: the rest is a checksum.
/// Two images with one checksum are told apart by what the server answers.
pub fn socket_name(identity: Identity) -> Result<String, CommandError> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let variable = |name| std::env::var(name).ok();
    let scope = scope(&cgroup, variable("SLURM_JOB_ID"), variable("SLURM_STEP_ID"));
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut hasher = DefaultHasher::new();
    (VERSION, identity, gid, scope).hash(&mut hasher);
    Ok(format!("berth-image-{uid}-{:016x}", hasher.finish()))
}

/// What a server is shared within: what is ended together. A server that one job started would be killed with that job
/// while others use it.
///
/// It is the Slurm step, by the control group or, where there is none, by the variables; else the login session, which a
/// machine may end with all its processes; else there is no bound.
fn scope(cgroup: &str, job: Option<String>, step: Option<String>) -> String {
    let paths = || cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let up_to = |path: &str, wanted: &dyn Fn(&str) -> bool| {
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            parts.push(part);
            if wanted(part) {
                return Some(parts.join("/"));
            }
        }
        None
    };
    let is_job = |part: &str| part.starts_with("job_");
    let is_step = |part: &str| part.starts_with("step_");
    let of_job = paths().filter(|path| path.split('/').any(is_job));
    let longest = of_job.max_by_key(|path| path.split('/').any(is_step));
    if let Some(path) = longest {
        return up_to(path, &is_step).or_else(|| up_to(path, &is_job)).unwrap_or_default();
    }
    if let Some(job) = job {
        return format!("job_{job}/step_{}", step.unwrap_or_default());
    }
    let is_session = |part: &str| part.starts_with("session-") && part.ends_with(".scope");
    paths().find_map(|path| up_to(path, &is_session)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_shared_within_what_ends_together() {
        let slurm = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_1\n";
        let of_step = "/system.slice/slurmstepd.scope/job_7/step_0";
        let older = "5:cpuset:/slurm/uid_1000/job_7\n4:freezer:/slurm/uid_1000/job_7/step_batch\n1:name=systemd:/x\n";
        let session = "0::/user.slice/user-1000.slice/session-3.scope\n";
        for (cgroup, job, step, expected) in [
            (slurm, None, None, of_step),
            // Variables may be left over from elsewhere; the control group is not.
            (slurm, Some("8"), Some("1"), of_step),
            (older, Some("7"), None, "/slurm/uid_1000/job_7/step_batch"),
            ("0::/system.slice/slurmd.service\n", Some("7"), Some("2"), "job_7/step_2"),
            ("0::/init.scope\n", Some("7"), None, "job_7/step_"),
            (session, None, None, "/user.slice/user-1000.slice/session-3.scope"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n", None, None, ""),
            ("0::/\n", None, None, ""),
            ("", None, None, ""),
        ] {
            assert_eq!(scope(cgroup, job.map(str::to_owned), step.map(str::to_owned)), expected, "{cgroup}");
        }
    }

    #[test]
    fn a_file_that_was_written_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let identity = || Identity::of(&File::open(&path).unwrap()).unwrap();
        std::fs::write(&path, "one").unwrap();
        let first = identity();
        assert_eq!(first, identity());
        assert_eq!(socket_name(first).unwrap(), socket_name(identity()).unwrap());
        std::fs::write(&path, "other").unwrap();
        assert_ne!(first, identity());
        assert_ne!(first.to_bytes(), identity().to_bytes());
        assert_ne!(socket_name(first).unwrap(), socket_name(identity()).unwrap());
    }
}
