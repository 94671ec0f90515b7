//! Groups made by systemd: a scope for each container, asked for over D-Bus.
//!
//! The client is our own (see [`dbus`]): three methods and one signal. The crates that would do it bring an async runtime
//! (zbus), or a second set of system call wrappers, file descriptors and derive macros (rustbus).

mod dbus;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::dbus::{Body, Bus, Failure};
use super::devices;
use super::limits::{io_weight, weight_of_shares};
use crate::error::{Error, Result};
use crate::oci::Resources;
use crate::oci::resources::Cpu;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// Longest name of a unit.
const MAX_NAME: usize = 255;

/// A unit of systemd, as the state keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unit {
    name: String,
    /// Whether it is the user's systemd that has it, not the host's.
    user: bool,
}

/// The name of a unit, and the slice that it is put into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) unit: String,
    pub(super) slice: String,
}

impl Name {
    /// From `SLICE:PREFIX:NAME` of `linux.cgroupsPath`, or from the id where there is none.
    pub(super) fn new(path: Option<&Path>, id: &str, privileged: bool) -> Result<Name> {
        const FIELD: &str = "linux.cgroupsPath";
        let text = match path.filter(|path| !path.as_os_str().is_empty()) {
            None => format!(":berth:{id}"),
            Some(path) => match path.to_str() {
                Some(text) => text.to_owned(),
                None => return Err(Error::bad_spec(FIELD, "is no text")),
            },
        };
        let mut parts = text.split(':');
        let (Some(slice), Some(prefix), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::bad_spec(FIELD, format!("systemd needs `SLICE:PREFIX:NAME`, not `{text}`")));
        };
        let slice = match slice {
            "" if privileged => "system.slice",
            "" => "user.slice",
            "-" => "-.slice",
            slice => slice,
        };
        let unit = match prefix {
            _ if name.ends_with(".slice") => {
                return Err(Error::bad_spec(FIELD, format!("{name} is a slice, and a container has processes")));
            }
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        for (it, suffix) in [(slice, ".slice"), (&*unit, ".scope")] {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
            if it.len() > MAX_NAME || !it.bytes().all(legal) || !it.ends_with(suffix) || name.is_empty() {
                return Err(Error::bad_spec(FIELD, format!("`{it}` is no name of a unit of systemd (`*{suffix}`)")));
            }
        }
        Ok(Name { unit, slice: slice.to_owned() })
    }
}

/// Whether this user has a bus that systemd may be on.
pub(super) fn has_user_bus() -> bool {
    dbus::user_address().is_some() || Path::new(dbus::SYSTEM_BUS).exists()
}

/// Has systemd make a scope with `pid` in it, and waits until it has.
pub(super) fn start(
    name: &Name,
    id: &str,
    pid: u32,
    resources: &Resources,
    pure_v2: bool,
    privileged: bool,
) -> Result<Unit> {
    let unit = Unit { name: name.unit.clone(), user: !privileged };
    let mut bus = connect(unit.user)?;
    let essential = essential_properties(name, id, pid);
    let limits = limit_properties(resources, pure_v2)?;
    bus.subscribe(INTERFACE, "JobRemoved").map_err(|failure| cannot("listen to", &unit, failure))?;
    let all: Vec<Property> = essential.iter().chain(&limits).cloned().collect();
    let started = start_once(&mut bus, &unit, &all).or_else(|failure| match failure.name() {
        // One that failed before and was kept.
        "org.freedesktop.systemd1.UnitExists" => {
            let _ = bus.call(SERVICE, OBJECT, INTERFACE, "ResetFailedUnit", Body::default().string(&unit.name));
            start_once(&mut bus, &unit, &all)
        }
        // An old systemd knows fewer properties. The limits are written into the group afterwards anyway.
        "org.freedesktop.DBus.Error.PropertyReadOnly" | "org.freedesktop.DBus.Error.InvalidArgs" => {
            start_once(&mut bus, &unit, &essential)
        }
        _ => Err(failure),
    });
    started.map_err(|failure| cannot("start", &unit, failure))?;
    Ok(unit)
}

fn start_once(bus: &mut Bus, unit: &Unit, properties: &[Property]) -> Result<(), Failure> {
    let body = Body::default().string(&unit.name).string("fail").properties(properties).no_auxiliary_units();
    let job = bus.call(SERVICE, OBJECT, INTERFACE, "StartTransientUnit", body)?.first_text()?;
    wait_for(bus, &job)
}

fn wait_for(bus: &mut Bus, job: &str) -> Result<(), Failure> {
    loop {
        let (removed, result) = bus.signal("JobRemoved")?.job()?;
        if removed == job {
            return if matches!(result.as_str(), "done" | "skipped") { Ok(()) } else { Err(Failure::Job(result)) };
        }
    }
}

/// Has systemd stop a unit, and waits until it has. One that is gone is stopped.
pub(super) fn stop(unit: &Unit) -> Result<()> {
    let mut bus = connect(unit.user)?;
    bus.subscribe(INTERFACE, "JobRemoved").map_err(|failure| cannot("listen to", unit, failure))?;
    let body = Body::default().string(&unit.name).string("replace");
    let stopped = bus
        .call(SERVICE, OBJECT, INTERFACE, "StopUnit", body)
        .and_then(|reply| reply.first_text())
        .and_then(|job| wait_for(&mut bus, &job));
    match stopped {
        Err(failure) if failure.name() != "org.freedesktop.systemd1.NoSuchUnit" => Err(cannot("stop", unit, failure)),
        _ => {
            // One that failed is kept, and its name with it; one that did not is unknown by now.
            let _ = bus.call(SERVICE, OBJECT, INTERFACE, "ResetFailedUnit", Body::default().string(&unit.name));
            Ok(())
        }
    }
}

fn connect(user: bool) -> Result<Bus> {
    let address = if user { dbus::user_address() } else { Some(dbus::system_address()) };
    let whose = if user { "user's" } else { "system's" };
    let Some(address) = address else {
        return Err(Error::System {
            action: format!("reach the {whose} D-Bus"),
            source: std::io::ErrorKind::NotFound.into(),
            hint: Some(
                "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set: use --cgroup-manager=cgroupfs".to_owned(),
            ),
        });
    };
    Bus::connect(&address).map_err(|failure| Error::System {
        action: format!("reach the {whose} D-Bus at {address}"),
        source: failure.into(),
        hint: Some("use --cgroup-manager=cgroupfs where systemd does not run".to_owned()),
    })
}

fn cannot(action: &str, unit: &Unit, failure: Failure) -> Error {
    let hint = matches!(failure.name(), "org.freedesktop.DBus.Error.ServiceUnknown")
        .then(|| "no systemd is on that bus: use --cgroup-manager=cgroupfs".to_owned());
    Error::System { action: format!("{action} the systemd unit {}", unit.name), source: failure.into(), hint }
}

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Property {
    name: &'static str,
    value: Value,
}

/// Its value, of the types that are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    /// `ay`
    Bytes(Vec<u8>),
    /// `au`
    Ids(Vec<u32>),
    /// `a(ss)`
    Pairs(Vec<(String, String)>),
}

fn property(name: &'static str, value: Value) -> Property {
    Property { name, value }
}

/// What makes the scope.
fn essential_properties(name: &Name, id: &str, pid: u32) -> Vec<Property> {
    vec![
        property("Description", Value::Text(format!("berth container {id}"))),
        property("Slice", Value::Text(name.slice.clone())),
        property("PIDs", Value::Ids(vec![pid])),
        property("Delegate", Value::Bool(true)),
        property("DefaultDependencies", Value::Bool(false)),
        property("CPUAccounting", Value::Bool(true)),
        property("MemoryAccounting", Value::Bool(true)),
        property("TasksAccounting", Value::Bool(true)),
    ]
}

/// What limits it: systemd sets them again whenever it is told to reload.
fn limit_properties(resources: &Resources, pure_v2: bool) -> Result<Vec<Property>> {
    let mut list = vec![property("CollectMode", Value::Text("inactive-or-failed".to_owned()))];
    let bytes = |value: i64| if value < 0 { u64::MAX } else { value.cast_unsigned() };
    let set = |value: Option<i64>| value.filter(|&value| value != 0);
    if let Some(memory) = &resources.memory {
        let limit = set(memory.limit);
        if let Some(limit) = limit {
            let name = if pure_v2 { "MemoryMax" } else { "MemoryLimit" };
            list.push(property(name, Value::U64(bytes(limit))));
        }
        if let (Some(low), true) = (set(memory.reservation), pure_v2) {
            list.push(property("MemoryLow", Value::U64(bytes(low))));
        }
        match (set(memory.swap), limit) {
            (Some(swap), Some(limit)) if pure_v2 && limit > 0 && swap >= limit => {
                list.push(property("MemorySwapMax", Value::U64(bytes(swap - limit))));
            }
            (Some(-1), _) | (None, Some(-1)) if pure_v2 => list.push(property("MemorySwapMax", Value::U64(u64::MAX))),
            _ => {}
        }
    }
    if let Some(cpu) = &resources.cpu {
        cpu_properties(cpu, pure_v2, &mut list);
    }
    match resources.pids.as_ref().and_then(|pids| pids.limit) {
        Some(limit) if limit != 0 => list.push(property("TasksMax", Value::U64(bytes(limit)))),
        _ => {}
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|block_io| block_io.weight).filter(|&it| it != 0) {
        match pure_v2 {
            true => list.push(property("IOWeight", Value::U64(io_weight(weight)))),
            false => list.push(property("BlockIOWeight", Value::U64(weight.into()))),
        }
    }
    if let (Some(high), true) = (resources.unified.get("memory.high"), pure_v2) {
        let high = if high.trim() == "max" { Some(u64::MAX) } else { high.trim().parse().ok() };
        list.extend(high.map(|high| property("MemoryHigh", Value::U64(high))));
    }
    let allowed: Vec<(String, String)> = devices::rules(&resources.devices)?.iter().filter_map(device_allow).collect();
    if !resources.devices.is_empty() {
        let open = allowed.iter().any(|(name, access)| name.ends_with("-*") && access == "rwm");
        let policy = if open { "auto" } else { "strict" };
        list.push(property("DevicePolicy", Value::Text(policy.to_owned())));
        if !open {
            list.push(property("DeviceAllow", Value::Pairs(allowed)));
        }
    }
    Ok(list)
}

fn cpu_properties(cpu: &Cpu, pure_v2: bool, list: &mut Vec<Property>) {
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0) {
        match pure_v2 {
            true => list.push(property("CPUWeight", Value::U64(weight_of_shares(shares)))),
            false => list.push(property("CPUShares", Value::U64(shares.clamp(2, 1 << 18)))),
        }
    }
    if let Some(quota) = cpu.quota.filter(|&quota| quota != 0) {
        let period = cpu.period.filter(|&period| period != 0).unwrap_or(100_000);
        let per_second = match u64::try_from(quota) {
            // systemd rounds down to hundredths of a processor, which would be less than was asked for.
            Ok(quota) => quota.saturating_mul(1_000_000).div_ceil(period).div_ceil(10_000).saturating_mul(10_000),
            Err(_) => u64::MAX,
        };
        list.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
        if cpu.period.is_some_and(|period| period != 0) {
            list.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
        }
    }
    for (name, text) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
        let mask = text.as_deref().filter(|text| !text.is_empty() && pure_v2).and_then(mask_of_list);
        list.extend(mask.map(|mask| property(name, Value::Bytes(mask))));
    }
}

/// A list such as `0-3,7` as bits, the lowest byte first; `None` where it is no list, which is said when it is written.
fn mask_of_list(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= 1 << 16 {
            return None;
        }
        if mask.len() <= last / 8 {
            mask.resize(last / 8 + 1, 0);
        }
        for number in first..=last {
            mask[number / 8] |= 1 << (number % 8);
        }
    }
    Some(mask)
}

/// A rule as systemd puts it. It knows only what is allowed; the rest is done by our own rules.
fn device_allow(rule: &devices::Rule) -> Option<(String, String)> {
    if !rule.allow {
        return None;
    }
    let class = if rule.kind == 'b' { "block" } else { "char" };
    let name = match (rule.major, rule.minor) {
        (None, None) => format!("{class}-*"),
        (Some(major), None) => format!("{class}-{major}"),
        (Some(major), Some(minor)) => format!("/dev/{class}/{major}:{minor}"),
        (None, Some(_)) => return None,
    };
    let mut access = String::new();
    for (bit, letter) in [(devices::READ, 'r'), (devices::WRITE, 'w'), (devices::MKNOD, 'm')] {
        if rule.access & bit != 0 {
            access.push(letter);
        }
    }
    Some((name, access))
}

/// Where the bus of this user is, from its environment.
fn runtime_bus() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(|path| PathBuf::from(path).join("bus"))
}

#[cfg(test)]
mod tests;
