//! The tar archives that hold whole images: `docker save`, `podman save`, an OCI layout in a tar.
//!
//! Such an archive has a few hundred members whose names are known beforehand, so what reads it does little: [`members`]
//! walks headers, and for a file that can be read at any place an [`Index`] says where each member's bytes lie. Nothing
//! of it is unpacked here, and no name in it ever becomes a path.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::manifest::Compression;

mod header;
mod members;

pub(crate) use header::looks_like_tar;
pub(crate) use members::{Input, Kind, Members};

/// How many links lead from a name to a file at most. `docker save` makes one.
const MAX_LINKS: usize = 8;
/// Members that say what the archive is. Two of a kind would let two readers see different images.
const UNIQUE: [&str; 3] = ["manifest.json", "index.json", "oci-layout"];

/// An input that gives its bytes once.
pub(crate) struct Pipe<'a>(pub &'a mut dyn Read);

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Input for Pipe<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut *self.0).take(bytes), &mut io::sink())?;
        if skipped < bytes { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// A part of a file that can be read at any place, by several threads at once.
#[derive(Debug)]
pub(crate) struct Extent {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Extent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Input for Extent {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.end - self.at {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += bytes;
        Ok(())
    }
}

/// Where links of an archive lead. Kept apart from the members, because in a stream a link may come before its target.
#[derive(Debug, Default)]
pub(crate) struct Links(HashMap<String, Option<String>>);

impl Links {
    /// Takes a link; a later one of the same name wins, as in tar.
    pub(crate) fn insert(&mut self, name: String, target: Option<String>) {
        self.0.insert(name, target);
    }

    /// Forgets a link: a later file has its name.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The name of the file that a name stands for, which need not exist.
    pub(crate) fn follow<'a>(&'a self, name: &'a str, what: &str) -> Result<&'a str> {
        let mut here = name;
        for _ in 0..=MAX_LINKS {
            match self.0.get(here) {
                None => return Ok(here),
                Some(Some(target)) => here = target,
                Some(None) => {
                    return Err(bad(what, format!("`{}` is a link that leads out of the archive", show(here))));
                }
            }
        }
        Err(bad(
            what,
            format!("`{}` is a link that leads through more than {MAX_LINKS} others, or to itself", show(name)),
        ))
    }
}

/// Where each member of an archive in a file lies.
#[derive(Debug)]
pub(crate) struct Index {
    file: Arc<File>,
    what: String,
    files: HashMap<String, (u64, u64)>,
    links: Links,
}

impl Index {
    /// Walks the headers of a file, without reading what is between them.
    pub(crate) fn new(file: File, what: &str) -> Result<Index> {
        let end = file.metadata().map_err(|e| Error::io("examine", what, e))?.len();
        let file = Arc::new(file);
        let mut index = Index { file, what: what.to_owned(), files: HashMap::new(), links: Links::default() };
        let mut members = Members::new(Extent { file: index.file.clone(), at: 0, end }, what);
        while let Some(member) = members.next()? {
            let Some(name) = member.name else { continue };
            match member.kind {
                Kind::File => {
                    let at = members.position();
                    if end.saturating_sub(at) < member.size {
                        return Err(bad(
                            what,
                            format!(
                                "the archive is truncated: member `{}` should have {} bytes and has {}",
                                show(&name),
                                member.size,
                                end.saturating_sub(at)
                            ),
                        ));
                    }
                    index.links.remove(&name);
                    let unique = UNIQUE.contains(&name.as_str());
                    if index.files.insert(name.clone(), (at, member.size)).is_some() && unique {
                        return Err(duplicate(what, &name));
                    }
                }
                Kind::Link(target) => {
                    index.files.remove(&name);
                    index.links.insert(name, target);
                }
                Kind::Other => {}
            }
        }
        Ok(index)
    }

    /// Whether the archive has a file under this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The bytes of a member, links followed, and how many there are.
    pub(crate) fn open(&self, name: &str) -> Result<(Extent, u64)> {
        let name = self.links.follow(name, &self.what)?;
        let (at, size) = *self.files.get(name).ok_or_else(|| missing(&self.what, name))?;
        Ok((Extent { file: self.file.clone(), at, end: at + size }, size))
    }

    /// A small member as a whole.
    pub(crate) fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (extent, size) = self.open(name)?;
        read_document(extent, size, limit, name, &self.what)
    }
}

/// Reads a document of `size` bytes if that is within `limit`.
pub(crate) fn read_document(input: impl Read, size: u64, limit: u64, name: &str, what: &str) -> Result<Vec<u8>> {
    if size > limit {
        return Err(Error::TooLarge {
            what: format!("`{}` of {what}", show(name)),
            reason: format!("{size} bytes, the limit is {limit}"),
        });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    input.take(size).read_to_end(&mut bytes).map_err(|e| Error::io("read", what, e))?;
    Ok(bytes)
}

/// Says that a member is not there.
pub(crate) fn missing(what: &str, name: &str) -> Error {
    bad(what, format!("it has no file `{}`", show(name)))
}

/// Says that a member is there twice.
pub(crate) fn duplicate(what: &str, name: &str) -> Error {
    bad(what, format!("it has `{name}` twice, so that it is not clear which images it holds"))
}

/// Whether two members of this name make an archive useless.
pub(crate) fn is_unique(name: &str) -> bool {
    UNIQUE.contains(&name)
}

/// An unusable archive or document.
pub(crate) fn bad(what: &str, reason: impl Into<String>) -> Error {
    Error::BadManifest { what: what.to_owned(), reason: reason.into() }
}

/// Text from an archive as it may be shown: short, and without bytes that a terminal would obey.
pub(crate) fn show(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

/// How bytes are packed, by how they begin.
pub(crate) fn compression_of(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A zstd frame, or the skippable frame with which seekable and zstd:chunked files may begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// A name as it is looked up: no empty, `.` or `..` components; `None` when it leads out of the archive.
pub(crate) fn normal_name(raw: &str) -> Option<String> {
    if raw.starts_with('/') { None } else { lexical("", raw) }
}

fn link_target(name: &str, target: &str, symbolic: bool) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let folder = match name.rsplit_once('/') {
        Some((folder, _)) if symbolic => folder,
        _ => "",
    };
    lexical(folder, target)
}

/// `folder/path` without dots; `None` when it climbs above the root or names the root itself. Directories are never
/// links here (a link to a directory is followed by no name that image tools write), so this is exact.
fn lexical(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}
