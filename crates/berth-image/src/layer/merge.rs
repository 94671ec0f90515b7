//! Layers merged into one tree while they stream by, the newest first, so that each name that counts is written once.
//!
//! What an older layer has counts only where no newer one has the name, deleted it, or made a directory above it opaque.
//! All of that is known when the older layer's turn comes: names and what they hide wait in memory (`Index`), contents
//! go on at once. The result is what overlayfs shows of the layers on top of each other.
//!
//! One thing needs the contents of a name that does not count: a hard link to it, later in its layer, that does. Files that
//! are hidden therefore go to a *spool* until their layer has ended.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use berth_imagefile::write::Content;
use berth_imagefile::write::Metadata;
use berth_imagefile::write::Sink;

use super::index::printable;
use super::path::join;
use super::path::normalise;
use super::path::resolve_lexically;
use super::path::split;
use super::tar::Entry;
use super::tar::Kind;
use super::tar::Reader;
use super::tar::TarError;
use super::whiteout;
use super::whiteout::Marker;
use crate::error::Error;
use crate::error::Result;

mod names;

use names::Fate;
use names::Index;

/// Most symbolic links on the way to one name, as in the kernel.
const LINKS: u32 = 40;
/// The id that stands for ids that Linux cannot have.
const NOBODY: u32 = 65_534;

/// Merges the layers of an image.
pub struct Merger<'a> {
    sink: &'a mut (dyn Sink + Send),
    spool: File,
    /// Entries that may still come.
    entries: u64,
    /// Logical bytes that may still come.
    bytes: u64,
    index: Index,
    layer: u32,
}

impl std::fmt::Debug for Merger<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Merger").field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// A file that lies above all layers. It is root's, and has no time.
#[derive(Clone, Debug)]
pub struct Above {
    /// Where, without a slash at the begin.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What a name of the layer is that does not count.
struct Hidden {
    metadata: Metadata,
    what: HiddenContent,
    /// The name under which it was written after all.
    shown: Option<Vec<u8>>,
}

enum HiddenContent {
    /// Where in the spool, how long.
    File(u64, u64),
    Symlink(Vec<u8>),
    Device(Kind, (u32, u32)),
}

/// One layer that is being read.
struct Pass<'m, 'a> {
    merger: &'m mut Merger<'a>,
    name: &'m str,
    /// Symbolic links of this layer: later entries may be written through them.
    links: HashMap<Vec<u8>, Vec<u8>>,
    hidden: HashMap<Vec<u8>, Hidden>,
    spooled: u64,
}

impl<'a> Merger<'a> {
    /// Merges into `sink`. `spool` is an empty temporary file. No more than so many entries and logical bytes are taken of
    /// all layers together.
    pub fn new(sink: &'a mut (dyn Sink + Send), spool: File, entries: u64, bytes: u64) -> Merger<'a> {
        Merger { sink, spool, entries, bytes, index: Index::new(), layer: 0 }
    }

    /// Adds files of the caller's own, above all layers: before the first one.
    pub fn above(&mut self, files: &[Above]) -> Result<()> {
        for file in files {
            let metadata = Metadata { mode: file.mode, ..Metadata::default() };
            let mut data = file.content.as_slice();
            // Of a path of ours nothing can be wrong.
            let _ = self.index.other(file.path.as_bytes(), self.layer);
            let content = Content::File { size: data.len() as u64, data: &mut data };
            self.sink.add(file.path.as_bytes(), &metadata, content)?;
        }
        self.layer += 1;
        Ok(())
    }

    /// Takes one layer, which must be older than all that were taken before. `name` is for messages.
    pub fn layer<R: BufRead>(&mut self, name: &str, reader: &mut Reader<R>) -> Result<()> {
        let mut pass = Pass { merger: self, name, links: HashMap::new(), hidden: HashMap::new(), spooled: 0 };
        pass.entries(reader)?;
        self.layer += 1;
        self.spool.set_len(0).map_err(|error| Error::io("empty", "the temporary file of an import", error))
    }
}

impl Pass<'_, '_> {
    fn entries<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<()> {
        let mut path = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(None) => return Ok(()),
                Ok(Some(entry)) => {
                    normalise(&entry.path, &mut path).map_err(|reason| self.bad(&entry.path, reason))?;
                }
                Err(error) => return Err(self.tar_error(error, None)),
            }
            let left = self.merger.entries.checked_sub(1);
            self.merger.entries = left.ok_or_else(|| self.too_large("it has too many entries".to_owned()))?;
            let path = self.resolve(&path)?;
            self.entry(&path, reader)?;
        }
    }

    fn entry<R: BufRead>(&mut self, path: &[u8], reader: &mut Reader<R>) -> Result<()> {
        let (directory, name) = split(path);
        let layer = self.merger.layer;
        match whiteout::marker(name) {
            Some(Marker::Opaque) => {
                if self.judged(path, |index| index.opaque(directory, layer))? == Fate::Shown {
                    self.merger.sink.add_implied(directory)?;
                }
                return Ok(());
            }
            Some(Marker::Internal) => return Ok(()),
            Some(Marker::Hides(hidden)) => {
                if hidden.is_empty() || hidden == b"." || hidden == b".." {
                    return Err(self.bad(path, "a whiteout without a name"));
                }
                return self.judged(path, |index| index.whiteout(&join(directory, hidden), layer)).map(drop);
            }
            None => {}
        }
        let entry = reader.entry();
        let metadata = metadata(entry);
        if entry.kind == Kind::Directory {
            self.links.remove(path);
            if self.judged(path, |index| index.directory(path, layer))? == Fate::Shown {
                self.add(path, &metadata, Content::Directory)?;
            }
            return Ok(());
        }
        if path.is_empty() {
            return Err(self.bad(b"/", "the tree's root is no directory"));
        }
        if entry.kind == Kind::HardLink {
            return self.hard_link(path, &entry.link.clone());
        }
        let fate = self.judged(path, |index| index.other(path, layer))?;
        self.links.remove(path);
        self.hidden.remove(path);
        let device = entry.device;
        match (entry.kind, fate) {
            (Kind::File, _) => self.file(path, metadata, fate, reader),
            (Kind::Symlink, _) => {
                let target = entry.link.clone();
                if target.is_empty() {
                    return Err(self.bad(path, "a symbolic link without a target"));
                }
                self.links.insert(path.to_vec(), target.clone());
                match fate {
                    Fate::Shown => self.add(path, &metadata, Content::Symlink(&target)),
                    Fate::Hidden => {
                        self.hide(path, metadata, HiddenContent::Symlink(target));
                        Ok(())
                    }
                }
            }
            (kind, Fate::Shown) => self.add(path, &metadata, node(kind, device)),
            (kind, Fate::Hidden) => {
                self.hide(path, metadata, HiddenContent::Device(kind, device));
                Ok(())
            }
        }
    }

    fn file<R: BufRead>(&mut self, path: &[u8], metadata: Metadata, fate: Fate, reader: &mut Reader<R>) -> Result<()> {
        let size = reader.entry().size;
        let left = self.merger.bytes.checked_sub(size);
        self.merger.bytes = left.ok_or_else(|| self.too_large("its files claim too many bytes".to_owned()))?;
        let regions = reader.entry().sparse.take();
        let mut data = FileData { reader, size, position: 0, regions, next: 0, failed: None };
        let done = match fate {
            Fate::Shown => {
                let content = Content::File { size, data: &mut data };
                self.merger.sink.add(path, &metadata, content).map_err(Error::from)
            }
            Fate::Hidden => spool(&self.merger.spool, self.spooled, &mut data),
        };
        if let Some(error) = data.failed.take() {
            return Err(self.tar_error(error, Some(path)));
        }
        done?;
        if fate == Fate::Hidden {
            let what = HiddenContent::File(self.spooled, size);
            self.spooled += size;
            self.hide(path, metadata, what);
        }
        Ok(())
    }

    fn hide(&mut self, path: &[u8], metadata: Metadata, what: HiddenContent) {
        self.hidden.insert(path.to_vec(), Hidden { metadata, what, shown: None });
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let mut plain = Vec::new();
        normalise(target, &mut plain).map_err(|_| self.bad(path, "a hard link that leaves the tree"))?;
        let target = self.resolve(&plain)?;
        if target.is_empty() || target == path {
            return Err(self.bad(path, "a hard link to itself or to nothing"));
        }
        let layer = self.merger.layer;
        if !self.hidden.contains_key(&target) {
            if self.merger.index.is_directory(&target, layer) {
                return Err(self.bad(path, "a hard link to a directory"));
            }
            if !self.merger.index.is_of(&target, layer) {
                let reason = format!("a hard link to `{}`, which is not in this layer before it", printable(&target));
                return Err(self.bad(path, &reason));
            }
        }
        let fate = self.judged(path, |index| index.other(path, layer))?;
        if let Some(link) = self.links.get(&target).cloned() {
            self.links.insert(path.to_vec(), link);
        } else {
            self.links.remove(path);
        }
        // A name that led to a hidden file may lead to another from now on.
        let hidden = self.hidden.remove(&target);
        self.hidden.remove(path);
        let Some(mut hidden) = hidden else {
            return match fate {
                Fate::Shown => self.add(path, &Metadata::default(), Content::HardLink(&target)),
                // The file itself is shown, so a hidden name of it is of no account, but can be linked to in turn.
                Fate::Hidden => {
                    self.alias(path, &target);
                    Ok(())
                }
            };
        };
        if fate == Fate::Shown {
            match &hidden.shown {
                Some(shown) => self.add(path, &Metadata::default(), Content::HardLink(shown))?,
                None => {
                    self.show(path, &hidden)?;
                    hidden.shown = Some(path.to_vec());
                }
            }
            self.hidden.insert(target, hidden);
            return Ok(());
        }
        // Two hidden names of one file: the second is the first, as far as anybody can tell later.
        let copy = Hidden { metadata: hidden.metadata.clone(), what: hidden.what.copy(), shown: hidden.shown.clone() };
        self.hidden.insert(path.to_vec(), copy);
        self.hidden.insert(target, hidden);
        Ok(())
    }

    /// A hidden name of a file that is shown under another.
    fn alias(&mut self, path: &[u8], shown: &[u8]) {
        let what = HiddenContent::File(0, 0);
        let hidden = Hidden { metadata: Metadata::default(), what, shown: Some(shown.to_vec()) };
        self.hidden.insert(path.to_vec(), hidden);
    }

    /// Writes what was hidden under a name that counts.
    fn show(&mut self, path: &[u8], hidden: &Hidden) -> Result<()> {
        match &hidden.what {
            HiddenContent::File(offset, size) => {
                let spool = self.merger.spool.try_clone();
                let spool = spool.map_err(|error| Error::io("open", "the temporary file of an import", error))?;
                let mut data = SpoolData { spool, position: *offset, end: offset + size };
                self.add(path, &hidden.metadata, Content::File { size: *size, data: &mut data })
            }
            HiddenContent::Symlink(target) => self.add(path, &hidden.metadata, Content::Symlink(target)),
            HiddenContent::Device(kind, device) => self.add(path, &hidden.metadata, node(*kind, *device)),
        }
    }

    fn add(&mut self, path: &[u8], metadata: &Metadata, content: Content<'_>) -> Result<()> {
        Ok(self.merger.sink.add(path, metadata, content)?)
    }

    /// Replaces links of this layer on the way to a name, so that each name is known by the one place where it is.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut path = path.to_vec();
        if self.links.is_empty() {
            return Ok(path);
        }
        for _ in 0..LINKS {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let found = slashes.into_iter().find_map(|at| Some((at, self.links.get(&path[..at])?)));
            let Some((at, target)) = found else { return Ok(path) };
            let directory = resolve_lexically(split(&path[..at]).0, target);
            path = join(&directory, &path[at + 1..]);
        }
        Err(self.bad(&path, "symbolic links that go round in a circle"))
    }

    fn judged<T>(&mut self, path: &[u8], judge: impl FnOnce(&mut Index) -> Result<T, &'static str>) -> Result<T> {
        let judged = judge(&mut self.merger.index).map_err(|reason| self.bad(path, reason))?;
        if let Some(length) = self.merger.index.take_implied() {
            self.merger.sink.add_implied(&path[..length])?;
        }
        Ok(judged)
    }

    fn bad(&self, path: &[u8], reason: &str) -> Error {
        Error::BadLayer { layer: self.name.to_owned(), entry: Some(printable(path)), reason: reason.to_owned() }
    }

    fn too_large(&self, reason: String) -> Error {
        Error::TooLarge { what: format!("layer {}", self.name), reason }
    }

    fn tar_error(&self, error: TarError, path: Option<&[u8]>) -> Error {
        match error {
            TarError::Limit { .. } => self.too_large(error.to_string()),
            TarError::Io(source) => Error::Io { action: "read", path: PathBuf::from(self.name), source },
            other => {
                Error::BadLayer { layer: self.name.to_owned(), entry: path.map(printable), reason: other.to_string() }
            }
        }
    }
}

impl HiddenContent {
    fn copy(&self) -> HiddenContent {
        match self {
            HiddenContent::File(offset, size) => HiddenContent::File(*offset, *size),
            HiddenContent::Symlink(target) => HiddenContent::Symlink(target.clone()),
            HiddenContent::Device(kind, device) => HiddenContent::Device(*kind, *device),
        }
    }
}

fn node(kind: Kind, (major, minor): (u32, u32)) -> Content<'static> {
    match kind {
        Kind::CharDevice => Content::CharDevice(major, minor),
        Kind::BlockDevice => Content::BlockDevice(major, minor),
        _ => Content::Fifo,
    }
}

fn metadata(entry: &Entry) -> Metadata {
    let id = |id| u32::try_from(id).ok().filter(|&id| id != u32::MAX).unwrap_or(NOBODY);
    // Attributes that overlayfs takes orders from are none of an image's.
    let orders = |name: &[u8]| name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.");
    let xattrs = entry.xattrs.iter().filter(|(name, _)| !orders(name) && name.len() <= 255 && !name.contains(&0));
    Metadata {
        mode: entry.mode,
        uid: id(entry.uid),
        gid: id(entry.gid),
        mtime: entry.mtime,
        xattrs: xattrs.cloned().collect(),
    }
}

/// Contents of a file in an archive, with zeros for holes.
struct FileData<'r, R> {
    reader: &'r mut Reader<R>,
    size: u64,
    position: u64,
    /// Regions of a sparse file.
    regions: Option<Vec<(u64, u64)>>,
    /// The region that comes next, or that the position is in.
    next: usize,
    failed: Option<TarError>,
}

impl<R: BufRead> Read for FileData<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bound = self.size - self.position;
        if let Some(regions) = &self.regions {
            while regions.get(self.next).is_some_and(|(offset, length)| offset + length <= self.position) {
                self.next += 1;
            }
            let hole_ends = regions.get(self.next).map_or(self.size, |region| region.0);
            if self.position < hole_ends {
                let take = buffer.len().min(usize::try_from(hole_ends - self.position).unwrap_or(usize::MAX));
                buffer[..take].fill(0);
                self.position += take as u64;
                return Ok(take);
            }
            bound = regions.get(self.next).map_or(0, |(offset, length)| offset + length - self.position);
        }
        if bound == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let taken = match self.reader.data() {
            Ok(piece) => {
                let piece = piece.unwrap_or_default();
                let take = piece.len().min(buffer.len()).min(usize::try_from(bound).unwrap_or(usize::MAX));
                buffer[..take].copy_from_slice(&piece[..take]);
                take
            }
            Err(error) => {
                self.failed = Some(error);
                return Err(io::Error::other("the archive"));
            }
        };
        self.reader.consume(taken);
        self.position += taken as u64;
        Ok(taken)
    }
}

/// Contents of a file in the spool.
struct SpoolData {
    spool: File,
    position: u64,
    end: u64,
}

impl Read for SpoolData {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let take = buffer.len().min(usize::try_from(self.end - self.position).unwrap_or(usize::MAX));
        let taken = self.spool.read_at(&mut buffer[..take], self.position)?;
        self.position += taken as u64;
        Ok(taken)
    }
}

fn spool(spool: &File, mut offset: u64, data: &mut dyn Read) -> Result<()> {
    let fault = |error| Error::io("write", "the temporary file of an import", error);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let bytes = data.read(&mut buffer).map_err(fault)?;
        if bytes == 0 {
            break;
        }
        // Zeros are left out: what is behind the end of a file, or in a hole of it, reads as zeros.
        if buffer[..bytes].iter().any(|&byte| byte != 0) {
            spool.write_all_at(&buffer[..bytes], offset).map_err(fault)?;
        }
        offset += bytes as u64;
    }
    let length = spool.metadata().map_err(fault)?.len();
    if length < offset { spool.set_len(offset).map_err(fault) } else { Ok(()) }
}
