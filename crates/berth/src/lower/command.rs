//! Which command a container runs: the image's entrypoint and command, and what the person puts in their place.

use std::ffi::{OsStr, OsString};

use berth_image::manifest::RunConfig;

/// The words of the command; empty if neither the image nor the person names one.
///
/// As docker and podman have it: words of the person replace the image's `Cmd`; `--entrypoint` replaces the image's
/// `Entrypoint` and drops its `Cmd`, which was meant for another program.
pub fn words(config: &RunConfig, entrypoint: Option<&str>, typed: &[OsString]) -> Result<Vec<OsString>, String> {
    let (mut words, rest) = match entrypoint {
        Some(text) => (parse_entrypoint(text)?, &[][..]),
        None => (config.entrypoint.clone(), config.cmd.as_slice()),
    };
    let mut result: Vec<OsString> = words.drain(..).map(OsString::from).collect();
    if typed.is_empty() {
        result.extend(rest.iter().map(OsString::from));
    } else {
        result.extend(typed.iter().cloned());
    }
    Ok(result)
}

/// A program, or a JSON array of a program and its first arguments, as podman takes it.
fn parse_entrypoint(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        Ok(Vec::new())
    } else if text.starts_with('[') {
        serde_json::from_str(text).map_err(|e| format!("--entrypoint `{text}` is no JSON array of strings: {e}"))
    } else {
        Ok(vec![text.to_owned()])
    }
}

/// The command of `berth shell`: the person's own shell if the image has it, then bash, then sh; a login shell, so that
/// the image's profile is read. The image's sh finds out which of them there are: an image without it has no shell.
pub fn shell(own: Option<&OsStr>) -> Vec<OsString> {
    const SCRIPT: &str = r#"for shell; do command -v "$shell" >/dev/null 2>&1 && exec "$shell" -l; done; exec sh -l"#;
    // Only shells that know -l, and no path: where the image has it is the image's business.
    const KNOWN: &[&str] = &["zsh", "fish", "ksh", "mksh"];
    let own = own.and_then(OsStr::to_str).and_then(|path| path.rsplit('/').next());
    let own = own.filter(|name| KNOWN.contains(name));
    ["/bin/sh", "-c", SCRIPT, "berth-shell"].into_iter().chain(own).chain(["bash"]).map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_words_replace_the_command_and_entrypoint_replaces_both() {
        let image = RunConfig {
            entrypoint: vec!["/init".to_owned()],
            cmd: vec!["serve".to_owned(), "--all".to_owned()],
            ..RunConfig::default()
        };
        for (entrypoint, typed, expected) in [
            (None, "", "/init serve --all"),
            (None, "ls -l", "/init ls -l"),
            (Some(""), "", ""),
            (Some(""), "ls", "ls"),
            (Some("/bin/tool"), "", "/bin/tool"),
            (Some("/bin/tool"), "x", "/bin/tool x"),
            (Some(r#"["sh", "-c"]"#), "true", "sh -c true"),
        ] {
            let typed: Vec<OsString> = typed.split_whitespace().map(OsString::from).collect();
            let words = words(&image, entrypoint, &typed).unwrap();
            assert_eq!(words.join(OsStr::new(" ")), expected, "{entrypoint:?} {typed:?}");
        }
        assert!(words(&image, Some("[1"), &[]).is_err());
    }

    #[test]
    fn only_shells_that_are_known_to_be_shells_are_tried() {
        let tried = |own: &str| shell(Some(OsStr::new(own)))[4..].to_vec();
        assert_eq!(tried("/usr/bin/zsh"), ["zsh", "bash"]);
        assert_eq!(tried("/usr/sbin/nologin"), ["bash"]);
        assert_eq!(shell(None)[4..], ["bash"]);
    }
}
