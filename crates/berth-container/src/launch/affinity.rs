//! On which processors a process runs that joins a container (`process.execCPUAffinity`).

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{Error, Result};
use crate::oci::Process;

/// Sets of processors.
#[derive(Debug, Clone)]
pub struct Affinity {
    initial: Option<CpuSet>,
    last: Option<CpuSet>,
}

impl Affinity {
    /// Understands the lists; `None` where there is nothing to set.
    pub fn plan(process: &Process) -> Result<Option<Affinity>> {
        let Some(affinity) = &process.exec_cpu_affinity else { return Ok(None) };
        let set = |text: &Option<String>, name: &str| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(|text| {
                parse(text).ok_or_else(|| {
                    Error::bad_spec(
                        format!("process.execCPUAffinity.{name}"),
                        format!("`{text}` is no list of processors"),
                    )
                })
            })
            .transpose()
        };
        Ok(Some(Affinity { initial: set(&affinity.initial, "initial")?, last: set(&affinity.last, "final")? }))
    }

    /// Before the process is moved into the container's cgroup.
    pub fn set_initial(&self) -> Result<()> {
        set(self.initial.as_ref())
    }

    /// Afterwards.
    pub fn set_final(&self) -> Result<()> {
        set(self.last.as_ref())
    }
}

fn set(processors: Option<&CpuSet>) -> Result<()> {
    match processors {
        Some(set) => sched_setaffinity(None, set).map_err(|e| Error::system("set the processors to run on", e)),
        None => Ok(()),
    }
}

/// `0-3,7`: numbers and ranges of them.
fn parse(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|number| set.set(number));
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        let set = parse("0-2, 7,9-9").unwrap();
        assert_eq!((0..CpuSet::MAX_CPU).filter(|&number| set.is_set(number)).collect::<Vec<_>>(), [0, 1, 2, 7, 9]);
        for wrong in ["", "a", "3-1", "1-", "-1", "0,", "1024", "0-99999999999999999999"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
