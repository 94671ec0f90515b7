//! Configuration that is shown, explained, written and taken back.
//!
//! A [`Plan`] is the files as they are to be. [`show`] compares them with what is there; [`write`] writes what differs,
//! after it has kept what was there in a journal:
//!
//! ```text
//! /var/lib/berth/setup/slurm/journal.json   which files, their permissions and owners, folders that were made
//! /var/lib/berth/setup/slurm/0.before       what was there when it was first written over
//! /var/lib/berth/setup/slurm/0.after        what was written last
//! ```
//!
//! The journal is complete before a file changes, and each file changes by one rename, so that [`undo`] restores every byte
//! whenever a write was interrupted. What somebody else changed since is never overwritten by `undo`.

pub mod diff;
mod engines;
mod enroot;
mod gres;
mod journal;
mod slurm;

use std::io;

use crate::doctor::Host;
use crate::slurm::oci::Line;

pub use engines::docker;
pub use engines::podman;
pub use enroot::enroot;
pub use journal::undo;
pub use journal::write;
pub use slurm::slurm;

/// What a plan depends on beside the host.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The plugin, where it is not in one of the usual places.
    pub plugin: Option<String>,
    /// Whether Slurm is to fail without the plugin.
    pub required: bool,
    /// Whether an epilog is wanted.
    pub epilog: bool,
    /// A folder on a local file system for images of engines.
    pub storage: Option<String>,
    /// Registries for short names.
    pub registries: Vec<String>,
    /// Whether rootless docker is to use the host's network.
    pub host_network: bool,
}

/// A file as it is to be.
#[derive(Clone, Debug)]
pub struct Change {
    /// The file.
    pub path: String,
    /// What is to be in it.
    pub content: String,
    /// Permissions of a new file; one that is there keeps its own.
    pub mode: u32,
    /// Lines that are ours, and why they are there.
    pub lines: Vec<Line>,
}

/// Files as they are to be, and what is to be done beside.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// The files.
    pub changes: Vec<Change>,
    /// Folders that have to be there, with their permissions.
    pub folders: Vec<(String, u32)>,
    /// What has to be known or done by hand.
    pub notes: Vec<String>,
}

/// Why there is no plan, or why it cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to set up.
    #[error("{0}")]
    Unfit(String),
    /// A file of the plan.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The journal.
    #[error("cannot keep what was there in {path}: {source}")]
    Journal {
        /// The journal.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else's changes would be lost.
    #[error("{} changed since it was written", .0.join(", "))]
    Changed(Vec<String>),
}

/// What a plan would change, as lines to print: the differences, with the reason below each line of ours.
pub fn show(host: &Host, plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for change in &plan.changes {
        let before = host.read(&change.path).ok();
        if before.as_deref() == Some(&change.content) {
            lines.push(format!("{}: as it should be", change.path));
            continue;
        }
        lines.push(format!("{}: {}", change.path, if before.is_some() { "changed" } else { "new" }));
        for (mark, text) in diff::lines(before.as_deref().unwrap_or_default(), &change.content) {
            lines.push(format!("  {mark} {text}").trim_end().to_owned());
            let ours = change.lines.iter().find(|line| line.text == text && mark == '+');
            lines.extend(ours.filter(|line| !line.why.is_empty()).map(|line| format!("      {}", line.why)));
        }
    }
    for (path, mode) in plan.folders.iter().filter(|(path, _)| !host.exists(path)) {
        lines.push(format!("{path}: new folder, mode {mode:04o}"));
    }
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines
}

/// Whether everything is as planned.
pub fn is_done(host: &Host, plan: &Plan) -> bool {
    let same = |change: &Change| host.read(&change.path).is_ok_and(|text| text == change.content);
    plan.changes.iter().all(same) && plan.folders.iter().all(|(path, _)| host.exists(path))
}

/// A line with its reason.
fn line(text: impl Into<String>, why: &'static str) -> Line {
    Line { text: text.into(), why }
}

/// A file of such lines.
fn file(path: impl Into<String>, lines: Vec<Line>) -> Change {
    let content = lines.iter().map(|line| format!("{}\n", line.text)).collect();
    Change { path: path.into(), content, mode: 0o644, lines }
}

#[cfg(test)]
mod tests;
