//! The documents of `sinfo --json` and `scontrol show node --json`, and what is read of the machine for them.

use std::fs;

use serde_json::{Value, json};

use super::View;
use super::json::number;
use super::sinfo::Facts;
use crate::record::PARTITION;

/// The load of the last minute, as Slurm writes it; it asks at the node every now and then, we ask now.
pub fn load() -> String {
    format!("{:.2}", f64::from(load_hundredths()) / 100.0)
}

fn load_hundredths() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (load * 100.0).round() as u32
}

/// Free memory, in MiB.
pub fn free_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// When the machine was started.
pub fn boot_time() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// The kernel, its release and its version.
pub fn system() -> String {
    let uname = rustix::system::uname();
    let words = [uname.sysname(), uname.release(), uname.version()].map(|word| word.to_string_lossy().into_owned());
    words.join(" ")
}

/// A node as `scontrol show node --json` has it.
pub fn node(view: &View) -> Value {
    let facts = Facts::of(view);
    json!({
        "architecture": std::env::consts::ARCH,
        "boards": 1,
        "boot_time": number(Some(boot_time())),
        "cluster_name": "",
        "cores": 1,
        "cpu_load": load_hundredths(),
        "free_mem": number(Some(free_memory())),
        "cpus": facts.cpus(),
        "effective_cpus": facts.cpus(),
        "extra": "",
        "features": [],
        "active_features": [],
        "gres": facts.gres().unwrap_or_default(),
        "gres_drained": "N/A",
        "gres_used": facts.gres().map(|_| format!("gpu:{}", facts.allocated_gpus)).unwrap_or_default(),
        "last_busy": number(Some(super::scontrol::last_busy(view))),
        "mcs_label": "",
        "name": facts.name(),
        "address": facts.name(),
        "hostname": facts.name(),
        "state": [facts.state().to_ascii_uppercase()],
        "operating_system": system(),
        "owner": "",
        "partitions": [PARTITION],
        "port": 0,
        "real_memory": facts.memory(),
        "comment": "",
        "reason": "",
        "reservation": "",
        "alloc_memory": facts.allocated_memory >> 20,
        "alloc_cpus": facts.allocated_cpus,
        "alloc_idle_cpus": facts.idle_cpus(),
        "tres_used": if facts.allocated_cpus > 0 { format!("cpu={}", facts.allocated_cpus) } else { String::new() },
        "sockets": facts.cpus(),
        "threads": 1,
        "temporary_disk": 0,
        "weight": 1,
        "tres": facts.tres().replace(",node=1", ""),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The line of `sinfo`, as its `--json` has it.
pub fn sinfo(view: &View) -> Value {
    let facts = Facts::of(view);
    let both = |value: u64| json!({"minimum": value, "maximum": value});
    let used = u8::from(facts.allocated_cpus > 0);
    let free = number(Some(free_memory()));
    let endless = json!({"set": false, "infinite": true, "number": 0});
    json!({
        "port": 0,
        "node": {"state": [facts.state().to_ascii_uppercase()]},
        "nodes": {
            "allocated": used, "idle": 1 - used, "other": 0, "total": 1,
            "hostnames": [], "addresses": [], "nodes": [facts.name()],
        },
        "cpus": {
            "allocated": facts.allocated_cpus, "idle": facts.idle_cpus(), "other": 0, "total": facts.cpus(),
            "minimum": facts.cpus(), "maximum": facts.cpus(), "load": both(u64::from(load_hundredths())),
        },
        "sockets": both(u64::from(facts.cpus())),
        "cores": both(1),
        "threads": both(1),
        "disk": both(0),
        "memory": {
            "minimum": facts.memory(), "maximum": facts.memory(), "free": {"minimum": free, "maximum": free},
            "allocated": facts.allocated_memory >> 20,
        },
        "weight": both(1),
        "features": {"total": "", "active": ""},
        "gres": {
            "total": facts.gres().unwrap_or_default(),
            "used": facts.gres().map(|_| format!("gpu:{}", facts.allocated_gpus)).unwrap_or_default(),
        },
        "cluster": "",
        "comment": "",
        "extra": "",
        "reason": {"description": "", "time": 0, "user": ""},
        "reservation": "",
        "partition": {
            "nodes": {"allowed_allocation": "", "configured": facts.name(), "total": 1},
            "tres": {"billing_weights": "", "configured": facts.tres()},
            "cpus": {"task_binding": 0, "total": facts.cpus()},
            "maximums": {"nodes": {"set": true, "infinite": false, "number": 1}, "time": endless},
            "minimums": {"nodes": 0},
            "name": PARTITION,
            "partition": {"state": ["UP"]},
        },
    })
}
