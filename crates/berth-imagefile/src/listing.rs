//! A tree as text: one line a name, with all that can be told of it. Two trees are the same if their listings are.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt::Write as _;

use sha2::Digest as _;
use sha2::Sha256;

use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::tree::Kind;
use crate::tree::Tree;

/// Bytes read at once.
const PIECE: usize = 1 << 18;

/// The lines of a tree, sorted by path: kind, mode, owner, times, size, digest of the contents, xattrs, target, device,
/// and for a further name of a file, the first one. A tree with more names than `bound` is an error.
pub fn listing(tree: &dyn Tree, bound: usize) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut first_names = HashMap::new();
    let mut directories = HashSet::from([tree.root()]);
    let mut todo = vec![(Vec::new(), tree.root())];
    let mut buffer = vec![0; PIECE];
    let mut names = 0;
    while let Some((path, node)) = todo.pop() {
        lines.push(line(tree, &path, node, &mut first_names, &mut buffer)?);
        if tree.attributes(node)?.kind != Kind::Directory {
            continue;
        }
        let mut children = Vec::new();
        tree.read_dir(node, 0, &mut |entry| {
            let mut child = path.clone();
            child.push(b'/');
            child.extend_from_slice(entry.name);
            children.push((child, entry.node, entry.kind));
            names += 1;
            names <= bound
        })?;
        if names > bound {
            return Err(damaged(format!("more than {bound} names")));
        }
        children.sort();
        if let Some(twice) = children.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(damaged(format!("two entries `{}`", printable(&twice[0].0))));
        }
        for (path, node, kind) in children.into_iter().rev() {
            if tree.attributes(node)?.kind != kind {
                return Err(damaged(format!("`{}` is not of the kind that its directory says", printable(&path))));
            }
            if kind == Kind::Directory && !directories.insert(node) {
                return Err(damaged(format!("the directory `{}` has a second name", printable(&path))));
            }
            todo.push((path, node));
        }
    }
    Ok(lines)
}

fn damaged(reason: String) -> Error {
    Error::Damaged { name: "tree".to_owned(), reason }
}

fn line(
    tree: &dyn Tree,
    path: &[u8],
    node: u64,
    first_names: &mut HashMap<u64, String>,
    buffer: &mut [u8],
) -> Result<String> {
    let attributes = tree.attributes(node)?;
    let path = if path.is_empty() { "/".to_owned() } else { printable(path) };
    let mut text = format!(
        "{path} {:?} {:04o} {}:{} {}.{:09}",
        attributes.kind,
        attributes.mode,
        attributes.uid,
        attributes.gid,
        attributes.mtime,
        attributes.mtime_nanoseconds
    );
    // Writing into a text cannot fail.
    match attributes.kind {
        Kind::File => {
            let _ = write!(text, " {} {}", attributes.size, digest(tree, node, attributes.size, buffer)?);
        }
        Kind::Symlink => {
            let _ = write!(text, " -> {}", printable(&tree.read_link(node)?));
        }
        Kind::CharDevice | Kind::BlockDevice => {
            let _ = write!(text, " {}:{}", attributes.device.0, attributes.device.1);
        }
        _ => {}
    }
    if attributes.kind != Kind::Directory {
        let _ = write!(text, " links={}", attributes.links);
        if attributes.links > 1 {
            match first_names.get(&node) {
                Some(first) => {
                    let _ = write!(text, " same={first}");
                }
                None => {
                    first_names.insert(node, path);
                }
            }
        }
    }
    let mut xattrs = tree.xattrs(node)?;
    xattrs.sort();
    for (name, value) in xattrs {
        let _ = write!(text, " {}={}", printable(&name), printable(&value));
    }
    Ok(text)
}

fn digest(tree: &dyn Tree, node: u64, size: u64, buffer: &mut [u8]) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut offset = 0;
    loop {
        let bytes = tree.read(node, offset, buffer)?;
        if bytes == 0 {
            break;
        }
        hasher.update(&buffer[..bytes]);
        offset += bytes as u64;
    }
    if offset != size {
        return Err(damaged(format!("a file has {offset} bytes instead of {size}")));
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
