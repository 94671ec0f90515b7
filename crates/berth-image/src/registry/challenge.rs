//! `WWW-Authenticate` (RFC 9110, section 11.6.1), as far as registries use it. The header is hostile: whatever is in it,
//! parsing ends, and gives little.

use std::collections::BTreeMap;

/// The longest header that is looked at, in bytes.
const MAX_HEADER: usize = 8 << 10;
/// The largest number of parameters of one challenge.
const MAX_PARAMETERS: usize = 32;

/// One way in which a server wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer` or `basic`, lower case.
    pub scheme: String,
    /// `realm`, `service`, `scope`, …; names in lower case. The first of a name counts.
    pub parameters: BTreeMap<String, String>,
}

/// Parses the header's value. What cannot be understood is left out.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let end = (0..=header.len().min(MAX_HEADER)).rev().find(|at| header.is_char_boundary(*at)).unwrap_or(0);
    let mut rest = &header[..end];
    loop {
        rest = rest.trim_start_matches(|c: char| !is_token(c));
        if rest.is_empty() {
            return challenges;
        }
        let length = rest.find(|c| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let word = word.to_ascii_lowercase();
        match (after.trim_start().strip_prefix('='), challenges.last_mut()) {
            (Some(after), Some(challenge)) => {
                let (value, after) = value(after.trim_start());
                if challenge.parameters.len() < MAX_PARAMETERS {
                    challenge.parameters.entry(word).or_insert(value);
                }
                rest = after;
            }
            // A parameter of no challenge.
            (Some(after), None) => rest = value(after.trim_start()).1,
            (None, _) => {
                challenges.push(Challenge { scheme: word, parameters: BTreeMap::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    // Never closed.
    (value, "")
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}
