//! The variables that jobs, steps and tasks get, as the manuals of srun and sbatch list them.

use std::ffi::{CString, OsStr, OsString};

use crate::options::array::format_ranges;
use crate::record::{Job, Kind, StepId};

/// An environment as a list in which each name stands once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(OsString, OsString)>);

/// One machine is one cluster.
pub const CLUSTER: &str = "local";

/// How long a job without a limit lasts at most, in seconds: what Slurm reckons with.
pub const YEAR: u64 = 365 * 86400;

impl Environment {
    /// This process' own.
    pub fn own() -> Environment {
        Environment(std::env::vars_os().collect())
    }

    /// From `NAME=VALUE`, NUL-terminated.
    pub fn from_bytes(bytes: &[u8]) -> Environment {
        use std::os::unix::ffi::OsStrExt;
        let entries = bytes.split(|&byte| byte == 0).filter_map(|entry| {
            let at = entry.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..]));
            Some((name.to_owned(), value.to_owned()))
        });
        Environment(entries.collect())
    }

    /// As [`Environment::from_bytes`] reads it.
    pub fn to_bytes(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let mut bytes = Vec::new();
        for (name, value) in &self.0 {
            bytes.extend_from_slice(&[name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
        }
        bytes
    }

    /// A variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// Sets one.
    pub fn set(&mut self, name: impl AsRef<OsStr>, value: impl Into<OsString>) {
        let (name, value) = (name.as_ref(), value.into());
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes one away.
    pub fn unset(&mut self, name: impl AsRef<OsStr>) {
        self.0.retain(|(known, _)| known != name.as_ref());
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// As execve(2) wants it; what has a NUL byte is left out.
    pub fn entries(&self) -> Vec<CString> {
        use std::os::unix::ffi::OsStrExt;
        let entry = |(name, value): &(OsString, OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        };
        self.0.iter().filter_map(entry).collect()
    }

    /// Keeps what `--export` names: `ALL` (everything; the default), `NONE` and `NIL` (nothing but Slurm's own), names, and
    /// `NAME=VALUE` to set.
    pub fn export(&mut self, list: Option<&str>) {
        let Some(list) = list else { return };
        let is_slurms = |name: &OsStr| {
            let name = name.to_string_lossy();
            name.starts_with("SLURM_") || name.starts_with("SPANK_")
        };
        let parts: Vec<&str> = list.split(',').collect();
        let is_word = |word: &str| parts.iter().any(|part| part.eq_ignore_ascii_case(word));
        let all = is_word("ALL");
        if is_word("NONE") || is_word("NIL") {
            self.0.retain(|(name, _)| is_slurms(name));
            return;
        }
        if !all {
            self.0.retain(|(name, _)| is_slurms(name) || parts.iter().any(|part| name == part));
        }
        for part in &parts {
            // As in Slurm, what is set counts more where everything is handed on.
            if let Some((name, value)) = part.split_once('=')
                && !(all && self.get(name).is_some())
            {
                self.set(name, value);
            }
        }
    }

    /// What everything in a job has: the allocation.
    pub fn set_job(&mut self, job: &Job) {
        let Some(allocation) = &job.allocation else { return };
        let (node, cpus) = (allocation.node.as_str(), allocation.cpus.len().to_string());
        let tasks = job.resources.tasks.max(1).to_string();
        let id = job.id.to_string();
        for (name, value) in [
            ("SLURM_CLUSTER_NAME", CLUSTER),
            ("SLURM_JOBID", &id),
            ("SLURM_JOB_ID", &id),
            ("SLURM_JOB_CPUS_PER_NODE", &cpus),
            ("SLURM_JOB_NAME", &job.name),
            ("SLURM_JOB_NODELIST", node),
            ("SLURM_JOB_NUM_NODES", "1"),
            ("SLURM_JOB_PARTITION", &job.partition),
            ("SLURM_NNODES", "1"),
            ("SLURM_NODELIST", node),
            ("SLURM_SUBMIT_HOST", &job.submit_host),
        ] {
            self.set(name, value);
        }
        if job.resources.tasks_given || job.kind == Kind::Srun {
            self.set("SLURM_NTASKS", &tasks);
            self.set("SLURM_NPROCS", &tasks);
        }
        // As `2` for one node that has two; without -n Slurm says what fits.
        self.set("SLURM_TASKS_PER_NODE", &tasks);
        if let Some(count) = job.resources.cpus_per_task {
            self.set("SLURM_CPUS_PER_TASK", count.to_string());
            self.set("SLURM_TRES_PER_TASK", format!("cpu={count}"));
        }
        if let Some(count) = job.resources.tasks_per_node {
            self.set("SLURM_NTASKS_PER_NODE", count.to_string());
        }
        if let Some(bytes) = job.resources.memory.filter(|&bytes| bytes > 0) {
            self.set("SLURM_MEM_PER_NODE", (bytes >> 20).to_string());
        }
        if let Some(bytes) = job.resources.memory_per_cpu {
            self.set("SLURM_MEM_PER_CPU", (bytes >> 20).to_string());
        }
        if let Some(account) = &job.account {
            self.set("SLURM_JOB_ACCOUNT", account);
        }
        if let Some(array) = &job.array
            && let Some(task) = array.task
        {
            self.set("SLURM_ARRAY_JOB_ID", array.job.to_string());
            self.set("SLURM_ARRAY_TASK_ID", task.to_string());
            self.set("SLURM_ARRAY_TASK_COUNT", array.count.to_string());
            self.set("SLURM_ARRAY_TASK_MIN", array.min.to_string());
            self.set("SLURM_ARRAY_TASK_MAX", array.max.to_string());
            self.set("SLURM_ARRAY_TASK_STEP", array.step.to_string());
        }
        if job.restarts > 0 {
            self.set("SLURM_RESTART_COUNT", job.restarts.to_string());
        }
        self.set_gpus(&allocation.gpus, "SLURM_JOB_GPUS");
    }

    /// What a process on the node has, in the batch script or in a step.
    pub fn set_node(&mut self, job: &Job, cpus: usize) {
        let Some(allocation) = &job.allocation else { return };
        let start = job.started.unwrap_or(job.submitted);
        let end = start + job.time_limit.map_or(YEAR, |minutes| u64::from(minutes) * 60);
        for (name, value) in [
            ("SLURMD_NODENAME", allocation.node.clone()),
            ("SLURM_CPUS_ON_NODE", cpus.to_string()),
            ("SLURM_JOB_UID", job.uid.to_string()),
            ("SLURM_JOB_USER", job.user.clone()),
            ("SLURM_JOB_GID", job.gid.to_string()),
            ("SLURM_JOB_START_TIME", start.to_string()),
            ("SLURM_JOB_END_TIME", end.to_string()),
            ("SLURM_NODEID", "0".to_owned()),
            ("SLURM_TOPOLOGY_ADDR", allocation.node.clone()),
            ("SLURM_TOPOLOGY_ADDR_PATTERN", "node".to_owned()),
            ("SLURMD_DEBUG", "2".to_owned()),
            ("SLURM_OOM_KILL_STEP", "0".to_owned()),
        ] {
            self.set(name, value);
        }
    }

    /// What a step has.
    pub fn set_step(&mut self, job: &Job, step: StepId, tasks: u32, gpus: &[u32]) {
        let (step, tasks) = (step.to_string(), tasks.to_string());
        let node = job.allocation.as_ref().map_or("", |allocation| allocation.node.as_str());
        for (name, value) in [
            ("SLURM_STEPID", step.as_str()),
            ("SLURM_STEP_ID", &step),
            ("SLURM_STEP_NODELIST", node),
            ("SLURM_STEP_NUM_NODES", "1"),
            ("SLURM_STEP_NUM_TASKS", &tasks),
            ("SLURM_STEP_TASKS_PER_NODE", &tasks),
            ("SLURM_NTASKS", &tasks),
            ("SLURM_NPROCS", &tasks),
            ("SLURM_TASKS_PER_NODE", &tasks),
            ("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        ] {
            self.set(name, value);
        }
        let all: Vec<u32> = (0..tasks.parse().unwrap_or(1)).collect();
        let all: Vec<String> = all.iter().map(u32::to_string).collect();
        self.set("SLURM_GTIDS", all.join(","));
        self.set_gpus(gpus, "SLURM_STEP_GPUS");
    }

    /// What a task has.
    pub fn set_task(&mut self, task: u32) {
        self.set("SLURM_PROCID", task.to_string());
        self.set("SLURM_LOCALID", task.to_string());
        self.set("SLURM_TASK_PID", std::process::id().to_string());
    }

    fn set_gpus(&mut self, gpus: &[u32], name: &str) {
        if gpus.is_empty() {
            return;
        }
        let list = gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        self.set(name, &list);
        self.set("SLURM_GPUS_ON_NODE", gpus.len().to_string());
        self.set("CUDA_VISIBLE_DEVICES", &list);
        self.set("ROCR_VISIBLE_DEVICES", &list);
    }
}

/// CPUs as a list for people.
pub fn cpu_list(cpus: &[u32]) -> String {
    format_ranges(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exported(list: &str) -> Vec<String> {
        let mut environment = Environment::from_bytes(b"A=1\0SLURM_X=2\0B=3\0");
        environment.export(Some(list));
        environment.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
    }

    #[test]
    fn exports_name_what_is_kept() {
        assert_eq!(exported("ALL,C=4"), ["A=1", "SLURM_X=2", "B=3", "C=4"]);
        assert_eq!(exported("NONE"), ["SLURM_X=2"]);
        assert_eq!(exported("B,C=4"), ["SLURM_X=2", "B=3", "C=4"]);
    }

    #[test]
    fn what_is_written_is_read() {
        let environment = Environment::from_bytes(b"A=1=2\0B=\0");
        assert_eq!(Environment::from_bytes(&environment.to_bytes()), environment);
    }
}
