//! `sinfo`: the machine as a cluster of one node and one partition.

use super::View;
use super::facts;
use super::layout::Layout;
use crate::record::{PARTITION, State};

/// The layout without an option.
pub const DEFAULT: &str = "%9P %.5a %.10l %.6D %.6t %N";
/// The layout of `-l`.
pub const LONG: &str = "%9P %.5a %.10l %.10s %.4r %.8h %.10g %.6D %.11T %.11i %N";
/// The layout of `-N`.
pub const NODE: &str = "%N %.6D %.9P %6t";
/// The layout of `-N -l`.
pub const NODE_LONG: &str = "%N %.6D %.9P %.11T %4c %.8z %.6m %.8d %.6w %.8f %20E";
/// The layout of `-s`.
pub const SUMMARY: &str = "%9P %.5a %.10l %.16F %N";
/// The layout of `-R`.
pub const REASONS: &str = "%20E %9u %19H %N";

/// The node, with what of it is in use.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    view: &'a View,
    /// CPUs that jobs hold.
    pub allocated_cpus: u32,
    /// Memory that jobs hold, in bytes.
    pub allocated_memory: u64,
    /// GPUs that jobs hold.
    pub allocated_gpus: u32,
    /// Whether a filter left the node out, so that the partition is shown without any.
    pub is_left_out: bool,
}

impl<'a> Facts<'a> {
    /// Looks at the jobs that run.
    pub fn of(view: &'a View) -> Facts<'a> {
        let held = || {
            let jobs = view.jobs.iter().filter(|job| matches!(job.state, State::Running | State::Completing));
            jobs.filter_map(|job| Some((job, job.allocation.as_ref()?)))
        };
        Facts {
            view,
            allocated_cpus: held().map(|(_, held)| held.cpus.len() as u32).sum(),
            allocated_memory: held().map(|(job, held)| held.memory.or_else(|| facts::memory(job)).unwrap_or(0)).sum(),
            allocated_gpus: held().map(|(_, held)| held.gpus.len() as u32).sum(),
            is_left_out: false,
        }
    }

    /// The node's name.
    pub fn name(&self) -> &'a str {
        &self.view.node.name
    }

    /// CPUs in all.
    pub fn cpus(&self) -> u32 {
        self.view.node.cpus.len() as u32
    }

    /// CPUs that nobody holds.
    pub fn idle_cpus(&self) -> u32 {
        self.cpus().saturating_sub(self.allocated_cpus)
    }

    /// Memory in all, in MiB.
    pub fn memory(&self) -> u64 {
        self.view.node.memory >> 20
    }

    /// `idle`, `mixed` or `allocated`.
    pub fn state(&self) -> &'static str {
        match self.allocated_cpus {
            0 => "idle",
            held if held < self.cpus() => "mixed",
            _ => "allocated",
        }
    }

    fn short_state(&self) -> &'static str {
        match self.state() {
            "mixed" => "mix",
            "allocated" => "alloc",
            idle => idle,
        }
    }

    /// Generic resources: `gpu:2`.
    pub fn gres(&self) -> Option<String> {
        let count = self.view.node.gpus.len();
        (count > 0).then(|| format!("gpu:{count}"))
    }

    /// As a partition's TRES: `cpu=4,mem=4G,node=1,billing=4`.
    pub fn tres(&self) -> String {
        facts::tres(self.cpus(), Some(self.view.node.memory), self.view.node.gpus.len() as u32, true)
    }

    /// Whether one of these states (long or short, in any case) is the node's.
    pub fn has_state(&self, words: &[&str]) -> bool {
        words.iter().any(|word| {
            let word = word.to_ascii_lowercase();
            word == "all" || [self.state(), self.short_state()].contains(&word.as_str())
        })
    }
}

/// States that `-t` accepts.
pub const STATES: [&str; 26] = [
    "unknown",
    "down",
    "idle",
    "allocated",
    "mixed",
    "future",
    "drain",
    "drained",
    "draining",
    "no_respond",
    "reserved",
    "planned",
    "blocked",
    "cloud",
    "completing",
    "powering_down",
    "powered_down",
    "power_down",
    "powering_up",
    "fail",
    "maint",
    "reboot",
    "alloc",
    "mix",
    "comp",
    "all",
];

/// A field.
#[derive(Debug)]
pub struct Field {
    letter: char,
    name: &'static str,
    header: &'static str,
    value: fn(&Facts<'_>) -> String,
}

impl Field {
    fn by_letter(letter: char) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.letter == letter && letter != NONE)
    }

    fn by_name(name: &str) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.name == name && !name.is_empty())
    }
}

/// For fields that have no letter.
const NONE: char = '\0';

const fn row(letter: char, name: &'static str, header: &'static str, value: fn(&Facts<'_>) -> String) -> Field {
    Field { letter, name, header, value }
}

#[rustfmt::skip] // One row a line.
const FIELDS: &[Field] = &[
    row('a', "available", "AVAIL", |_| "up".into()),
    row('A', "nodeai", "NODES(A/I)", |node| node.counts(|allocated, idle| format!("{allocated}/{idle}"))),
    row('b', "features_act", "ACTIVE_FEATURES", |_| "(null)".into()),
    row('B', "maxcpuspernode", "MAX_CPUS_PER_NODE", |_| "UNLIMITED".into()),
    row('c', "cpus", "CPUS", |node| node.cpus().to_string()),
    row('C', "cpusstate", "CPUS(A/I/O/T)", |node| format!("{}/{}/0/{}", node.allocated_cpus, node.idle_cpus(), node.cpus())),
    row('d', "disk", "TMP_DISK", |_| "0".into()),
    row('D', "nodes", "NODES", |node| u8::from(!node.is_left_out).to_string()),
    row('e', "freemem", "FREE_MEM", |_| super::json_node::free_memory().to_string()),
    row('E', "reason", "REASON", |_| "none".into()),
    row('f', "features", "AVAIL_FEATURES", |_| "(null)".into()),
    row('F', "nodeaiot", "NODES(A/I/O/T)", |node| node.counts(|allocated, idle| format!("{allocated}/{idle}/0/1"))),
    row('g', "groups", "GROUPS", |_| "all".into()),
    row('G', "gres", "GRES", |node| node.gres().unwrap_or_else(|| "(null)".into())),
    row('h', "oversubscribe", "OVERSUBSCRIBE", |_| "NO".into()),
    row('H', "timestamp", "TIMESTAMP", |_| "Unknown".into()),
    row('i', "reservation", "RESERVATION", |_| String::new()),
    row('I', "priorityjobfactor", "PRIO_JOB_FACTOR", |_| "1".into()),
    row('l', "time", "TIMELIMIT", |_| "infinite".into()),
    row('L', "defaulttime", "DEFAULTTIME", |_| "n/a".into()),
    row('m', "memory", "MEMORY", |node| node.memory().to_string()),
    row('M', "preemptmode", "PREEMPT_MODE", |_| "OFF".into()),
    row('n', "nodehost", "HOSTNAMES", |node| node.if_shown(node.name())),
    row('N', "nodelist", "NODELIST", |node| node.if_shown(node.name())),
    row('o', "nodeaddr", "NODE_ADDR", |node| node.if_shown(node.name())),
    row('O', "cpusload", "CPU_LOAD", |_| super::json_node::load()),
    row('p', "prioritytier", "PRIO_TIER", |_| "1".into()),
    row('P', "partition", "PARTITION", |_| format!("{PARTITION}*")),
    row('r', "root", "ROOT", |_| "no".into()),
    row('R', "partitionname", "PARTITION", |_| PARTITION.into()),
    row('s', "size", "JOB_SIZE", |_| "1-infinite".into()),
    row('S', "allocnodes", "ALLOCNODES", |_| "all".into()),
    row('t', "statecompact", "STATE", |node| if node.is_left_out { "n/a" } else { node.short_state() }.into()),
    row('T', "statelong", "STATE", |node| if node.is_left_out { "n/a" } else { node.state() }.into()),
    row('u', "user", "USER", |_| "Unknown".into()),
    row('U', "userlong", "USER", |_| "Unknown".into()),
    row('v', "version", "VERSION", |_| env!("CARGO_PKG_VERSION").into()),
    row('V', "cluster", "CLUSTER", |_| "N/A".into()),
    row('w', "weight", "WEIGHT", |_| "1".into()),
    row('X', "sockets", "SOCKETS", |node| node.cpus().to_string()),
    row('Y', "cores", "CORES", |_| "1".into()),
    row('z', "socketcorethread", "S:C:T", |node| format!("{}:1:1", node.cpus())),
    row('Z', "threads", "THREADS", |_| "1".into()),
    row(NONE, "allocmem", "ALLOCMEM", |node| (node.allocated_memory >> 20).to_string()),
    row(NONE, "comment", "COMMENT", |_| "(null)".into()),
    row(NONE, "gresused", "GRES_USED", |node| match node.gres() {
        Some(_) => format!("gpu:{}", node.allocated_gpus),
        None => "(null)".into(),
    }),
    row(NONE, "port", "PORT", |_| "0".into()),
    row(NONE, "statecomplete", "STATECOMPLETE", |node| node.state().into()),
];

impl Facts<'_> {
    fn counts(&self, text: impl Fn(u8, u8) -> String) -> String {
        let used = u8::from(self.allocated_cpus > 0);
        text(used, 1 - used)
    }

    fn if_shown(&self, text: &str) -> String {
        if self.is_left_out { String::new() } else { text.to_owned() }
    }
}

/// How a line of `-o` is laid out. The names of nodes take the room of the longest one, as Slurm makes it with `-N`.
pub fn by_letters(format: &str) -> Layout<&'static Field> {
    Layout::by_letters(format, Field::by_letter)
}

/// How a line of `-O` is laid out.
pub fn by_names(format: &str) -> Layout<&'static Field> {
    Layout::by_names(format, Field::by_name)
}

/// With `-N`, nodes have a column that fits them.
pub fn widen_nodes(layout: &mut Layout<&'static Field>, node: &Facts<'_>) {
    for column in layout.columns.iter_mut().filter(|column| column.field.letter == 'N') {
        column.width = node.name().chars().count().max("NODELIST ".len());
    }
}

/// The header's line.
pub fn header(layout: &Layout<&'static Field>) -> String {
    layout.line(|field| field.header.to_owned())
}

/// The node's line.
pub fn line(layout: &Layout<&'static Field>, node: &Facts<'_>) -> String {
    layout.line(|field| (field.value)(node))
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn shown(format: &str, change: impl Fn(&mut View)) -> String {
        let mut view = example::view();
        change(&mut view);
        let layout = by_letters(format);
        let node = Facts::of(&view);
        format!("{}\n{}", header(&layout), line(&layout, &node))
    }

    fn idle(view: &mut View) {
        view.jobs.clear();
    }

    /// Slurm's sinfo printed this, but for the partition's name.
    #[test]
    fn the_tables_are_slurms() {
        assert_eq!(
            shown(DEFAULT, idle),
            "PARTITION AVAIL  TIMELIMIT  NODES  STATE NODELIST\nlocal*       up   infinite      1   idle n1"
        );
        assert_eq!(
            shown(LONG, |_| ()),
            "PARTITION AVAIL  TIMELIMIT   JOB_SIZE ROOT OVERSUBS     GROUPS  NODES       STATE RESERVATION NODELIST\n\
             local*       up   infinite 1-infinite   no       NO        all      1       mixed             n1"
        );
        assert_eq!(
            shown(SUMMARY, idle),
            "PARTITION AVAIL  TIMELIMIT   NODES(A/I/O/T) NODELIST\nlocal*       up   infinite          0/1/0/1 n1"
        );
        assert_eq!(
            shown("%C %T %t %A %F", |_| ()),
            "CPUS(A/I/O/T) STATE STATE NODES(A/I) NODES(A/I/O/T)\n2/2/0/4 mixed mix 1/0 1/0/0/1"
        );
    }

    #[test]
    fn nodes_have_a_column_that_fits_them() {
        let view = example::view();
        let node = Facts::of(&view);
        let mut layout = by_letters(NODE);
        widen_nodes(&mut layout, &node);
        assert_eq!(header(&layout), "NODELIST   NODES PARTITION STATE ");
        assert_eq!(line(&layout, &node), "n1             1    local* mix   ");
    }

    #[test]
    fn a_node_that_is_left_out_leaves_the_partition() {
        let view = example::view();
        let node = Facts { is_left_out: true, ..Facts::of(&view) };
        assert_eq!(line(&by_letters(DEFAULT), &node), "local*       up   infinite      0    n/a ");
        assert!(Facts::of(&view).has_state(&["MIX"]) && !Facts::of(&view).has_state(&["idle", "allocated"]));
    }

    #[test]
    fn letters_and_names_are_known_once() {
        let mut letters: Vec<char> = FIELDS.iter().map(|field| field.letter).filter(|&c| c != NONE).collect();
        let all = letters.len();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), all);
        assert_eq!(by_letters("%k %W").unknown, ["k", "W"]);
    }
}
