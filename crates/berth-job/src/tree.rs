//! A process and all below it: but no keeper, and nothing of the jobs that it keeps. One that was started in a job is a
//! descendant of that job's processes and none of the job's.

use std::fs;

/// All processes below this one, parents first. Such as come and go meanwhile may be missed.
pub fn below(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = vec![pid];
    while let Some(pid) = rest.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok());
            for child in children.filter(|&child| !is_keeper(child)) {
                found.push(child);
                rest.push(child);
            }
        }
    }
    found
}

/// The variable that keepers and supervisors have.
pub const KEEPER: &str = "BERTH_KEEPER";

/// Whether it is a keeper or supervisor.
fn is_keeper(pid: u32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| variable == b"BERTH_KEEPER=1")
}

/// Children of this process, but no keeper.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    let text = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(|&pid| !is_keeper(pid)).collect()
}

/// Sends a signal to a process; whoever has gone needs none.
#[allow(unsafe_code)]
pub fn send(pid: u32, number: i32) {
    // SAFETY: numbers only.
    unsafe { libc::kill(pid as i32, number) };
}
