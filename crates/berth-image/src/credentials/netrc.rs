//! enroot's `.credentials`: netrc, of which enroot reads one line a login.

use super::Secret;

/// One login of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host, without a port.
    pub host: String,
    /// The user.
    pub login: String,
    /// The password as written; one that begins with `$` is the rest of the line, for the shell.
    pub password: Secret,
}

/// Parses `machine HOST login USER password SECRET` lines. What is not one is skipped, as curl and enroot do; netrc's
/// form over several lines is understood where no value is for the shell.
pub fn parse_netrc(text: &str) -> Vec<Machine> {
    let mut machines = Vec::new();
    let (mut host, mut login): (Option<String>, Option<String>) = (None, None);
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        let mut rest = line;
        while let Some(word) = next_word(&mut rest) {
            match word {
                "machine" => {
                    host = next_word(&mut rest).map(str::to_owned);
                    login = None;
                }
                "login" => login = next_word(&mut rest).map(str::to_owned),
                "password" => {
                    let word = rest.trim_start();
                    let secret = match word.starts_with('$') {
                        true => std::mem::take(&mut rest).trim(),
                        false => next_word(&mut rest).unwrap_or_default(),
                    };
                    if let (Some(host), Some(login)) = (host.take(), login.take()) {
                        machines.push(Machine { host, login, password: Secret::new(secret) });
                    }
                }
                _ => {}
            }
        }
    }
    machines
}

fn next_word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}
