//! What must hold for any image in one file at all. The fuzz target and a plain test share this file.

use std::io::Write as _;

use berth_imagefile::Tree;
use berth_imagefile::tree::Kind;

/// Most nodes that are looked at.
const NODES: usize = 2_000;
/// Most entries of a directory that are looked at.
const ENTRIES: usize = 200;

/// An image is opened or refused; whatever it has can be asked for without harm, no directory lies in itself, and a listing
/// that was interrupted goes on where it was.
pub fn image(data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(data).expect("room in the temporary file");
    let Ok(tree) = berth_imagefile::open(file, "fuzzed") else { return };
    let tree = &*tree;
    let _ = tree.statistics();
    let mut todo = vec![(tree.root(), Kind::Directory, vec![tree.root()])];
    let mut seen = 0;
    while let Some((node, kind, above)) = todo.pop() {
        seen += 1;
        if seen > NODES {
            return;
        }
        let _ = tree.xattrs(node);
        let _ = tree.read_link(node);
        let Ok(attributes) = tree.attributes(node) else { continue };
        if attributes.kind != kind {
            continue;
        }
        read(tree, node, attributes.size);
        for (child, kind) in list(tree, node) {
            let mut path = above.clone();
            if kind == Kind::Directory {
                assert!(!path.contains(&child), "a directory lies in itself");
                path.push(child);
            }
            todo.push((child, kind, path));
        }
    }
}

/// Reads where mistakes are likely: at the begin, in the middle, at the end and behind it.
fn read(tree: &dyn Tree, node: u64, size: u64) {
    let mut buffer = [0; 5000];
    for offset in [0, 4095, size / 2, size.saturating_sub(1), size, size.saturating_add(1), u64::MAX] {
        if let Ok(length) = tree.read(node, offset, &mut buffer) {
            let expected = size.saturating_sub(offset).min(buffer.len() as u64);
            assert_eq!(length as u64, expected, "a read of {size} bytes from {offset}");
        }
    }
}

fn list(tree: &dyn Tree, node: u64) -> Vec<(u64, Kind)> {
    let mut entries = Vec::new();
    let mut offsets = Vec::new();
    let listed = tree.read_dir(node, 0, &mut |entry| {
        assert!(!entry.name.is_empty() && !entry.name.contains(&b'/') && !entry.name.contains(&0));
        if let Ok(Some(found)) = tree.lookup(node, entry.name) {
            let kind = tree.attributes(found).map(|attributes| attributes.kind);
            assert!(found != entry.node || kind.is_ok_and(|kind| kind == entry.kind), "a lookup leads astray");
        }
        entries.push((entry.node, entry.kind));
        offsets.push((entry.next, entry.name.to_vec()));
        entries.len() < ENTRIES
    });
    for (at, (offset, _)) in offsets.iter().enumerate() {
        let mut next = None;
        let _ = tree.read_dir(node, *offset, &mut |entry| {
            next = Some(entry.name.to_vec());
            false
        });
        // The last one that was taken may be followed by more.
        let expected = offsets.get(at + 1).map(|(_, name)| name.clone());
        if expected.is_some() || (listed.is_ok() && entries.len() < ENTRIES) {
            assert_eq!(next, expected, "a listing goes on at {offset:#x}");
        }
    }
    entries
}
