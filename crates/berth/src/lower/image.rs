//! The image as a start sees it: what it says, and its trees.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use berth_container::etc::Entry;
use berth_image::Digest;
use berth_image::manifest::RunConfig;
use berth_image::store::{EntryKind, KNOWN_PATHS};
use berth_imagefile::Tree;

use crate::imagefile;

/// What is started from.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its name, for messages.
    pub name: String,
    /// The digest of its manifest, if it has one.
    pub digest: Option<Digest>,
    /// What it says of how to run.
    pub config: RunConfig,
    /// Its `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// Its `/etc/group`.
    pub group: Vec<u8>,
    /// Its trees, the lowest first.
    pub layers: Vec<PathBuf>,
    /// What it has at the paths that a start asks after, where an import looked; else the trees are asked.
    pub known: Option<BTreeMap<String, EntryKind>>,
    /// The tree below all others, of an image in one file.
    pub file: Option<OneFile>,
    /// Whether it is a directory of the person's rather than an image of the store.
    pub is_directory: bool,
}

/// An image in one file, open.
#[derive(Clone, Debug)]
pub struct OneFile {
    /// What can be read of it.
    pub tree: Arc<dyn Tree>,
    /// The file.
    pub file: Arc<File>,
}

impl Image {
    /// What is at an absolute path, as of the uppermost layer that has something to say about it. Links on the way are
    /// not followed; a directory that hides those below it (an opaque one) is not noticed: nobody who asks minds seeing
    /// an entry too many.
    pub fn entry(&self, path: &str) -> Option<Entry> {
        let relative = path.trim_start_matches('/');
        if let Some(known) = self.known.as_ref().filter(|_| KNOWN_PATHS.contains(&relative)) {
            return known.get(relative).map(|kind| match kind {
                EntryKind::Directory => Entry::Directory,
                EntryKind::File => Entry::File,
                EntryKind::Link => Entry::Link,
                EntryKind::Other => Entry::Other,
            });
        }
        if let Some(file) = &self.file {
            return imagefile::entry(&*file.tree, relative);
        }
        let found = self.layers.iter().rev().find_map(|layer| layer.join(relative).symlink_metadata().ok())?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            // A whiteout: deleted by this layer.
            None
        } else if kind.is_dir() {
            Some(Entry::Directory)
        } else if kind.is_file() {
            Some(Entry::File)
        } else if kind.is_symlink() {
            Some(Entry::Link)
        } else {
            Some(Entry::Other)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_layer_that_has_an_entry_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        std::fs::create_dir_all(low.join("etc/x")).unwrap();
        std::fs::create_dir_all(high.join("etc")).unwrap();
        std::fs::write(low.join("etc/passwd"), "").unwrap();
        std::fs::write(high.join("etc/x"), "").unwrap();
        std::os::unix::fs::symlink("/usr/lib/os-release", low.join("etc/os-release")).unwrap();
        let image = Image { layers: vec![low, high], ..Image::default() };
        assert_eq!(image.entry("/etc"), Some(Entry::Directory));
        assert_eq!(image.entry("/etc/passwd"), Some(Entry::File));
        assert_eq!(image.entry("/etc/x"), Some(Entry::File));
        assert_eq!(image.entry("/etc/os-release"), Some(Entry::Link));
        assert_eq!(image.entry("/etc/none"), None);
    }
}
