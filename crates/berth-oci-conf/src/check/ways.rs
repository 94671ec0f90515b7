//! What the commands are together: a way to run containers, or none.

use super::Report;
use super::Subject;
use super::values::nowhere;
use crate::keys::COMMANDS;
use crate::patterns;

pub fn incomplete(subject: &Subject<'_>, report: &mut Report<'_>) {
    let release = subject.release;
    let set = |key: &str| subject.command(key).is_some();
    let at = |key: &str| subject.command(key).map_or_else(|| nowhere(subject), |command| command.entry.key_at);
    if subject.ignores {
        if !set("RunTimeRun") {
            let ignore = subject.value("IgnoreFileConfigJson").expect("it is set").key_at;
            report.error(
                ignore,
                "IgnoreFileConfigJson without RunTimeRun: every task dies of it",
                "write RunTimeRun; containers that are created and started need config.json",
            );
        }
        return;
    }
    if !COMMANDS.iter().any(|key| set(key)) {
        report.error(
            nowhere(subject),
            "none of the commands is set: the file is refused, and every step with --container fails",
            "write RunTimeRun, or take the file away: `berth oci-conf write` prints whole files",
        );
        return;
    }
    for key in ["RunTimeCreate", "RunTimeStart"] {
        if set("RunTimeRun") && set(key) {
            let message =
                format!("RunTimeRun excludes {key}: the file is refused, and every step with --container fails");
            report.error(at(key), message, format!("take {key} out"));
        }
    }
    let needed: &[&str] = match set("RunTimeRun") {
        true if release.rewrites_per_task() => &["RunTimeKill", "RunTimeDelete"],
        true => &["RunTimeQuery", "RunTimeKill", "RunTimeDelete"],
        false => &["RunTimeCreate", "RunTimeStart", "RunTimeQuery", "RunTimeKill", "RunTimeDelete"],
    };
    if !set("RunTimeRun") && !set("RunTimeCreate") && !set("RunTimeStart") {
        report.error(
            nowhere(subject),
            "nothing says how a container is run: the file is refused, and every step with --container fails",
            "write RunTimeRun",
        );
        return;
    }
    for key in needed.iter().filter(|key| !set(key)) {
        report.error(
            nowhere(subject),
            format!("there is no {key}, which Slurm {release} demands: the file is refused"),
            format!("write {key}; `true` as a command does nothing"),
        );
    }
}

pub fn empty_commands(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in subject.commands.iter().filter(|command| command.entry.value.trim().is_empty()) {
        let (at, key) = (command.entry.key_at, command.key);
        if ["RunTimeRun", "RunTimeCreate", "RunTimeStart"].contains(&key) {
            report.error(at, format!("{key} is empty: every task fails"), "write a command");
        } else {
            report.warning(
                at,
                format!("{key} is empty"),
                format!("write `true`, or take it out where Slurm lets you: {key}"),
            );
        }
    }
}

/// Runtimes whose containers keep the pipe of `create` open, and whose `create` then never comes back to Slurm.
const HANG: [&str; 3] = ["runc", "crun", "nvidia-container-runtime"];

pub fn create_start(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(create) = subject.command("RunTimeCreate").filter(|_| subject.creates() && !subject.ignores) else {
        return;
    };
    if subject.command("RunTimeStart").is_none() {
        return;
    }
    let at = create.entry.key_at;
    let program = create.line.program().unwrap_or_default();
    let redirected = create.entry.value.contains(">/dev/null") && create.entry.value.contains("2>&1");
    if HANG.contains(&program) && !redirected {
        report.error(
            at,
            format!("{program} hangs: its container keeps the pipe open that slurmstepd reads to the end before it starts it"),
            "write RunTimeRun; or, without output, add `</dev/null >/dev/null 2>&1` to RunTimeCreate",
        );
        return;
    }
    report.warning(
        at,
        "with RunTimeCreate and RunTimeStart output, input and exit codes of steps are lost, whatever the runtime",
        "write RunTimeRun in their place",
    );
}

pub fn never_called(subject: &Subject<'_>, report: &mut Report<'_>) {
    if !subject.ignores || subject.command("RunTimeRun").is_none() {
        return;
    }
    for command in subject.commands.iter().filter(|command| command.key != "RunTimeRun") {
        report.warning(
            command.entry.key_at,
            format!("with IgnoreFileConfigJson, Slurm never calls {}", command.key),
            "take it out; what RunTimeRun leaves, RunTimeRun has to remove",
        );
    }
}

pub fn no_query(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun") else { return };
    if !subject.ignores && subject.command("RunTimeQuery").is_none() && subject.release.rewrites_per_task() {
        report.warning(
            run.entry.key_at,
            "there is no RunTimeQuery: at the end of each step slurmstepd reports an error, in batch jobs' output too",
            "write RunTimeQuery=\"echo {}\", or the runtime's `state` with `2>/dev/null || echo {}` behind it",
        );
    }
}

pub fn query_output(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(query) = subject.command("RunTimeQuery").filter(|_| !subject.ignores) else { return };
    let value = &query.entry.value;
    if let Some(at) =
        patterns::find(value, 't').filter(|_| subject.release.rewrites_per_task() && !value.contains("||"))
    {
        report.warning(
            query.entry.at(at),
            "at the end of a step %t is -1, so that this never finds the container: an error is reported, in batch jobs' output \
             too, and nothing is killed or deleted",
            "write `2>/dev/null || echo {}` at its end",
        );
    } else if query.line.is_oci_runtime() && !value.contains("2>") {
        report.warning(
            query.entry.at(value.len()),
            "what the runtime writes on standard error gets into the state, which cannot be read then",
            "write 2>/dev/null at its end",
        );
    }
}
