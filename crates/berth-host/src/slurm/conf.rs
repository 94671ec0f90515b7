//! The syntax of slurm.conf and its like; what `oci.conf` is, and where everything is in it, `berth_oci_conf` knows better.
//!
//! Keys have no case; a value is quoted or a word; several pairs may share a line; `#` begins a comment unless there is a
//! backslash before it, also within quotes; a backslash at the end of a line continues it.

use std::io;

use crate::doctor::Host;

/// Files may include each other; deeper than this is a circle.
const DEPTH: usize = 8;

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was written.
    pub key: String,
    /// Without quotes.
    pub value: String,
    /// Where it stands; lines that are continued have the number of the first.
    pub line: usize,
}

/// A line that Slurm cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Its number.
    pub line: usize,
    /// What is left of it.
    pub text: String,
}

/// Reads a file of a host with all that it includes. Mistakes are left out here.
pub fn read(host: &Host, path: &str) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    read_into(host, path, DEPTH, &mut entries)?;
    Ok(entries)
}

fn read_into(host: &Host, path: &str, depth: usize, entries: &mut Vec<Entry>) -> io::Result<()> {
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    for entry in parse(&host.read(path)?).0 {
        if entry.key == INCLUDE {
            let file = if entry.value.starts_with('/') { entry.value } else { format!("{dir}/{}", entry.value) };
            if depth > 0 {
                // Slurm says what it cannot include; what is there counts.
                let _ = read_into(host, &file, depth - 1, entries);
            }
        } else {
            entries.push(entry);
        }
    }
    Ok(())
}

/// The key of an entry that stands for `Include FILE`.
pub const INCLUDE: &str = "Include";

/// Takes a text apart: what is in it, and what nobody can read.
pub fn parse(text: &str) -> (Vec<Entry>, Vec<Mistake>) {
    let mut entries = Vec::new();
    let mut mistakes = Vec::new();
    for (number, line) in logical_lines(text) {
        let mut rest = line.trim();
        if let Some(file) = rest.get(..8).filter(|word| word.eq_ignore_ascii_case("include ")).map(|_| rest[8..].trim())
        {
            entries.push(Entry { key: INCLUDE.to_owned(), value: file.to_owned(), line: number });
            continue;
        }
        while !rest.is_empty() {
            let Some((key, value, after)) = pair(rest) else {
                mistakes.push(Mistake { line: number, text: rest.to_owned() });
                break;
            };
            entries.push(Entry { key: key.to_owned(), value: value.to_owned(), line: number });
            rest = after.trim_start();
        }
    }
    (entries, mistakes)
}

/// Lines without comments, joined where they are continued, with the numbers of their beginnings.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut result = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (line, continued) = clean(line);
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        whole.push_str(&line);
        if continued {
            open = Some((number, whole));
        } else {
            result.push((number, whole));
        }
    }
    result.extend(open);
    result
}

/// A line without its comment and escapes, and whether the next one belongs to it.
fn clean(line: &str) -> (String, bool) {
    let mut result = String::new();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '#' => break,
            '\\' => match letters.next() {
                Some(next) => result.push(next),
                None => return (result, true),
            },
            letter => result.push(letter),
        }
    }
    (result, false)
}

/// `key = value` at the beginning, and what comes after it.
fn pair(text: &str) -> Option<(&str, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')?;
    let (key, rest) = text.split_at(end);
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    if key.is_empty() {
        return None;
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, after) = quoted.split_once('"')?;
        return (after.is_empty() || after.starts_with(char::is_whitespace)).then_some((key, value, after));
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (value, after) = rest.split_at(end);
    (!value.is_empty()).then_some((key, value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        let (entries, mistakes) = parse(text);
        assert_eq!(mistakes, []);
        entries.into_iter().map(|entry| (entry.key, entry.value, entry.line)).collect()
    }

    #[test]
    fn pairs_share_lines_and_values_may_be_quoted() {
        let expected = [("NodeName", "n1", 1), ("CPUs", "4", 1), ("A", "b c", 3)];
        let expected: Vec<_> = expected.map(|(k, v, l)| (k.to_owned(), v.to_owned(), l)).into();
        assert_eq!(pairs("NodeName=n1 CPUs=4 # four\n\nA = \"b c\"\n"), expected);
    }

    #[test]
    fn a_backslash_continues_a_line_or_takes_a_letter_as_it_is() {
        assert_eq!(
            pairs("A=x\\#y\nB=\"a \\\nb\"\n"),
            [("A".to_owned(), "x#y".to_owned(), 1), ("B".to_owned(), "a b".to_owned(), 2),]
        );
    }

    #[test]
    fn what_is_no_pair_is_a_mistake_with_its_line() {
        for text in ["hello", "A=", "A=\"open", "A=\"x\"y", "=x"] {
            let (_, mistakes) = parse(&format!("B=1\n{text}\n"));
            assert_eq!(mistakes, [Mistake { line: 2, text: text.to_owned() }], "{text}");
        }
    }

    #[test]
    fn includes_are_entries_of_their_own() {
        assert_eq!(pairs("include nodes.conf\n"), [("Include".to_owned(), "nodes.conf".to_owned(), 1)]);
    }
}
