//! What is written down of a container: `state.json` in its directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::state::{boot_id, start_time};

/// A container, as its state directory keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the specification that the configuration follows.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339, UTC.
    pub created: String,
    /// Who made it.
    pub owner: u32,
    /// When this machine was started: processes of an earlier time are gone.
    pub boot_id: String,
    /// Its first process.
    pub process: ProcessId,
    /// Who attends it (`run` without `--detach`): it is nobody's any more when that process is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attendant: Option<ProcessId>,
    /// Where it is in the cgroup tree.
    #[serde(default)]
    pub cgroup: Cgroup,
    /// Whoever made it may use systemd for its cgroup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A process of this boot: the number alone may be given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it was started, clock ticks since boot.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<ProcessId> {
        Some(ProcessId { pid, start_time: start_time(pid)? })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// Where in its life a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Built, and waiting for its start.
    Created,
    /// Its command runs.
    Running,
    /// Its command runs, but its cgroup is frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// As the specification writes it.
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

impl Record {
    /// Whether its process is still there.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive() && self.boot_id == boot_id()
    }

    /// Whether nobody can have any use for it: it was left by a machine that went down, or by a `run` that was killed.
    pub fn is_stale(&self) -> bool {
        self.boot_id != boot_id() || (!self.process.is_alive() && self.attendant.is_some_and(|a| !a.is_alive()))
    }
}

/// The present time, RFC 3339 with nanoseconds.
pub fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp(since.as_secs(), since.subsec_nanos())
}

/// Seconds since 1970, as a date in the proleptic Gregorian calendar, whose years here begin in March so that the day that
/// comes every four years is the last one.
fn timestamp(seconds: u64, nanoseconds: u32) -> String {
    const DAYS_TO_1970_03: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = seconds / 86_400 + DAYS_TO_1970_03;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_767_225_599, "2025-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(timestamp(seconds, 5), format!("{date}.000000005Z"));
        }
    }

    #[test]
    fn this_process_lives_and_one_with_its_number_and_another_age_does_not() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
