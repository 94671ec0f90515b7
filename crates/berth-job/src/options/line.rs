//! How a command line is taken apart: as getopt_long(3) does it for Slurm's commands.
//!
//! Long names may be shortened as far as they stay unique, letters may be joined, and the first word that is no option
//! begins the command.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::table::{self, Definition, Takes, Verb};

/// An option that was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// The long name.
    pub name: &'static str,
    /// Its value.
    pub value: Option<String>,
}

/// What is wrong with a line. The texts are getopt's, with the command's name in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// What getopt says.
    pub text: String,
    /// What was meant, perhaps.
    pub nearest: Option<String>,
}

/// Options, and what stands behind them.
pub fn parse(verb: Verb, words: &[OsString]) -> Result<(Vec<Typed>, Vec<OsString>), Mistake> {
    let mut typed = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.as_slice().first() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            rest.next();
            break;
        }
        if bytes.len() < 2 || bytes[0] != b'-' {
            break;
        }
        rest.next();
        let text = word.to_string_lossy();
        if let Some(long) = text.strip_prefix("--") {
            typed.push(parse_long(verb, long, &mut rest)?);
        } else {
            parse_letters(verb, &text[1..], &mut rest, &mut typed)?;
        }
    }
    Ok((typed, rest.as_slice().to_vec()))
}

type Words<'a> = std::slice::Iter<'a, OsString>;

fn parse_long(verb: Verb, text: &str, rest: &mut Words<'_>) -> Result<Typed, Mistake> {
    let (name, mut value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let (name, takes) = find(verb, name, text)?;
    match takes {
        Takes::Nothing if value.is_some() => {
            return Err(plain(format!("{}: option '--{name}' doesn't allow an argument", verb.name())));
        }
        Takes::Value if value.is_none() => {
            let Some(next) = rest.next() else {
                return Err(plain(format!("{}: option '--{name}' requires an argument", verb.name())));
            };
            value = Some(next.to_string_lossy().into_owned());
        }
        _ => {}
    }
    Ok(Typed { name, value })
}

fn parse_letters(verb: Verb, letters: &str, rest: &mut Words<'_>, typed: &mut Vec<Typed>) -> Result<(), Mistake> {
    for (start, letter) in letters.char_indices() {
        let Some(row) = table::of(verb).find(|row| row.letter == letter) else {
            return Err(plain(format!("{}: invalid option -- '{letter}'", verb.name())));
        };
        let behind = &letters[start + letter.len_utf8()..];
        let value = match row.takes {
            Takes::Nothing => {
                typed.push(Typed { name: row.name, value: None });
                continue;
            }
            Takes::Optional => (!behind.is_empty()).then(|| behind.to_owned()),
            Takes::Value if !behind.is_empty() => Some(behind.to_owned()),
            Takes::Value => match rest.next() {
                Some(next) => Some(next.to_string_lossy().into_owned()),
                None => {
                    return Err(plain(format!("{}: option requires an argument -- '{letter}'", verb.name())));
                }
            },
        };
        typed.push(Typed { name: row.name, value });
        return Ok(());
    }
    Ok(())
}

fn plain(text: String) -> Mistake {
    Mistake { text, nearest: None }
}

/// Names that `find` chooses from: the command's own, and those of containers.
fn names(verb: Verb) -> impl Iterator<Item = (&'static str, Takes)> {
    let own = table::of(verb).map(|row: &Definition| (row.name, row.takes));
    let containers = berth_slurm::options::OPTIONS
        .iter()
        .map(|row| (row.name, if row.argument.is_some() { Takes::Value } else { Takes::Nothing }));
    own.chain(containers)
}

fn find(verb: Verb, name: &str, typed: &str) -> Result<(&'static str, Takes), Mistake> {
    if let Some(exact) = names(verb).find(|(known, _)| *known == name) {
        return Ok(exact);
    }
    let mut begin: Vec<_> = names(verb).filter(|(known, _)| !name.is_empty() && known.starts_with(name)).collect();
    match begin.len() {
        1 => Ok(begin.remove(0)),
        0 => Err(Mistake {
            text: format!("{}: unrecognized option '--{typed}'", verb.name()),
            nearest: nearest(name, names(verb).map(|(known, _)| known)).map(|known| format!("--{known}")),
        }),
        _ => {
            let possible: String = begin.iter().map(|(known, _)| format!(" '--{known}'")).collect();
            Err(plain(format!("{}: option '--{typed}' is ambiguous; possibilities:{possible}", verb.name())))
        }
    }
}

/// The name that is the fewest changes away, if it is near enough that it may have been meant.
pub fn nearest<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (typed.len() / 3).max(1);
    names.map(|name| (distance(typed, name), name)).filter(|(far, _)| *far <= limit).min().map(|(_, name)| name)
}

/// Letters to put in, to take away or to change.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Taken = (Vec<(String, String)>, Vec<String>);

    fn line(verb: Verb, text: &str) -> Result<Taken, Mistake> {
        let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        let (typed, rest) = parse(verb, &words)?;
        let typed = typed.into_iter().map(|t| (t.name.to_owned(), t.value.unwrap_or_default())).collect();
        Ok((typed, rest.into_iter().map(|word| word.into_string().unwrap()).collect()))
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let (typed, rest) = line(Verb::Srun, "-ln4 --job-n=x -t 5 --pty --mem 1G -- ls -l").unwrap();
        let expected = [("label", ""), ("ntasks", "4"), ("job-name", "x"), ("time", "5"), ("pty", ""), ("mem", "1G")];
        assert_eq!(typed, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(rest, ["ls", "-l"]);
        assert_eq!(line(Verb::Sbatch, "-W x.sh -W").unwrap().1, ["x.sh", "-W"]);
    }

    #[test]
    fn a_mistake_is_told_as_getopt_tells_it_and_with_what_was_meant() {
        for (verb, text, expected, nearest) in [
            (
                Verb::Srun,
                "--contaner-image=x",
                "srun: unrecognized option '--contaner-image=x'",
                Some("--container-image"),
            ),
            (Verb::Srun, "--zzzzzz", "srun: unrecognized option '--zzzzzz'", None),
            (Verb::Sbatch, "--aray=1", "sbatch: unrecognized option '--aray=1'", Some("--array")),
            (Verb::Srun, "-9", "srun: invalid option -- '9'", None),
            (Verb::Srun, "-n", "srun: option requires an argument -- 'n'", None),
            (Verb::Srun, "--ntasks", "srun: option '--ntasks' requires an argument", None),
            (Verb::Srun, "--label=x", "srun: option '--label' doesn't allow an argument", None),
        ] {
            let mistake = line(verb, text).unwrap_err();
            assert_eq!((mistake.text.as_str(), mistake.nearest.as_deref()), (expected, nearest), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(words in proptest::collection::vec("-{0,2}[a-zA-Z0-9=:,]{0,12}|.{0,6}", 0..8)) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            for verb in [Verb::Srun, Verb::Sbatch, Verb::Salloc] {
                if let Ok((_, rest)) = parse(verb, &words) {
                    prop_assert!(words.ends_with(&rest));
                }
            }
        }
    }
}
