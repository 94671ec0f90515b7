//! What the peers are known to fail, and why: `known-failures`.
//!
//! The list holds for the versions that it names. With these it must be right in both directions; with others it is only
//! told what has changed.

use std::collections::BTreeMap;

use testbed::harness::Outcome;

use crate::runtime::Runtime;

/// Begins the reason of a failure that is a race.
pub const SOMETIMES: &str = "sometimes:";

/// Begins the reason of a failure of what a runtime does not claim to have.
pub const NOT_OFFERED: &str = "not offered:";

/// The list.
#[derive(Debug)]
pub struct Known {
    /// Peer to the version for which the list holds.
    pub versions: BTreeMap<String, String>,
    /// Whether the installed version is that one.
    same: BTreeMap<String, bool>,
    /// Test to the reason of its failure.
    reasons: BTreeMap<String, String>,
}

impl Known {
    /// Reads the list.
    pub fn read() -> Known {
        let mut known = Known { versions: BTreeMap::new(), same: BTreeMap::new(), reasons: BTreeMap::new() };
        for line in include_str!("known-failures").lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (first, rest) = line.split_once(char::is_whitespace).expect("two words on every line");
            let rest = rest.trim();
            if first.contains("::") {
                let old = known.reasons.insert(first.to_owned(), rest.to_owned());
                assert!(old.is_none(), "{first} is listed twice");
            } else {
                known.same.insert(first.to_owned(), Runtime::version(first).as_deref() == Some(rest));
                known.versions.insert(first.to_owned(), rest.to_owned());
            }
        }
        known
    }

    /// Why a test is known to fail.
    pub fn reason(&self, test: &str) -> Option<&str> {
        self.reasons.get(test).map(String::as_str)
    }

    /// A test of the list that there is not.
    pub fn stray(&self, exists: impl Fn(&str) -> bool) -> Option<&str> {
        self.reasons.keys().map(String::as_str).find(|test| !exists(test))
    }

    /// What an outcome is worth.
    pub fn judge(&self, test: &str, outcome: Outcome) -> Outcome {
        let peer = test.split("::").next().unwrap_or_default();
        let Some(same) = self.same.get(peer) else { return outcome };
        match (self.reason(test), outcome) {
            (Some(why), Outcome::Failed(_)) => Outcome::Known(why.to_owned()),
            (Some(why), Outcome::Passed) if why.starts_with(SOMETIMES) => Outcome::Known(why.to_owned()),
            (Some(why), Outcome::Passed) if *same => {
                Outcome::Failed(format!("it passes, but known-failures says: {why}"))
            }
            (Some(why), Outcome::Passed) => {
                println!("{test} passes with this version of {peer}; known-failures says: {why}");
                Outcome::Passed
            }
            (None, Outcome::Failed(_)) if !same => Outcome::Known(format!("with this version of {peer}")),
            (_, outcome) => outcome,
        }
    }
}
