//! The store as its users see it: imports, names, removal, collection, verification.

#[path = "common/tarball.rs"]
mod tarball;

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_image::digest::Digest;
use berth_image::manifest::{Compression, Descriptor, ImageConfig, Layer, Platform, ResolvedImage};
use berth_image::progress::{Event, Progress, Silent};
use berth_image::source::Source;
use berth_image::store::{GcOptions, ImageRecord, ImportOptions, InUse, Store, StoreOptions};
use berth_image::{Error, Result};
use tarball::Tarball;
use tempfile::TempDir;

/// An image in memory that counts how often its blobs are opened.
struct Memory {
    name: String,
    blobs: HashMap<Digest, Vec<u8>>,
    image: ResolvedImage,
    opened: AtomicUsize,
    /// Blobs that end too early.
    broken: Option<Digest>,
}

impl Memory {
    fn new(name: &str, layers: Vec<Vec<u8>>) -> Memory {
        let mut blobs = HashMap::new();
        let mut descriptors = Vec::new();
        for blob in layers {
            let digest = Digest::of(&blob);
            let descriptor = Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar".into(),
                digest: digest.clone(),
                size: blob.len() as u64,
                platform: None,
                annotations: Default::default(),
            };
            descriptors.push(Layer { descriptor, diff_id: digest.clone(), compression: Compression::None });
            blobs.insert(digest, blob);
        }
        let config_bytes = br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":null}}"#.to_vec();
        let manifest = format!("manifest of {name} with {descriptors:?}").into_bytes();
        let image = ResolvedImage {
            digest: Digest::of(&manifest),
            manifest,
            config_digest: Digest::of(&config_bytes),
            config: ImageConfig::parse(&config_bytes, "test").unwrap(),
            config_bytes,
            layers: descriptors,
        };
        Memory { name: name.into(), blobs, image, opened: AtomicUsize::new(0), broken: None }
    }
}

impl Source for Memory {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&self, _: &Platform, _: &dyn Progress) -> Result<ResolvedImage> {
        Ok(self.image.clone())
    }

    fn open_layer(&self, layer: &Layer, _: &dyn Progress) -> Result<Box<dyn Read + Send>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let digest = &layer.descriptor.digest;
        let mut blob = self.blobs[digest].clone();
        if self.broken.as_ref() == Some(digest) {
            blob.truncate(blob.len() / 2);
        }
        Ok(Box::new(std::io::Cursor::new(blob)))
    }
}

fn layer(name: &str, content: &str) -> Vec<u8> {
    Tarball::new().dir("dir", 0o755).file(name, content).finish()
}

struct Bed {
    dir: TempDir,
    store: Store,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::open(&StoreOptions { root: dir.path().join("store"), below: vec![], in_use: Some(InUse::Files) })
                .unwrap();
        Bed { dir, store }
    }

    fn import(&self, source: &Memory) -> Result<ImageRecord> {
        self.store.import(source, &ImportOptions::default(), &Silent)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("store").join(path)
    }

    fn findings(&self) -> Vec<String> {
        let report = self.store.verify(&[], false, &Silent).unwrap();
        report.findings.into_iter().map(|f| format!("{}: {}", f.path.display(), f.problem)).collect()
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.path("layers/sha256")).map_or(0, Iterator::count)
    }
}

#[test]
fn an_imported_image_is_found_by_name_digest_and_prefix() {
    let bed = Bed::new();
    let source = Memory::new("docker.io/library/a:1", vec![layer("etc/passwd", "root:x:0:0\n"), layer("b", "2")]);
    let record = bed.import(&source).unwrap();
    assert_eq!(record.passwd, "root:x:0:0\n");
    assert_eq!((record.config.env.len(), record.layers.len()), (1, 2));
    for name in ["docker.io/library/a:1", &record.digest.to_string(), record.digest.hex(), record.digest.short()] {
        assert_eq!(bed.store.lookup(name).unwrap().as_ref(), Some(&record), "{name}");
    }
    for name in ["docker.io/library/a:2", "../../etc/passwd", "", "abcdef", "sha256:00"] {
        assert_eq!(bed.store.lookup(name).unwrap(), None, "{name}");
    }
    let tree = bed.store.layer_path(&record.layers[1].digest).unwrap();
    assert_eq!(std::fs::read_to_string(tree.join("b")).unwrap(), "2");
    assert_eq!(bed.findings(), [""; 0]);
    let mode = std::fs::metadata(bed.path("")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "layers may hold set-user-id programs");
}

#[test]
fn what_the_store_has_is_not_fetched_again() {
    let bed = Bed::new();
    let shared = layer("shared", "1");
    let first = Memory::new("a", vec![shared.clone(), layer("x", "1")]);
    let second = Memory::new("b", vec![shared.clone(), layer("y", "1"), shared]);
    bed.import(&first).unwrap();
    bed.import(&second).unwrap();
    assert_eq!((first.opened.into_inner(), second.opened.into_inner()), (2, 1));
    let again = Memory::new("a", vec![layer("shared", "1"), layer("x", "1")]);
    bed.import(&again).unwrap();
    assert_eq!(again.opened.into_inner(), 0);
}

#[test]
fn many_imports_at_once_fetch_each_layer_once() {
    let bed = Bed::new();
    let layers: Vec<Vec<u8>> = (0..6).map(|n| layer(&format!("f{n}"), &"x".repeat(100_000))).collect();
    let source = Memory::new("a", layers);
    let root = bed.path("");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store =
                    Store::open(&StoreOptions { root: root.clone(), below: vec![], in_use: Some(InUse::Files) })
                        .unwrap();
                store.import(&source, &ImportOptions::default(), &Silent).unwrap();
            });
        }
    });
    assert_eq!(source.opened.into_inner(), 6);
    assert_eq!(bed.findings(), [""; 0]);
}

#[test]
fn a_failed_import_leaves_nothing_but_whole_layers() {
    let bed = Bed::new();
    let mut source = Memory::new("a", vec![layer("good", "1"), layer("bad", "2")]);
    source.broken = Some(source.image.layers[1].descriptor.digest.clone());
    let error = bed.import(&source).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    assert!(bed.store.images().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bed.path("tmp")).unwrap().count(), 0);
    assert_eq!(bed.findings(), [""; 0]);
    source.broken = None;
    bed.import(&source).unwrap();
    assert_eq!(bed.store.images().unwrap().len(), 1);
}

#[test]
fn accounts_are_those_of_the_topmost_layer_that_shows_them() {
    let text = |layers: Vec<Vec<u8>>| Bed::new().import(&Memory::new("a", layers)).unwrap().passwd;
    let base = || layer("etc/passwd", "base");
    assert_eq!(text(vec![base(), layer("etc/passwd", "top")]), "top");
    assert_eq!(text(vec![base(), layer("etc/other", "")]), "base");
    assert_eq!(text(vec![base(), layer("etc/.wh.passwd", "")]), "");
    assert_eq!(text(vec![base(), layer("etc/.wh..wh..opq", "")]), "");
    assert_eq!(text(vec![base(), layer(".wh.etc", "")]), "");
    assert_eq!(text(vec![Tarball::new().symlink("etc/passwd", "/etc/passwd").finish()]), "");
    assert_eq!(text(vec![Tarball::new().symlink("etc", "/etc").finish()]), "");
}

#[test]
fn what_a_start_asks_after_is_known_from_the_record() {
    use berth_image::store::EntryKind::{Directory, File, Link};
    let kinds = |layers: Vec<Vec<u8>>| Bed::new().import(&Memory::new("a", layers)).unwrap().entries;
    let base =
        Tarball::new().file("etc/hosts", "").symlink("etc/localtime", "/usr/share/zoneinfo/UTC").file("bin/sh", "x");
    let base = base.dir("etc/apt", 0o755).finish();
    let found = kinds(vec![base.clone()]);
    let expected =
        [("bin/sh", File), ("etc", Directory), ("etc/apt", Directory), ("etc/hosts", File), ("etc/localtime", Link)];
    assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)).into());
    let found = kinds(vec![base.clone(), layer("etc/.wh.hosts", ""), layer("etc/apt/.wh..wh..opq", "")]);
    assert!(!found.contains_key("etc/hosts") && found.contains_key("etc/apt"));
    let found = kinds(vec![base, layer(".wh.etc", "")]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["bin/sh"]);
}

#[test]
fn an_opaque_root_drops_the_layers_below_it() {
    let bed = Bed::new();
    let record =
        bed.import(&Memory::new("a", vec![layer("x", ""), layer(".wh..wh..opq", ""), layer("y", "")])).unwrap();
    assert_eq!(record.layers.len(), 2);
}

#[test]
fn removing_the_last_name_removes_what_only_that_image_had() {
    let bed = Bed::new();
    let shared = layer("shared", "1");
    bed.import(&Memory::new("a", vec![shared.clone(), layer("x", "1")])).unwrap();
    bed.import(&Memory::new("b", vec![shared, layer("y", "1")])).unwrap();
    assert_eq!(bed.layers(), 3);
    let removed = bed.store.remove("a", false).unwrap();
    assert_eq!((removed.names, removed.layers.len(), bed.layers()), (vec!["a".to_owned()], 1, 2));
    assert!(matches!(bed.store.remove("a", false), Err(Error::NotFound { .. })));
    assert_eq!(bed.findings(), [""; 0]);
}

#[test]
fn images_in_use_are_kept_by_removal_and_collection() {
    let bed = Bed::new();
    let record = bed.import(&Memory::new("a", vec![layer("x", "1")])).unwrap();
    let lease = bed.store.lease(&record).unwrap();
    assert!(matches!(bed.store.remove("a", false), Err(Error::InUse { .. })));
    let removed = bed.store.remove("a", true).unwrap();
    assert_eq!((removed.names.len(), removed.image, bed.layers()), (1, None, 1));
    assert_eq!(bed.store.gc(&GcOptions::default()).unwrap().layers.len(), 0);
    drop(lease);
    let report = bed.store.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.images.len(), report.layers.len(), bed.layers()), (1, 1, 0));
}

#[test]
fn a_lease_of_a_dead_process_does_not_count() {
    let bed = Bed::new();
    let record = bed.import(&Memory::new("a", vec![layer("x", "1")])).unwrap();
    let lease = bed.store.lease(&record).unwrap();
    let file = std::fs::read_dir(bed.path("leases")).unwrap().next().unwrap().unwrap().file_name();
    let file = file.to_str().unwrap();
    lease.keep();
    assert!(bed.store.remove("a", false).is_err());
    std::fs::remove_file(bed.path("leases").join(file)).unwrap();
    let mut parts: Vec<&str> = file.split(',').collect();
    // The same process number, started at another time; and another boot.
    for (field, value) in [(4, "1"), (2, "00000000-0000-0000-0000-000000000000")] {
        parts[field] = value;
        std::fs::write(bed.path("leases").join(parts.join(",")), "").unwrap();
    }
    bed.store.remove("a", false).unwrap();
    assert_eq!(std::fs::read_dir(bed.path("leases")).unwrap().count(), 0);
}

#[test]
fn collection_by_age_and_size_takes_the_longest_unused_first() {
    let bed = Bed::new();
    let mut records = Vec::new();
    for (age, name) in [(3, "old"), (2, "middle"), (1, "new")] {
        let record = bed.import(&Memory::new(name, vec![layer(name, &"x".repeat(1000))])).unwrap();
        let file = std::fs::File::open(bed.path(&format!("images/{}.json", record.digest.hex()))).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age * 86400)).unwrap();
        records.push(record);
    }
    let names = |bed: &Bed| -> Vec<String> { bed.store.images().unwrap().into_iter().flat_map(|i| i.names).collect() };
    let dry = GcOptions { keep_size: Some(2000), dry_run: true, ..GcOptions::default() };
    let report = bed.store.gc(&dry).unwrap();
    assert_eq!((report.names, report.layers.len(), report.bytes), (vec!["old".to_owned()], 1, 1000));
    assert_eq!(names(&bed).len(), 3);
    bed.store.gc(&GcOptions { keep_size: Some(2000), ..GcOptions::default() }).unwrap();
    assert_eq!(names(&bed), ["middle", "new"]);
    let lease = bed.store.lease(&records[1]).unwrap();
    let by_age = GcOptions { keep_age: Some(Duration::from_secs(36 * 3600)), ..GcOptions::default() };
    let file = std::fs::File::open(bed.path(&format!("images/{}.json", records[1].digest.hex()))).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(2 * 86400)).unwrap();
    assert_eq!(bed.store.gc(&by_age).unwrap().in_use, [records[1].digest.clone()]);
    drop(lease);
    bed.store.gc(&by_age).unwrap();
    assert_eq!(names(&bed), ["new"]);
    assert_eq!(bed.findings(), [""; 0]);
}

#[test]
fn verification_finds_each_kind_of_damage_and_repair_removes_it() {
    let source = || {
        let tar = Tarball::new()
            .dir("d", 0o755)
            .file("d/file", "content")
            .symlink("link", "d")
            .file("secret", "s")
            .file(".wh.gone", "");
        Memory::new("a", vec![tar.finish()])
    };
    type Damage = (&'static str, fn(&std::path::Path));
    let damages: [Damage; 9] = [
        ("contents", |tree| std::fs::write(tree.join("d/file"), "c0ntent").unwrap()),
        ("bytes", |tree| std::fs::write(tree.join("d/file"), "longer content").unwrap()),
        ("mode", |tree| std::fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o700)).unwrap()),
        ("is missing", |tree| std::fs::remove_file(tree.join("secret")).unwrap()),
        ("does not belong", |tree| std::fs::write(tree.join("new"), "").unwrap()),
        ("another place", |tree| {
            std::fs::remove_file(tree.join("link")).unwrap();
            std::os::unix::fs::symlink("/", tree.join("link")).unwrap();
        }),
        ("type", |tree| {
            std::fs::remove_file(tree.join("secret")).unwrap();
            std::fs::create_dir(tree.join("secret")).unwrap();
        }),
        ("index cannot be read", |tree| std::fs::remove_file(tree.with_file_name("index")).unwrap()),
        ("layer is missing", |tree| std::fs::remove_dir_all(tree.parent().unwrap()).unwrap()),
    ];
    for (words, damage) in damages {
        let bed = Bed::new();
        let record = bed.import(&source()).unwrap();
        damage(&bed.store.layer_path(&record.layers[0].digest).unwrap());
        let findings = bed.findings();
        assert!(!findings.is_empty() && findings.iter().any(|f| f.contains(words)), "{words}: {findings:?}");
        assert_eq!(bed.store.verify(&["a".to_owned()], false, &Silent).unwrap().findings.len(), findings.len());
        bed.store.verify(&[], true, &Silent).unwrap();
        assert_eq!(bed.findings(), [""; 0], "after the repair of {words}");
        assert_eq!(bed.store.lookup("a").unwrap(), None);
        bed.import(&source()).unwrap();
        assert_eq!(bed.findings(), [""; 0]);
    }
}

#[test]
fn damaged_documents_are_found_and_repaired() {
    for file in ["images", "refs", "blobs/sha256"] {
        let bed = Bed::new();
        bed.import(&Memory::new("a", vec![layer("x", "1")])).unwrap();
        for entry in std::fs::read_dir(bed.path(file)).unwrap() {
            std::fs::write(entry.unwrap().path(), "{damaged").unwrap();
        }
        assert!(!bed.findings().is_empty(), "{file}");
        bed.store.verify(&[], true, &Silent).unwrap();
        assert_eq!(bed.findings(), [""; 0], "{file}");
    }
}

#[test]
fn a_store_below_is_used_and_not_changed() {
    let site = Bed::new();
    let shared = layer("shared", "1");
    let record = site.import(&Memory::new("site/a", vec![shared.clone()])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        root: dir.path().join("own"),
        below: vec![site.path(""), dir.path().join("nowhere")],
        in_use: None,
    };
    let store = Store::open(&options).unwrap();
    assert_eq!(store.lookup("site/a").unwrap(), Some(record.clone()));
    let own = Memory::new("own/b", vec![shared, layer("own", "1")]);
    store.import(&own, &ImportOptions::default(), &Silent).unwrap();
    assert_eq!(own.opened.into_inner(), 1);
    let images = store.images().unwrap();
    assert_eq!(
        images.iter().map(|i| (i.names[0].as_str(), i.read_only)).collect::<Vec<_>>(),
        [("own/b", false), ("site/a", true)]
    );
    assert!(store.remove("site/a", true).is_err());
    store.gc(&GcOptions { keep_size: Some(0), ..GcOptions::default() }).unwrap();
    assert_eq!(site.store.images().unwrap().len(), 1);
    assert!(store.layer_path(&record.layers[0].digest).is_some());
    assert_eq!(site.findings(), [""; 0]);
}

#[test]
fn directories_that_are_no_store_or_of_a_newer_format_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("version"), "berth-store 9\n").unwrap();
    let error =
        Store::open(&StoreOptions { root: dir.path().into(), below: vec![], in_use: Some(InUse::Files) }).unwrap_err();
    assert!(error.to_string().contains("berth-store 9"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn progress_tells_the_stages_of_each_layer() {
    struct Log(Mutex<Vec<String>>);
    impl Progress for Log {
        fn event(&self, event: Event<'_>) {
            let word = match event {
                Event::Resolved { layers, .. } => format!("resolved {layers}"),
                Event::Started { .. } => "started".to_owned(),
                Event::Advanced { bytes, .. } => format!("advanced {bytes}"),
                Event::Finished(_) => "finished".to_owned(),
                Event::Exists(_) => "exists".to_owned(),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().push(word);
        }
    }
    let bed = Bed::new();
    let source = Memory::new("a", vec![layer("x", "1")]);
    let size = source.blobs.values().next().unwrap().len();
    let log = Log(Mutex::default());
    bed.store.import(&source, &ImportOptions::default(), &log).unwrap();
    bed.store.import(&source, &ImportOptions::default(), &log).unwrap();
    let advanced = format!("advanced {size}");
    assert_eq!(*log.0.lock().unwrap(), ["resolved 1", "started", &advanced, "finished", "resolved 1", "exists"]);
}

#[test]
fn after_a_restart_of_the_machine_an_image_is_looked_at_once() {
    let bed = Bed::new();
    let record = bed.import(&Memory::new("a", vec![layer("x", "content")])).unwrap();
    let path = bed.path(&format!("images/{}.json", record.digest.hex()));
    let pretend_restart = || {
        let text = std::fs::read_to_string(&path).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(text.contains(boot.trim()));
        std::fs::write(&path, text.replace(boot.trim(), "another-boot")).unwrap();
    };
    pretend_restart();
    assert_eq!(bed.store.lookup("a").unwrap().unwrap().unsettled, None);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("another-boot"), "the second start need not look again");
    let bed = Bed::new();
    let record = bed.import(&Memory::new("a", vec![layer("x", "content")])).unwrap();
    let path = bed.path(&format!("images/{}.json", record.digest.hex()));
    let file = bed.store.layer_path(&record.layers[0].digest).unwrap().join("x");
    std::fs::write(file, "").unwrap();
    assert!(bed.store.lookup("a").is_ok(), "nobody looks while the machine runs");
    let text = std::fs::read_to_string(&path).unwrap();
    let boot = record.unsettled.unwrap().id;
    std::fs::write(&path, text.replace(&boot, "another-boot")).unwrap();
    let error = bed.store.lookup("a").unwrap_err();
    assert!(error.to_string().contains("lost a part of a") && error.hint().unwrap().contains("--repair"), "{error}");
    bed.store.verify(&[], true, &Silent).unwrap();
    assert_eq!(bed.store.lookup("a").unwrap(), None);
}

#[test]
fn an_image_that_comes_by_a_pipe_gets_the_names_that_it_brings() {
    use berth_image::source::{Imported, LayerSink, StreamSource};
    struct Pipe(&'static str, Vec<String>);
    impl StreamSource for Pipe {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn import(self: Box<Self>, _: &Platform, sink: &dyn LayerSink, _: &dyn Progress) -> Result<Imported> {
            let blob = layer("x", "1");
            let digest = sink.layer(&mut blob.as_slice(), blob.len() as u64, Compression::None)?;
            assert_eq!(digest, Digest::of(&blob));
            Ok(Imported { image: Memory::new("pipe", vec![blob]).image, tags: self.1 })
        }
    }
    let names = |source: Pipe| -> Vec<String> {
        let bed = Bed::new();
        bed.store.import_stream(Box::new(source), &ImportOptions::default(), &Silent).unwrap();
        assert_eq!(bed.findings(), [""; 0]);
        bed.store.images().unwrap().into_iter().flat_map(|image| image.names).collect()
    };
    let tags = || vec!["docker.io/library/a:1".to_owned(), "docker.io/library/a:2".to_owned()];
    assert_eq!(names(Pipe("docker-archive:-", tags())), tags());
    assert_eq!(names(Pipe("docker-archive:-", vec![])), ["docker-archive:-"]);
    assert_eq!(names(Pipe("podman://a", tags())), ["podman://a"]);
}
