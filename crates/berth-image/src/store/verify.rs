//! Checking a store against its own indexes: what is missing, what was changed, what does not belong.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::gc::digests_in;
use super::layout::Layout;
use super::lock::Kind;
use super::record::Reference;
use super::{ImageRecord, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer::index::{self, Line, LineKind, printable};
use crate::progress::{Event, Progress};

/// Findings told of one layer; the rest is counted.
const MAX_PER_LAYER: usize = 20;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: a file of the store.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
    /// The image that is damaged by it, by name or digest.
    pub image: Option<String>,
}

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// What is wrong; nothing, one hopes.
    pub findings: Vec<Finding>,
    /// Images checked.
    pub images: usize,
    /// Layers checked.
    pub layers: usize,
    /// Files and other entries checked.
    pub entries: u64,
    /// Layers that [`Store::verify`] was told to remove and did.
    pub removed: Vec<Digest>,
}

impl Store {
    /// Checks the images of these names, or the whole store: that documents have their digests, that layers are there,
    /// that each file has the type, mode, size and contents of its index. With `repair`, damaged layers and the images
    /// that need them are removed, so that the next pull brings them anew.
    pub fn verify(&self, names: &[String], repair: bool, progress: &dyn Progress) -> Result<VerifyReport> {
        let layout = self.own();
        // Nothing may come or go meanwhile when it is to be repaired.
        let _lock = layout.gc_lock(if repair { Kind::Exclusive } else { Kind::Shared })?;
        let mut report = VerifyReport::default();
        let mut records = Vec::new();
        for name in names {
            let missing = || Error::NotFound { name: name.clone(), reason: Some("it is not in the store".to_owned()) };
            records.push(self.find(name)?.ok_or_else(missing)?);
        }
        if names.is_empty() {
            records = self.check_records(&mut report)?;
        }
        let mut users: HashMap<Digest, String> = HashMap::new();
        for record in &records {
            report.images += 1;
            self.check_documents(record, &mut report);
            for layer in &record.layers {
                users.entry(layer.digest.clone()).or_insert_with(|| record.source.clone());
            }
        }
        if names.is_empty() {
            for (digest, _) in digests_in(&layout.root().join("layers"))? {
                users.entry(digest).or_default();
            }
        }
        let mut damaged = HashSet::new();
        for (digest, user) in &users {
            let image = Some(user.clone()).filter(|user| !user.is_empty());
            let Some(tree) = self.layer_path(digest) else {
                let problem = "the layer is missing".to_owned();
                report.findings.push(Finding { path: layout.layer(digest), problem, image });
                damaged.insert(digest.clone());
                continue;
            };
            let before = report.findings.len();
            check_layer(&tree, image, &mut report);
            if report.findings.len() > before {
                damaged.insert(digest.clone());
            }
            report.layers += 1;
            progress.event(Event::Finished(digest));
        }
        if repair {
            self.drop_damaged(layout, &damaged, &mut report)?;
        }
        Ok(report)
    }

    /// What is wrong with the layers of one image.
    pub(super) fn check_layers_of(&self, record: &ImageRecord) -> Vec<Finding> {
        let mut report = VerifyReport::default();
        for layer in &record.layers {
            match self.layer_path(&layer.digest) {
                Some(tree) => check_layer(&tree, Some(record.source.clone()), &mut report),
                None => report.findings.push(Finding {
                    path: self.own().layer(&layer.digest),
                    problem: "is missing".to_owned(),
                    image: Some(record.source.clone()),
                }),
            }
        }
        report.findings
    }

    /// Reads every record and name; one that is damaged is a finding and not the end.
    fn check_records(&self, report: &mut VerifyReport) -> Result<Vec<ImageRecord>> {
        let layout = self.own();
        let mut records = Vec::new();
        for directory in ["images", "refs"] {
            let directory = layout.root().join(directory);
            for entry in std::fs::read_dir(&directory).map_err(|e| Error::io("read", &directory, e))?.flatten() {
                let path = entry.path();
                let bytes = match std::fs::read(&path) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(Error::io("read", &path, error)),
                };
                let problem = if directory.ends_with("images") {
                    match serde_json::from_slice::<ImageRecord>(&bytes) {
                        Ok(record) if layout.image(&record.digest) == path => {
                            records.push(record);
                            None
                        }
                        Ok(_) => Some("the record is of another image".to_owned()),
                        Err(error) => Some(format!("the record is damaged: {error}")),
                    }
                } else {
                    match serde_json::from_slice::<Reference>(&bytes) {
                        Ok(reference) if layout.image(&reference.digest).exists() => None,
                        Ok(reference) => Some(format!("{} means an image that is not here", reference.name)),
                        Err(error) => Some(format!("the name is damaged: {error}")),
                    }
                };
                report.findings.extend(problem.map(|problem| Finding { path, problem, image: None }));
            }
        }
        Ok(records)
    }

    fn check_documents(&self, record: &ImageRecord, report: &mut VerifyReport) {
        for digest in [&record.digest, &record.config_digest] {
            let problem = match self.blob(digest) {
                Ok(Some(_)) => continue,
                Ok(None) => "the document is missing".to_owned(),
                Err(error) => error.to_string(),
            };
            let image = Some(record.source.clone());
            report.findings.push(Finding { path: self.own().blob(digest), problem, image });
        }
    }

    fn drop_damaged(&self, layout: &Layout, damaged: &HashSet<Digest>, report: &mut VerifyReport) -> Result<()> {
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        };
        let unreadable: HashSet<&Path> = report.findings.iter().map(|finding| finding.path.as_path()).collect();
        for path in unreadable {
            if path.starts_with(layout.root().join("images")) || path.starts_with(layout.root().join("refs")) {
                remove(path)?;
            }
        }
        for record in ImageRecord::all(layout)? {
            let documents = [layout.blob(&record.digest), layout.blob(&record.config_digest)];
            let spoiled = record.layers.iter().any(|layer| damaged.contains(&layer.digest))
                || report.findings.iter().any(|finding| documents.contains(&finding.path));
            if !spoiled {
                continue;
            }
            for reference in Reference::all(layout)?.iter().filter(|r| r.digest == record.digest) {
                remove(&layout.reference(&reference.name))?;
            }
            remove(&layout.image(&record.digest))?;
            for document in documents {
                remove(&document)?;
            }
        }
        for reference in Reference::all(layout)? {
            if !layout.image(&reference.digest).exists() {
                remove(&layout.reference(&reference.name))?;
            }
        }
        for digest in damaged {
            let path = layout.layer(digest);
            super::remove::tree(&path).map_err(|e| Error::io("remove", &path, e))?;
            report.removed.push(digest.clone());
        }
        Ok(())
    }
}

/// Findings of one layer.
struct LayerCheck<'a> {
    tree: &'a Path,
    lines: HashMap<Vec<u8>, Line>,
    image: Option<String>,
    report: &'a mut VerifyReport,
    told: usize,
}

fn check_layer(tree: &Path, image: Option<String>, report: &mut VerifyReport) {
    let index_path = tree.with_file_name("index");
    let lines = match File::open(&index_path).and_then(|file| index::read(BufReader::new(file))) {
        Ok(lines) => lines,
        Err(error) => {
            let problem = format!("the layer's index cannot be read: {error}");
            report.findings.push(Finding { path: index_path, problem, image });
            return;
        }
    };
    let lines = lines.into_iter().map(|line| (line.path.clone(), line)).collect();
    let mut check = LayerCheck { tree, lines, image, report, told: 0 };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(tree, flags, Mode::empty()) {
        Ok(root) => {
            check.lines.remove(b"".as_slice());
            check.directory(&root, &mut Vec::new());
        }
        Err(error) => check.tell(b"", format!("the tree cannot be read: {error}")),
    }
    let missing: Vec<Vec<u8>> = check.lines.keys().cloned().collect();
    for path in missing {
        check.tell(&path, "is missing".to_owned());
    }
    if check.told > MAX_PER_LAYER {
        let problem = format!("and {} more findings", check.told - MAX_PER_LAYER);
        let finding = Finding { path: tree.to_owned(), problem, image: check.image.clone() };
        check.report.findings.push(finding);
    }
}

impl LayerCheck<'_> {
    fn tell(&mut self, path: &[u8], problem: String) {
        self.told += 1;
        if self.told <= MAX_PER_LAYER {
            let path = self.tree.join(printable(path));
            self.report.findings.push(Finding { path, problem, image: self.image.clone() });
        }
    }

    fn directory(&mut self, directory: &OwnedFd, path: &mut Vec<u8>) {
        let entries = match Dir::read_from(directory) {
            Ok(entries) => entries,
            Err(error) => return self.tell(path, format!("the directory cannot be read: {error}")),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.tell(path, format!("the directory cannot be read: {error}")),
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            self.report.entries += 1;
            self.entry(directory.as_fd(), name, path);
            path.truncate(length);
        }
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>) {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return self.tell(path, format!("cannot be looked at: {error}")),
        };
        let found = FileType::from_raw_mode(stat.st_mode);
        let Some(line) = self.lines.remove(path.as_slice()) else {
            return self.tell(path, "does not belong to the layer".to_owned());
        };
        let expected = match &line.kind {
            LineKind::File { .. } | LineKind::CharDevice(..) | LineKind::BlockDevice(..) => FileType::RegularFile,
            LineKind::HardLink(_) => found,
            LineKind::Symlink(_) => FileType::Symlink,
            LineKind::Directory => FileType::Directory,
            LineKind::Fifo => FileType::Fifo,
            // Or an empty file with an attribute, where the file system refuses the device.
            LineKind::Whiteout if stat.st_size == 0 && found == FileType::RegularFile => found,
            LineKind::Whiteout => FileType::CharacterDevice,
        };
        if found != expected {
            return self.tell(path, format!("is of type {found:?} and should be {expected:?}"));
        }
        // A store that others can read has no set-id bits: both are right.
        let mode = stat.st_mode & 0o7777;
        let checked = !matches!(
            line.kind,
            LineKind::Symlink(_)
                | LineKind::HardLink(_)
                | LineKind::Whiteout
                | LineKind::CharDevice(..)
                | LineKind::BlockDevice(..)
        );
        if checked && mode & 0o1777 != line.mode & 0o1777 {
            self.tell(path, format!("has the mode {mode:04o} and should have {:04o}", line.mode));
        }
        match &line.kind {
            LineKind::File { size, xxh3 } => self.file(parent, name, path, *size, *xxh3, stat.st_size as u64, mode),
            LineKind::Symlink(target) => match rustix::fs::readlinkat(parent, name, Vec::new()) {
                Ok(link) if link.as_bytes() == target.as_slice() => {}
                Ok(_) => self.tell(path, "is a link to another place".to_owned()),
                Err(error) => self.tell(path, format!("cannot be read: {error}")),
            },
            LineKind::Directory => self.descend(parent, name, path, mode),
            _ => {}
        }
    }

    fn descend(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>, mode: u32) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match with_permission(parent, name, flags, mode, Mode::RUSR | Mode::XUSR) {
            // Without permission even for the owner, entries are reached while the permission is lent.
            Ok((directory, None)) => self.directory(&directory, path),
            Ok((directory, Some(restore))) => {
                self.directory(&directory, path);
                let _ = rustix::fs::fchmod(&directory, restore);
            }
            Err(error) => self.tell(path, format!("the directory cannot be read: {error}")),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8], size: u64, xxh3: u64, found: u64, mode: u32) {
        if found != size {
            return self.tell(path, format!("has {found} bytes and should have {size}"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let hash = match with_permission(parent, name, flags, mode, Mode::RUSR) {
            Ok((fd, restore)) => {
                let file = File::from(fd);
                let hash = hash_of(&file);
                if let Some(restore) = restore {
                    let _ = rustix::fs::fchmod(&file, restore);
                }
                hash
            }
            Err(error) => Err(error.into()),
        };
        match hash {
            Ok(hash) if hash == xxh3 => {}
            Ok(_) => self.tell(path, "has other contents than it should".to_owned()),
            Err(error) => self.tell(path, format!("cannot be read: {error}")),
        }
    }
}

/// Opens something of ours that may lack the permission to be read (`/etc/shadow` of some distributions has none at
/// all): the permission is lent for the time of opening, and the mode to give back is told.
fn with_permission(
    parent: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: u32,
    lent: Mode,
) -> Result<(OwnedFd, Option<Mode>), Errno> {
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let original = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(parent, name, original | lent, AtFlags::empty())?;
            match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Ok(fd) => Ok((fd, Some(original))),
                Err(error) => {
                    let _ = rustix::fs::chmodat(parent, name, original, AtFlags::empty());
                    Err(error)
                }
            }
        }
        Ok(fd) if flags.contains(OFlags::DIRECTORY) && mode & 0o100 == 0 && !rustix::process::geteuid().is_root() => {
            let original = Mode::from_raw_mode(mode);
            rustix::fs::fchmod(&fd, original | lent)?;
            Ok((fd, Some(original)))
        }
        other => Ok((other?, None)),
    }
}

fn hash_of(mut file: &File) -> std::io::Result<u64> {
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.digest()),
            Ok(bytes) => hasher.update(&buffer[..bytes]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
