//! Processes of a job whose supervisor is gone: found by a mark in their environment, and ended.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::process;
use crate::record::Job;

/// The variable that marks what belongs to a job.
pub const MARK: &str = "BERTH_JOB_MARK";

/// Its value: the job's number and when it was submitted, so that a number that is given again is no mistake, and which queue
/// it is of, where the user has several.
pub fn mark(job: &Job) -> String {
    let queue = std::env::var("BERTH_QUEUE").unwrap_or_default();
    format!("{}.{}.{}.{queue}", job.id, job.submitted, job.restarts)
}

/// Ends all processes of this user that have the job's mark.
pub fn end_processes(job: &Job) {
    let wanted = format!("{MARK}={}", mark(job));
    let own = rustix::process::geteuid().as_raw();
    // Those that were being made while we looked are found by looking again.
    for _ in 0..10 {
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if pid == std::process::id() || !entry.metadata().is_ok_and(|metadata| metadata.uid() == own) {
                continue;
            }
            // Opened before it is looked at: the number may be another's later.
            let Ok(descriptor) = process::open(pid) else { continue };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes()) {
                found |= process::send(&descriptor, libc::SIGKILL).is_ok()
                    && process::stat(pid).is_some_and(|stat| !stat.is_dead());
            }
        }
        if !found {
            return;
        }
    }
}
