//! The command lines of the verbs that show: taken apart as getopt_long(3) does it for Slurm's commands.
//!
//! Unlike those of `srun` and its kin, options may stand behind operands.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::options::line::nearest;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// A value, in the same word or the next.
    Value,
    /// A value in the same word, or none.
    Optional,
    /// A value in the same word, or in the next one if that is no option, or none.
    Word,
}

/// An option: its letter (or [`NONE`]), its name, what it takes.
pub type Row = (char, &'static str, Takes);

/// For options that have no letter.
pub const NONE: char = '\0';

/// What was typed: options by their long names, and the other words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    options: Vec<(&'static str, String)>,
    /// Words that are no options.
    pub operands: Vec<String>,
}

impl Line {
    /// Takes a line of this command apart.
    ///
    /// # Errors
    /// What getopt says, then the hint that Slurm's commands add, with what was probably meant.
    pub fn parse(command: &str, table: &[Row], words: &[OsString]) -> Result<Line, String> {
        let mut line = Line::default();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let text = String::from_utf8_lossy(word.as_bytes()).into_owned();
            // Where the value may be missing, an option is none.
            let mut next = |any: bool| {
                let word = words.next_if(|word| any || !word.as_bytes().starts_with(b"-"));
                word.map(|word| word.to_string_lossy().into_owned())
            };
            if text == "--" {
                line.operands.extend(words.by_ref().map(|word| word.to_string_lossy().into_owned()));
            } else if let Some(long) = text.strip_prefix("--") {
                line.long(command, table, long, &mut next)?;
            } else if text.len() > 1 && text.starts_with('-') {
                line.letters(command, table, &text[1..], &mut next)?;
            } else {
                line.operands.push(text);
            }
        }
        Ok(line)
    }

    fn long(
        &mut self,
        command: &str,
        table: &[Row],
        text: &str,
        next: &mut dyn FnMut(bool) -> Option<String>,
    ) -> Result<(), String> {
        let (typed, mut value) =
            text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
        let exact = table.iter().find(|(_, name, _)| *name == typed);
        let begin: Vec<&Row> =
            table.iter().filter(|(_, name, _)| !typed.is_empty() && name.starts_with(typed)).collect();
        let (_, name, takes) = match (exact, &begin[..]) {
            (Some(row), _) => *row,
            (None, [row]) => **row,
            (None, []) => {
                let meant = nearest(typed, table.iter().map(|(_, name, _)| *name));
                let meant = meant.map(|name| format!("{command}: did you mean '--{name}'?\n")).unwrap_or_default();
                return Err(mistake(command, &format!("unrecognized option '--{text}'\n{meant}")));
            }
            (None, rows) => {
                let names: String = rows.iter().map(|(_, name, _)| format!(" '--{name}'")).collect();
                return Err(mistake(command, &format!("option '--{text}' is ambiguous; possibilities:{names}\n")));
            }
        };
        match takes {
            Takes::Nothing if value.is_some() => {
                return Err(mistake(command, &format!("option '--{name}' doesn't allow an argument\n")));
            }
            Takes::Value if value.is_none() => {
                let missing = || mistake(command, &format!("option '--{name}' requires an argument\n"));
                value = Some(next(true).ok_or_else(missing)?);
            }
            Takes::Word if value.is_none() => value = next(false),
            _ => {}
        }
        self.options.push((name, value.unwrap_or_default()));
        Ok(())
    }

    fn letters(
        &mut self,
        command: &str,
        table: &[Row],
        letters: &str,
        next: &mut dyn FnMut(bool) -> Option<String>,
    ) -> Result<(), String> {
        for (at, letter) in letters.char_indices() {
            let Some((_, name, takes)) = table.iter().find(|(known, _, _)| *known == letter && letter != NONE) else {
                return Err(mistake(command, &format!("invalid option -- '{letter}'\n")));
            };
            let behind = &letters[at + letter.len_utf8()..];
            let value = match takes {
                Takes::Nothing => {
                    self.options.push((name, String::new()));
                    continue;
                }
                Takes::Value if behind.is_empty() => next(true)
                    .ok_or_else(|| mistake(command, &format!("option requires an argument -- '{letter}'\n")))?,
                Takes::Word if behind.is_empty() => next(false).unwrap_or_default(),
                Takes::Value | Takes::Optional | Takes::Word => behind.to_owned(),
            };
            self.options.push((name, value));
            return Ok(());
        }
        Ok(())
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(known, _)| *known == name)
    }

    /// An option's value: the last one's.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Likewise, taken apart at its commas.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let value = self.get(name).unwrap_or_default();
        value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect()
    }
}

fn mistake(command: &str, text: &str) -> String {
    format!("{command}: {text}Try \"{command} --help\" for more information")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Row] = &[
        ('j', "jobs", Takes::Word),
        ('h', "noheader", Takes::Nothing),
        ('o', "format", Takes::Value),
        (NONE, "me", Takes::Nothing),
        (NONE, "json", Takes::Optional),
        ('n', "name", Takes::Value),
    ];

    fn parse(text: &str) -> Result<Line, String> {
        let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        Line::parse("squeue", TABLE, &words)
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let line = parse("-ho%i --me x --nam=a,b -j1,2 --json -- -z").unwrap();
        assert!(line.has("noheader") && line.has("me") && line.has("json"));
        assert_eq!((line.get("format"), line.get("jobs")), (Some("%i"), Some("1,2")));
        assert_eq!(line.list("name"), ["a", "b"]);
        assert_eq!(line.operands, ["x", "-z"]);
        assert_eq!((parse("-j 5 -h").unwrap().get("jobs"), parse("-j -h").unwrap().get("jobs")), (Some("5"), Some("")));
        assert_eq!(parse("-o a -o b").unwrap().get("format"), Some("b"));
    }

    #[test]
    fn mistakes_are_told_as_getopt_tells_them() {
        for (line, expected) in [
            ("--nosuch", "squeue: unrecognized option '--nosuch'\n"),
            ("--formt=x", "squeue: unrecognized option '--formt=x'\nsqueue: did you mean '--format'?\n"),
            ("-z", "squeue: invalid option -- 'z'\n"),
            ("-o", "squeue: option requires an argument -- 'o'\n"),
            ("--format", "squeue: option '--format' requires an argument\n"),
            ("--me=1", "squeue: option '--me' doesn't allow an argument\n"),
            ("--n", "squeue: option '--n' is ambiguous; possibilities: '--noheader' '--name'\n"),
        ] {
            let hint = "Try \"squeue --help\" for more information";
            assert_eq!(parse(line).unwrap_err(), format!("{expected}{hint}"), "{line}");
        }
    }
}
