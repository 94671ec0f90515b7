//! How an image in one file wants to be started.
//!
//! Such files carry no configuration beside the tree, so it is in the tree: [`CONFIG`] in those that were made from an OCI
//! image by berth, and what enroot writes in others: variables in `/etc/environment`, and a script `/etc/rc` with the
//! directory, the entrypoint and the command. A script of the form that enroot writes is understood, so that the image
//! starts as it would from its registry, also where it has no shell; any other one is run, as enroot runs it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use berth_image::manifest::{ImageConfig, RunConfig};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Where an image has its OCI configuration, the document that its registry had.
pub const CONFIG: &str = "etc/berth/image.json";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// What the image below this directory says.
pub fn of_image(root: impl AsFd) -> RunConfig {
    let root = root.as_fd();
    let text = |path: &str| String::from_utf8_lossy(&file_in(root, path)).into_owned();
    let own = file_in(root, CONFIG);
    if let Some(own) = (!own.is_empty()).then(|| ImageConfig::parse(&own, CONFIG).ok()).flatten() {
        return own.config;
    }
    let mut config = RunConfig {
        env: environment(&text("etc/environment"), |name| std::env::var(name).ok()),
        ..RunConfig::default()
    };
    let rc = text("etc/rc");
    if rc.trim().is_empty() {
        config.cmd = vec!["/bin/sh".to_owned()];
        return config;
    }
    let local = text("etc/rc.local");
    match parse_rc(&rc).filter(|_| lines_of(&local).next().is_none()) {
        Some(parsed) => RunConfig { env: config.env, ..parsed },
        None => {
            config.entrypoint = vec!["/bin/sh".to_owned(), "/etc/rc".to_owned()];
            config
        }
    }
}

/// A small regular file below a root that may be hostile; empty if it is anything else.
pub fn file_in(root: impl AsFd, path: impl AsRef<Path>) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Ok(file) = rustix::fs::openat2(root, path.as_ref(), flags, Mode::empty(), resolve) else { return Vec::new() };
    let file = File::from(file);
    let mut content = Vec::with_capacity(4096);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE => {}
        _ => return Vec::new(),
    }
    match file.take(MAX_FILE).read_to_end(&mut content) {
        Ok(_) => content,
        Err(_) => Vec::new(),
    }
}

/// `NAME=value` lines. As enroot reads them: `${NAME}` is a variable of the host, one pair of quotes is taken off, names
/// that are none and enroot's own are left out, and a later line wins.
fn environment(text: &str, host: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let Some((name, value)) = line.trim_start().split_once('=') else { continue };
        let mut letters = name.bytes();
        let starts = letters.next().is_some_and(|letter| letter.is_ascii_alphabetic() || letter == b'_');
        if !starts || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_') || is_enroots(name) {
            continue;
        }
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        let value = expand(quoted('"').or_else(|| quoted('\'')).unwrap_or(value), &host);
        entries.retain(|(known, _)| known != name);
        entries.push((name.to_owned(), value));
    }
    entries.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn is_enroots(name: &str) -> bool {
    name.starts_with("ENROOT_")
}

fn expand(text: &str, host: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        result.push_str(&rest[..start]);
        result.push_str(&host(&rest[start + 2..start + length]).unwrap_or_default());
        rest = &rest[start + length + 1..];
    }
    result + rest
}

/// Lines that do something.
fn lines_of(script: &str) -> impl Iterator<Item = &str> {
    script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What a script of enroot's says; `None` if somebody else wrote it.
fn parse_rc(script: &str) -> Option<RunConfig> {
    let mut lines = lines_of(script);
    let mut next = || lines.next();
    let directory = next()?.strip_prefix("mkdir -p \"")?.strip_suffix("\" 2> /dev/null")?;
    if next()? != format!("cd \"{directory}\" && unset OLDPWD || exit 1") || directory.contains(['$', '`', '"', '\\']) {
        return None;
    }
    for expected in ["if [ -s /etc/rc.local ]; then", ". /etc/rc.local", "fi", "if [ $# -gt 0 ]; then"] {
        if next()? != expected {
            return None;
        }
    }
    let entrypoint = words(next()?.strip_prefix("exec ")?.strip_suffix("\"$@\"")?)?;
    if next()? != "else" {
        return None;
    }
    let mut all = words(next()?.strip_prefix("exec ")?)?;
    if next()? != "fi" || next().is_some() || !all.starts_with(&entrypoint) {
        return None;
    }
    let cmd = all.split_off(entrypoint.len());
    Some(RunConfig { working_dir: directory.to_owned(), entrypoint, cmd, ..RunConfig::default() })
}

/// Words as bash quotes them (`${word@Q}`): `'…'`, `\'`, `$'…'`. `None` for what is not of that form.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(letters.next()?),
            '$' if letters.peek() == Some(&'\'') => {
                letters.next();
                let word = word.get_or_insert_default();
                loop {
                    match letters.next()? {
                        '\'' => break,
                        '\\' => word.push(match letters.next()? {
                            'n' => '\n',
                            't' => '\t',
                            'r' => '\r',
                            'a' => '\x07',
                            'b' => '\x08',
                            'e' | 'E' => '\x1b',
                            'f' => '\x0c',
                            'v' => '\x0b',
                            letter @ ('\\' | '\'' | '"' | '?') => letter,
                            _ => return None,
                        }),
                        letter => word.push(letter),
                    }
                }
            }
            _ => return None,
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rc(directory: &str, entrypoint: &str, command: &str) -> String {
        format!(
            "# maintainer somebody\n\nmkdir -p \"{directory}\" 2> /dev/null\ncd \"{directory}\" && unset OLDPWD || exit 1\n\n\
             if [ -s /etc/rc.local ]; then\n    . /etc/rc.local\nfi\n\nif [ $# -gt 0 ]; then\n    exec {entrypoint} \"$@\"\n\
             else\n    exec {entrypoint} {command}\nfi\n"
        )
    }

    #[test]
    fn a_script_of_enroots_says_what_the_image_said() {
        let parsed = parse_rc(&rc("/work dir", "'/entry' '-x'", r#"'a b' 'it'\''s' $'two\nlines'"#)).unwrap();
        assert_eq!(parsed.working_dir, "/work dir");
        assert_eq!(parsed.entrypoint, ["/entry", "-x"]);
        assert_eq!(parsed.cmd, ["a b", "it's", "two\nlines"]);
        let plain = parse_rc(&rc("/", "", "'/bin/sh'")).unwrap();
        assert_eq!((plain.entrypoint.len(), plain.cmd), (0, vec!["/bin/sh".to_owned()]));
        for other in [
            "exec \"$@\"\n".to_owned(),
            rc("/$HOME", "", "'/bin/sh'"),
            rc("/", "", "'/bin/sh'") + "echo more\n",
            rc("/", "", "$(reboot)"),
            rc("/", "'/a'", "'/b'").replace("'/a' '/b'", "'/b'"),
        ] {
            assert!(parse_rc(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn variables_are_read_as_enroot_reads_them() {
        let text =
            "PATH=/a:${HOME}/bin\n# no\nA=\"x y\"\n 1B=no\nB='z'\nENROOT_ROOTFS=/x\nA=later\nno line\nC=${NONE}${\n";
        let host = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        assert_eq!(environment(text, host), ["PATH=/a:/home/me/bin", "B=z", "A=later", "C=${"]);
    }

    #[test]
    fn an_image_says_it_in_its_own_way_or_in_enroots() {
        let dir = tempfile::tempdir().unwrap();
        let root = || File::open(dir.path()).unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(of_image(root()).cmd, ["/bin/sh"]);
        write("etc/environment", "A=1\n");
        write("etc/rc", &rc("/w", "'/entry'", "'x'"));
        write("etc/rc.local", "# This file is sourced\n");
        let config = of_image(root());
        assert_eq!((config.entrypoint, config.env), (vec!["/entry".to_owned()], vec!["A=1".to_owned()]));
        write("etc/rc.local", "export B=2\n");
        assert_eq!(of_image(root()).entrypoint, ["/bin/sh", "/etc/rc"]);
        write(CONFIG, r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["own"],"User":"7"}}"#);
        let config = of_image(root());
        assert_eq!((config.cmd, config.user), (vec!["own".to_owned()], "7".to_owned()));
    }
}
