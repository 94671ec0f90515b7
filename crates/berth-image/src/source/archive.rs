//! The tar archives that hold whole images: `docker save`, `podman save`, an OCI layout in a tar.
//!
//! Such an archive has a few hundred members whose names are known beforehand, so this reader does little: it walks
//! headers (ustar, pax and GNU long names, base-256 sizes), and for a file that can be read at any place it makes an
//! [`Index`] of where each member's bytes lie. Nothing of it is unpacked here, and no name in it ever becomes a path.
//!
//! Bounds hold what a hostile archive may cost: [`MAX_MEMBERS`] headers, names of [`MAX_NAME`] bytes, extended headers
//! of [`MAX_EXTENSION`] bytes, members of [`MAX_MEMBER`] bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::manifest::Compression;

/// The largest number of headers in one archive. 100 images of 200 layers, three members each, fit.
pub(crate) const MAX_MEMBERS: usize = 1 << 16;
/// The longest name of a member or target of a link, in bytes. Real ones have at most 150.
pub(crate) const MAX_NAME: usize = 1024;
/// The largest pax or GNU extended header, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// The largest member, in bytes (1 TiB).
pub(crate) const MAX_MEMBER: u64 = 1 << 40;
/// How many links lead from a name to a file at most. `docker save` makes one.
const MAX_LINKS: usize = 8;
/// Members that say what the archive is. Two of a kind would let two readers see different images.
const UNIQUE: [&str; 3] = ["manifest.json", "index.json", "oci-layout"];

const BLOCK: u64 = 512;

/// What kind of member it is, as far as image archives go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file with data.
    File,
    /// A symbolic or hard link: the name that it leads to, or `None` when that is outside the archive.
    Link(Option<String>),
    /// Directories and what else has no data of use.
    Other,
}

/// One member of an archive.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name, normalised; `None` when nothing inside an archive can have it (`/etc/passwd`, `../x`).
    pub name: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of data, 0 for links and directories.
    pub size: u64,
}

/// Bytes that can be read from the front.
pub(crate) trait Input: Read {
    /// Moves `bytes` ahead; an error of kind `UnexpectedEof` when there are not as many.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

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

/// Walks the members of an archive.
pub(crate) struct Members<I> {
    input: I,
    what: String,
    /// Bytes read and skipped so far.
    position: u64,
    /// Bytes of the current member's data that nobody has read.
    left: u64,
    /// Bytes from the end of that data to the next header.
    padding: u64,
    headers: usize,
    truncated: bool,
}

/// What extended headers say about the member that follows them.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

impl<I: Input> Members<I> {
    /// Begins at the archive's first byte; `what` names it in errors.
    pub(crate) fn new(input: I, what: &str) -> Members<I> {
        Members { input, what: what.to_owned(), position: 0, left: 0, padding: 0, headers: 0, truncated: false }
    }

    /// Where the current member's data begins, before any of it is read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next member, with what is left of the one before skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let rest = self.left + self.padding;
        self.skip(rest)?;
        (self.left, self.padding) = (0, 0);
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header[124..136])
                .ok_or_else(|| self.bad(format!("the header at byte {} has no valid size", self.position - BLOCK)))?;
            match header[156] {
                b'x' => self.pax(size, &mut extended)?,
                b'L' => extended.name = Some(self.long_name(size)?),
                b'K' => extended.link = Some(self.long_name(size)?),
                // Global headers hold comments; nobody who writes images puts names or sizes there.
                b'g' => {
                    self.extension(size)?;
                }
                flag => return self.member(&header, flag, size, extended).map(Some),
            }
        }
    }

    /// The current member's data. At the end of a truncated archive it fails with `UnexpectedEof`.
    pub(crate) fn data(&mut self) -> Data<'_, I> {
        Data(self)
    }

    /// The error for an archive that ended too early, if it did while [`Members::data`] was read.
    pub(crate) fn truncation(&self) -> Option<Error> {
        self.truncated.then(|| self.cut_short())
    }

    fn member(&mut self, header: &[u8; 512], flag: u8, size: u64, extended: Extended) -> Result<Member> {
        let raw = match extended.name {
            Some(name) => name,
            None => short_name(header),
        };
        let kind = match flag {
            b'0' | 0 | b'7' if raw.ends_with('/') => Kind::Other,
            b'0' | 0 | b'7' => Kind::File,
            b'1' | b'2' => {
                let target = extended.link.unwrap_or_else(|| text(&header[157..257]));
                Kind::Link(link_target(&raw, &target, flag == b'2'))
            }
            _ => Kind::Other,
        };
        if extended.sparse || flag == b'S' {
            return Err(
                self.bad(format!("member `{}` is stored as a sparse file, which no image tool writes", show(&raw)))
            );
        }
        // Links, devices and directories have no data, whatever their header says.
        let size = if matches!(flag, b'1'..=b'6') { 0 } else { extended.size.unwrap_or(size) };
        if size > MAX_MEMBER {
            return Err(Error::TooLarge {
                what: format!("member `{}` of {}", show(&raw), self.what),
                reason: format!("{size} bytes, the limit is {MAX_MEMBER}"),
            });
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let size = if kind == Kind::File { size } else { 0 };
        Ok(Member { name: normal_name(&raw), kind, size })
    }

    /// The next header whose checksum is right; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<[u8; 512]>> {
        let mut block = [0u8; 512];
        match self.block(&mut block)? {
            // Some writers leave out the two blocks of zeros.
            0 => return Ok(None),
            512 => {}
            _ => return Err(self.cut_short()),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if !checksum_ok(&block) {
            return Err(self.bad(match self.position {
                BLOCK => "it is no tar archive".to_owned(),
                at => format!("the header at byte {} is damaged", at - BLOCK),
            }));
        }
        self.headers += 1;
        if self.headers > MAX_MEMBERS {
            return Err(Error::TooLarge {
                what: self.what.clone(),
                reason: format!("more than {MAX_MEMBERS} members; an archive of images has a few for each layer"),
            });
        }
        Ok(Some(block))
    }

    /// Fills a block as far as there are bytes.
    fn block(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.io(e)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }

    /// The data of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(Error::TooLarge {
                what: format!("an extended header of {}", self.what),
                reason: format!("{size} bytes, the limit is {MAX_EXTENSION}"),
            });
        }
        let mut data = vec![0; size as usize];
        if self.block(&mut data)? < data.len() {
            return Err(self.cut_short());
        }
        self.skip(size.wrapping_neg() % BLOCK)?;
        Ok(data)
    }

    fn long_name(&mut self, size: u64) -> Result<String> {
        let data = self.extension(size)?;
        self.bounded(text(&data))
    }

    /// `LENGTH KEY=VALUE\n` records, POSIX.1-2001.
    fn pax(&mut self, size: u64, extended: &mut Extended) -> Result<()> {
        let data = self.extension(size)?;
        let mut rest = &data[..];
        while !rest.is_empty() && rest[0] != 0 {
            let (key, value, after) =
                pax_record(rest).ok_or_else(|| self.bad("it has a damaged pax header".to_owned()))?;
            match key {
                b"path" => extended.name = Some(self.bounded(String::from_utf8_lossy(value).into_owned())?),
                b"linkpath" => extended.link = Some(self.bounded(String::from_utf8_lossy(value).into_owned())?),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    extended.size =
                        Some(size.ok_or_else(|| self.bad("it has a pax header with no valid size".to_owned()))?);
                }
                _ if key.starts_with(b"GNU.sparse.") => extended.sparse = true,
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn bounded(&self, name: String) -> Result<String> {
        if name.len() <= MAX_NAME {
            return Ok(name);
        }
        Err(Error::TooLarge {
            what: format!("the name of a member of {}", self.what),
            reason: format!("{} bytes, the limit is {MAX_NAME}", name.len()),
        })
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        match self.input.skip(bytes) {
            Ok(()) => self.position += bytes,
            Err(e) => return Err(self.io(e)),
        }
        Ok(())
    }

    fn io(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_short(),
            _ => Error::io("read", &self.what, error),
        }
    }

    fn cut_short(&self) -> Error {
        self.bad(format!("the archive is truncated: it ends inside a member, after byte {}", self.position))
    }

    fn bad(&self, reason: String) -> Error {
        Error::BadManifest { what: self.what.clone(), reason }
    }
}

/// See [`Members::data`].
pub(crate) struct Data<'a, I>(&'a mut Members<I>);

impl<I: Input> Read for Data<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let got = match self.0.input.read(&mut buffer[..want]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated")),
            other => other,
        };
        // A decompressor reports its own early end in the same way.
        self.0.truncated |= matches!(&got, Err(e) if e.kind() == io::ErrorKind::UnexpectedEof);
        let got = got?;
        self.0.left -= got as u64;
        self.0.position += got as u64;
        Ok(got)
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

/// Whether a file that begins so can be a plain tar: a header, or the zeros that an empty one consists of.
pub(crate) fn looks_like_tar(head: &[u8]) -> bool {
    <&[u8; 512]>::try_from(head).is_ok_and(|block| block.iter().all(|b| *b == 0) || checksum_ok(block))
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

/// The name in a header, joined with its prefix where the header is of the POSIX kind (GNU's has times there).
fn short_name(header: &[u8; 512]) -> String {
    let name = text(&header[0..100]);
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        return format!("{}/{name}", text(&header[345..500]));
    }
    name
}

/// Bytes to the first NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// A number in octal, or in base 256 (GNU) when it is large; `None` for what is neither, is negative or does not fit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let first = u64::from(field[0] & 0x7f);
        return field[1..].iter().try_fold(first, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)));
    }
    let digits = field.iter().copied().skip_while(|b| *b == b' ');
    let mut value = 0u64;
    let mut ended = false;
    for byte in digits {
        match byte {
            b'0'..=b'7' if !ended => value = value.checked_mul(8)?.checked_add(u64::from(byte - b'0'))?,
            b' ' | 0 => ended = true,
            _ => return None,
        }
    }
    Some(value)
}

/// The sum of the header's bytes with its own field as spaces; some old writers added signed bytes.
fn checksum_ok(block: &[u8; 512]) -> bool {
    let Some(expected) = number(&block[148..156]) else { return false };
    let bytes = || block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    expected == unsigned || i64::try_from(expected) == Ok(signed)
}

/// The first pax record: key, value and what follows.
fn pax_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(8).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?;
    let (newline, record) = record.split_last()?;
    let equals = record.iter().position(|b| *b == b'=')?;
    (*newline == b'\n').then(|| (&record[..equals], &record[equals + 1..], &data[length..]))
}
