//! The store: content-addressed, shared by processes and hosts, whole at every instant.
//!
//! ```text
//! STORE/
//!   version                          "berth-store 1"
//!   blobs/sha256/HEX                 manifests and image configurations, as received
//!   layers/sha256/HEX/tree           a layer, unpacked: a lower layer for overlayfs with `userxattr`
//!                     index          what the layer says of each entry (mtree, see `layer::index`)
//!                     layer.json     sizes, and what was odd about it
//!   images/HEX.json                  all that a start needs of the image with this manifest digest
//!   refs/NAME                        which manifest digest a name means
//!   locks/                           one fetch at a time per blob
//!   leases/                          on a network file system: which hosts' processes use which images
//!   tmp/                             what is being made; each entry with a lock that its maker holds
//!   gc.lock                          held shared while the store is used, exclusive while it is cleaned
//! ```
//!
//! * Everything appears by one rename on the same file system; a reader never sees half of anything. A process that is
//!   killed leaves something in `tmp/` at most, which the next one sweeps.
//! * Layers are named by the digest of their blob in the manifest: what was verified is what names the tree. (A digest
//!   of the uncompressed tar is not needed for that.)
//! * Blobs of layers are not kept.
//! * A name points to an image record, a record to layers. Garbage collection takes images without a name and a lease,
//!   and layers without an image.
//! * A site's read-only store may stand below a user's own: what it has is used and not fetched again.

mod gc;
mod import;
mod layout;
mod lease;
mod lock;
mod record;
pub(crate) mod remove;
mod verify;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use gc::{GcOptions, GcReport};
pub use import::ImportOptions;
pub use lease::{InUse, Lease, mount_mark};
pub use lock::Lock;
pub use record::{EntryKind, ImageRecord, KNOWN_PATHS, LayerRecord};
pub use verify::{Finding, VerifyReport};

use crate::digest::Digest;
use crate::error::{Error, Result};
use layout::Layout;
use record::{Boot, Reference};

/// Where stores are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// The store that new images go to.
    pub root: PathBuf,
    /// Further stores, searched in order, never written. One that does not exist is passed over.
    pub below: Vec<PathBuf>,
    /// How it is known which images are in use; by default, as the file system of the store asks for.
    pub in_use: Option<InUse>,
}

/// A store, with the read-only ones below it.
#[derive(Debug)]
pub struct Store {
    /// The writable one first.
    layouts: Vec<Layout>,
    in_use: Option<InUse>,
}

/// An image in the store, for lists.
#[derive(Clone, Debug)]
pub struct ImageEntry {
    /// The names that mean it, in order; none for an image whose name moved on.
    pub names: Vec<String>,
    /// What the store knows of it.
    pub record: ImageRecord,
    /// Bytes of its unpacked layers (shared ones counted for each image).
    pub bytes: u64,
    /// When it was last started or pulled.
    pub used: SystemTime,
    /// It is in a store below, which this one does not change.
    pub read_only: bool,
}

/// What [`Store::remove`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<String>,
    /// The image that lost its last name, if so.
    pub image: Option<Digest>,
    /// Layers that went with it.
    pub layers: Vec<Digest>,
}

impl Store {
    /// Opens the store and those below it; makes the first one where nothing is.
    pub fn open(options: &StoreOptions) -> Result<Store> {
        let own = Layout::open_or_create(&options.root);
        let mut layouts = Vec::with_capacity(1 + options.below.len());
        for root in &options.below {
            layouts.extend(Layout::open(root)?);
        }
        match own {
            Ok(own) => layouts.insert(0, own),
            // A home that cannot be written is no obstacle to starting what the site's store has.
            Err(_) if !layouts.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(Store { layouts, in_use: options.in_use })
    }

    /// The directory of the writable store.
    pub fn root(&self) -> &Path {
        self.own().root()
    }

    fn own(&self) -> &Layout {
        &self.layouts[0]
    }

    /// Finds an image by its full name, by `sha256:…`, or by at least six digits that only one image begins with.
    ///
    /// # Errors
    /// [`Error::Store`] where the machine stopped before all of the image had reached the disk.
    pub fn lookup(&self, name: &str) -> Result<Option<ImageRecord>> {
        self.find(name)?.map(|record| self.settled(record)).transpose()
    }

    /// [`Store::lookup`] without the look at what a restart may have left.
    fn find(&self, name: &str) -> Result<Option<ImageRecord>> {
        if name.is_empty() {
            return Ok(None);
        }
        for layout in &self.layouts {
            if let Some(reference) = Reference::read(layout, name)?
                && let Some(record) = ImageRecord::read(layout, &reference.digest)?
            {
                return Ok(Some(record));
            }
        }
        if let Ok(digest) = Digest::parse(name) {
            for layout in &self.layouts {
                if let Some(record) = ImageRecord::read(layout, &digest)? {
                    return Ok(Some(record));
                }
            }
        }
        self.lookup_prefix(name)
    }

    /// Looks once, after the machine was started anew, whether what was written before came through: files that had not
    /// reached the disk when the power went are empty now. (A killed process alone loses nothing.)
    fn settled(&self, mut record: ImageRecord) -> Result<ImageRecord> {
        let (Some(then), Some(now)) = (&record.unsettled, Boot::current()) else { return Ok(record) };
        if then.host != now.host || then.id == now.id {
            return Ok(record);
        }
        let findings = self.check_layers_of(&record);
        if let Some(first) = findings.first() {
            return Err(Error::Store {
                path: self.root().to_owned(),
                reason: format!(
                    "lost a part of {} when the machine stopped: {} {}",
                    record.source,
                    first.path.display(),
                    first.problem
                ),
                hint: Some("run `berth verify --repair`, then pull the image again".to_owned()),
            });
        }
        record.unsettled = None;
        // A store that cannot be written is looked at again the next time.
        let _ = record.write(self.own());
        Ok(record)
    }

    fn lookup_prefix(&self, prefix: &str) -> Result<Option<ImageRecord>> {
        if prefix.len() < 6 || prefix.len() > 64 || !prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut found: Option<ImageRecord> = None;
        for layout in &self.layouts {
            for record in ImageRecord::all(layout)? {
                if !record.digest.hex().starts_with(prefix) {
                    continue;
                }
                if found.as_ref().is_some_and(|known| known.digest != record.digest) {
                    return Err(Error::BadReference {
                        text: prefix.to_owned(),
                        reason: "more than one image begins with these digits: give more of them".to_owned(),
                    });
                }
                found = Some(record);
            }
        }
        Ok(found)
    }

    /// The tree of a layer.
    pub fn layer_path(&self, digest: &Digest) -> Option<PathBuf> {
        // The tree stands if its directory does: both came by one rename.
        self.layouts.iter().map(|layout| layout.layer(digest)).find(|path| path.exists()).map(|path| path.join("tree"))
    }

    /// The index of a layer (see [`crate::layer::index`]).
    pub fn layer_index(&self, digest: &Digest) -> Option<PathBuf> {
        self.layer_path(digest).map(|tree| tree.with_file_name("index"))
    }

    /// The bytes of a manifest or configuration, verified again.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        for layout in &self.layouts {
            let path = layout.blob(digest);
            match std::fs::read(&path) {
                Ok(bytes) if Digest::of(&bytes) == *digest => return Ok(Some(bytes)),
                Ok(bytes) => {
                    let what = path.display().to_string();
                    return Err(Error::DigestMismatch { what, expected: digest.clone(), actual: Digest::of(&bytes) });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", &path, error)),
            }
        }
        Ok(None)
    }

    /// Says that a process uses an image from now on, so that garbage collection leaves it alone. A store that cannot be
    /// written gives a lease of no effect.
    pub fn lease(&self, image: &ImageRecord) -> Result<Lease> {
        Lease::take(self.own(), image, self.in_use, None)
    }

    /// The same for as long as another process of this host lives, where the caller ends before what it starts.
    pub fn lease_for(&self, image: &ImageRecord, holder: u32) -> Result<Lease> {
        Lease::take(self.own(), image, self.in_use, Some(holder))
    }

    /// Waits until nobody else fetches what has this name, and keeps others from it: so that of many processes on many
    /// hosts one asks the registry, and the others find the image in the store.
    pub fn fetching(&self, name: &str) -> Result<Lock> {
        let digest = crate::digest::Digest::of(name.as_bytes());
        lock::acquire(&self.own().blob_lock(&digest), lock::Kind::Exclusive)
    }

    /// All images, by name; those without one at the end.
    pub fn images(&self) -> Result<Vec<ImageEntry>> {
        let mut entries: Vec<ImageEntry> = Vec::new();
        for (depth, layout) in self.layouts.iter().enumerate() {
            let references = Reference::all(layout)?;
            for record in ImageRecord::all(layout)? {
                if entries.iter().any(|known| known.record.digest == record.digest) {
                    continue;
                }
                let mut names: Vec<String> =
                    references.iter().filter(|r| r.digest == record.digest).map(|r| r.name.clone()).collect();
                names.sort();
                let bytes = record.layers.iter().map(|layer| layer.unpacked).sum();
                let used = record.used(layout);
                entries.push(ImageEntry { names, record, bytes, used, read_only: depth > 0 });
            }
        }
        entries.sort_by(|a, b| (a.names.is_empty(), &a.names).cmp(&(b.names.is_empty(), &b.names)));
        Ok(entries)
    }

    /// Removes a name, and with its last name the image and the layers that no other image has. An image in use keeps
    /// its layers: it is an error, or with `force` they stay until garbage collection.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let layout = self.own();
        let alone = layout.gc_lock(lock::Kind::Exclusive)?;
        let not_found = || Error::NotFound {
            name: name.to_owned(),
            reason: Some(format!("looked in the store {}", layout.root().display())),
        };
        let references = Reference::all(layout)?;
        let by_name: Vec<&Reference> = references.iter().filter(|r| r.name == name).collect();
        let (gone, digest) = match by_name.first() {
            Some(reference) => (by_name.clone(), reference.digest.clone()),
            None => {
                let record = self.find(name)?.ok_or_else(not_found)?;
                ImageRecord::read(layout, &record.digest)?.ok_or_else(not_found)?;
                (references.iter().filter(|r| r.digest == record.digest).collect(), record.digest)
            }
        };
        let last = !references.iter().any(|r| r.digest == digest && !gone.iter().any(|g| g.name == r.name));
        if last && !force {
            let users = lease::users(layout, &digest)?;
            if !users.is_empty() {
                return Err(Error::InUse { name: name.to_owned(), users: users.join(", ") });
            }
        }
        let mut removed = Removed::default();
        for reference in gone {
            let path = layout.reference(&reference.name);
            std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            removed.names.push(reference.name.clone());
        }
        if last {
            let (report, trash) = gc::collect_unnamed(layout)?;
            // What was moved aside is nobody's: others need not wait while it is removed.
            drop(alone);
            drop(trash);
            removed.image = report.images.contains(&digest).then_some(digest);
            removed.layers = report.layers;
        }
        Ok(removed)
    }
}
