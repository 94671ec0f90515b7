//! The check-up of a host: what is wrong, what it breaks, and the command that mends it.
//!
//! A check is a function of a [`Host`]: files below a root, and [`Tries`], through which everything goes that is more than
//! reading (programs, namespaces, connections). Tests give both, with one fault in them; see `tests.rs`. Each check has its
//! own thread and all have one time limit, so that a dead file server or name server is a finding, not a hang.

pub mod cluster;
mod engines;
pub mod fix;
mod host;
mod ids;
mod kernel;
mod live;
mod network;
mod oci;
pub mod probe;
mod runtime_path;
mod scripts;
mod slurm;
mod store;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

pub use fix::Fix;
pub use host::Attempt;
pub use host::Host;
pub use host::Person;
pub use host::Places;
pub use host::Ran;
pub use host::Role;
pub use host::Space;
pub use host::Stat;
pub use host::Tries;
pub use live::Live;
pub use live::account;
pub use live::host as live;
pub use live::whoever_asks;

/// Longest that all checks together may take, where nothing else is wished.
pub const LIMIT: Duration = Duration::from_millis(1900);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, and could be better.
    Advice,
    /// Something that people will ask for does not work, or is not safe.
    Fault,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The kind of fault: a word that does not change.
    pub kind: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What does not work because of it.
    pub breaks: String,
    /// The command that mends it.
    pub mend: String,
    /// What `--fix` would do.
    #[serde(skip)]
    pub fix: Option<Fix>,
    /// What `--fix` did, or why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Result<String, String>>,
}

impl Finding {
    /// What does not work because of it.
    pub fn breaks(&mut self, text: impl Into<String>) -> &mut Finding {
        self.breaks = text.into();
        self
    }

    /// The command that mends it.
    pub fn mend(&mut self, text: impl Into<String>) -> &mut Finding {
        self.mend = text.into();
        self
    }

    /// What `--fix` does, which is also the command where none was said.
    pub fn fix(&mut self, fix: Fix) -> &mut Finding {
        if self.mend.is_empty() {
            self.mend = fix.command();
        }
        self.fix = Some(fix);
        self
    }
}

/// What a check found out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Notes {
    /// What is fine, a line each.
    pub fine: Vec<String>,
    /// What is not.
    pub findings: Vec<Finding>,
}

impl Notes {
    /// Something is as it should be.
    pub fn fine(&mut self, text: impl Into<String>) {
        self.fine.push(text.into());
    }

    /// Something does not work.
    pub fn fault(&mut self, kind: &str, what: impl Into<String>) -> &mut Finding {
        self.add(kind, Severity::Fault, what.into())
    }

    /// Something could be better.
    pub fn advice(&mut self, kind: &str, what: impl Into<String>) -> &mut Finding {
        self.add(kind, Severity::Advice, what.into())
    }

    fn add(&mut self, kind: &str, severity: Severity, what: String) -> &mut Finding {
        let (breaks, mend) = Default::default();
        self.findings.push(Finding { kind: kind.to_owned(), severity, what, breaks, mend, fix: None, done: None });
        self.findings.last_mut().expect("it was pushed")
    }
}

/// A check: its name, and what it does.
type Check = (&'static str, fn(&Host, &mut Notes));

/// All of them, in the order of the report.
const CHECKS: &[Check] = &[
    ("kernel", kernel::settings),
    ("namespaces", kernel::namespaces),
    ("container", kernel::container),
    ("devices", kernel::devices),
    ("control groups", kernel::control_groups),
    ("security modules", kernel::security_modules),
    ("sub-ids", ids::sub_ids),
    ("login", ids::run_user),
    ("store", store::check),
    ("Slurm", slurm::check),
    ("plugin", slurm::plugins),
    ("named containers", runtime_path::check),
    ("oci.conf", oci::check),
    ("munge", slurm::munge),
    ("MPI", slurm::mpi),
    ("scripts", scripts::check),
    ("devices of Slurm", scripts::gres),
    ("podman", engines::podman),
    ("docker", engines::docker),
    ("apptainer", engines::apptainer),
    ("enroot", engines::enroot),
    ("registries", network::registries),
    ("proxies", network::proxies),
    ("certificates", network::certificates),
    ("clock", network::clock),
];

/// What one check says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// The check.
    pub name: String,
    /// What it found out.
    #[serde(flatten)]
    pub notes: Notes,
}

/// What all checks say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The host's name.
    pub host: String,
    /// Seconds since 1970 at the host when it was checked.
    pub time: u64,
    /// For whom it was tried.
    pub user: String,
    /// The checks.
    pub sections: Vec<Section>,
    /// How long it took.
    pub milliseconds: u64,
}

impl Report {
    /// All findings.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.sections.iter().flat_map(|section| &section.notes.findings)
    }

    /// Whether something does not work.
    pub fn has_faults(&self) -> bool {
        self.findings().any(|finding| finding.severity == Severity::Fault && !matches!(finding.done, Some(Ok(_))))
    }

    /// Does what can be done safely. What is done is in the findings.
    pub fn fix(&mut self, host: &Host) {
        for section in &mut self.sections {
            for finding in &mut section.notes.findings {
                finding.done = finding.fix.as_ref().map(|fix| fix.apply(host));
            }
        }
    }
}

/// Checks the host.
pub fn check(host: &Arc<Host>) -> Report {
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel();
    for (index, (_, run)) in CHECKS.iter().enumerate() {
        let (host, sender) = (Arc::clone(host), sender.clone());
        thread::spawn(move || {
            let mut notes = Notes::default();
            run(&host, &mut notes);
            // Nobody listens any more once the time is over.
            let _ = sender.send((index, notes));
        });
    }
    drop(sender);
    let mut said: Vec<Option<Notes>> = CHECKS.iter().map(|_| None).collect();
    while let Ok((index, notes)) = receiver.recv_timeout(host.limit.saturating_sub(start.elapsed())) {
        said[index] = Some(notes);
    }
    let sections = CHECKS.iter().zip(said).map(|(check, notes)| Section {
        name: check.0.to_owned(),
        notes: notes.unwrap_or_else(|| unanswered(check.0, host.limit)),
    });
    Report {
        host: host.name.clone(),
        time: host.now(),
        user: host.person.name.clone(),
        sections: sections.collect(),
        milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

/// What is said of a check that did not end, or that a mistake of ours ended.
fn unanswered(check: &str, limit: Duration) -> Notes {
    let mut notes = Notes::default();
    notes
        .fault("no-answer", format!("the check of {check} had no answer within {} ms", limit.as_millis()))
        .breaks("something it asked does not answer: a file server, a name server or a daemon")
        .mend("df -h; scontrol ping; getent hosts localhost    # see which of them hangs");
    notes
}
