//! What there is on the nodes besides the cluster's own: processes, mounts, namespaces, control groups, files, and the
//! nodes' health.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::Cluster;
use crate::process;

/// The daemons of a cluster, by the first or the last words of their command lines.
const DAEMONS: [&str; 4] = ["munged", "slurmctld", "slurmd", "slurmscriptd"];

/// Prints a node's traces, one a line. Slurm's own records of credentials, which come and go with every job, are none, and
/// neither are the folders of a user's containers: what is in them is.
const LIST: &str = r#"
cut -d' ' -f4,5,9- /proc/self/mountinfo | sed 's/^/mount /'
find /sys/fs/cgroup -mindepth 2 -type d -printf 'cgroup %P\n' 2>/dev/null
find /tmp /run /dev/shm /var/tmp /var/spool/slurmd /var/lib/berth -mindepth 1 \
  ! -name '*cred_state*' ! -name 'hwloc_topo*' ! -name '*.sock' ! -name 'slurmd*.pid' \
  ! -regex '/tmp/berth-runtime-[0-9]*\(/.swept\)?' \
  ! -regex '/var/lib/berth/[0-9]*\(/[^/]*\(/containers\)?\)?' \
  -printf 'file %p of %u\n' 2>/dev/null
"#;

/// The same on the host where commands are given: files only. What is unfinished in the users' stores, which all hosts
/// share, is told here, once.
const LIST_OF_CONTROLLER: &str = r#"
find /tmp /dev/shm /var/tmp -mindepth 1 ! -name 'hwloc_topo*' -printf 'file %p of %u\n' 2>/dev/null
find /home/*/.local/share/berth/store/tmp /home/*/.local/share/berth/store/leases -mindepth 1 -printf 'file %p\n' 2>/dev/null
"#;

/// The kinds of namespaces that containers have.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "ipc", "uts", "net"];

/// A list of what there is; two of them can be compared.
#[derive(Debug, Clone)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    pub(super) fn of(cluster: &Cluster) -> Traces {
        let mut traces = BTreeSet::new();
        for node in cluster.node_names() {
            let listed = cluster.node(&node).run(&["sh", "-c", LIST]).stdout;
            traces.extend(listed.lines().map(|line| format!("{node}: {line}")));
            let shown = cluster.root().run(&["scontrol", "show", "node", &node]).stdout;
            traces.insert(format!("{node}: {}", health(&shown)));
        }
        let listed = cluster.root().run(&["sh", "-c", LIST_OF_CONTROLLER]).stdout;
        traces.extend(listed.lines().map(|line| format!("ctl: {line}")));
        let jobs = cluster.root().run(&["squeue", "-h", "-o", "job %i of %u, %T: %r"]).stdout;
        traces.extend(jobs.lines().map(str::to_owned));
        // Orphans of the box belong to its first process, so that none is missed, whatever namespaces it is in.
        for pid in process::descendants(cluster.init) {
            traces.extend(namespaces(pid));
            let name = process::name(pid);
            let mut words = name.split(' ');
            if ![words.next(), words.next_back()].into_iter().flatten().any(|word| DAEMONS.contains(&word)) {
                traces.insert(format!("process {pid} {name}"));
            }
        }
        Traces(traces)
    }

    /// Whether no job is on its way and every node is idle.
    pub(super) fn are_idle(&self) -> bool {
        let state = |line: &&String| line.contains(": state ");
        self.0.iter().filter(state).all(|line| line.contains(": state idle, reason none"))
            && !self
                .0
                .iter()
                .any(|line| line.starts_with("job ") || line.starts_with("process ") || line.contains("/job_"))
    }

    /// Number of the namespaces that processes are in or keep.
    pub fn namespaces(&self) -> usize {
        self.0.iter().filter(|line| line.starts_with("namespace ")).count()
    }

    /// What is here and was not there `before`, and what was there and is gone.
    pub fn since(&self, before: &Traces) -> Vec<String> {
        let new = self.0.difference(&before.0).map(|line| format!("new: {line}"));
        let gone = before.0.difference(&self.0).map(|line| format!("gone: {line}"));
        new.chain(gone).collect()
    }
}

/// The namespaces that a process is in, and those that it keeps by a descriptor.
fn namespaces(pid: i32) -> BTreeSet<String> {
    let of = |path: PathBuf| fs::read_link(path).ok()?.into_os_string().into_string().ok();
    let process = PathBuf::from(format!("/proc/{pid}"));
    let entered = NAMESPACES.iter().filter_map(|kind| of(process.join("ns").join(kind)));
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let kept = descriptors.filter_map(|entry| of(entry.path()));
    let is_one = |link: &String| NAMESPACES.iter().any(|kind| link.starts_with(&format!("{kind}:[")));
    entered.chain(kept.filter(is_one)).map(|link| format!("namespace {link}")).collect()
}

/// A node's state and why, of what `scontrol show node` prints. `sinfo` may show the state of a moment ago for minutes.
fn health(shown: &str) -> String {
    let field = |name: &str| shown.lines().find_map(|line| line.trim().strip_prefix(name));
    let state = field("State=").and_then(|rest| rest.split(' ').next()).unwrap_or("unknown").to_lowercase();
    let reason = field("Reason=").and_then(|rest| rest.split(" [").next()).unwrap_or("none");
    format!("state {state}, reason {reason}")
}
