//! What must hold for any input at all. The fuzz targets and a plain test share this file.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use berth_image::Reference;
use berth_image::layer;
use berth_image::layer::Expected;
use berth_image::layer::Unpacking;
use berth_image::layer::decode::Bounds;
use berth_image::layer::index;
use berth_image::layer::tree::Policy;
use berth_image::manifest;
use berth_image::manifest::ImageConfig;
use berth_image::manifest::Platform;

/// Largest tree that one input may make.
const TREE_BYTES: u64 = 1 << 24;

/// A layer of any bytes is unpacked or refused; nothing outside its folder changes, and what was unpacked has an index
/// that can be read back.
pub fn layer(data: &[u8]) {
    thread_local! {
        // One folder for all inputs of a run: making it costs more than most inputs.
        static WORLD: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(|| {
            let world = tempfile::tempdir().expect("a folder");
            fs::write(world.path().join("canary"), "untouched").expect("a file");
            world
        });
        let dir = world.path().join("layer");
        fs::create_dir(&dir).expect("a folder");
        let policy = Policy { own: false, keep_setid: true, umask: 0o022, entries: 10_000, bytes: TREE_BYTES };
        let bounds = Bounds { bytes: TREE_BYTES, ..Bounds::default() };
        let cancel = AtomicBool::new(false);
        let expected = Expected { name: "fuzzed", digest: None, size: None };
        let unpacking = Unpacking { policy, bounds, cancel: &cancel };
        let mut input = data;
        if layer::unpack(&mut input, &expected, &dir, &unpacking, &|_| {}).is_ok() {
            let text = fs::read(dir.join("index")).expect("an unpacked layer has an index");
            index::read(text.as_slice()).expect("an index that was written can be read");
        }
        remove(&dir);
        let left: Vec<_> =
            fs::read_dir(world.path()).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["canary"], "something was made outside the layer's folder");
        assert_eq!(fs::read(world.path().join("canary")).expect("the file"), b"untouched");
    });
}

/// Removes a tree whose folders may forbid it.
fn remove(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        } else {
            fs::remove_file(entry.path()).expect("a file of a folder that allows it");
        }
    }
    fs::remove_dir(dir).expect("an empty folder");
}

/// A reference is refused, or written so that it parses to itself.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = Reference::parse(text) {
        let written = reference.to_string();
        let again = Reference::parse(&written);
        assert!(again.as_ref().is_ok_and(|again| *again == reference), "{text:?} → {written:?} → {again:?}");
    }
}

/// A manifest or index leads to an image or an error, within a bounded number of further documents, each of which is the
/// input again or a part of it.
pub fn manifest(data: &[u8]) {
    let platform = Platform::host();
    let mut asked = 0;
    let mut reader = |descriptor: &berth_image::manifest::Descriptor| {
        asked += 1;
        let end = usize::try_from(descriptor.size).unwrap_or(usize::MAX).min(data.len());
        Ok(data[..end].to_vec())
    };
    for media_type in ["", manifest::OCI_INDEX, manifest::OCI_MANIFEST, manifest::DOCKER_MANIFEST] {
        let _ = manifest::resolve(&mut reader, data.to_vec(), media_type, &platform, "fuzzed");
    }
    assert!(asked < 100, "{asked} documents were asked for");
    let _ = ImageConfig::parse(data, "fuzzed");
}
