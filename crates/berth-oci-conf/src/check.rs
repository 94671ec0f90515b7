//! What is wrong with a file, for a release: what slurmstepd refuses, what does not do what it looks like, what lets users
//! be somebody else; and what to write instead.
//!
//! Each rule is a function that looks for one thing, listed in [`RULES`]. What they say of releases was tried with slurmstepd
//! of 22.05, 24.11 and 26.05.

mod lines;
mod security;
mod shell;
mod syntax;
mod values;
mod ways;

use std::fmt;

use serde::Serialize;

use crate::document::Document;
use crate::document::Entry;
use crate::document::Position;
use crate::keys::COMMANDS;
use crate::keys::Key;
use crate::keys::boolean;
use crate::release::Release;
use shell::Line;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Steps fail, or somebody can be somebody else.
    Error,
    /// It works, and something is lost.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule that found it.
    pub rule: &'static str,
    /// Where it is; the beginning of the file for what is missing.
    pub at: Position,
    /// What it is, and what comes of it.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Everything that is wrong with a file for a release, in the order of the file.
pub fn check(document: &Document, release: Release) -> Vec<Finding> {
    let subject = Subject::new(document, release);
    let mut findings = Vec::new();
    for (rule, look) in RULES {
        look(&subject, &mut Report { rule, findings: &mut findings });
    }
    // What comes of a mistake is beside the point until that is mended: what is missing when a line could not be read, and
    // anything in a line whose key is not known.
    let unknown: Vec<Position> = findings.iter().filter(|one| one.rule == "unknown-key").map(|one| one.at).collect();
    let meant = findings.iter().any(|one| one.rule == "unknown-key" && one.remedy.ends_with(values::MEANT));
    let unread = meant || findings.iter().any(|one| one.rule == "syntax" && one.severity == Severity::Error);
    findings.retain(|one| match one.rule {
        "unknown-key" | "syntax" => true,
        "incomplete" if unread => false,
        _ => !unknown.iter().any(|at| (at.file, at.line) == (one.at.file, one.at.line)),
    });
    findings.sort_by_key(|one| (one.at, one.severity));
    findings
}

/// What rules look at.
struct Subject<'a> {
    document: &'a Document,
    release: Release,
    /// Whether no config.json is read.
    ignores: bool,
    /// The commands that count, in the order of [`COMMANDS`].
    commands: Vec<Command<'a>>,
}

/// One of the six commands.
struct Command<'a> {
    key: &'static str,
    entry: &'a Entry,
    line: Line<'a>,
}

impl<'a> Subject<'a> {
    fn new(document: &'a Document, release: Release) -> Subject<'a> {
        let commands = COMMANDS.iter().filter_map(|&key| {
            let entry = document.last(key)?;
            Some(Command { key, entry, line: Line::of(&entry.value) })
        });
        let ignores = document.last("IgnoreFileConfigJson").and_then(|entry| boolean(&entry.value)).unwrap_or(false);
        Subject { document, release, ignores: ignores && release.rewrites_per_task(), commands: commands.collect() }
    }

    fn command(&self, key: &str) -> Option<&Command<'a>> {
        self.commands.iter().find(|command| command.key == key)
    }

    /// The entry of a key that counts, if the release knows it.
    fn value(&self, key: &str) -> Option<&'a Entry> {
        Key::named(key).filter(|known| known.since <= self.release)?;
        self.document.last(key)
    }

    /// The command that starts a container: `RunTimeRun`, or else `RunTimeCreate`.
    fn starter(&self) -> Option<&Command<'a>> {
        self.command("RunTimeRun").or_else(|| self.command("RunTimeCreate"))
    }

    /// Whether containers are created and started.
    fn creates(&self) -> bool {
        self.command("RunTimeRun").is_none() && self.command("RunTimeCreate").is_some()
    }
}

/// The place of what is nowhere.
const START: Position = Position { file: 0, line: 1, column: 1 };

/// Where a rule says what it found.
struct Report<'a> {
    rule: &'static str,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    fn error(&mut self, at: Position, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, at, message.into(), remedy.into());
    }

    fn warning(&mut self, at: Position, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, at, message.into(), remedy.into());
    }

    fn add(&mut self, severity: Severity, at: Position, message: String, remedy: String) {
        self.findings.push(Finding { severity, rule: self.rule, at, message, remedy });
    }
}

type Rule = fn(&Subject<'_>, &mut Report<'_>);

/// All rules, by the names that are printed.
static RULES: &[(&str, Rule)] = &[
    ("syntax", syntax::unreadable),
    ("comment-in-quotes", syntax::comments_in_quotes),
    ("escaped-quote", syntax::escaped_quotes),
    ("lost-backslash", syntax::lost_backslashes),
    ("literal-quote", syntax::literal_quotes),
    ("operator", syntax::operators),
    ("set-twice", syntax::set_twice),
    ("unknown-key", values::unknown_keys),
    ("value", values::wrong_values),
    ("unknown-pattern", values::unknown_patterns),
    ("regex", values::no_regex),
    ("regex-scope", values::scope_of_regex),
    ("disable-hooks", values::hooks),
    ("log-level", values::log_levels),
    ("debug-flags", values::debug_flags),
    ("container-path", values::container_path),
    ("mount-spool-dir", values::mount_spool_dir),
    ("disable-cleanup", values::cleanup),
    ("environment", values::environment),
    ("env-file", values::env_file),
    ("incomplete", ways::incomplete),
    ("empty-command", ways::empty_commands),
    ("create-start", ways::create_start),
    ("never-called", ways::never_called),
    ("no-query", ways::no_query),
    ("query-output", ways::query_output),
    ("no-exec", lines::no_exec),
    ("exec-assignment", lines::exec_assignment),
    ("after-exec", lines::after_exec),
    ("background", lines::background),
    ("detached", lines::detached),
    ("terminal", lines::terminal),
    ("no-arguments", lines::no_arguments),
    ("lost-command", lines::lost_command),
    ("lost-container", lines::lost_container),
    ("quoted-arguments", lines::quoted_arguments),
    ("no-process", lines::no_process),
    ("shared-id", lines::shared_id),
    ("different-id", lines::different_ids),
    ("different-root", lines::different_roots),
    ("slurmd-environment", lines::slurmd_environment),
    ("cgroup", lines::other_cgroup),
    ("daemon", lines::daemons),
    ("user-string", security::user_strings),
    ("unquoted", security::unquoted_strings),
    ("sudo", security::sudo),
    ("open-root", security::open_roots),
    ("open-path", security::open_paths),
    ("user-state", security::user_state),
    ("user-file", security::user_files),
];

/// The names of all rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(name, _)| *name)
}
