//! The machine: what there is for jobs.

use std::fs;

use crate::options::array;

/// What the machine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The short host name.
    pub name: String,
    /// Numbers of its CPUs, as the kernel has them.
    pub cpus: Vec<u32>,
    /// Memory, in bytes.
    pub memory: u64,
    /// Numbers of its GPUs, as CDI has them.
    pub gpus: Vec<u32>,
    /// Whether tasks can be bound: not where the configuration says that there are more CPUs than the kernel has.
    pub can_bind: bool,
    /// Seconds from SIGTERM to SIGKILL (`KillWait`).
    pub kill_wait: u64,
}

/// Slurm's default of `KillWait`, in seconds.
const KILL_WAIT: u64 = 30;

impl Node {
    /// Looks. GPUs are left to who can read CDI's files: see [`Node::gpus`].
    ///
    /// `BERTH_JOB_CPUS`, `BERTH_JOB_MEMORY` (MiB) and `BERTH_JOB_KILL_WAIT` (seconds) say otherwise, as a `slurm.conf`
    /// could.
    pub fn detect() -> Node {
        let online = online_cpus();
        let configured = variable("BERTH_JOB_CPUS").map(|count| count.clamp(1, 1 << 16) as u32);
        let real = online.len() as u32;
        let cpus = match configured {
            None => online,
            Some(count) if count <= real => online[..count as usize].to_vec(),
            Some(count) => (0..count).collect(),
        };
        Node {
            name: host_name(),
            can_bind: cpus.len() as u32 <= real,
            cpus,
            memory: variable("BERTH_JOB_MEMORY").map_or_else(total_memory, |mebibytes| mebibytes << 20),
            gpus: Vec::new(),
            kill_wait: variable("BERTH_JOB_KILL_WAIT").unwrap_or(KILL_WAIT),
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The host's name up to the first dot.
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The CPUs that the control group of this process may use, or those that are online.
fn online_cpus() -> Vec<u32> {
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| array::parse_set(text.trim()));
    let of_group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/').to_owned();
        read(&format!("/sys/fs/cgroup{path}/cpuset.cpus.effective"))
    });
    of_group.or_else(|| read("/sys/devices/system/cpu/online")).unwrap_or_else(|| vec![0])
}

/// Bytes of memory.
fn total_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_something() {
        let node = Node::detect();
        assert!(!node.cpus.is_empty() && node.memory > 0 && !node.name.is_empty());
    }
}
