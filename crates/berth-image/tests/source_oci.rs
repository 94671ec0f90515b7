//! `oci:` and `oci-archive:`, and `dir:`.
#![allow(missing_docs)]

mod source_fixtures;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use berth_image::Digest;
use berth_image::manifest::Platform;
use berth_image::source::{DirImage, OciLayout, Opened, open_oci_archive};
use serde_json::{Value, json};
use source_fixtures::*;

/// A layout as a list of files.
#[derive(Clone, Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    fn new() -> Layout {
        Layout::default().with("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    fn with(mut self, name: &str, bytes: &[u8]) -> Layout {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), bytes.to_vec()));
        self
    }

    fn blob(self, bytes: &[u8]) -> Layout {
        self.with(&path_of(bytes), bytes)
    }

    /// An image of one gzip layer; gives its manifest's descriptor.
    fn image(self, text: &str) -> (Layout, Value) {
        let tar = layer(text);
        let blob = gzip(&tar);
        let config = config(&[&tar]);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &blob)],
        });
        let manifest = manifest.to_string().into_bytes();
        let top = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        (self.blob(&blob).blob(&config).blob(&manifest), top)
    }

    fn index(self, entries: &[Value]) -> Layout {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        self.with("index.json", index.to_string().as_bytes())
    }

    fn write(&self, folder: &Path) -> String {
        for (name, bytes) in &self.0 {
            write(folder, name, bytes);
        }
        folder.to_str().unwrap().to_owned()
    }

    fn tar(&self) -> Vec<u8> {
        self.0.iter().fold(Tar::default(), |tar, (name, bytes)| tar.file(name, bytes)).end()
    }

    /// Reads it as a directory, as a tar and as a compressed tar, which must agree.
    fn read(&self, wanted: Option<&str>) -> berth_image::Result<Whole> {
        let [directory, archive, stream] = self.each(wanted);
        let directory = directory?;
        assert_eq!(archive?, directory);
        assert_eq!(stream?, directory);
        Ok(directory)
    }

    fn each(&self, wanted: Option<&str>) -> [berth_image::Result<Whole>; 3] {
        let folder = tempfile::tempdir().unwrap();
        let path = self.write(&folder.path().join("layout"));
        let plain = write(folder.path(), "layout.tar", &self.tar());
        let packed = write(folder.path(), "layout.tar.gz", &gzip(&self.tar()));
        [
            OciLayout::open(&path, wanted).and_then(|source| read_source(&source)),
            open_oci_archive(&plain, wanted).and_then(|opened| {
                assert!(matches!(opened, Opened::Source(_)));
                read_opened(opened)
            }),
            open_oci_archive(&packed, wanted).and_then(|opened| {
                assert!(matches!(opened, Opened::Stream(_)));
                read_opened(opened)
            }),
        ]
    }

    /// Each way must refuse it, for the same reason.
    fn refused(&self, wanted: Option<&str>, reason: &str) {
        for (result, way) in self.each(wanted).into_iter().zip(["directory", "archive", "stream"]) {
            let error = refusal(result);
            assert!(error.contains(reason), "{way}: {error}");
        }
    }
}

fn path_of(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    descriptor
}

fn two_images() -> Layout {
    let (layout, one) = Layout::new().image("one");
    let (layout, two) = layout.image("two");
    layout.index(&[named(one, "1.0"), named(two, "2.0")])
}

#[test]
fn the_only_image_needs_no_name() {
    let (layout, top) = Layout::new().image("one");
    let (digest, layers) = layout.clone().index(std::slice::from_ref(&top)).read(None).unwrap();
    assert_eq!(digest.to_string(), top["digest"].as_str().unwrap());
    assert_eq!(layers, [gzip(&layer("one"))]);
    assert_eq!(layout.index(&[named(top, "any")]).read(None).unwrap().0, digest);
}

#[test]
fn one_of_several_images_is_chosen_by_name_or_digest() {
    let layout = two_images();
    let two = layout.read(Some("2.0")).unwrap();
    assert_eq!(two.1, [gzip(&layer("two"))]);
    assert_eq!(layout.read(Some(&two.0.to_string())).unwrap(), two);
    layout.refused(None, "several images; add `:NAME` for one of `1.0`, `2.0`");
    layout.refused(Some("3.0"), "no image `3.0`, but `1.0`, `2.0`");
}

#[test]
fn containerds_names_are_known() {
    let (layout, mut one) = Layout::new().image("one");
    let (layout, two) = layout.image("two");
    one["annotations"] =
        json!({"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"});
    let layout = layout.index(&[one, named(two, "2")]);
    assert_eq!(layout.read(Some("docker.io/library/x:1")).unwrap(), layout.read(Some("1")).unwrap());
}

#[test]
fn the_platform_is_chosen_among_entries_of_one_name_and_in_nested_indexes() {
    let (layout, mut ours) = Layout::new().image("one");
    let (layout, mut other) = layout.image("two");
    ours["platform"] = json!({"os": "linux", "architecture": Platform::host().architecture});
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let expected = [gzip(&layer("one"))];
    let flat = layout.clone().index(&[other.clone(), ours.clone()]);
    assert_eq!(flat.read(None).unwrap().1, expected);
    let nested = json!({"schemaVersion": 2, "manifests": [other, ours]}).to_string().into_bytes();
    let entry = descriptor("application/vnd.oci.image.index.v1+json", &nested);
    assert_eq!(layout.blob(&nested).index(&[named(entry, "1.0")]).read(Some("1.0")).unwrap().1, expected);
}

#[test]
fn documents_that_are_not_what_their_digest_says_are_refused() {
    let (layout, top) = Layout::new().image("one");
    let layout = layout.index(std::slice::from_ref(&top));
    let manifest = layout.0.iter().find(|(name, _)| name.contains(&top["digest"].as_str().unwrap()[7..])).unwrap();
    let (name, mut bytes) = manifest.clone();
    let at = bytes.windows(6).position(|w| w == b"layers").unwrap();
    bytes[at] = b'L';
    layout.clone().with(&name, &bytes).refused(None, "wrong content");
    bytes.push(b' ');
    layout.with(&name, &bytes).refused(None, "wrong size");
}

#[test]
fn a_layer_of_the_wrong_size_is_refused() {
    let (layout, top) = Layout::new().image("one");
    let blob = gzip(&layer("one"));
    let mut longer = blob.clone();
    longer.push(0);
    let layout = layout.index(&[top]).with(&path_of(&blob), &longer);
    let [directory, archive, stream] = layout.each(None);
    assert!(refusal(directory).contains("wrong size"));
    assert!(refusal(archive).contains("wrong size"));
    // In a stream the layer is hashed before its size is known.
    assert!(refusal(stream).contains("wrong content"));
}

#[test]
fn layouts_that_lack_something_are_refused() {
    let (whole, top) = Layout::new().image("one");
    let whole = whole.index(std::slice::from_ref(&top));
    whole.clone().with("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#).refused(None, "version `2.0.0`");
    whole.clone().index(&[]).refused(None, "no images");
    whole.clone().with("index.json", br#"{"manifests":"#).refused(None, "`index.json` is not valid");
    let mut traversal = top;
    traversal["digest"] = json!("sha256:../../../../etc/passwd");
    whole.clone().index(&[traversal]).refused(None, "invalid digest");
    for name in ["oci-layout", "index.json", &path_of(&config(&[&layer("one")])), &path_of(&gzip(&layer("one")))] {
        let mut layout = whole.clone();
        layout.0.retain(|(n, _)| n != name);
        for result in layout.each(None) {
            refusal(result);
        }
    }
}

#[test]
fn a_large_index_is_not_read() {
    let layout = Layout::new().with("index.json", &vec![b' '; (4 << 20) + 1]);
    let [directory, archive, _] = layout.each(None);
    assert!(refusal(directory).contains("larger than berth accepts"));
    assert!(refusal(archive).contains("larger than berth accepts"));
}

#[test]
fn links_out_of_a_layout_are_not_followed() {
    let (layout, top) = Layout::new().image("one");
    let layout = layout.index(&[top]);
    let folder = tempfile::tempdir().unwrap();
    let path = layout.write(&folder.path().join("layout"));
    let name = path_of(&gzip(&layer("one")));
    let blob = folder.path().join("layout").join(&name);
    let read = || refusal(OciLayout::open(&path, None).and_then(|source| read_source(&source)));

    // The content is right, and still it is not followed.
    let outside = folder.path().join("outside");
    std::fs::rename(&blob, &outside).unwrap();
    for target in [outside.as_path(), Path::new("../../../outside")] {
        symlink(target, &blob).unwrap();
        assert!(read().contains("leads out of the layout"));
        std::fs::remove_file(&blob).unwrap();
    }
    // Nor does a FIFO hang the reader.
    rustix::fs::mkfifoat(rustix::fs::CWD, &blob, rustix::fs::Mode::RUSR).unwrap();
    assert!(read().contains("no regular file"));
    std::fs::remove_file(&blob).unwrap();
    std::fs::create_dir(&blob).unwrap();
    assert!(read().contains("no regular file"));
    std::fs::remove_dir(&blob).unwrap();
    // A link that stays inside is only another name.
    std::fs::rename(&outside, folder.path().join("layout/shared")).unwrap();
    symlink("../../shared", &blob).unwrap();
    read_source(&OciLayout::open(&path, None).unwrap()).unwrap();
}

#[test]
fn what_is_no_layout_is_refused_with_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let error = refusal(OciLayout::open(path, None).and_then(|source| read_source(&source)));
    assert!(error.contains("no OCI image layout: it has no file `oci-layout`"), "{error}");
    let file = write(folder.path(), "file", &podman_archive(&[&layer("one")], &[]).end());
    assert!(refusal(OciLayout::open(&file, None)).contains("cannot open"));
    assert!(refusal(open_oci_archive(&file, None).and_then(read_opened)).contains("try `docker-archive:`"));
    assert!(refusal(open_oci_archive(path, None).and_then(read_opened)).contains("named `oci:DIR`"));
}

#[test]
fn a_root_file_system_in_a_directory_is_recognised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert!(refusal(DirImage::open(path)).contains("no root file system"));
    let program = write(folder.path(), "hello", b"\x7fELF");
    assert!(refusal(DirImage::open(path)).contains("no root file system"), "a file that cannot run is no program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = DirImage::open(path).unwrap();
    assert_eq!(image.path, folder.path().canonicalize().unwrap());
    assert_eq!(image.config().cmd, ["/bin/sh"]);
    std::fs::remove_file(&program).unwrap();
    std::fs::create_dir(folder.path().join("usr")).unwrap();
    DirImage::open(path).unwrap();

    let link = folder.path().join("link");
    symlink(".", &link).unwrap();
    assert_eq!(DirImage::open(link.to_str().unwrap()).unwrap(), image);
    let file = write(folder.path(), "image.tar", b"");
    assert!(refusal(DirImage::open(&file)).contains("no directory"));
    assert!(refusal(DirImage::open(&format!("{path}/gone"))).contains("No such file"));
    write(folder.path(), "config.json", b"{}");
    std::fs::create_dir(folder.path().join("rootfs")).unwrap();
    assert!(refusal(DirImage::open(path)).contains("/rootfs`"));
    Layout::new().index(&[]).write(folder.path());
    assert!(refusal(DirImage::open(path)).contains("write `oci:"));
}
