//! Garbage collection: images that nobody names or uses, then layers, documents and locks that no image needs.
//!
//! It runs with the store to itself (no import, no start in between) and removes each thing by renaming it into `tmp/`
//! first, so that a kill in the middle leaves no half of a layer under its name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::{Layout, WorkDir, sweep};
use super::lock::Kind;
use super::record::{LayerInfo, Reference};
use super::{ImageRecord, Store, lease};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Named images that were not used for longer than this go too.
    pub keep_age: Option<Duration>,
    /// If the store is larger than this many bytes, named images go too, the longest unused first, until it is not.
    pub keep_size: Option<u64>,
    /// Only tell.
    pub dry_run: bool,
}

/// What was, or would be, removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Names.
    pub names: Vec<String>,
    /// Images.
    pub images: Vec<Digest>,
    /// Layers.
    pub layers: Vec<Digest>,
    /// Bytes of the layers' files.
    pub bytes: u64,
    /// Left-overs of processes that died.
    pub leftovers: usize,
    /// Images that would have gone by age or size but are in use.
    pub in_use: Vec<Digest>,
}

impl Store {
    /// Removes what is not needed.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        let layout = self.own();
        let alone = layout.gc_lock(Kind::Exclusive)?;
        let mut references = Reference::all(layout)?;
        let mut records = ImageRecord::all(layout)?;
        let leased = lease::live(layout)?;
        records.sort_by_key(|record| record.used(layout));
        let mut report = GcReport::default();
        let doomed = doomed(layout, &records, &references, &leased.keys().cloned().collect(), options, &mut report)?;
        references.retain(|reference| doomed.contains(&reference.digest));
        for reference in references {
            if !options.dry_run {
                let path = layout.reference(&reference.name);
                std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            }
            report.names.push(reference.name);
        }
        let (rest, trash) = if options.dry_run { (plan(layout, &doomed)?, None) } else { collect_unnamed(layout)? };
        let leftovers = if options.dry_run { 0 } else { sweep(layout)? };
        // What was moved aside is nobody's: starts and imports need not wait while it is removed.
        drop(alone);
        drop(trash);
        Ok(GcReport { names: report.names, in_use: report.in_use, leftovers, ..rest })
    }
}

/// Named images that age or size dooms. `records` are in the order of their last use.
fn doomed(
    layout: &Layout,
    records: &[ImageRecord],
    references: &[Reference],
    leased: &HashSet<String>,
    options: &GcOptions,
    report: &mut GcReport,
) -> Result<HashSet<Digest>> {
    let mut doomed = HashSet::new();
    let named: HashSet<&Digest> = references.iter().map(|r| &r.digest).collect();
    let now = SystemTime::now();
    if let Some(limit) = options.keep_age {
        for record in records {
            let age = now.duration_since(record.used(layout)).unwrap_or_default();
            if age > limit {
                doom(record, leased, &mut doomed, report);
            }
        }
    }
    if let Some(limit) = options.keep_size {
        let kept = |doomed: &HashSet<Digest>| {
            let alive = records.iter().filter(|r| {
                leased.contains(r.digest.hex()) || (named.contains(&r.digest) && !doomed.contains(&r.digest))
            });
            let layers: HashSet<&Digest> = alive.flat_map(|r| r.layers.iter().map(|l| &l.digest)).collect();
            let size = |digest: &&Digest| Ok(LayerInfo::read(&layout.layer(digest))?.map_or(0, |info| info.unpacked));
            layers.iter().map(size).sum::<Result<u64>>()
        };
        for record in records {
            if kept(&doomed)? <= limit {
                break;
            }
            if named.contains(&record.digest) && !doomed.contains(&record.digest) {
                doom(record, leased, &mut doomed, report);
            }
        }
    }
    Ok(doomed)
}

fn doom(record: &ImageRecord, leased: &HashSet<String>, doomed: &mut HashSet<Digest>, report: &mut GcReport) {
    if leased.contains(record.digest.hex()) {
        report.in_use.push(record.digest.clone());
    } else {
        doomed.insert(record.digest.clone());
    }
}

/// What would go if `doomed` images lost their names.
fn plan(layout: &Layout, doomed: &HashSet<Digest>) -> Result<GcReport> {
    let references: Vec<Reference> =
        Reference::all(layout)?.into_iter().filter(|r| !doomed.contains(&r.digest)).collect();
    collect(layout, &references, true).map(|(report, _)| report)
}

/// Takes away images without a name and a lease, and what belongs to no image. The store must be locked exclusively. What
/// is taken away lies in the directory that comes back, and is removed with it.
pub(super) fn collect_unnamed(layout: &Layout) -> Result<(GcReport, Option<WorkDir>)> {
    collect(layout, &Reference::all(layout)?, false)
}

fn collect(layout: &Layout, references: &[Reference], dry_run: bool) -> Result<(GcReport, Option<WorkDir>)> {
    let mut report = GcReport::default();
    let leased = lease::live(layout)?;
    let named: HashSet<&Digest> = references.iter().map(|r| &r.digest).collect();
    let (keep, go): (Vec<ImageRecord>, Vec<ImageRecord>) = ImageRecord::all(layout)?
        .into_iter()
        .partition(|record| named.contains(&record.digest) || leased.contains_key(record.digest.hex()));
    let trash = if dry_run { None } else { Some(WorkDir::create(layout)?) };
    for record in go {
        // The record first: what it points to may vanish only when nobody can find it any more.
        discard(trash.as_ref(), &layout.image(&record.digest))?;
        report.images.push(record.digest);
    }
    let layers: HashSet<&Digest> = keep.iter().flat_map(|r| r.layers.iter().map(|l| &l.digest)).collect();
    for (digest, path) in digests_in(&layout.root().join("layers"))? {
        if !layers.contains(&digest) {
            report.bytes += LayerInfo::read(&path).ok().flatten().map_or(0, |info| info.unpacked);
            discard(trash.as_ref(), &path)?;
            report.layers.push(digest);
        }
    }
    let documents: HashSet<&Digest> = keep.iter().flat_map(|r| [&r.digest, &r.config_digest]).collect();
    for (digest, path) in digests_in(&layout.root().join("blobs"))? {
        if !documents.contains(&digest) {
            discard(trash.as_ref(), &path)?;
        }
    }
    if !dry_run {
        // Nobody holds a blob's lock now: an import holds the store's lock too.
        let locks = layout.root().join("locks");
        for entry in std::fs::read_dir(&locks).map_err(|e| Error::io("read", &locks, e))?.flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok((report, trash))
}

/// Moves something out of its place; it is removed with the work directory.
fn discard(trash: Option<&WorkDir>, path: &Path) -> Result<()> {
    let Some(trash) = trash else { return Ok(()) };
    let name = path.file_name().unwrap_or_default();
    std::fs::rename(path, trash.path().join(name)).map_err(|e| Error::io("remove", path, e))
}

/// The digests that a directory of `ALGORITHM/HEX` holds.
pub(super) fn digests_in(dir: &Path) -> Result<Vec<(Digest, PathBuf)>> {
    let mut all = Vec::new();
    for algorithm in std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?.flatten() {
        let path = algorithm.path();
        for entry in std::fs::read_dir(&path).map_err(|e| Error::io("read", &path, e))?.flatten() {
            let text = format!("{}:{}", algorithm.file_name().to_string_lossy(), entry.file_name().to_string_lossy());
            if let Ok(digest) = Digest::parse(&text) {
                all.push((digest, entry.path()));
            }
        }
    }
    Ok(all)
}
