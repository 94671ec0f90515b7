//! Writes and checks `docs/conformance.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use testbed::harness::Need;
use testbed::harness::Outcome;

use crate::known;
use crate::known::Known;
use crate::property::Property;
use crate::property::Section;
use crate::runtime;

/// Outcome of each test.
pub type Outcomes = BTreeMap<String, Cell>;

/// What the table says of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Shown.
    Pass,
    /// Not shown, and why where it is known.
    Fail(String),
    /// Not run on this machine.
    NotRun,
}

impl Cell {
    /// The cell for an outcome.
    pub fn of(outcome: &Outcome) -> Cell {
        match outcome {
            Outcome::Passed => Cell::Pass,
            Outcome::Failed(_) => Cell::Fail(String::new()),
            Outcome::Known(why) => Cell::Fail(why.clone()),
            Outcome::Skipped(_) => Cell::NotRun,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Cell::Pass => "yes",
            Cell::Fail(why) if why.starts_with(known::NOT_OFFERED) => "not offered",
            Cell::Fail(why) if why.starts_with(known::SOMETIMES) => "sometimes",
            Cell::Fail(_) => "no",
            Cell::NotRun => "not run",
        }
    }
}

/// Writes the table, or says how the one in the documentation differs in what is berth's own.
pub fn write_or_check(sections: &[Section], outcomes: &Outcomes, known: &Known, write: bool) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    let new = document(sections, outcomes, known);
    if write {
        return fs::write(&path, new).map_err(|error| format!("{}: {error}", path.display()));
    }
    if outcomes.values().any(|cell| *cell == Cell::NotRun) {
        return Ok(());
    }
    let old = fs::read_to_string(&path).unwrap_or_default();
    if own(&old) == own(&new) {
        return Ok(());
    }
    Err("docs/conformance.md does not tell what was measured: cargo test -p testbed --test conformance -- --write"
        .to_owned())
}

/// The rows without the peers' columns.
fn own(document: &str) -> Vec<String> {
    let rows = document.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| row.rsplitn(4, '|').nth(3).map(|cells| cells.trim().to_owned())).collect()
}

fn document(sections: &[Section], outcomes: &Outcomes, known: &Known) -> String {
    let mut text = String::from(INTRODUCTION);
    let versions: Vec<String> = known.versions.iter().map(|(peer, version)| format!("{peer} {version}")).collect();
    let _ = writeln!(text, "The peers are those of Debian 12: {}.\n", versions.join(" and "));
    text.push_str("|  | tests | berth | crun | runc |\n|---|---|---|---|---|\n");
    for section in sections {
        let _ = write!(text, "| {} | {} ", section.title, section.properties.len());
        for name in runtime::NAMES {
            let passed =
                section.properties.iter().filter(|property| cell(name, section, property, outcomes) == Cell::Pass);
            let _ = write!(text, "| {} ", passed.count());
        }
        text.push_str("|\n");
    }
    let mut notes = Vec::new();
    for section in sections {
        let _ = write!(text, "\n## {}\n", section.title);
        text.push_str("| property | behaviour | who | berth | crun | runc |\n|---|---|---|---|---|---|\n");
        let mut last = "";
        for property in section.properties {
            let of = if property.of == last { String::new() } else { format!("`{}`", property.of) };
            last = property.of;
            let behaviour = property.case.name.replace('_', " ");
            let who = if property.case.needs.contains(&Need::Root) { "root" } else { "user" };
            let _ = write!(text, "| {of} | {behaviour} | {who} ");
            for name in runtime::NAMES {
                let cell = cell(name, section, property, outcomes);
                let _ = write!(text, "| {}", cell.word());
                if let Cell::Fail(why) = &cell
                    && !why.is_empty()
                {
                    let note = format!("{name}: {}", why);
                    let number = notes.iter().position(|old| *old == note).unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    let _ = write!(text, " ({})", number + 1);
                }
                text.push(' ');
            }
            text.push_str("|\n");
        }
    }
    text.push_str("\n## Why not\n");
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", number + 1);
    }
    text
}

fn cell(name: &str, section: &Section, property: &Property, outcomes: &Outcomes) -> Cell {
    outcomes.get(&format!("{name}::{}::{}", section.name, property.case.name)).cloned().unwrap_or(Cell::NotRun)
}

const INTRODUCTION: &str = "\
# Conformance

Which properties of the OCI runtime specification 1.2 hold, for `berth runtime` and for its peers. Each line is one test of
`testbed/tests/conformance`, the same for all three, judged from inside the container or by what the kernel tells of it.
*Who* is who calls the runtime: an ordinary user in a user namespace of his own, or root.

This page is written by the tests (`cargo test -p testbed --test conformance -- --write`), and the tests fail where berth's
column or the list of properties is not what it says. Why a peer fails is told at the end of the page; *sometimes* is a race, and
*not offered* is what its version does not have.

";
