//! Limits in cgroup v2.

use std::collections::BTreeMap;

use super::{Current, List, Write, check_memory, check_usage, cpu_list, device, page_size, rdma_line};
use crate::error::{Error, Result};
use crate::oci::Resources;
use crate::oci::resources::{BlockIo, Cpu, Memory};

/// What is to be written for `resources`. What only cgroup v1 had (swappiness, real time, packets) is left out, as every
/// runtime does.
pub(in crate::cgroup) fn writes(resources: &Resources, current: Current<'_>) -> Result<Vec<Write>> {
    let mut list = List::default();
    if let Some(memory) = &resources.memory {
        check_memory(memory)?;
        check_usage(memory, "memory.current", current)?;
        memory_writes(memory, current, &mut list)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu_writes(cpu, current, &mut list)?;
    }
    match resources.pids.as_ref().and_then(|pids| pids.limit) {
        Some(limit) if limit > 0 => list.push("pids", "pids.max", limit),
        Some(limit) if limit < 0 => list.push("pids", "pids.max", "max"),
        _ => {}
    }
    if let Some(block_io) = &resources.block_io {
        block_io_writes(block_io, current, &mut list)?;
    }
    for limit in &resources.hugepage_limits {
        let size = page_size(limit)?;
        list.push("hugetlb", format!("hugetlb.{size}.max"), limit.limit);
        list.push_optional("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit.limit);
    }
    for (name, limit) in &resources.rdma {
        if let Some(line) = rdma_line(name, limit)? {
            list.push("rdma", "rdma.max", line);
        }
    }
    unified_writes(&resources.unified, &mut list)?;
    Ok(list.0)
}

/// The files that were asked for by name; a file takes one line at a time.
pub(in crate::cgroup) fn unified(files: &BTreeMap<String, String>) -> Result<Vec<Write>> {
    let mut list = List::default();
    unified_writes(files, &mut list)?;
    Ok(list.0)
}

fn unified_writes(files: &BTreeMap<String, String>, list: &mut List) -> Result<()> {
    for (file, value) in files {
        let controller = match file.split_once('.') {
            Some((controller, rest)) if !controller.is_empty() && !rest.is_empty() && !file.contains(['/', '\0']) => {
                controller
            }
            _ => {
                return Err(Error::bad_spec(
                    "linux.resources.unified",
                    format!("no file of a control group: {file:?}"),
                ));
            }
        };
        for line in value.lines() {
            list.push(controller, file.as_str(), line);
        }
    }
    Ok(())
}

fn limit_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn memory_writes(memory: &Memory, current: Current<'_>, list: &mut List) -> Result<()> {
    // Zero is "not set", as Docker has it.
    let set = |value: Option<i64>| value.filter(|&value| value != 0);
    let limit = set(memory.limit);
    let now = || current("memory", "memory.max").and_then(|text| text.trim().parse().ok());
    match swap_max(set(memory.swap), limit, now)? {
        // A kernel without swap limits none, and has nothing to be limited.
        Some(swap) if swap <= 0 => list.push_optional("memory", "memory.swap.max", limit_or_max(swap)),
        Some(swap) => list.push("memory", "memory.swap.max", swap),
        None => {}
    }
    if let Some(limit) = limit {
        list.push("memory", "memory.max", limit_or_max(limit));
    }
    if let Some(reservation) = set(memory.reservation) {
        list.push("memory", "memory.low", limit_or_max(reservation));
    }
    Ok(())
}

/// Swap alone, from the specification's memory and swap together.
pub(super) fn swap_max(
    both: Option<i64>,
    memory: Option<i64>,
    now: impl FnOnce() -> Option<i64>,
) -> Result<Option<i64>> {
    const FIELD: &str = "linux.resources.memory.swap";
    match (both, memory) {
        // Memory without a limit, and swap not named, was swap without a limit in cgroup v1.
        (None, Some(-1)) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(-1), _) => Ok(Some(-1)),
        (Some(both), memory) => match memory.or_else(now).filter(|&memory| memory >= 0) {
            Some(memory) if both < memory => Err(Error::bad_spec(
                FIELD,
                format!("{both} is for memory and swap together, but memory alone is {memory}"),
            )),
            Some(memory) => Ok(Some(both - memory)),
            None => Err(Error::bad_spec(FIELD, "needs a limit of memory")),
        },
    }
}

/// `cpu.weight`, 1 to 10000, from shares, 2 to 262144, so that both ends and the usual value (1024, 100) meet: the curve
/// that runc and crun use since 2025. Before it was a line, on which 1024 fell to 39.
pub(in crate::cgroup) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 1 << 18 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // The end may be reached a rounding early.
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

/// `io.weight`, 1 to 10000, from `blkio.weight`, 10 to 1000.
pub(in crate::cgroup) fn io_weight(weight: u16) -> u64 {
    let weight = u64::from(weight.clamp(10, 1000));
    1 + (weight - 10) * 9999 / 990
}

fn cpu_writes(cpu: &Cpu, current: Current<'_>, list: &mut List) -> Result<()> {
    if let Some(idle) = cpu.idle {
        list.push("cpu", "cpu.idle", idle);
    }
    // A group that yields to all others has no weight.
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle != Some(1)) {
        list.push("cpu", "cpu.weight", weight_of_shares(shares));
    }
    let (quota, period) = (cpu.quota.filter(|&quota| quota != 0), cpu.period.filter(|&period| period != 0));
    if quota.is_some() || period.is_some() {
        let now = current("cpu", "cpu.max").unwrap_or_default();
        let mut now = now.split_whitespace();
        let (quota_now, period_now) = (now.next().unwrap_or("max"), now.next().unwrap_or("100000"));
        let quota = quota.map_or(quota_now.to_owned(), limit_or_max);
        let period = period.map_or(period_now.to_owned(), |period| period.to_string());
        list.push("cpu", "cpu.max", format!("{quota} {period}"));
    }
    if let Some(burst) = cpu.burst {
        list.push("cpu", "cpu.max.burst", burst);
    }
    if let Some(cpus) = cpu.cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
        list.push("cpuset", "cpuset.cpus", cpu_list("cpus", cpus)?);
    }
    if let Some(mems) = cpu.mems.as_deref().filter(|mems| !mems.is_empty()) {
        list.push("cpuset", "cpuset.mems", cpu_list("mems", mems)?);
    }
    Ok(())
}

fn block_io_writes(block_io: &BlockIo, current: Current<'_>, list: &mut List) -> Result<()> {
    let bfq = current("io", "io.bfq.weight").is_some();
    let weighed = |weight: u16| if bfq { u64::from(weight) } else { io_weight(weight) };
    let file = if bfq { "io.bfq.weight" } else { "io.weight" };
    if let Some(weight) = block_io.weight.filter(|&weight| weight != 0) {
        list.push("io", file, weighed(weight));
    }
    for it in &block_io.weight_device {
        let device = device("weightDevice", it.major, it.minor)?;
        if let Some(weight) = it.weight {
            list.push("io", file, format!("{device} {}", weighed(weight)));
        }
    }
    for (field, key, devices) in [
        ("throttleReadBpsDevice", "rbps", &block_io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "wbps", &block_io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "riops", &block_io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "wiops", &block_io.throttle_write_iops_device),
    ] {
        for it in devices {
            let device = device(field, it.major, it.minor)?;
            let rate = if it.rate == 0 { "max".to_owned() } else { it.rate.to_string() };
            list.push("io", "io.max", format!("{device} {key}={rate}"));
        }
    }
    Ok(())
}
