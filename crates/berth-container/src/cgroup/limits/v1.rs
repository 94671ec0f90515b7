//! Limits in cgroup v1.

use super::{Current, List, Write, check_memory, check_usage, cpu_list, device, page_size, rdma_line};
use crate::error::{Error, Result};
use crate::oci::Resources;
use crate::oci::resources::{BlockIo, Cpu, Memory, Network};

/// What is to be written for `resources`. Order within a controller is not enough where two limits bind each other (memory
/// with swap, period with quota): whoever writes tries again what was refused as invalid at first.
pub(in crate::cgroup) fn writes(resources: &Resources, current: Current<'_>) -> Result<Vec<Write>> {
    let mut list = List::default();
    if let Some(memory) = &resources.memory {
        check_memory(memory)?;
        check_usage(memory, "memory.usage_in_bytes", current)?;
        memory_writes(memory, &mut list);
    }
    if let Some(cpu) = &resources.cpu {
        cpu_writes(cpu, &mut list)?;
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
        list.push("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit.limit);
        list.push_optional("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit.limit);
    }
    if let Some(network) = &resources.network {
        network_writes(network, &mut list)?;
    }
    for (name, limit) in &resources.rdma {
        if let Some(line) = rdma_line(name, limit)? {
            list.push("rdma", "rdma.max", line);
        }
    }
    Ok(list.0)
}

fn memory_writes(memory: &Memory, list: &mut List) {
    // Zero is "not set", as Docker has it.
    let set = |value: Option<i64>| value.filter(|&value| value != 0);
    let limit = set(memory.limit);
    // Memory without a limit would keep the limit of both together otherwise.
    let unlimited_too = if limit == Some(-1) { Some(-1) } else { None };
    if let Some(limit) = limit {
        list.push("memory", "memory.limit_in_bytes", limit);
    }
    match (set(memory.swap), unlimited_too) {
        (Some(-1), _) | (None, Some(_)) => list.push_optional("memory", "memory.memsw.limit_in_bytes", -1),
        (Some(swap), _) => list.push("memory", "memory.memsw.limit_in_bytes", swap),
        (None, None) => {}
    }
    if let Some(reservation) = set(memory.reservation) {
        list.push("memory", "memory.soft_limit_in_bytes", reservation);
    }
    if let Some(buffers) = set(memory.kernel_tcp) {
        list.push_optional("memory", "memory.kmem.tcp.limit_in_bytes", buffers);
    }
    if let Some(disable) = memory.disable_oom_killer {
        // "On" is how every group begins, and a group that inherits its limits refuses to be told.
        if disable {
            list.push("memory", "memory.oom_control", 1);
        } else {
            list.push_optional("memory", "memory.oom_control", 0);
        }
    }
    // Docker writes what is no percentage for "not set".
    if let Some(swappiness) = memory.swappiness.filter(|&swappiness| swappiness <= 200) {
        list.push("memory", "memory.swappiness", swappiness);
    }
}

fn cpu_writes(cpu: &Cpu, list: &mut List) -> Result<()> {
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0) {
        list.push("cpu", "cpu.shares", shares);
    }
    if let Some(period) = cpu.period.filter(|&period| period != 0) {
        list.push("cpu", "cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota.filter(|&quota| quota != 0) {
        list.push("cpu", "cpu.cfs_quota_us", quota);
    }
    if let Some(burst) = cpu.burst {
        list.push("cpu", "cpu.cfs_burst_us", burst);
    }
    if let Some(period) = cpu.realtime_period.filter(|&period| period != 0) {
        list.push("cpu", "cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|&runtime| runtime != 0) {
        list.push("cpu", "cpu.rt_runtime_us", runtime);
    }
    if let Some(idle) = cpu.idle {
        list.push("cpu", "cpu.idle", idle);
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
    let bfq = current("blkio", "blkio.weight").is_none() && current("blkio", "blkio.bfq.weight").is_some();
    let prefix = if bfq { "blkio.bfq." } else { "blkio." };
    if let Some(weight) = block_io.weight.filter(|&weight| weight != 0) {
        list.push("blkio", format!("{prefix}weight"), weight);
    }
    if let Some(weight) = block_io.leaf_weight.filter(|&weight| weight != 0) {
        list.push("blkio", "blkio.leaf_weight", weight);
    }
    for it in &block_io.weight_device {
        let device = device("weightDevice", it.major, it.minor)?;
        if let Some(weight) = it.weight {
            list.push("blkio", format!("{prefix}weight_device"), format!("{device} {weight}"));
        }
        if let Some(weight) = it.leaf_weight {
            list.push("blkio", "blkio.leaf_weight_device", format!("{device} {weight}"));
        }
    }
    for (field, file, devices) in [
        ("throttleReadBpsDevice", "read_bps_device", &block_io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", "write_bps_device", &block_io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", "read_iops_device", &block_io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", "write_iops_device", &block_io.throttle_write_iops_device),
    ] {
        for it in devices {
            let device = device(field, it.major, it.minor)?;
            list.push("blkio", format!("blkio.throttle.{file}"), format!("{device} {}", it.rate));
        }
    }
    Ok(())
}

fn network_writes(network: &Network, list: &mut List) -> Result<()> {
    if let Some(class) = network.class_id {
        list.push("net_cls", "net_cls.classid", class);
    }
    for it in &network.priorities {
        if it.name.is_empty() || it.name.len() > 15 || it.name.contains(|c: char| c.is_whitespace() || c == '\0') {
            let reason = format!("no name of an interface: {:?}", it.name);
            return Err(Error::bad_spec("linux.resources.network.priorities", reason));
        }
        list.push("net_prio", "net_prio.ifpriomap", format!("{} {}", it.name, it.priority));
    }
    Ok(())
}
