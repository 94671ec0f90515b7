//! What lets somebody be somebody else.

use super::Command;
use super::Report;
use super::Subject;
use super::shell::ELEVATORS;
use super::shell::base;
use crate::keys::Key;
use crate::patterns;
use crate::patterns::Pattern;
use crate::patterns::Piece;

/// Folders in which anybody can make another's folder before he does.
const OPEN: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

fn roots<'a, 'b>(subject: &'b Subject<'a>) -> impl Iterator<Item = &'b Command<'a>> {
    subject.commands.iter().filter(|command| Key::named(command.key).is_some_and(Key::is_roots))
}

/// The patterns of a value that a user chooses.
fn users(value: &str) -> impl Iterator<Item = (char, usize)> {
    patterns::pieces(value).into_iter().filter_map(|piece| match piece {
        Piece::Pattern(Some(letter), at) if Pattern::is_the_users(letter) => Some((letter, at)),
        _ => None,
    })
}

pub fn user_strings(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in roots(subject) {
        for (letter, at) in users(&command.entry.value) {
            report.error(
                command.entry.at(at),
                format!("root's shell runs what a user typed: with %{letter} in {}, `srun --container '/x;command;'` is root's command", command.key),
                "name the container by %n.%u.%j.%s.%t, which no user chooses, and write none of %b, %r and %@",
            );
        }
    }
}

pub fn unquoted_strings(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(run) = subject.command("RunTimeRun").filter(|_| subject.ignores) else { return };
    for (letter, at) in users(&run.entry.value).filter(|(letter, _)| *letter != '@') {
        let value = &run.entry.value;
        let marks = value[..at].matches('\'').count();
        if marks % 2 == 0 {
            report.warning(
                run.entry.at(at),
                format!("%{letter} is what stands behind --container, as it is: blanks split it, and the shell expands $, ~ and ;"),
                format!("write '%{letter}': only an apostrophe in a name breaks that"),
            );
        }
    }
}

pub fn sudo(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let found = command.line.words.iter().find(|(_, word)| ELEVATORS.contains(&base(word.trim_start_matches('('))));
        if let Some((at, word)) = found {
            report.error(
                command.entry.at(*at),
                format!("{}: users can change what it runs, and it runs as root", base(word)),
                "write a runtime that needs no root: runc, crun and berth-runtime do with user namespaces; singularity with \
                 `exec --userns`",
            );
        }
    }
}

/// The open folder in which a path lies, and whether it is that folder itself.
fn open(path: &str) -> Option<(&'static str, bool)> {
    let path = path.trim_matches('\'');
    OPEN.into_iter().find_map(|open| {
        let rest = path.strip_prefix(open)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((open, rest.trim_matches('/').is_empty()))
    })
}

pub fn open_roots(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in &subject.commands {
        let Some((at, root)) = command.line.option("--root") else { continue };
        let Some((place, itself)) = open(root) else { continue };
        // berth looks whose the folder is before it believes what is in it.
        if !itself && command.line.program() == Some("berth-runtime") {
            continue;
        }
        report.error(
            command.entry.at(at),
            format!("everybody can write in {place}: another user can make a container's folder first, and what is in it is believed"),
            match subject.release.rewrites_per_task() {
                true => "write --root=/run/user/%U (see `loginctl enable-linger`), or another folder that is the user's alone",
                false => "write --root=/run/user/$(id -u %u) (see `loginctl enable-linger`), or another folder that is the user's alone",
            },
        );
    }
}

/// Whether a line asks who it is before it does anything, or becomes somebody else.
fn is_guarded(command: &Command<'_>) -> bool {
    let text = command.line.text.trim_start();
    text.starts_with("[ $(id -u") || text.starts_with("runuser ") || text.starts_with("setpriv ")
}

pub fn user_state(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in roots(subject).filter(|command| !subject.ignores && command.line.is_oci_runtime()) {
        let Some((at, root)) = command.line.option("--root") else { continue };
        let users = root.starts_with("/run/user")
            || root.contains("/home/")
            || patterns::uses(root, 'u')
            || patterns::uses(root, 'U');
        if users && open(root).is_none() && command.line.program() != Some("berth-runtime") && !is_guarded(command) {
            report.error(
                command.entry.at(at),
                format!(
                    "as root, {} believes what a user has written into this folder: it kills the processes and runs the hooks that \
                     are named there",
                    command.line.program().unwrap_or_default()
                ),
                match (command.key, subject.creates()) {
                    (_, true) => "let only the user call it: begin with `[ $(id -un) = %u ] &&`",
                    ("RunTimeQuery", false) => "write RunTimeQuery=\"echo {}\": with RunTimeRun nobody else asks",
                    _ => "write `true`: with RunTimeRun nobody else calls it, and Slurm ends the processes",
                },
            );
        }
    }
}

pub fn open_paths(subject: &Subject<'_>, report: &mut Report<'_>) {
    let Some(entry) = subject.value("ContainerPath") else { return };
    if let Some((place, _)) = open(&entry.value) {
        report.error(
            entry.at(0),
            format!("slurmd makes these folders as root in {place}, where everybody can make them first, or links in their place"),
            "write a folder that only root can write, or take the line out: SlurmdSpoolDir is one",
        );
    }
}

pub fn user_files(subject: &Subject<'_>, report: &mut Report<'_>) {
    for command in roots(subject).filter(|_| !subject.ignores) {
        let mine = |word: &str| {
            let home = word.starts_with("/home/") || word.starts_with("~") || word.starts_with("/run/user/");
            home || (word.starts_with('/') && (patterns::uses(word, 'u') || patterns::uses(word, 'U')))
                || open(word).is_some()
        };
        let program = command.line.program_at().map(|index| command.line.words[index]);
        if let Some((at, word)) = program.filter(|(_, word)| mine(word)) {
            report.error(
                command.entry.at(at),
                format!("root runs `{word}`, which a user can write"),
                "call a program that only root can change",
            );
        }
    }
}
