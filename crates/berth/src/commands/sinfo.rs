//! `berth sinfo`: what this machine has for jobs, as Slurm's `sinfo` shows a cluster.

use std::ffi::OsString;

use berth_job::node::Node;
use berth_job::queue::Queue;
use berth_job::record::PARTITION;
use berth_job::show::arguments::{Line, NONE, Row, Takes};
use berth_job::show::hostlist;
use berth_job::show::sinfo::{self, Facts};
use berth_job::show::{View, facts, json, json_node};

use crate::{ExitCode, jobs};

#[rustfmt::skip] // One row a line.
const OPTIONS: &[Row] = &[
    ('a', "all", Takes::Nothing), ('M', "clusters", Takes::Value), ('d', "dead", Takes::Nothing),
    ('e', "exact", Takes::Nothing), (NONE, "federation", Takes::Nothing), ('F', "future", Takes::Nothing),
    ('o', "format", Takes::Value), ('O', "Format", Takes::Value), (NONE, "help", Takes::Nothing),
    (NONE, "hide", Takes::Nothing), ('i', "iterate", Takes::Value), (NONE, "json", Takes::Optional),
    (NONE, "local", Takes::Nothing), ('l', "long", Takes::Nothing), ('n', "nodes", Takes::Value),
    ('N', "Node", Takes::Nothing), (NONE, "noconvert", Takes::Nothing), ('h', "noheader", Takes::Nothing),
    ('p', "partition", Takes::Value), ('r', "responding", Takes::Nothing), ('R', "list-reasons", Takes::Nothing),
    ('s', "summarize", Takes::Nothing), ('S', "sort", Takes::Value), ('t', "states", Takes::Value),
    ('T', "reservation", Takes::Nothing), (NONE, "usage", Takes::Nothing), ('v', "verbose", Takes::Nothing),
    ('V', "version", Takes::Nothing), (NONE, "yaml", Takes::Optional),
];

const HELP: &str = "Usage: sinfo [OPTIONS]
  -o, --format=FORMAT     what a line shows: text, and %[.][WIDTH]LETTER, as sinfo(1) lists the letters
  -O, --Format=FIELDS     likewise, by names: NAME[:[.]WIDTH],...
      --json              a JSON document
  -l, --long              more columns
  -N, --Node              by nodes
  -n, --nodes=NODES       these nodes only
  -h, --noheader          without the header
  -p, --partition=NAMES   these partitions only
  -R, --list-reasons      why nodes are down
  -s, --summarize         one line a partition
  -t, --states=STATES     nodes in these states
  -V, --version           the version";

/// Does it, with the arguments behind the verb.
pub fn main(arguments: &[OsString]) -> ExitCode {
    jobs::print_lines(("sinfo", OPTIONS, HELP), arguments, lines)
}

fn lines(line: &Line) -> Result<Vec<String>, String> {
    let wanted = line.list("states");
    let is_state = |word: &str| sinfo::STATES.iter().any(|state| state.eq_ignore_ascii_case(word));
    if let Some(word) = wanted.iter().find(|word| !is_state(word)) {
        let valid = sinfo::STATES.join(",");
        return Err(format!("sinfo: error: Bad state string: \"{word}\"\nsinfo: error: valid states: {valid}"));
    }
    let queue = Queue::open().map_err(|error| format!("sinfo: error: {error}"))?;
    let node = Node { gpus: jobs::gpus(), ..Node::detect() };
    let view = View::active(&queue, node).map_err(|error| format!("sinfo: error: {error}"))?;
    let mut node = Facts::of(&view);
    let is_named = !line.has("nodes") || {
        let names = hostlist::expand(line.get("nodes").unwrap_or_default()).unwrap_or_default();
        names.iter().any(|name| name == node.name())
    };
    node.is_left_out = !is_named || (!wanted.is_empty() && !node.has_state(&wanted));
    let is_partition = !line.has("partition") || line.list("partition").contains(&PARTITION);
    if line.has("json") {
        let shown = if is_partition && !node.is_left_out { vec![json_node::sinfo(&view)] } else { Vec::new() };
        return Ok(vec![json::document("sinfo", shown, "sinfo", &view)]);
    }
    let mut layout = match (line.get("Format"), line.get("format")) {
        (Some(names), _) => sinfo::by_names(names),
        (None, Some(letters)) => sinfo::by_letters(letters),
        (None, None) => sinfo::by_letters(&default_format(line)),
    };
    for unknown in &layout.unknown {
        eprintln!("Invalid node format specification: {unknown}");
    }
    if line.has("Node") && !line.has("format") && !line.has("Format") {
        sinfo::widen_nodes(&mut layout, &node);
    }
    let mut lines = Vec::new();
    if line.has("long") && !line.has("noheader") {
        lines.push(facts::date(view.now));
    }
    if !line.has("noheader") {
        lines.push(sinfo::header(&layout));
    }
    // A node that is left out leaves its partition, but not in a list of nodes.
    let by_nodes = line.has("Node") || line.has("list-reasons");
    if is_partition && !line.has("list-reasons") && !(by_nodes && node.is_left_out) {
        lines.push(sinfo::line(&layout, &node));
    }
    Ok(lines)
}

fn default_format(line: &Line) -> String {
    let format = match (line.has("list-reasons"), line.has("summarize"), line.has("Node"), line.has("long")) {
        (true, ..) => sinfo::REASONS,
        (_, true, ..) => sinfo::SUMMARY,
        (_, _, true, true) => sinfo::NODE_LONG,
        (_, _, true, false) => sinfo::NODE,
        (_, _, _, true) => sinfo::LONG,
        _ => {
            let variable = std::env::var("SINFO_FORMAT").ok().filter(|value| !value.is_empty());
            return variable.unwrap_or_else(|| sinfo::DEFAULT.to_owned());
        }
    };
    format.to_owned()
}
