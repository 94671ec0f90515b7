//! The patterns in values, `%b` and its like, and what each becomes.
//!
//! A pattern that a release does not know ends the task with a fatal error, so [`pieces`] tells them apart, and [`expand`]
//! refuses what the release refuses.

use std::fmt::Write as _;

use crate::release::Release;

/// A pattern.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// The letter behind the percent sign.
    pub letter: char,
    /// The release that brought it.
    pub since: Release,
    /// What it becomes.
    pub becomes: &'static str,
    /// How that changed, and when; or what never was.
    pub but: &'static [(Release, &'static str)],
}

const fn pattern(letter: char, since: Release, becomes: &'static str) -> Pattern {
    Pattern { letter, since, becomes, but: &[] }
}

impl Pattern {
    const fn but(mut self, but: &'static [(Release, &'static str)]) -> Pattern {
        self.but = but;
        self
    }

    /// The pattern of that letter.
    pub fn of(letter: char) -> Option<&'static Pattern> {
        PATTERNS.iter().find(|pattern| pattern.letter == letter)
    }

    /// Whether a user can choose what it becomes.
    pub fn is_the_users(letter: char) -> bool {
        matches!(letter, 'b' | 'r' | '@')
    }
}

const G1: Release = Release::FIRST;
const G2: Release = Release::GENERATION_2;

/// All patterns.
pub static PATTERNS: [Pattern; 14] = [
    pattern('%', G1, "a percent sign"),
    pattern('@', G1, "the command, each word in apostrophes; nothing where config.json has it").but(&[(
        Release(21, 8),
        "up to 25.11 a word with an apostrophe in it is quoted wrongly, and the shell refuses the line",
    )]),
    pattern('b', G1, "the folder with config.json; without one, and in root's commands, what the user wrote"),
    pattern('e', G1, "the file of the environment, whether it is written or not"),
    pattern('j', G1, "the job's number"),
    pattern('m', G2, "the task's spool folder").but(&[(Release::NEW_SPOOL, "the step's spool folder")]),
    pattern('n', G1, "the node's name in Slurm"),
    pattern('p', G2, "4294967295 in every release, never a process"),
    pattern('r', G1, "the root file system; without config.json what the user wrote"),
    pattern('s', G1, "the step's number; 4294967291 for a batch script, 4294967290 for an interactive step"),
    pattern('t', G1, "the task's number on the node").but(&[(G2, "-1 in root's commands at the end of a step")]),
    pattern('u', G1, "the user's name"),
    pattern('U', G2, "the user's number"),
    pattern('Z', Release::WORKING_DIR, "the step's working directory"),
];

/// A part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it is.
    Text(&'a str),
    /// A percent sign and what stands behind it, if anything does; and at which byte of the value.
    Pattern(Option<char>, usize),
}

/// Takes a value apart.
pub fn pieces(value: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = 0;
    while let Some(at) = value[rest..].find('%').map(|at| rest + at) {
        if at > rest {
            pieces.push(Piece::Text(&value[rest..at]));
        }
        let letter = value[at + 1..].chars().next();
        pieces.push(Piece::Pattern(letter, at));
        rest = at + 1 + letter.map_or(0, char::len_utf8);
    }
    if rest < value.len() {
        pieces.push(Piece::Text(&value[rest..]));
    }
    pieces
}

/// Whether a pattern stands in a value.
pub fn uses(value: &str, letter: char) -> bool {
    find(value, letter).is_some()
}

/// The byte at which a pattern stands in a value for the first time.
pub fn find(value: &str, letter: char) -> Option<usize> {
    pieces(value).into_iter().find_map(|piece| match piece {
        Piece::Pattern(Some(found), at) if found == letter => Some(at),
        _ => None,
    })
}

/// What patterns stand for at one moment of a step. [`crate::step`] fills it as a release does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// `%@`, unless it is empty in any case.
    pub arguments: Option<Vec<String>>,
    /// `%b`.
    pub bundle: String,
    /// `%e`.
    pub env_file: String,
    /// `%j`.
    pub job: u32,
    /// `%m`.
    pub spool: String,
    /// `%n`.
    pub node: String,
    /// `%r`. Slurm prints `(null)` where there is none.
    pub root: Option<String>,
    /// `%s`.
    pub step: u32,
    /// `%t`; Slurm prints -1 where there is none.
    pub task: Option<u32>,
    /// `%u`.
    pub user: String,
    /// `%U`.
    pub uid: u32,
    /// `%Z`.
    pub working_dir: String,
}

/// A value that ends the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExpanded {
    /// No release knows it.
    #[error("%{0} is no pattern of Slurm")]
    Unknown(char),
    /// A later one does.
    #[error("%{0} came with Slurm {1}")]
    TooNew(char, Release),
    /// Nothing stands behind the percent sign.
    #[error("a percent sign at the end is no pattern; `%%` is a percent sign")]
    Nothing,
}

/// Whether a release knows a pattern.
pub fn known(letter: Option<char>, release: Release) -> Result<char, NotExpanded> {
    let letter = letter.ok_or(NotExpanded::Nothing)?;
    let pattern = Pattern::of(letter).ok_or(NotExpanded::Unknown(letter))?;
    if pattern.since > release { Err(NotExpanded::TooNew(letter, pattern.since)) } else { Ok(letter) }
}

/// What a release makes of a value. Nothing is quoted but `%@`, as Slurm has it: see [`quoted`].
pub fn expand(value: &str, values: &Values, release: Release) -> Result<String, NotExpanded> {
    let mut result = String::new();
    for piece in pieces(value) {
        let letter = match piece {
            Piece::Text(text) => {
                result.push_str(text);
                continue;
            }
            Piece::Pattern(letter, _) => known(letter, release)?,
        };
        match letter {
            '%' => result.push('%'),
            '@' => result.push_str(&arguments(values, release)),
            'b' => result.push_str(&values.bundle),
            'e' => result.push_str(&values.env_file),
            'm' => result.push_str(&values.spool),
            'n' => result.push_str(&values.node),
            'r' => result.push_str(values.root.as_deref().unwrap_or("(null)")),
            'u' => result.push_str(&values.user),
            'Z' => result.push_str(&values.working_dir),
            'j' => write!(result, "{}", values.job).expect("a string takes it"),
            's' => write!(result, "{}", values.step).expect("a string takes it"),
            'U' => write!(result, "{}", values.uid).expect("a string takes it"),
            't' => match values.task {
                Some(task) => write!(result, "{task}").expect("a string takes it"),
                None => result.push_str("-1"),
            },
            // The number of a process that never was.
            _ => result.push_str("4294967295"),
        }
    }
    Ok(result)
}

fn arguments(values: &Values, release: Release) -> String {
    let quote = if release < Release(26, 5) { wrongly_quoted } else { quoted };
    match &values.arguments {
        Some(words) if words.is_empty() && release.rewrites_per_task() => "\"/bin/false\"".to_owned(),
        Some(words) => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
        None => String::new(),
    }
}

/// A word as releases before 26.05 quote it: after an apostrophe in it there is one too many.
fn wrongly_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\"'\"''"))
}

/// A word that a shell takes as it is, whatever is in it.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\"'\"'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            arguments: Some(vec!["echo".to_owned(), "it's".to_owned(), String::new()]),
            bundle: "/b".to_owned(),
            env_file: "/s/environment".to_owned(),
            job: 7,
            spool: "/s".to_owned(),
            node: "n1".to_owned(),
            root: Some("/b/rootfs".to_owned()),
            step: 4_294_967_291,
            task: Some(2),
            user: "alice".to_owned(),
            uid: 1000,
            working_dir: "/home/alice".to_owned(),
        }
    }

    #[test]
    fn each_pattern_becomes_what_it_stands_for() {
        let newest = Release::LAST;
        for (value, expected) in [
            ("%% %j %n %s %t %u %U", "% 7 n1 4294967291 2 alice 1000"),
            ("%b %e %m %r %Z", "/b /s/environment /s /b/rootfs /home/alice"),
            ("%p", "4294967295"),
            ("%@", r#"'echo' 'it'"'"'s' ''"#),
            ("%%b100%%", "%b100%"),
            ("", ""),
        ] {
            assert_eq!(expand(value, &values(), newest).as_deref(), Ok(expected), "{value}");
        }
        let old = expand("%@", &values(), Release(24, 11));
        assert_eq!(old.as_deref(), Ok(r#"'echo' 'it'"'"''s' ''"#), "as it was seen: no shell takes it");
        let nothing = Values { arguments: None, root: None, task: None, ..values() };
        assert_eq!(expand("[%@] %r %t", &nothing, newest).as_deref(), Ok("[] (null) -1"));
        let no_words = Values { arguments: Some(Vec::new()), ..values() };
        assert_eq!(expand("%@", &no_words, newest).as_deref(), Ok("\"/bin/false\""));
    }

    #[test]
    fn a_release_refuses_what_it_does_not_know() {
        for (value, release, expected) in [
            ("%U", Release(22, 5), NotExpanded::TooNew('U', Release(23, 2))),
            ("%m", Release(22, 5), NotExpanded::TooNew('m', Release(23, 2))),
            ("%p", Release(22, 5), NotExpanded::TooNew('p', Release(23, 2))),
            ("%Z", Release(25, 11), NotExpanded::TooNew('Z', Release(26, 5))),
            ("%q", Release(26, 5), NotExpanded::Unknown('q')),
            ("%ü", Release(26, 5), NotExpanded::Unknown('ü')),
            ("100%", Release(26, 5), NotExpanded::Nothing),
        ] {
            assert_eq!(expand(value, &values(), release), Err(expected), "{value} {release}");
        }
    }

    #[test]
    fn a_doubled_percent_sign_is_none() {
        assert!(!uses("100%%b", 'b') && uses("%%%b", 'b'));
        assert_eq!(find("a %% %j", 'j'), Some(5));
    }

    #[test]
    fn quoted_words_are_what_they_were_to_a_shell() {
        for word in ["it's", "'", "''", "$HOME", "`id`", "a\nb", "", "\\", "\"", "ü;*?"] {
            let line = format!("printf %s {}", quoted(word));
            let said = std::process::Command::new("/bin/sh").arg("-c").arg(line).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }
}
