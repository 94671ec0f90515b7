//! Images in one file: from a reference to a file ([`write`](mod@write)), and from a file to an image that can be started.
//!
//! A file is not unpacked. A process beside the container serves it by FUSE ([`serve`](mod@serve)), and the container has it
//! as the lowest layer of its overlay.

mod serve;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use berth_container::etc::Entry;
use berth_image::Digest;
use berth_image::manifest::ImageConfig;
use berth_image::manifest::RunConfig;
use berth_image::store::EntryKind;
use berth_image::store::KNOWN_PATHS;
use berth_imagefile::Tree;
use berth_imagefile::tree::Kind;

use crate::CommandError;
use crate::lower::image::Image;
use crate::lower::image::OneFile;

pub use serve::serve;
pub use write::Wish;
pub use write::Written;
pub use write::write;

/// Where the image's configuration is in the file.
const CONFIG: &str = "etc/berth/image.json";
/// Where enroot has the image's environment.
const ENVIRONMENT: &str = "etc/environment";
/// Names that say that a file is such an image; with a slash in it, any regular file is looked at.
const EXTENSIONS: [&str; 4] = ["sqsh", "squashfs", "sqfs", "erofs"];
/// Bytes of a file's beginning that tell it from others.
const HEAD: usize = 4096;
/// The largest file that is read of an image's `/etc`.
const LARGEST: usize = 256 << 10;

/// Opens what a person typed as an image in one file, if it is one: a path, or the name of a file that ends as such files do.
/// [`serve`] makes it a layer.
pub fn open_if_file(text: &str) -> Result<Option<Image>, CommandError> {
    let path = Path::new(text);
    let named = path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known));
    let is_path = ["/", "./", "../"].iter().any(|begin| text.starts_with(begin));
    if !(named || is_path) || !path.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let path = std::path::absolute(path).map_err(|error| CommandError::io("find", path, error))?;
    let name = path.display().to_string();
    let file = File::open(&path).map_err(|error| CommandError::io("open", &path, error))?;
    let shared = file.try_clone().map_err(|error| CommandError::io("open", &path, error))?;
    let tree = match berth_imagefile::open(shared, &name) {
        // An archive, perhaps: others know what to say of it.
        Err(berth_imagefile::Error::NotAnImage { .. }) if !named => return Ok(None),
        opened => opened?,
    };
    // What a file of this name was can be told from what it is by its head: a writer puts sizes and places of all tables there.
    let mut head = vec![0; HEAD];
    let length = file.read_at(&mut head, 0).map_err(|error| CommandError::io("read", &path, error))?;
    let digest = Digest::of(&head[..length]);
    let text = |path: &str| contents(&*tree, path).unwrap_or_default();
    let known: BTreeMap<_, _> = KNOWN_PATHS
        .iter()
        .filter_map(|&path| {
            let kind = match entry(&*tree, path)? {
                Entry::Directory => EntryKind::Directory,
                Entry::File => EntryKind::File,
                Entry::Link => EntryKind::Link,
                Entry::Other => EntryKind::Other,
            };
            Some((path.to_owned(), kind))
        })
        .collect();
    let image = Image {
        name,
        config: config(&*tree),
        passwd: text("etc/passwd"),
        group: text("etc/group"),
        known: Some(known),
        digest: Some(digest),
        file: Some(OneFile { tree, file: Arc::new(file) }),
        ..Image::default()
    };
    Ok(Some(image))
}

/// What the file says of how to run it: as berth wrote it, else as enroot did.
fn config(tree: &dyn Tree) -> RunConfig {
    let written = contents(tree, CONFIG).and_then(|bytes| serde_json::from_slice::<ImageConfig>(&bytes).ok());
    if let Some(written) = written {
        return written.config;
    }
    let text = contents(tree, ENVIRONMENT).unwrap_or_default();
    let mut env = environment(&String::from_utf8_lossy(&text));
    if !env.iter().any(|line| line.starts_with("PATH=")) {
        env.push(format!("PATH={}", berth_container::launch::DEFAULT_PATH.trim_start_matches("PATH=")));
    }
    RunConfig { env, cmd: vec!["/bin/sh".to_owned()], ..RunConfig::default() }
}

/// The lines `NAME=value` of an environment file; one pair of quotes around a value goes.
fn environment(text: &str) -> Vec<String> {
    let variable = |line: &str| {
        let (name, value) = line.trim_start().split_once('=')?;
        let good = name
            .bytes()
            .enumerate()
            .all(|(at, byte)| byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit());
        let unquoted = ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
        (good && !name.is_empty()).then(|| format!("{name}={}", unquoted.unwrap_or(value)))
    };
    text.lines().filter_map(variable).collect()
}

/// What is at a path. Links on the way are not followed.
pub fn entry(tree: &dyn Tree, path: &str) -> Option<Entry> {
    Some(match tree.attributes(find(tree, path)?).ok()?.kind {
        Kind::Directory => Entry::Directory,
        Kind::File => Entry::File,
        Kind::Symlink => Entry::Link,
        _ => Entry::Other,
    })
}

fn find(tree: &dyn Tree, path: &str) -> Option<u64> {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.into_iter().try_fold(tree.root(), |node, name| tree.lookup(node, name.as_bytes()).ok()?)
}

/// A small regular file, if there is one.
fn contents(tree: &dyn Tree, path: &str) -> Option<Vec<u8>> {
    let node = find(tree, path)?;
    let attributes = tree.attributes(node).ok()?;
    let size = usize::try_from(attributes.size).ok().filter(|&size| size <= LARGEST)?;
    let mut bytes = vec![0; size];
    let read = tree.read(node, 0, &mut bytes).ok()?;
    (read == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_is_read_as_enroot_does() {
        let text = "PATH=/bin\n# comment\n  A=\"b c\"\nB='x'\nno line\n1X=y\nC=\"half\nEMPTY=\n";
        assert_eq!(environment(text), ["PATH=/bin", "A=b c", "B=x", "C=\"half", "EMPTY="]);
    }

    #[test]
    fn names_of_registries_are_no_files() {
        for text in ["debian", "docker.io/library/debian:12", "dir:/", "/", "/no/such.sqsh", "no-such.sqsh"] {
            assert!(open_if_file(text).unwrap().is_none(), "{text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("x"), "nothing").unwrap();
        std::fs::write(path("x.sqsh"), "nothing").unwrap();
        assert!(open_if_file(&path("x")).unwrap().is_none());
        assert!(open_if_file(&path("x.sqsh")).is_err());
    }
}
