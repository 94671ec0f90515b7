//! A process and all below it: but no keeper, and nothing of other jobs. A keeper that was started in a job is a descendant of
//! that job's processes, and so is what it keeps; and when it is killed, they inherit that.

use std::fs;

use crate::lost;

/// All processes below this one, parents first. Such as come and go meanwhile may be missed.
pub fn below(pid: u32, mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = vec![pid];
    while let Some(pid) = rest.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok());
            for child in children.filter(|&child| !is_foreign(child, mark)) {
                found.push(child);
                rest.push(child);
            }
        }
    }
    found
}

/// The variable that keepers and supervisors have.
pub const KEEPER: &str = "BERTH_KEEPER";

/// Whether it is a keeper or supervisor, or has the mark of another job ([`lost::mark`]).
fn is_foreign(pid: u32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|&byte| byte == 0).any(|variable| {
        let variable = String::from_utf8_lossy(variable);
        match variable.split_once('=') {
            Some((name, value)) => (name == KEEPER && value == "1") || (name == lost::MARK && value != mark),
            None => false,
        }
    })
}

/// Children of this process that are of the job with this mark, or of none.
pub fn children(mark: &str) -> Vec<u32> {
    let own = std::process::id();
    let text = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    let children = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    children.filter(|&pid| !is_foreign(pid, mark)).collect()
}

/// Sends a signal to a process; whoever has gone needs none.
#[allow(unsafe_code)]
pub fn send(pid: u32, number: i32) {
    // SAFETY: numbers only.
    unsafe { libc::kill(pid as i32, number) };
}
