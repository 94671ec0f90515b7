//! A command as far as it can be read without being a shell.

/// A line for `/bin/sh -c`.
pub struct Line<'a> {
    /// The whole.
    pub text: &'a str,
    /// Words between blanks, with their first bytes. Quotation is not looked at.
    pub words: Vec<(usize, &'a str)>,
}

/// Runtimes with runc's command line.
const OCI_RUNTIMES: [&str; 8] =
    ["runc", "crun", "nvidia-container-runtime", "youki", "runsc", "kata-runtime", "berth-runtime", "sandbox-runtime"];

/// What makes a user root.
pub const ELEVATORS: [&str; 3] = ["sudo", "doas", "pkexec"];

impl<'a> Line<'a> {
    pub fn of(text: &'a str) -> Line<'a> {
        let words = text.split(is_blank).filter(|word| !word.is_empty());
        let words = words.map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word)).collect();
        Line { text, words }
    }

    /// The program's place among the words: behind `exec`, assignments, `env` with its options, and `sudo`.
    pub fn program_at(&self) -> Option<usize> {
        let mut in_env = false;
        // A condition in front of it: `[ $(id -un) = %u ] && …`.
        let condition = match self.words.first() {
            Some((_, "[")) => self.words.iter().position(|(_, word)| *word == "&&").map_or(0, |at| at + 1),
            _ => 0,
        };
        for (index, &(_, word)) in self.words.iter().enumerate().skip(condition) {
            let word = word.trim_start_matches('(');
            if word == "exec" || ELEVATORS.contains(&base(word)) || is_assignment(word) {
                continue;
            }
            if base(word) == "env" {
                in_env = true;
                continue;
            }
            if in_env && word.starts_with('-') {
                continue;
            }
            return Some(index);
        }
        None
    }

    /// The name of the program, without its folder.
    pub fn program(&self) -> Option<&'a str> {
        self.program_at().map(|index| base(self.words[index].1))
    }

    /// Whether it is a runtime with runc's command line.
    pub fn is_oci_runtime(&self) -> bool {
        self.program().is_some_and(|program| OCI_RUNTIMES.contains(&program))
    }

    /// What stands behind an option, `--root=x` or `--root x`, and its first byte.
    pub fn option(&self, name: &str) -> Option<(usize, &'a str)> {
        for (index, &(at, word)) in self.words.iter().enumerate() {
            match word.strip_prefix(name) {
                Some("") => return self.words.get(index + 1).copied(),
                Some(value) if value.starts_with('=') => return Some((at + name.len() + 1, &value[1..])),
                _ => {}
            }
        }
        None
    }

    /// The first byte of a word.
    pub fn word(&self, wanted: &[&str]) -> Option<usize> {
        self.words.iter().find(|(_, word)| wanted.contains(word)).map(|(at, _)| *at)
    }

    /// The container's id: the word with `%j` in it that is no path and no option.
    pub fn id(&self) -> Option<(usize, &'a str)> {
        let is_id = |word: &str| word.contains("%j") && !word.contains('/') && !word.starts_with('-');
        self.words.iter().copied().find(|(_, word)| is_id(word))
    }
}

/// A name without its folder.
pub fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// `NAME=value`.
pub fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn is_blank(letter: char) -> bool {
    letter.is_ascii_whitespace() || letter == '\x0b'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_behind_what_starts_them() {
        for (text, expected) in [
            ("exec /usr/bin/runc --root=/x run", Some("runc")),
            ("sudo singularity oci state x", Some("singularity")),
            ("env -i PATH=/bin USER=$(whoami) ch-run -w %r", Some("ch-run")),
            ("A=b exec crun", Some("crun")),
            ("exec", None),
            ("", None),
        ] {
            assert_eq!(Line::of(text).program(), expected, "{text}");
        }
    }

    #[test]
    fn options_and_ids_have_their_places() {
        let line = Line::of("crun --root /x run --bundle=%b %n.%j");
        assert_eq!(line.option("--root"), Some((12, "/x")));
        assert_eq!(line.option("--bundle"), Some((28, "%b")));
        assert_eq!(line.id(), Some((31, "%n.%j")));
        assert_eq!(line.option("--none"), None);
    }
}
