//! Control groups: made where the user may, limited as asked, and left alone where not.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::oci::Resources;

/// Who makes the cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// We do, as directories below `/sys/fs/cgroup`.
    #[default]
    Cgroupfs,
    /// systemd does, asked over D-Bus.
    Systemd,
    /// Nobody: the container stays where its caller is.
    Disabled,
}

/// What a container wants.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a Resources>,
    /// Who makes it.
    pub manager: Manager,
}

/// The cgroup of a container, as its state keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {}

impl Cgroup {
    /// Makes it and puts `pid` and the limits into it. Where this user may not, and no limit was asked for, the container
    /// stays where its caller is.
    pub fn create(_request: &Request<'_>, _pid: u32) -> Result<Cgroup> {
        Ok(Cgroup {})
    }

    /// Whether the container has one of its own.
    pub fn is_own(&self) -> bool {
        false
    }

    /// Moves a process into it; `below` names a cgroup in it.
    pub fn add(&self, _pid: u32, _below: Option<&Path>) -> Result<()> {
        Ok(())
    }

    /// Changes limits.
    pub fn update(&self, _resources: &Resources) -> Result<()> {
        Ok(())
    }

    /// All processes in it and below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }

    /// Stops all processes (`true`), or lets them go on.
    pub fn freeze(&self, _frozen: bool) -> Result<()> {
        Ok(())
    }

    /// Whether all processes are stopped by [`Cgroup::freeze`].
    pub fn is_frozen(&self) -> bool {
        false
    }

    /// Sends a signal to all processes, frozen or not.
    pub fn kill(&self, _signal: i32) -> Result<()> {
        Ok(())
    }

    /// Removes it, with what is left in it.
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }
}
