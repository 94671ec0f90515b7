//! Keys and values, each for itself.

use super::Report;
use super::START;
use super::Subject;
use crate::keys::EnvFile;
use crate::keys::Form;
use crate::keys::HOOKS;
use crate::keys::KEYS;
use crate::keys::Key;
use crate::keys::LOG_LEVELS;
use crate::keys::boolean;
use crate::patterns;
use crate::patterns::NotExpanded;
use crate::patterns::Piece;
use crate::regex::Regex;
use crate::release::Release;

pub fn unknown_keys(subject: &Subject<'_>, report: &mut Report<'_>) {
    let release = subject.release;
    for entry in &subject.document.entries {
        let (message, remedy) = match Key::named(&entry.key) {
            Some(key) if key.since <= release => continue,
            Some(key) => (
                format!("Slurm {release} does not know {}, which came with {}", key.name, key.since),
                "take the line out on nodes of this release".to_owned(),
            ),
            None if entry.is("Include") => {
                ("Include has no `=`".to_owned(), format!("write `Include {}` at the beginning of a line", entry.value))
            }
            None => (
                format!("Slurm knows no key {}", entry.key),
                match nearest(&entry.key, release) {
                    Some(key) => format!("{}{MEANT}", key.name),
                    None => "take the line out; `man oci.conf` lists all keys".to_owned(),
                },
            ),
        };
        report.error(
            entry.key_at,
            format!("{message}: it refuses the whole file, and every step with --container fails"),
            remedy,
        );
    }
}

/// How a remedy ends that names another key.
pub const MEANT: &str = " is meant?";

/// The key that was meant: without a prefix, or two letters away.
fn nearest(written: &str, release: Release) -> Option<&'static Key> {
    let written = written.to_ascii_lowercase();
    let known = KEYS.iter().filter(|key| key.since <= release);
    let distance = |key: &&Key| {
        let name = key.name.to_ascii_lowercase();
        if written.ends_with(&name) || format!("runtime{written}") == name { 0 } else { distance(&written, &name) }
    };
    known.min_by_key(distance).filter(|key| distance(key) <= 2)
}

/// How many letters have to be changed, put in or taken out.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let cost = if a == *b { diagonal } else { diagonal.min(row[j]).min(row[j + 1]) + 1 };
            diagonal = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[other.len()]
}

pub fn wrong_values(subject: &Subject<'_>, report: &mut Report<'_>) {
    let release = subject.release;
    for entry in &subject.document.entries {
        let Some(key) = Key::named(&entry.key) else { continue };
        let remedy = match key.form {
            Form::Bool if boolean(&entry.value).is_none() => "write true or false",
            Form::EnvFile if EnvFile::parse(&entry.value, release).is_none() => match release.rewrites_per_task() {
                true => "write null, newline or disabled",
                false => "write true or false: the others came with 23.02",
            },
            _ => continue,
        };
        report.error(
            entry.at(0),
            format!(
                "{} cannot be `{}`: the file is refused, and every step with --container fails",
                key.name, entry.value
            ),
            remedy,
        );
    }
}

pub fn unknown_patterns(subject: &Subject<'_>, report: &mut Report<'_>) {
    let release = subject.release;
    for entry in &subject.document.entries {
        let Some(key) = Key::named(&entry.key).filter(|key| matches!(key.form, Form::Command | Form::Path)) else {
            continue;
        };
        for piece in patterns::pieces(&entry.value) {
            let Piece::Pattern(letter, at) = piece else { continue };
            let Err(error) = patterns::known(letter, release) else { continue };
            let remedy = match (error, letter) {
                (NotExpanded::Nothing, _) => "write %% for a percent sign".to_owned(),
                (NotExpanded::TooNew(..), Some('U')) => "write $(id -u %u)".to_owned(),
                (NotExpanded::TooNew(..), Some('m')) if key.name == "RunTimeRun" => {
                    "write %b, where the spool is".to_owned()
                }
                (NotExpanded::TooNew(..), Some('Z')) => "write $PWD: commands start in the step's folder".to_owned(),
                _ => format!("write %%{} if a percent sign is meant", letter.unwrap_or_default()),
            };
            report.error(entry.at(at), format!("{error}: on Slurm {release} every task dies of it"), remedy);
        }
    }
}

/// The two keys with an expression.
const FILTERS: [&str; 2] = ["EnvExclude", "RunTimeEnvExclude"];

pub fn no_regex(subject: &Subject<'_>, report: &mut Report<'_>) {
    for entry in subject.document.entries.iter().filter(|entry| FILTERS.iter().any(|key| entry.is(key))) {
        if let Err(error) = Regex::new(&entry.value) {
            report.error(
                entry.at(0),
                format!("`{}` is no regular expression ({error}): the file is refused", entry.value),
                "mend it: `grep -E` knows the same expressions; backslashes are written twice",
            );
        }
    }
}

pub fn scope_of_regex(subject: &Subject<'_>, report: &mut Report<'_>) {
    for entry in FILTERS.iter().filter_map(|key| subject.value(key)) {
        let Ok(regex) = Regex::new(&entry.value) else { continue };
        let matches = |variable: &str| regex.is_match(variable);
        if matches("") || (matches("PATH=/bin") && matches("X=1") && matches("SLURM_JOB_ID=1")) {
            report.error(
                entry.at(0),
                format!("`{}` is found in every variable, so that none is left, PATH neither", entry.value),
                "write what the names begin with: ^(SLURM_CONF|SLURM_CONF_SERVER)=",
            );
        } else if entry.is("EnvExclude") && matches("SLURM_JOB_ID=1") {
            report.warning(
                entry.at(0),
                "SLURM_JOB_ID and its like are taken out: programs in containers cannot know their job",
                "write ^(SLURM_CONF|SLURM_CONF_SERVER)=",
            );
        } else if !entry.value.contains('^') {
            report.warning(
                entry.at(0),
                "without a ^ it is found within names and values, too, and takes those variables out",
                "begin with ^ and end with =: ^(SLURM_CONF|SLURM_CONF_SERVER)=",
            );
        }
    }
}

pub fn hooks(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(entry) = subject.value("DisableHooks") else { return };
    report.warning(
        entry.key_at,
        "DisableHooks does nothing in any release: hooks of bundles run",
        "take it out; to keep hooks from running, use a runtime that can, or `berth-runtime`'s users' own rights",
    );
    for hook in entry.value.split(',').map(str::trim).filter(|hook| !HOOKS.contains(hook)) {
        let at = entry.at(entry.value.find(hook).unwrap_or(0));
        report.warning(at, format!("OCI has no hooks of type `{hook}`"), format!("write one of {}", HOOKS.join(", ")));
    }
}

pub fn log_levels(subject: &Subject<'_>, report: &mut Report<'_>) {
    for entry in &subject.document.entries {
        let Some(key) = Key::named(&entry.key).filter(|key| key.form == Form::LogLevel) else { continue };
        let is_number = entry.value.parse().is_ok_and(|number: usize| number < LOG_LEVELS.len());
        if !is_number && !LOG_LEVELS.iter().any(|level| level.eq_ignore_ascii_case(&entry.value)) {
            let remedy = format!("write one of {}", LOG_LEVELS.join(", "));
            report.warning(
                entry.at(0),
                format!("{} cannot be `{}`: it is taken for nothing", key.name, entry.value),
                remedy,
            );
        }
    }
}

/// Flags of slurm.conf, of all releases.
const DEBUG_FLAGS: [&str; 46] = [
    "accrue",
    "agent",
    "auditrpcs",
    "audittls",
    "backfill",
    "backfillmap",
    "burstbuffer",
    "cgroup",
    "conmgr",
    "cpu_bind",
    "cpufrequency",
    "data",
    "dbd_agent",
    "dependency",
    "elasticsearch",
    "energy",
    "federation",
    "frontend",
    "glob_silence",
    "gres",
    "hetjob",
    "gang",
    "interconnect",
    "jobaccountgather",
    "jobcomp",
    "jobcontainer",
    "license",
    "mpi",
    "metrics",
    "network",
    "networkraw",
    "nodefeatures",
    "no_conf_hash",
    "power",
    "priority",
    "profile",
    "protocol",
    "reservation",
    "route",
    "script",
    "selecttype",
    "steps",
    "switch",
    "tls",
    "tracejobs",
    "triggers",
];

pub fn debug_flags(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(entry) = subject.value("DebugFlags") else { return };
    for flag in entry.value.split(',').map(str::trim) {
        if !DEBUG_FLAGS.contains(&flag.to_ascii_lowercase().as_str()) {
            report.warning(
                entry.at(entry.value.find(flag).unwrap_or(0)),
                format!("`{flag}` is no flag of slurm.conf's DebugFlags that is known here: if Slurm does not know it, it refuses the file"),
                "take it out; only scrun looks at these flags",
            );
        }
    }
}

pub fn container_path(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(entry) = subject.value("ContainerPath") else { return };
    let (value, release) = (entry.value.as_str(), subject.release);
    if !value.starts_with('/') && !value.starts_with("%m") {
        report.error(
            entry.at(0),
            "the path is relative, to wherever slurmd happens to be",
            "write an absolute path, in a folder that only root can write",
        );
    }
    if release >= Release::NEW_SPOOL {
        if let Some(at) = patterns::find(value, 't') {
            let message = format!(
                "since {} ContainerPath is the parent only, and Slurm adds a folder for each task",
                Release::NEW_SPOOL
            );
            report.warning(entry.at(at), message, "take %t out");
        }
        return;
    }
    let mut needed = vec![('j', "jobs"), ('s', "steps")];
    if release.rewrites_per_task() {
        needed.push(('t', "tasks"));
    }
    let missing: Vec<&(char, &str)> = needed.iter().filter(|(letter, _)| !patterns::uses(value, *letter)).collect();
    if let [(letter, whose), ..] = missing[..] {
        report.error(
            entry.at(0),
            format!("without %{letter} different {whose} write the same config.json, and all but the first die"),
            "write for example /var/spool/slurmd/containers/%j.%s.%t, or take the line out",
        );
    }
}

pub fn mount_spool_dir(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(entry) = subject.value("MountSpoolDir") else { return };
    if subject.ignores {
        report.warning(
            entry.key_at,
            "with IgnoreFileConfigJson no configuration is written, and nothing is mounted",
            "take it out, and mount %m by RunTimeRun",
        );
    } else if !entry.value.starts_with('/') && !entry.value.starts_with("%m") {
        let message =
            "the path in the container is relative, which the specification forbids: runc warns, in the job's output";
        report.warning(entry.at(0), message, "write an absolute path");
    }
}

pub fn cleanup(subject: &Subject<'_>, report: &mut Report<'_>) {
    let entry = subject.value("DisableCleanup").filter(|entry| boolean(&entry.value) == Some(true));
    if let Some(entry) = entry {
        report.warning(
            entry.key_at,
            "each task leaves its folder and configuration in the spool for ever, with its environment in it",
            "take it out when you have seen what you were looking for",
        );
    }
}

pub fn environment(subject: &Subject<'_>, report: &mut Report<'_>) {
    if !subject.release.rewrites_per_task() {
        return;
    }
    let Some(starter) = subject.starter() else { return };
    let advice = |key: &str| format!("write {key}=\"^(SLURM_CONF|SLURM_CONF_SERVER)=\"");
    for (key, breaks) in [
        ("EnvExclude", "slurmd's SLURM_CONF leaks into containers, where Slurm's commands then look for that file"),
        ("RunTimeEnvExclude", "slurmd's SLURM_CONF reaches the runtime, and what it passes on"),
    ] {
        let Some(entry) = subject.value(key) else {
            report.warning(starter.entry.key_at, format!("there is no {key}: {breaks}"), advice(key));
            continue;
        };
        let kept = Regex::new(&entry.value).is_ok_and(|regex| !regex.is_match("SLURM_CONF=/etc/slurm/slurm.conf"));
        if kept {
            report.warning(entry.at(0), format!("SLURM_CONF is kept: {breaks}"), advice(key));
        }
    }
}

pub fn env_file(subject: &Subject<'_>, report: &mut Report<'_>) {
    let entry = subject.value("CreateEnvFile");
    let kind = entry.and_then(|entry| EnvFile::parse(&entry.value, subject.release)).unwrap_or_default();
    let user = subject.commands.iter().find_map(|command| Some((command, patterns::find(&command.entry.value, 'e')?)));
    match (entry, user) {
        (_, Some((command, at))) if kind == EnvFile::None => report.error(
            command.entry.at(at),
            "%e is the name of a file that is not written",
            match subject.release.rewrites_per_task() {
                true => "write CreateEnvFile=null",
                false => "write CreateEnvFile=true",
            },
        ),
        (Some(entry), None) if kind != EnvFile::None => {
            report.warning(entry.key_at, "no command uses the file, %e", "take it out, or give %e to the runtime");
        }
        (Some(entry), Some(_)) if kind != EnvFile::None && !subject.release.rewrites_per_task() => report.warning(
            entry.key_at,
            "the variables end with zero bytes, not with lines as the manual says, and each step leaves its folder",
            "read it with `xargs -0`; folders in SlurmdSpoolDir have to be removed now and then",
        ),
        _ => {}
    }
}

/// Used where something is missing altogether.
pub(super) fn nowhere(subject: &Subject<'_>) -> crate::document::Position {
    subject.commands.first().map_or(START, |command| command.entry.key_at)
}
