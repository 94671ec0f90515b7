//! Who may start now: first in, first out, with backfill.
//!
//! A pure function of the list of jobs, the machine and the time. The first job that does not fit reserves what it needs
//! for the moment when, by their limits, enough of the running jobs will have ended; a later one starts before it only if
//! it is over by then or leaves enough. A job without a limit counts as one of a year, as in Slurm.

use crate::environment::YEAR;
use crate::node::Node;
use crate::options::array;
use crate::options::dependency::Verdict;
use crate::queue::active::Entry;
use crate::record::{Allocation, Reason};

/// A job that starts, or an element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its place in the list.
    pub index: usize,
    /// The element.
    pub element: Option<u32>,
    /// What it gets.
    pub allocation: Allocation,
}

/// What comes out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    /// What starts, in order.
    pub starts: Vec<Start>,
    /// Why each job of the list waits, by its place; `Reason::None` for those that run or start.
    pub reasons: Vec<Reason>,
    /// When something may change by itself.
    pub next: Option<u64>,
}

/// What is free.
#[derive(Debug, Clone)]
struct Free {
    cpus: Vec<u32>,
    memory: u64,
    gpus: Vec<u32>,
}

impl Free {
    fn take(&mut self, held: &Allocation) {
        self.cpus.retain(|cpu| !held.cpus.contains(cpu));
        self.gpus.retain(|gpu| !held.gpus.contains(gpu));
        self.memory = self.memory.saturating_sub(held.memory.unwrap_or(0));
    }

    fn give_back(&mut self, held: &Allocation) {
        self.cpus.extend(&held.cpus);
        self.cpus.sort_unstable();
        self.gpus.extend(&held.gpus);
        self.memory += held.memory.unwrap_or(0);
    }

    /// The first ones; and the one that is near, if it is free.
    fn choose(&self, count: usize, near: Option<u32>) -> Vec<u32> {
        let mut chosen = self.cpus[..count].to_vec();
        if let (Some(last), Some(near)) = (chosen.last_mut(), near.filter(|near| self.cpus.contains(near)))
            && *last < near
        {
            *last = near;
        }
        chosen
    }

    fn allocate(&self, entry: &Entry, node: &Node) -> Option<Allocation> {
        let cpus = needed(entry, node);
        let memory = entry.memory.map(|bytes| if bytes == 0 { node.memory } else { bytes });
        let fits = cpus <= self.cpus.len()
            && memory.is_none_or(|bytes| bytes <= self.memory)
            && entry.gpus as usize <= self.gpus.len();
        fits.then(|| Allocation {
            node: node.name.clone(),
            cpus: self.choose(cpus, entry.near),
            memory,
            gpus: self.gpus[..entry.gpus as usize].to_vec(),
        })
    }
}

fn needed(entry: &Entry, node: &Node) -> usize {
    if entry.exclusive { node.cpus.len() } else { entry.cpus as usize }
}

/// Whether the machine could ever do it.
pub fn is_possible(entry: &Entry, node: &Node) -> bool {
    let free = Free { cpus: node.cpus.clone(), memory: node.memory, gpus: node.gpus.clone() };
    free.allocate(entry, node).is_some()
}

/// Decides. `verdict` tells whether a job's dependencies are satisfied, for an array's element by its number.
pub fn pass(entries: &[Entry], node: &Node, now: u64, mut verdict: impl FnMut(usize, Option<u32>) -> Verdict) -> Pass {
    let mut free = Free { cpus: node.cpus.clone(), memory: node.memory, gpus: node.gpus.clone() };
    let mut running: Vec<(u64, Allocation)> = Vec::new();
    for entry in entries {
        if let Some(held) = &entry.allocation {
            free.take(held);
            running.push((end(entry.started.unwrap_or(now), entry.limit), held.clone()));
        }
    }
    let mut result = Pass { reasons: vec![Reason::None; entries.len()], ..Pass::default() };
    let mut reservation: Option<Reservation> = None;
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.is_running()) {
        let mut wait = |reason| result.reasons[index] = reason;
        if entry.held {
            wait(Reason::JobHeldUser);
            continue;
        }
        if let Some(begin) = entry.begin.filter(|&begin| begin > now) {
            result.next = Some(result.next.map_or(begin, |next| next.min(begin)));
            wait(Reason::BeginTime);
            continue;
        }
        let elements = match &entry.waiting {
            None => vec![None],
            Some(list) => array::parse_set(list).unwrap_or_default().into_iter().map(Some).collect(),
        };
        let is_element = |other: &&Entry| other.array == Some(entry.id) && other.is_running();
        let mut running_elements = if entry.waiting.is_some() { entries.iter().filter(is_element).count() } else { 0 };
        for element in elements {
            if entry.waiting.is_some() && entry.array_limit > 0 && running_elements >= entry.array_limit as usize {
                result.reasons[index] = Reason::JobArrayTaskLimit;
                break;
            }
            if !entry.dependency.is_empty() {
                match verdict(index, element) {
                    Verdict::Satisfied => {}
                    Verdict::Never => {
                        result.reasons[index] = Reason::DependencyNeverSatisfied;
                        continue;
                    }
                    Verdict::Waiting(time) => {
                        result.next = [result.next, time].into_iter().flatten().min();
                        result.reasons[index] = Reason::Dependency;
                        continue;
                    }
                }
            }
            let Some(allocation) = free.allocate(entry, node) else {
                result.reasons[index] = if reservation.is_some() { Reason::Priority } else { Reason::Resources };
                if reservation.is_none() {
                    reservation = Some(Reservation::new(entry, node, &free, &running));
                }
                break;
            };
            if let Some(reserved) = &mut reservation
                && !reserved.leaves(&allocation, end(now, entry.limit))
            {
                result.reasons[index] = Reason::Priority;
                break;
            }
            free.take(&allocation);
            running.push((end(now, entry.limit), allocation.clone()));
            running_elements += 1;
            result.starts.push(Start { index, element, allocation });
        }
    }
    result
}

fn end(start: u64, limit: Option<u32>) -> u64 {
    start + limit.map_or(YEAR, |minutes| u64::from(minutes) * 60)
}

/// What the first job that waits will get.
struct Reservation {
    time: u64,
    /// What it leaves then.
    cpus: usize,
    memory: u64,
    gpus: usize,
}

impl Reservation {
    fn new(entry: &Entry, node: &Node, free: &Free, running: &[(u64, Allocation)]) -> Reservation {
        let mut free = free.clone();
        let mut ends: Vec<&(u64, Allocation)> = running.iter().collect();
        ends.sort_by_key(|(end, _)| *end);
        let mut time = u64::MAX;
        for (end, held) in ends {
            free.give_back(held);
            if free.allocate(entry, node).is_some() {
                time = *end;
                break;
            }
        }
        let memory = entry.memory.map_or(0, |bytes| if bytes == 0 { node.memory } else { bytes });
        Reservation {
            time,
            cpus: free.cpus.len().saturating_sub(needed(entry, node)),
            memory: free.memory.saturating_sub(memory),
            gpus: free.gpus.len().saturating_sub(entry.gpus as usize),
        }
    }

    /// Whether another job that ends then does not delay it; counts what it takes.
    fn leaves(&mut self, held: &Allocation, end: u64) -> bool {
        if end <= self.time {
            return true;
        }
        let memory = held.memory.unwrap_or(0);
        if held.cpus.len() > self.cpus || memory > self.memory || held.gpus.len() > self.gpus {
            return false;
        }
        self.cpus -= held.cpus.len();
        self.memory -= memory;
        self.gpus -= held.gpus.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(cpus: u32) -> Node {
        Node { name: "n".into(), cpus: (0..cpus).collect(), memory: 1000, gpus: vec![0, 1], ..Node::default() }
    }

    fn job(id: u32, cpus: u32, limit: Option<u32>) -> Entry {
        Entry { id, cpus, limit, ..Entry::default() }
    }

    fn running(id: u32, cpus: std::ops::Range<u32>, limit: Option<u32>) -> Entry {
        let allocation = Some(Allocation { cpus: cpus.collect(), ..Allocation::default() });
        Entry { allocation, started: Some(0), ..job(id, 0, limit) }
    }

    fn decide(entries: &[Entry]) -> Pass {
        pass(entries, &node(4), 0, |_, _| Verdict::Satisfied)
    }

    fn started(entries: &[Entry]) -> Vec<u32> {
        decide(entries).starts.iter().map(|start| entries[start.index].id).collect()
    }

    #[test]
    fn jobs_start_in_order_as_long_as_they_fit() {
        let list = [job(1, 2, None), job(2, 2, None), job(3, 1, None)];
        assert_eq!(started(&list), [1, 2]);
        assert_eq!(decide(&list).reasons, [Reason::None, Reason::None, Reason::Resources]);
        assert_eq!(decide(&list).starts[1].allocation.cpus, [2, 3]);
    }

    #[test]
    fn a_job_gets_the_processor_that_it_runs_on_already() {
        let near = |near| decide(&[Entry { near: Some(near), ..job(1, 2, None) }]).starts[0].allocation.cpus.clone();
        assert_eq!((near(0), near(1), near(3), near(9)), (vec![0, 1], vec![0, 1], vec![0, 3], vec![0, 1]));
    }

    #[test]
    fn a_short_job_passes_a_large_one_that_waits_only_without_delaying_it() {
        let list =
            [running(1, 0..2, Some(10)), job(2, 4, None), job(3, 1, Some(10)), job(4, 1, Some(11)), job(5, 1, None)];
        assert_eq!(started(&list), [3]);
        assert_eq!(decide(&list).reasons[1..], [Reason::Resources, Reason::None, Reason::Priority, Reason::Priority]);
        // What the large one will leave is free for all.
        let list = [running(1, 0..2, Some(10)), job(2, 3, None), job(3, 1, None), job(4, 1, None)];
        assert_eq!(started(&list), [3]);
    }

    #[test]
    fn memory_gpus_and_exclusive_use_are_respected() {
        let memory = |id, bytes| Entry { memory: Some(bytes), ..job(id, 1, None) };
        assert_eq!(started(&[memory(1, 600), memory(2, 600)]), [1]);
        assert_eq!(started(&[memory(1, 0), memory(2, 1)]), [1]);
        let gpus = |id, gpus| Entry { gpus, ..job(id, 1, None) };
        assert_eq!(started(&[gpus(1, 1), gpus(2, 2)]), [1]);
        assert_eq!(started(&[Entry { exclusive: true, ..job(1, 1, None) }, job(2, 1, None)]), [1]);
        assert!(!is_possible(&gpus(1, 3), &node(4)) && !is_possible(&job(1, 5, None), &node(4)));
    }

    #[test]
    fn what_is_held_or_too_early_or_depends_waits_and_does_not_stand_in_the_way() {
        let list = [
            Entry { held: true, ..job(1, 4, None) },
            Entry { begin: Some(60), ..job(2, 4, None) },
            Entry { dependency: "afterok:9".into(), ..job(3, 4, None) },
            job(4, 1, None),
        ];
        let pass = pass(&list, &node(4), 0, |_, _| Verdict::Waiting(None));
        assert_eq!(pass.reasons, [Reason::JobHeldUser, Reason::BeginTime, Reason::Dependency, Reason::None]);
        assert_eq!((pass.next, pass.starts.len()), (Some(60), 1));
    }

    #[test]
    fn elements_start_in_order_up_to_their_limit() {
        let array = Entry { waiting: Some("3-9".into()), array_limit: 3, ..job(1, 1, None) };
        let element = Entry { array: Some(1), ..running(2, 0..1, None) };
        let pass = decide(&[array, element]);
        assert_eq!(pass.starts.iter().filter_map(|start| start.element).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(pass.reasons[0], Reason::JobArrayTaskLimit);
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice(jobs in proptest::collection::vec((1u32..6, proptest::option::of(1u32..30), 0u32..3, any::<bool>()), 0..12)) {
            let entries: Vec<Entry> = jobs
                .into_iter()
                .enumerate()
                .map(|(at, (cpus, limit, gpus, exclusive))| Entry { gpus, exclusive, ..job(at as u32, cpus, limit) })
                .collect();
            let pass = decide(&entries);
            let mut cpus: Vec<u32> = pass.starts.iter().flat_map(|start| start.allocation.cpus.clone()).collect();
            let all = cpus.len();
            cpus.sort_unstable();
            cpus.dedup();
            prop_assert_eq!(cpus.len(), all);
            prop_assert!(all <= 4);
            // The first one that could ever run is never left behind on an empty machine.
            if let Some(first) = entries.iter().position(|entry| is_possible(entry, &node(4)))
                && first == 0 {
                prop_assert_eq!(pass.starts.first().map(|start| start.index), Some(0));
            }
        }
    }
}
