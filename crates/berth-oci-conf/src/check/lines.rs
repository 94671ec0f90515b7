//! The commands as lines for a shell.

use super::Report;
use super::Subject;
use super::shell::is_assignment;
use crate::keys::ROOTS;
use crate::patterns;

pub fn no_exec(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun") else { return };
    // First of all, or behind what is done before.
    let words = || run.line.words.iter().map(|(_, word)| *word).filter(|word| !is_assignment(word));
    let ends = |word: &str| [";", "&&", "||"].iter().any(|end| word.ends_with(end));
    let execs =
        words().next() == Some("exec") || words().zip(words().skip(1)).any(|(one, next)| ends(one) && next == "exec");
    if words().next().is_some() && !execs {
        report.warning(
            run.entry.at(0),
            "scancel and time limits end the shell in front of the container: handlers, their output and exit codes are lost",
            "begin with exec",
        );
    }
}

pub fn exec_assignment(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        if let [(_, "exec"), (at, word), ..] = command.line.words[..]
            && is_assignment(word)
        {
            report.error(
                command.entry.at(at),
                format!("`exec {word}` is no program: exit code 127"),
                format!("write `{word} exec …`, or `exec env {word} …`"),
            );
        }
    }
}

pub fn after_exec(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let words = &command.line.words;
        if words.first().is_none_or(|(_, word)| *word != "exec") {
            continue;
        }
        let ends = |(at, word): &(usize, &str)| match *word {
            ";" | "&&" | "||" => Some(*at),
            word if word.ends_with(';') && !word.contains('\'') => Some(at + word.len() - 1),
            _ => None,
        };
        if let Some(at) = words.iter().find_map(ends) {
            report.warning(
                command.entry.at(at),
                "what stands behind exec and its program is never run, as the shell is gone",
                "take exec out, or do this before it",
            );
        }
    }
}

pub fn background(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun") else { return };
    let text = run.line.text.trim_end();
    if text.ends_with('&') && !text.ends_with("&&") {
        report.error(
            run.entry.at(text.len() - 1),
            "the container is run in the background: the step ends at once, and takes it along",
            "take the & away",
        );
    }
}

pub fn detached(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun").filter(|run| run.line.program().is_some()) else { return };
    if let Some(at) = run.line.word(&["-d", "--detach", "--detach=true"]).filter(|_| run.line.is_oci_runtime()) {
        report.error(
            run.entry.at(at),
            "the runtime does not wait for the container: the step ends at once, and takes it along",
            "take the option away",
        );
    }
}

pub fn terminal(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in subject.commands.iter().filter(|command| command.line.is_oci_runtime()) {
        if let Some((at, _)) = command.line.option("--console-socket") {
            report.error(
                command.entry.at(at),
                "there is nobody at that socket: with --pty the runtime inherits the terminal, and otherwise there is none",
                "take the option away",
            );
        }
    }
}

pub fn no_arguments(subject: &Subject<'_>, report: &mut Report<'_>) {
    if subject.ignores {
        return;
    }
    for command in &subject.commands {
        if let Some(at) = patterns::find(&command.entry.value, '@').filter(|_| !ROOTS.contains(&command.key)) {
            report.error(
                command.entry.at(at),
                "%@ is empty here: the command is in config.json, which the runtime reads",
                match subject.release.rewrites_per_task() {
                    true => "take it out, or write IgnoreFileConfigJson=true for a runtime that reads no config.json",
                    false => "take it out; a runtime that reads no config.json needs IgnoreFileConfigJson of 23.02",
                },
            );
        }
    }
}

pub fn lost_command(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun").filter(|_| subject.ignores) else { return };
    let value = &run.entry.value;
    if !patterns::uses(value, '@') && !value.contains("berth oci-step") && !value.trim().is_empty() {
        report.error(
            run.entry.key_at,
            "nothing tells the runtime which command to run: with IgnoreFileConfigJson only %@ does",
            "write %@ at its end, behind --",
        );
    }
}

pub fn lost_container(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(starter) = subject.starter() else { return };
    let value = &starter.entry.value;
    if !['b', 'r', 'e'].iter().any(|&letter| patterns::uses(value, letter)) && !value.trim().is_empty() {
        report.error(
            starter.entry.key_at,
            format!("nothing tells the runtime which container is meant: {} has neither %b nor %r", starter.key),
            match subject.ignores {
                true => "write '%b'",
                false => "write --bundle %b",
            },
        );
    }
}

pub fn quoted_arguments(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        if let Some(at) = command.entry.value.find("'%@'") {
            report.error(
                command.entry.at(at),
                "%@ has its own apostrophes: these undo them, and words are split and expanded",
                "write %@ alone",
            );
        }
    }
}

pub fn no_process(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        // Where it is never called, that is what is said.
        let called = command.key == "RunTimeRun" || !subject.ignores;
        if let Some(at) = patterns::find(&command.entry.value, 'p').filter(|_| called) {
            report.error(
                command.entry.at(at),
                "%p is never a process: it is 4294967295 in every release",
                "name the container by %n.%u.%j.%s.%t, as the runtime's own commands do",
            );
        }
    }
}

pub fn shared_id(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(starter) = subject.starter().filter(|starter| starter.line.is_oci_runtime()) else { return };
    let value = &starter.entry.value;
    // Up to 22.05 there is one task.
    let tasks = subject.release.rewrites_per_task().then_some(('t', "tasks of a step"));
    let missing = [Some(('j', "jobs")), Some(('s', "steps of a job")), tasks];
    let missing = missing.into_iter().flatten().find(|(letter, _)| !patterns::uses(value, *letter));
    if let Some((letter, whose)) = missing {
        let at = starter.line.words.last().map_or(0, |(at, _)| *at);
        report.error(
            starter.entry.at(at),
            format!("without %{letter} two {whose} have containers of one name, and the second does not start"),
            "name them %n.%u.%j.%s.%t",
        );
    }
}

pub fn different_ids(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(starter) = subject.starter() else { return };
    let Some((_, id)) = starter.line.id().filter(|_| !subject.ignores) else { return };
    for command in subject.commands.iter().filter(|command| command.key != starter.key) {
        if let Some((at, other)) = command.line.id().filter(|(_, other)| *other != id) {
            report.error(
                command.entry.at(at),
                format!("{} speaks of `{other}`, and {} of `{id}`", command.key, starter.key),
                format!("write {id}"),
            );
        }
    }
}

pub fn different_roots(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(starter) = subject.starter().filter(|_| !subject.ignores) else { return };
    let trimmed = |root: Option<(usize, &str)>| root.map(|(_, root)| root.trim_end_matches('/').to_owned());
    let root = trimmed(starter.line.option("--root"));
    for command in subject.commands.iter().filter(|command| command.key != starter.key) {
        let other = command.line.option("--root");
        let same_program = command.line.program() == starter.line.program() && command.line.is_oci_runtime();
        if same_program && trimmed(other) != root {
            report.error(
                command.entry.at(other.map_or(0, |(at, _)| at)),
                format!("{} looks for containers elsewhere than {} makes them", command.key, starter.key),
                match &root {
                    Some(root) => format!("write --root={root}"),
                    None => "write the same --root in all commands".to_owned(),
                },
            );
        }
    }
}

/// Variables that are a user's, and that slurmd does not have, or has otherwise.
const NOT_THE_USERS: [&str; 5] = ["HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "TMPDIR"];

pub fn slurmd_environment(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let value = &command.entry.value;
        let variable = value.match_indices('$').find_map(|(at, _)| {
            let name: &str = value[at + 1..].trim_start_matches('{');
            let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            let name = &name[..end];
            let slurms = name.starts_with("SLURM_") && name != "SLURM_CONF";
            let set =
                value[..at].split_whitespace().any(|word| word.split_once('=').is_some_and(|(set, _)| set == name));
            ((NOT_THE_USERS.contains(&name) || slurms) && !set).then_some((at, format!("${name}")))
        });
        let home = || {
            let found = command.line.words.iter().find(|(_, word)| *word == "~" || word.starts_with("~/"));
            found.map(|(at, _)| (*at, "~".to_owned()))
        };
        if let Some((at, name)) = variable.or_else(home) {
            report.warning(
                command.entry.at(at),
                format!(
                    "{name} is slurmd's here, root's or none, and not the user's: commands have slurmd's environment"
                ),
                "write patterns: %u, %U, %j, …; the user's home is $(getent passwd %u | cut -d: -f6)",
            );
        }
    }
}

pub fn other_cgroup(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let manager = command.line.option("--cgroup-manager").filter(|(_, value)| *value == "systemd");
        let at =
            manager.map(|(at, _)| at).or_else(|| command.line.word(&["--systemd-cgroup", "--systemd-cgroup=true"]));
        if let Some(at) = at {
            report.error(
                command.entry.at(at),
                "the container leaves the step's control group: its limits do not hold, and Slurm cannot end it",
                "take the option away",
            );
        }
    }
}

pub fn daemons(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let Some(index) = command.line.program_at() else { continue };
        if let Some(program) = command.line.program().filter(|program| ["docker", "nerdctl", "ctr"].contains(program)) {
            report.error(
                command.entry.at(command.line.words[index].0),
                format!("containers of {program} are its daemon's, outside of the step: its limits do not hold, and who may use it is root"),
                "write a runtime that runs without a daemon",
            );
        }
    }
}
