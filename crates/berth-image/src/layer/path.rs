//! Paths of archives, as text.

/// Deepest path: removing or checking a tree holds one descriptor a level.
const MAX_DEPTH: usize = 256;

/// Makes `path` relative: no leading or double slashes, no `.`; `..` is refused. An absolute name stays inside the tree,
/// as with every other tool.
pub(super) fn normalise(path: &[u8], into: &mut Vec<u8>) -> Result<(), &'static str> {
    into.clear();
    let mut depth = 0;
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("a path with `..` in it"),
            _ => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("a path that is nested deeper than 256 directories");
                }
                if !into.is_empty() {
                    into.push(b'/');
                }
                into.extend_from_slice(name);
            }
        }
    }
    Ok(())
}

/// The path that a link in `directory` names, as text: `..` takes the last name away.
pub(super) fn resolve_lexically(directory: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let start: &[u8] = if target.starts_with(b"/") { b"" } else { directory };
    for name in start.split(|&b| b == b'/').chain(target.split(|&b| b == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names.join(&b'/')
}

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_relative_and_never_climb() {
        let normal = |path: &[u8]| {
            let mut into = Vec::new();
            normalise(path, &mut into).map(|()| into)
        };
        for (path, expected) in [("./a//b/", "a/b"), ("/etc/x", "etc/x"), (".", ""), ("a/./b", "a/b")] {
            assert_eq!(normal(path.as_bytes()).unwrap(), expected.as_bytes(), "{path}");
        }
        assert!(normal(b"a/../b").is_err() && normal(&b"d/".repeat(300)).is_err());
    }

    #[test]
    fn links_are_followed_as_text_and_stop_at_the_top() {
        for (directory, target, expected) in
            [("a/b", "c", "a/b/c"), ("a/b", "../c", "a/c"), ("a", "/c", "c"), ("a", "../../../c", "c")]
        {
            assert_eq!(resolve_lexically(directory.as_bytes(), target.as_bytes()), expected.as_bytes());
        }
    }
}
