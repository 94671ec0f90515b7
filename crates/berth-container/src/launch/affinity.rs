//! The processors of a process that joins a container, `process.execCPUAffinity`.

use rustix::thread::CpuSet;

use crate::error::{Error, Result};
use crate::oci::ExecCpuAffinity;

/// Where it may run on the way in.
#[derive(Debug, Default)]
pub struct Affinity {
    /// Until it is moved into the container's cgroup.
    initial: Option<CpuSet>,
    /// From then on.
    last: Option<CpuSet>,
}

impl Affinity {
    /// Understands the lists.
    pub fn plan(affinity: Option<&ExecCpuAffinity>) -> Result<Affinity> {
        let Some(affinity) = affinity else { return Ok(Affinity::default()) };
        let list = |text: &Option<String>, field: &str| {
            let wrong = |reason| Error::bad_spec(format!("process.execCPUAffinity.{field}"), reason);
            text.as_deref().filter(|text| !text.is_empty()).map(|text| parse(text).map_err(wrong)).transpose()
        };
        Ok(Affinity { initial: list(&affinity.initial, "initial")?, last: list(&affinity.last, "final")? })
    }

    /// Before the process is in the cgroup.
    pub fn begin(&self) -> Result<()> {
        set(self.initial.as_ref())
    }

    /// After it is.
    pub fn settle(&self) -> Result<()> {
        set(self.last.as_ref())
    }
}

fn set(cpus: Option<&CpuSet>) -> Result<()> {
    let Some(cpus) = cpus else { return Ok(()) };
    rustix::thread::sched_setaffinity(None, cpus).map_err(|e| Error::system("set the processors of the command", e))
}

/// `0-3,7`
fn parse(text: &str) -> Result<CpuSet, String> {
    let mut cpus = CpuSet::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let number = text.trim().parse::<usize>().ok().filter(|cpu| *cpu < CpuSet::MAX_CPU);
            number.ok_or_else(|| format!("`{text}` is no processor: write a list such as 0-3,7"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` ends before it begins"));
        }
        (first..=last).for_each(|cpu| cpus.set(cpu));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_nonsense_is_refused() {
        let cpus = parse("0-2, 7").unwrap();
        let numbers: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).collect();
        assert_eq!(numbers, [0, 1, 2, 7]);
        for text in ["", "a", "3-1", "-1", "0-", "99999999", "1,,2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
