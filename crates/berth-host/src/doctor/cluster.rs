//! The check-up of all nodes, through Slurm, and one table by kind of fault.
//!
//! Each node prints a line for each finding, short enough for Slurm to pass it on in one piece; a report in one piece
//! would come back mixed with others'.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

use super::Report;
use super::Severity;

/// slurmstepd passes on a line in one piece up to 1 KiB.
const LONGEST: usize = 300;

/// Clocks of nodes that are further apart, in seconds, are a finding. Nodes do not start at the same instant.
const APART: u64 = 10;

/// What a node prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The node.
    pub node: String,
    /// The kind; empty in the line that says that the node has answered.
    pub kind: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// The command that mends it.
    pub mend: String,
    /// The node's clock.
    pub time: u64,
}

/// The lines of a node.
pub fn records(report: &Report, node: &str) -> Vec<Record> {
    let clip = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let record = |kind: &str, severity, what: &str, mend: &str| Record {
        node: node.to_owned(),
        kind: kind.to_owned(),
        severity,
        what: clip(what),
        mend: clip(mend),
        time: report.time,
    };
    let mut records = vec![record("", Severity::Advice, "", "")];
    records.extend(report.findings().map(|f| record(&f.kind, f.severity, &f.what, &f.mend)));
    records
}

/// Records in what came back; other lines are of programs between.
pub fn parse(text: &str) -> Vec<Record> {
    text.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect()
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The kind.
    pub kind: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub nodes: Vec<String>,
    /// What is wrong, as the first of them has it.
    pub what: String,
    /// The command that mends it.
    pub mend: String,
}

/// What all nodes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The faults, the worst and most frequent first.
    pub rows: Vec<Row>,
    /// Nodes where all is well.
    pub fine: Vec<String>,
    /// Nodes that were asked and did not answer.
    pub silent: Vec<String>,
}

/// Puts the lines of the nodes that were asked together.
pub fn summarize(records: &[Record], asked: &[String]) -> Summary {
    let answered: BTreeSet<&str> = records.iter().map(|record| record.node.as_str()).collect();
    let mut kinds: BTreeMap<&str, Row> = BTreeMap::new();
    for record in records.iter().filter(|record| !record.kind.is_empty()) {
        let row = kinds.entry(&record.kind).or_insert_with(|| Row {
            kind: record.kind.clone(),
            severity: record.severity,
            nodes: Vec::new(),
            what: record.what.clone(),
            mend: record.mend.clone(),
        });
        if !row.nodes.contains(&record.node) {
            row.nodes.push(record.node.clone());
        }
    }
    let ill: BTreeSet<&String> = kinds.values().flat_map(|row| &row.nodes).collect();
    let fine =
        answered.iter().filter(|node| !ill.iter().any(|ill| ill == *node)).map(|&node| node.to_owned()).collect();
    let silent = asked.iter().filter(|node| !answered.contains(node.as_str())).cloned().collect();
    let mut rows: Vec<Row> = kinds.into_values().collect();
    rows.extend(clocks(records));
    rows.sort_by_key(|row| (std::cmp::Reverse(row.severity), std::cmp::Reverse(row.nodes.len())));
    Summary { rows, fine, silent }
}

/// Nodes whose clocks differ from that of most.
fn clocks(records: &[Record]) -> Option<Row> {
    let mut times: Vec<u64> =
        records.iter().filter(|record| record.kind.is_empty()).map(|record| record.time).collect();
    times.sort_unstable();
    let middle = *times.get(times.len() / 2)?;
    let off = |record: &&Record| record.kind.is_empty() && record.time.abs_diff(middle) > APART;
    let nodes: Vec<String> = records.iter().filter(off).map(|record| record.node.clone()).collect();
    (!nodes.is_empty()).then(|| Row {
        kind: "cluster-clock".to_owned(),
        severity: Severity::Fault,
        nodes,
        what: format!("the clock differs by more than {APART} s from that of most nodes"),
        mend: "chronyc makestep    # munge bears 300 s".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: &str, kind: &str, severity: Severity, time: u64) -> Record {
        Record { node: node.into(), kind: kind.into(), severity, what: "what".into(), mend: "mend".into(), time }
    }

    #[test]
    fn nodes_are_put_together_by_kind_of_fault() {
        let mut text = String::new();
        for record in [
            record("n1", "", Severity::Advice, 100),
            record("n2", "", Severity::Advice, 100),
            record("n3", "", Severity::Advice, 101),
            record("n2", "mpi-no-pmix", Severity::Advice, 100),
            record("n1", "oci-missing", Severity::Fault, 100),
            record("n2", "oci-missing", Severity::Fault, 100),
        ] {
            text.push_str(&format!("{}\nsrun: error: n7: noise\n", serde_json::to_string(&record).unwrap()));
        }
        let asked = ["n1", "n2", "n3", "n4"].map(str::to_owned);
        let summary = summarize(&parse(&text), &asked);
        let rows: Vec<_> = summary.rows.iter().map(|row| (row.kind.as_str(), row.nodes.join(","))).collect();
        assert_eq!(rows, [("oci-missing", "n1,n2".to_owned()), ("mpi-no-pmix", "n2".to_owned())]);
        assert_eq!((summary.fine, summary.silent), (vec!["n3".to_owned()], vec!["n4".to_owned()]));
    }

    #[test]
    fn a_clock_that_is_off_is_found_by_comparing_nodes() {
        let records =
            [("n1", 100), ("n2", 102), ("n3", 700)].map(|(node, time)| record(node, "", Severity::Advice, time));
        let summary = summarize(&records, &[]);
        assert_eq!(summary.rows[0].kind, "cluster-clock");
        assert_eq!(summary.rows[0].nodes, ["n3"]);
    }

    #[test]
    fn a_line_is_short_enough_to_come_back_in_one_piece() {
        let long = "x".repeat(4000);
        let mut notes = crate::doctor::Notes::default();
        notes.fault("clock", long.clone()).mend(long);
        let sections = vec![crate::doctor::Section { name: "s".into(), notes }];
        let report = Report { host: "h".into(), time: 0, user: "u".into(), sections, milliseconds: 1 };
        for record in records(&report, "n1") {
            assert!(serde_json::to_string(&record).unwrap().len() < 1000);
        }
    }
}
