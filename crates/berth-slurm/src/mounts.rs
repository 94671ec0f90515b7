//! `--container-mounts`: `SRC[:DST[:FLAGS]]`, several of them joined by commas.
//!
//! SRC is a path of the node, `tmpfs` for an empty file system in memory, or `umount` for one less of what the container
//! would have at DST. A path alone is seen at the same place. FLAGS are joined by `+`.

/// One mount, as text: nothing here looks at the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// A path, which may be relative to the job's working directory; `tmpfs`; or `umount`.
    pub source: String,
    /// A path of the container.
    pub target: String,
    /// What is left of FLAGS, each one word.
    pub flags: Vec<String>,
}

impl Mount {
    /// Whether it is a file system in memory.
    pub fn is_tmpfs(&self) -> bool {
        self.source == "tmpfs"
    }

    /// Whether it takes a mount away.
    pub fn is_umount(&self) -> bool {
        self.source == "umount"
    }
}

/// Takes the value of the option apart. Doublets are dropped.
///
/// # Errors
/// What is wrong, in pyxis' words; a second line has its prefix already.
pub fn parse(text: &str) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for entry in text.split(',') {
        let mount = parse_one(entry)?;
        if !mounts.contains(&mount) {
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

fn parse_one(entry: &str) -> Result<Mount, String> {
    let invalid = || format!("--container-mounts: invalid format: {entry}");
    let parts: Vec<&str> = entry.split(':').collect();
    let (source, target, flags) = match parts[..] {
        [source] => (source, source, ""),
        [source, target] => (source, target, ""),
        [source, target, flags] => (source, target, flags),
        _ => return Err(invalid()),
    };
    if source.is_empty() || target.is_empty() || (parts.len() == 3 && flags.is_empty()) {
        return Err(invalid());
    }
    let is_path = |text: &str| text.starts_with(['.', '/']);
    let refused = |must: &str| format!("mount {must}\npyxis: could not add mount entry: {source}:{target}");
    if !is_path(source) && !["tmpfs", "umount"].contains(&source) {
        return Err(refused(r#"source must be a relative path, an absolute path, "tmpfs" or "umount""#));
    }
    if !is_path(target) {
        return Err(refused("target must be a relative path or an absolute path"));
    }
    let flags: Vec<String> = flags.split('+').filter(|flag| !flag.is_empty()).map(str::to_owned).collect();
    Ok(Mount { source: source.to_owned(), target: target.to_owned(), flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str, flags: &[&str]) -> Mount {
        Mount {
            source: source.to_owned(),
            target: target.to_owned(),
            flags: flags.iter().map(|&f| f.to_owned()).collect(),
        }
    }

    #[test]
    fn a_list_is_taken_apart_and_doublets_are_dropped() {
        assert_eq!(
            parse("/data,/a:/b,/a:/b,./c:/d:ro+nosuid,tmpfs:/scratch,umount:/home").unwrap(),
            [
                mount("/data", "/data", &[]),
                mount("/a", "/b", &[]),
                mount("./c", "/d", &["ro", "nosuid"]),
                mount("tmpfs", "/scratch", &[]),
                mount("umount", "/home", &[]),
            ]
        );
    }

    #[test]
    fn what_is_no_mount_is_told_in_the_words_that_scripts_know() {
        let source = r#"mount source must be a relative path, an absolute path, "tmpfs" or "umount""#;
        let target = "mount target must be a relative path or an absolute path";
        for (text, error) in [
            ("", "--container-mounts: invalid format: ".to_owned()),
            ("/a:/b:ro:x", "--container-mounts: invalid format: /a:/b:ro:x".to_owned()),
            ("/a:", "--container-mounts: invalid format: /a:".to_owned()),
            ("/a,", "--container-mounts: invalid format: ".to_owned()),
            ("data:/b", format!("{source}\npyxis: could not add mount entry: data:/b")),
            ("data", format!("{source}\npyxis: could not add mount entry: data:data")),
            ("/a:b", format!("{target}\npyxis: could not add mount entry: /a:b")),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
    }
}
