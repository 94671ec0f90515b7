//! What cannot be read, and what is read otherwise than it looks.

use super::Report;
use super::Subject;
use crate::document::Entry;
use crate::document::Position;
use crate::document::Remark;
use crate::document::Surprise;
use crate::document::Trouble;
use crate::keys::Form;
use crate::keys::Key;

/// What a file that cannot be read does.
const STOPS: &str = "slurmstepd gives up the file, and every step with --container fails with \"Unspecified error\"";

pub fn unreadable(subject: &Subject<'_>, report: &mut Report<'_>) {
    for mistake in &subject.document.mistakes {
        let (at, text) = (mistake.at, mistake.text.trim());
        let short: String = text.chars().take(60).collect();
        match mistake.what {
            Trouble::NoPair => {
                report.error(
                    at,
                    format!("`{short}` is no Key=value: {STOPS}"),
                    "write Key=value; a comment begins with #",
                );
            }
            Trouble::NoValue => {
                report.error(
                    at,
                    format!("no value stands behind `{short}`: {STOPS}"),
                    "write a value, or take the line out",
                );
            }
            Trouble::OpenQuote if explained(subject, at) => {}
            Trouble::OpenQuote => report.error(
                at,
                format!("this quotation mark has no fellow on its line, so that the value is one word: {STOPS}"),
                "write a quotation mark at the end of the value; a backslash at the end of a line continues it",
            ),
            Trouble::More if explained(subject, at) => {}
            Trouble::More => {
                let before = subject.document.entries.iter().rev().find(|entry| entry.key_at < at);
                let remedy = if before.is_some_and(|entry| entry.value.starts_with('\'')) {
                    "apostrophes do not quote here: write quotation marks around the value"
                } else if text.split_whitespace().next().is_some_and(|word| word.contains('=')) {
                    "write one Key=value a line"
                } else {
                    "write quotation marks around a value with blanks in it"
                };
                report.error(at, format!("`{short}` stands behind the value: {STOPS}"), remedy);
            }
            Trouble::IndentedInclude => report.error(
                at,
                format!("an Include behind blanks is none: {STOPS}"),
                "write Include at the beginning of its line",
            ),
            Trouble::QuotedInclude => report.error(
                at,
                format!("the quotation marks are part of the name of the file, which is not there: {WAITS}"),
                "write the name without quotation marks",
            ),
            Trouble::Include => {
                report.error(at, format!("{text}: {WAITS}"), "write the file, or take the line out");
            }
            Trouble::IncludeCircle => report.error(
                at,
                format!("{text} is included by itself, or too deep in others: slurmstepd dies of it"),
                "take the line out",
            ),
            Trouble::ByteOrderMark => report.error(
                at,
                format!("the file begins with a byte order mark: {STOPS}"),
                "save it as UTF-8 without such a mark: sed -i '1s/^\\xEF\\xBB\\xBF//' oci.conf",
            ),
            Trouble::Zero => {
                report.error(at, "a zero byte hides the rest of its line from Slurm", "take the byte out: tr -d '\\0'");
            }
            Trouble::NoText => {
                report.warning(at, "this is no UTF-8; Slurm takes it as it is", "write it in UTF-8, or in ASCII");
            }
            Trouble::TooLarge => {
                report.error(at, "the file is larger than a megabyte, and was not looked at", "is it the right file?");
            }
        }
    }
}

/// What a file does that cannot be included.
const WAITS: &str = "slurmstepd waits for it for a minute, and then gives up; steps with --container hang and fail";

/// Whether a comment or a backslash within quotation marks of the same value has done it, which is told by its own rule.
fn explained(subject: &Subject<'_>, at: Position) -> bool {
    let Some(entry) = subject.document.entries.iter().rev().find(|entry| entry.key_at <= at) else { return false };
    let next = subject.document.entries.iter().map(|entry| entry.key_at).find(|&key| key > entry.key_at);
    let quoted = [Surprise::CommentInQuotes, Surprise::EscapedQuote];
    subject.document.remarks.iter().any(|remark| {
        quoted.contains(&remark.what) && remark.at > entry.key_at && next.is_none_or(|next| remark.at < next)
    })
}

fn remarks<'a>(subject: &'a Subject<'_>, wanted: fn(Surprise) -> bool) -> impl Iterator<Item = &'a Remark> {
    subject.document.remarks.iter().filter(move |remark| wanted(remark.what))
}

pub fn comments_in_quotes(subject: &Subject<'_>, report: &mut Report<'_>) {
    for remark in remarks(subject, |what| what == Surprise::CommentInQuotes) {
        report.error(
            remark.at,
            "a comment begins here, within quotation marks too: the value ends",
            "write \\# for a #",
        );
    }
}

pub fn escaped_quotes(subject: &Subject<'_>, report: &mut Report<'_>) {
    for remark in remarks(subject, |what| what == Surprise::EscapedQuote) {
        report.error(
            remark.at,
            "the backslash goes away, and the quotation mark ends the value: there is no way to have one in it",
            "write apostrophes, which are the shell's own, or call a script",
        );
    }
}

pub fn lost_backslashes(subject: &Subject<'_>, report: &mut Report<'_>) {
    for remark in remarks(subject, |what| matches!(what, Surprise::LostBackslash(_))) {
        let Surprise::LostBackslash(letter) = remark.what else { continue };
        let shown = if letter.is_control() { "the end of the line".to_owned() } else { format!("`{letter}`") };
        report.warning(
            remark.at,
            format!("the backslash before {shown} goes away when the file is read"),
            "write two, and one stays",
        );
    }
}

pub fn literal_quotes(subject: &Subject<'_>, report: &mut Report<'_>) {
    let broken = |entry: &Entry| {
        let mistakes = subject.document.mistakes.iter();
        let open =
            mistakes.filter(|mistake| mistake.what == Trouble::OpenQuote).any(|mistake| mistake.at == entry.at(0));
        open || explained(subject, entry.key_at)
    };
    for entry in subject.document.entries.iter().filter(|entry| !entry.quoted) {
        let Some(mark) = entry.value.find('"') else {
            let is_command = Key::named(&entry.key).is_some_and(|key| key.form == Form::Command);
            if entry.value.len() > 1 && entry.value.starts_with('\'') && entry.value.ends_with('\'') && !is_command {
                let message = "apostrophes do not quote here: they are part of the value";
                report.error(entry.at(0), message, "write quotation marks");
            }
            continue;
        };
        if !broken(entry) {
            report.error(
                entry.at(mark),
                "this quotation mark is part of the value: only a pair around the whole value quotes",
                "begin the value with a quotation mark, and end it with one, with nothing behind it",
            );
        }
    }
}

pub fn operators(subject: &Subject<'_>, report: &mut Report<'_>) {
    for entry in &subject.document.entries {
        if let Some(operator) = entry.operator {
            report.warning(
                entry.key_at,
                format!("{operator}= means = in this file: what was set before is gone"),
                format!("write {}=", entry.key),
            );
        }
    }
}

pub fn set_twice(subject: &Subject<'_>, report: &mut Report<'_>) {
    let entries = &subject.document.entries;
    for (index, entry) in entries.iter().enumerate() {
        let is_list = Key::named(&entry.key).is_none_or(|key| key.form == Form::List);
        if let Some(later) = entries[index + 1..]
            .iter()
            .find(|later| later.is(&entry.key))
            .filter(|later| !is_list && later.operator.is_none())
        {
            let file = &subject.document.files[later.key_at.file];
            report.warning(
                entry.key_at,
                format!(
                    "{} is set again in line {} of {}, and only that counts",
                    entry.key,
                    later.key_at.line,
                    file.display()
                ),
                "take one of them out",
            );
        }
    }
}
