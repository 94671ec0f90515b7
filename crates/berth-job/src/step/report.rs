//! What `srun` says of tasks, and its exit code.

use std::collections::BTreeMap;

use crate::options::array::format_ranges;
use crate::record::Exit;
use crate::signal;

/// The exit that stands for all: the highest code, where a signal counts as 128 and its number.
pub fn highest(exits: &[Exit]) -> Exit {
    let value = |exit: &Exit| if exit.signal > 0 { 128 + u32::from(exit.signal) } else { u32::from(exit.code) };
    exits.iter().copied().max_by_key(value).unwrap_or_default()
}

/// Tasks, as `task 3` or `tasks 0-1,3`.
pub fn tasks(list: &[u32]) -> String {
    format!("task{} {}", if list.len() == 1 { "" } else { "s" }, format_ranges(list))
}

/// A line for each way in which tasks ended that is no success, in the order of their first tasks.
pub fn endings(node: &str, ended: &[(u32, Exit)]) -> Vec<String> {
    let mut groups: BTreeMap<(u8, u8), Vec<u32>> = BTreeMap::new();
    for (task, exit) in ended.iter().filter(|(_, exit)| !exit.is_success()) {
        groups.entry((exit.code, exit.signal)).or_default().push(*task);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.iter_mut().for_each(|(_, list)| list.sort_unstable());
    groups.sort_by_key(|(_, list)| list[0]);
    let describe = |code: u8, number: u8| {
        if number > 0 { signal::describe(i32::from(number)) } else { format!("Exited with exit code {code}") }
    };
    groups
        .into_iter()
        .map(|((code, number), list)| format!("srun: error: {node}: {}: {}", tasks(&list), describe(code, number)))
        .collect()
}

/// Which tasks run and which have ended, as `srun` tells it at Ctrl-C and when it gives up waiting.
pub fn status(step: &str, exits: &[Option<Exit>]) -> Vec<String> {
    let select = |wanted: fn(&Option<Exit>) -> bool| -> Vec<u32> {
        exits.iter().zip(0..).filter(|(exit, _)| wanted(exit)).map(|(_, task)| task).collect()
    };
    let running = select(|exit| exit.is_none());
    let fine = select(|exit| exit.is_some_and(Exit::is_success));
    let failed = select(|exit| exit.is_some_and(|exit| !exit.is_success()));
    [(running, "running"), (failed, "exited abnormally"), (fine, "exited")]
        .into_iter()
        .filter(|(list, _)| !list.is_empty())
        .map(|(list, word)| format!("srun: StepId={step} {}: {word}", tasks(&list)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u8, signal: u8) -> Exit {
        Exit { code, signal }
    }

    #[test]
    fn the_highest_exit_stands_for_all() {
        assert_eq!(highest(&[exit(3, 0), exit(0, 9), exit(1, 0)]), exit(0, 9));
        assert_eq!(highest(&[exit(200, 0), exit(0, 9)]), exit(200, 0));
        assert_eq!(highest(&[]), exit(0, 0));
    }

    #[test]
    fn tasks_that_end_alike_are_told_in_one_line() {
        let ended = [(3, exit(3, 0)), (0, exit(3, 0)), (1, exit(3, 0)), (2, exit(0, 9)), (4, exit(0, 0))];
        assert_eq!(
            endings("n1", &ended),
            ["srun: error: n1: tasks 0-1,3: Exited with exit code 3", "srun: error: n1: task 2: Killed"]
        );
    }
}
