//! Import: from a source to an image in the store.
//!
//! Layers are fetched by a few threads, largest first, each straight into its tree. A lock per blob makes sure that of
//! all processes on all hosts one fetches it; the others turn to layers that nobody fetches, and wait only when nothing
//! else is left to do.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::layout::{WorkDir, make_parent, sweep};
use super::lock::{self, Kind, Lock};
use super::record::{Boot, LayerInfo, Reference, to_json};
use super::record::{EntryKind, KNOWN_PATHS};
use super::{ImageRecord, LayerRecord, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::decode::Bounds;
use crate::layer::tree::Policy;
use crate::layer::{self, Expected, Unpacking};
use crate::manifest::{Compression, Layer, Platform, ResolvedImage};
use crate::progress::{Event, Progress};
use crate::source::{LayerSink, Source, StreamSource};

/// The largest account file that is kept in a record, in bytes.
const MAX_ACCOUNTS: u64 = 256 << 10;

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Which of a list's images to take.
    pub platform: Platform,
    /// Bounds on a layer's uncompressed stream.
    pub bounds: Bounds,
    /// Most entries of one layer.
    pub entries: u64,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions { platform: Platform::host(), bounds: Bounds::default(), entries: 8_000_000 }
    }
}

/// What the threads of one import share.
struct Job<'a> {
    store: &'a Store,
    source: &'a dyn Source,
    name: &'a str,
    options: &'a ImportOptions,
    progress: &'a dyn Progress,
    umask: u32,
    /// Layers that nobody has looked at.
    queue: Mutex<VecDeque<&'a Layer>>,
    /// Layers that another process was fetching when we looked.
    elsewhere: Mutex<VecDeque<&'a Layer>>,
    failure: Mutex<Option<Error>>,
    cancel: AtomicBool,
}

impl Store {
    /// Brings an image into the store and gives it the source's name. What the store has is not fetched again; what
    /// another process fetches is waited for.
    pub fn import(&self, source: &dyn Source, options: &ImportOptions, progress: &dyn Progress) -> Result<ImageRecord> {
        let layout = self.own();
        let _shared = layout.gc_lock(Kind::Shared)?;
        sweep(layout)?;
        let image = source.resolve(&options.platform, progress)?;
        let name = source.name();
        let bytes = image.layers.iter().map(|layer| layer.descriptor.size).sum();
        progress.event(Event::Resolved { digest: &image.digest, layers: image.layers.len(), bytes });
        self.fetch_layers(source, &name, &image, options, progress)?;
        self.commit(&image, &name)
    }

    fn fetch_layers(
        &self,
        source: &dyn Source,
        name: &str,
        image: &ResolvedImage,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut missing: Vec<&Layer> = Vec::new();
        for layer in &image.layers {
            let digest = &layer.descriptor.digest;
            if missing.iter().any(|known| known.descriptor.digest == *digest) {
                continue;
            }
            if self.layer_path(digest).is_some() {
                progress.event(Event::Exists(digest));
            } else {
                missing.push(layer);
            }
        }
        // The largest first: what begins last ends last, and should be short.
        missing.sort_by_key(|layer| std::cmp::Reverse(layer.descriptor.size));
        let threads = source.parallel().min(missing.len());
        let job = Job {
            store: self,
            source,
            name,
            options,
            progress,
            umask: umask(),
            queue: Mutex::new(missing.into()),
            elsewhere: Mutex::new(VecDeque::new()),
            failure: Mutex::new(None),
            cancel: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| job.work());
            }
        });
        match job.failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes the documents, the record and the name, in this order: each needs the ones before it.
    fn commit(&self, image: &ResolvedImage, name: &str) -> Result<ImageRecord> {
        let layout = self.own();
        for (digest, bytes) in [(&image.digest, &image.manifest), (&image.config_digest, &image.config_bytes)] {
            let path = layout.blob(digest);
            if !path.exists() {
                layout.write_file(&path, bytes)?;
            }
        }
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let digest = &layer.descriptor.digest;
            let vanished = || Error::Store {
                path: layout.root().to_owned(),
                reason: format!("lost layer {digest} while the image was being imported"),
                hint: Some("pull the image again".to_owned()),
            };
            let tree = self.layer_path(digest).ok_or_else(vanished)?;
            let directory = tree.parent().unwrap_or(&tree);
            let info = LayerInfo::read(directory)?.ok_or_else(vanished)?;
            if info.root_opaque {
                // Overlayfs does not look at its layers' roots: what this one hides is left out of the stack.
                layers.clear();
            }
            layers.push(LayerRecord {
                digest: digest.clone(),
                diff_id: layer.diff_id.clone(),
                size: layer.descriptor.size,
                unpacked: info.unpacked,
            });
        }
        let trees: Vec<_> = layers.iter().filter_map(|layer| self.layer_path(&layer.digest)).collect();
        let accounts = |path| top_file(&trees, path).unwrap_or_default();
        let record = ImageRecord {
            digest: image.digest.clone(),
            config_digest: image.config_digest.clone(),
            source: name.to_owned(),
            created: image.config.created.clone(),
            pulled: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
            architecture: image.config.architecture.clone(),
            os: image.config.os.clone(),
            config: image.config.config.clone(),
            passwd: accounts("etc/passwd"),
            group: accounts("etc/group"),
            entries: KNOWN_PATHS.iter().filter_map(|&path| Some((path.to_owned(), top_entry(&trees, path)?))).collect(),
            layers,
            unsettled: Boot::current(),
        };
        record.write(layout)?;
        Reference { name: name.to_owned(), digest: record.digest.clone() }.write(layout)?;
        Ok(record)
    }

    /// Unpacks one blob under a temporary name and moves it to its place. Holding the blob's lock is the caller's part
    /// where the digest is known beforehand.
    fn unpack_layer(
        &self,
        input: &mut dyn Read,
        expected: &Expected<'_>,
        unpacking: &Unpacking<'_>,
        advanced: &(dyn Fn(u64) + Sync),
    ) -> Result<Digest> {
        let layout = self.own();
        let work = WorkDir::create(layout)?;
        let layer_dir = work.path().join("layer");
        std::fs::create_dir(&layer_dir).map_err(|e| Error::io("create", &layer_dir, e))?;
        let unpacked = layer::unpack(input, expected, &layer_dir, unpacking, advanced)?;
        let info = LayerInfo {
            size: unpacked.size,
            unpacked: unpacked.written.bytes,
            entries: unpacked.written.entries,
            root_opaque: unpacked.written.root_opaque,
            notes: unpacked.written.notes,
        };
        let info_path = layer_dir.join("layer.json");
        std::fs::write(&info_path, to_json(&info)).map_err(|e| Error::io("write", &info_path, e))?;
        let place = layout.layer(&unpacked.digest);
        make_parent(&place)?;
        match std::fs::rename(&layer_dir, &place) {
            Ok(()) => Ok(unpacked.digest),
            // Somebody without our lock (a file system that has none) was faster: theirs is as good.
            Err(_) if place.exists() => Ok(unpacked.digest),
            Err(error) => Err(Error::io("rename to its place", &place, error)),
        }
    }

    fn policy(&self, options: &ImportOptions, umask: u32) -> Policy {
        Policy {
            own: rustix::process::geteuid().is_root(),
            keep_setid: self.own().private,
            umask,
            entries: options.entries,
            bytes: options.bounds.bytes,
        }
    }
}

impl Job<'_> {
    /// What each thread does.
    fn work(&self) {
        while !self.cancel.load(Ordering::Relaxed) {
            let Some(layer) = lock_list(&self.queue).pop_front() else { break };
            let path = self.store.own().blob_lock(&layer.descriptor.digest);
            let result = match lock::try_acquire(&path, Kind::Exclusive) {
                Ok(Some(lock)) => self.fetch(layer, lock),
                Ok(None) => {
                    self.progress.event(Event::Waiting(&layer.descriptor.digest));
                    lock_list(&self.elsewhere).push_back(layer);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            self.note(result);
        }
        while !self.cancel.load(Ordering::Relaxed) {
            let Some(layer) = lock_list(&self.elsewhere).pop_front() else { break };
            let path = self.store.own().blob_lock(&layer.descriptor.digest);
            let result = lock::acquire(&path, Kind::Exclusive).and_then(|lock| self.fetch(layer, lock));
            self.note(result);
        }
    }

    /// Keeps the first failure, and makes everybody stop.
    fn note(&self, result: Result<()>) {
        let Err(error) = result else { return };
        let mut failure = lock_list(&self.failure);
        if failure.as_ref().is_none_or(layer::is_cancelled) {
            *failure = Some(error);
        }
        self.cancel.store(true, Ordering::Relaxed);
    }

    fn fetch(&self, layer: &Layer, _lock: Lock) -> Result<()> {
        let digest = &layer.descriptor.digest;
        if self.store.layer_path(digest).is_some() {
            self.progress.event(Event::Exists(digest));
            return Ok(());
        }
        self.progress.event(Event::Started { digest, bytes: layer.descriptor.size });
        let mut input = self.source.open_layer(layer, self.progress)?;
        let name = format!("{digest} of {}", self.name);
        let expected = Expected { name: &name, digest: Some(digest), size: Some(layer.descriptor.size) };
        let unpacking = Unpacking {
            policy: self.store.policy(self.options, self.umask),
            bounds: self.options.bounds,
            cancel: &self.cancel,
        };
        let advanced = |bytes| self.progress.event(Event::Advanced { digest, bytes });
        self.store.unpack_layer(&mut *input, &expected, &unpacking, &advanced)?;
        self.progress.event(Event::Finished(digest));
        Ok(())
    }
}

fn lock_list<T>(list: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The lists hold no half-made state: a panic elsewhere does not spoil them.
    list.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The process' umask. `/proc` tells it without changing it, which other threads would notice.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    field.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o777)
}

/// What a process in the container would find at `path`, a plain path without links: text of the topmost layer that has
/// the file, unless a layer above deletes it.
fn top_file(trees: &[PathBuf], path: &str) -> Option<String> {
    for tree in trees.iter().rev() {
        match open_in(tree, path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                let file = std::fs::File::from(fd);
                let metadata = file.metadata().ok()?;
                if !metadata.is_file() || metadata.len() > MAX_ACCOUNTS {
                    return None;
                }
                let mut bytes = Vec::new();
                file.take(MAX_ACCOUNTS).read_to_end(&mut bytes).ok()?;
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(Errno::NOENT) => {
                if hides_below(tree, path) {
                    return None;
                }
            }
            // A whiteout (ENXIO), a file in the place of a directory, a link: nothing that could be read simply.
            Err(_) => return None,
        }
    }
    None
}

/// Whether a layer hides `path` of the layers below without having it: by an opaque directory on the way.
fn hides_below(tree: &Path, path: &str) -> bool {
    path.match_indices('/').any(|(end, _)| {
        let Ok(directory) = open_in(tree, &path[..end], OFlags::RDONLY | OFlags::DIRECTORY) else { return false };
        let mut value = [0; 4];
        matches!(rustix::fs::fgetxattr(&directory, layer::whiteout::OPAQUE, &mut value), Ok(1)) && value[0] == b'y'
    })
}

/// What stands at `path`, as of the topmost layer that has something there or hides what is below.
fn top_entry(trees: &[PathBuf], path: &str) -> Option<EntryKind> {
    for tree in trees.iter().rev() {
        match open_in(tree, path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => {
                let mode = rustix::fs::fstat(&fd).ok()?.st_mode;
                return match FileType::from_raw_mode(mode) {
                    FileType::Directory => Some(EntryKind::Directory),
                    FileType::RegularFile => Some(EntryKind::File),
                    FileType::Symlink => Some(EntryKind::Link),
                    // Layers hold no devices but whiteouts.
                    FileType::CharacterDevice => None,
                    _ => Some(EntryKind::Other),
                };
            }
            Err(Errno::NOENT) if !hides_below(tree, path) => {}
            Err(_) => return None,
        }
    }
    None
}

fn open_in(tree: &Path, path: &str, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
    let root = rustix::fs::open(tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    crate::inside::open(&root, path, flags, resolve)
}

/// The store's side of an archive that arrives as a stream: layers are unpacked as they go by, and named by the digest
/// of their bytes.
struct StreamSink<'a> {
    store: &'a Store,
    options: &'a ImportOptions,
    umask: u32,
    never: AtomicBool,
}

impl Store {
    /// Brings an image into the store that its source can give only once, from front to back: an archive on standard
    /// input, another tool's image. Layers that turn out to belong to no image go with the next collection.
    pub fn import_stream(
        &self,
        source: Box<dyn StreamSource>,
        options: &ImportOptions,
        progress: &dyn Progress,
    ) -> Result<ImageRecord> {
        let layout = self.own();
        let _shared = layout.gc_lock(Kind::Shared)?;
        sweep(layout)?;
        let name = source.name();
        let sink = StreamSink { store: self, options, umask: umask(), never: AtomicBool::new(false) };
        let imported = source.import(&options.platform, &sink, progress)?;
        // What came by a pipe has no name of its own: the archive's tags are its names, as after `docker load`.
        let mut names = if name.ends_with(":-") { imported.tags } else { Vec::new() };
        let first = if names.is_empty() { name } else { names.swap_remove(0) };
        let record = self.commit(&imported.image, &first)?;
        for name in names {
            Reference { name, digest: record.digest.clone() }.write(layout)?;
        }
        Ok(record)
    }
}

impl LayerSink for StreamSink<'_> {
    fn layer(&self, blob: &mut dyn Read, size: u64, _: Compression) -> Result<Digest> {
        let expected = Expected { name: "a layer of the archive", digest: None, size: Some(size) };
        let unpacking = Unpacking {
            policy: self.store.policy(self.options, self.umask),
            bounds: self.options.bounds,
            cancel: &self.never,
        };
        self.store.unpack_layer(blob, &expected, &unpacking, &|_| {})
    }
}
