//! The index of a layer's tree: an mtree(5) text beside it.
//!
//! It records what the layer says of every entry, also what an ordinary user cannot give a file (owners, device nodes,
//! some xattrs), so that nothing is lost by unpacking without privileges, and it lets [`crate::store::Store::verify`]
//! find a tree that was changed. One line an entry, in the archive's order; of several lines for one path the last
//! holds:
//!
//! ```text
//! #mtree
//! ./usr/bin type=dir mode=0755 uid=0 gid=0 time=1700000000.0
//! ./usr/bin/ls type=file mode=0755 uid=0 gid=0 time=1700000000.5 size=151344 xxh3=0123456789abcdef
//! ./bin type=link mode=0777 uid=0 gid=0 time=1700000000.0 link=usr/bin
//! ```
//!
//! Beside mtree's own words these are berth's: `xxh3` (64-bit XXH3 of the contents, against damage, not against
//! malice), `hardlink=PATH`, `type=whiteout`, `opaque`, `xattr.NAME=HEX` for an attribute that could not be set, and
//! `recorded` on an entry of which only a placeholder is in the tree (device nodes). Bytes outside printable ASCII, and
//! blank, `\`, `#`, `=` are written as `\ooo`, as vis(3) does.

use std::io::{self, BufRead, Write};

use super::tar::{Entry, Kind};

/// What one line of an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Path relative to the tree, without `./`; empty for the tree itself.
    pub path: Vec<u8>,
    /// What the entry is.
    pub kind: LineKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner in the image.
    pub uid: u64,
    /// Group in the image.
    pub gid: u64,
    /// Modification time.
    pub mtime: (i64, u32),
    /// Extended attributes that are recorded and not set.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The directory hides what lower layers have in its place.
    pub opaque: bool,
}

/// See [`Line::kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// XXH3 of the contents.
        xxh3: u64,
    },
    /// Another name of the file at this path.
    HardLink(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device, recorded only.
    CharDevice(u32, u32),
    /// A block device, recorded only.
    BlockDevice(u32, u32),
    /// Hides a name of lower layers.
    Whiteout,
}

/// Writes an index.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins an index.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(b"#mtree\n")?;
        Ok(Writer { out, line: Vec::with_capacity(256) })
    }

    /// Writes the line of an archive's entry at `path`.
    pub fn entry(&mut self, path: &[u8], entry: &Entry, detail: &Detail<'_>) -> io::Result<()> {
        self.start(path);
        let line = &mut self.line;
        let kind: &[u8] = match entry.kind {
            Kind::File | Kind::HardLink => b"file",
            Kind::Symlink => b"link",
            Kind::Directory => b"dir",
            Kind::Fifo => b"fifo",
            Kind::CharDevice => b"char",
            Kind::BlockDevice => b"block",
        };
        line.extend_from_slice(b" type=");
        line.extend_from_slice(kind);
        write!(line, " mode={:04o} uid={} gid={}", entry.mode, entry.uid, entry.gid)?;
        write!(line, " time={}.{}", entry.mtime.0, entry.mtime.1)?;
        match entry.kind {
            Kind::File => write!(line, " size={} xxh3={:016x}", entry.size, detail.xxh3)?,
            Kind::HardLink => {
                line.extend_from_slice(b" hardlink=./");
                escape(detail.target, line);
            }
            Kind::Symlink => {
                line.extend_from_slice(b" link=");
                escape(&entry.link, line);
            }
            Kind::CharDevice | Kind::BlockDevice => {
                write!(line, " device=linux,{},{} recorded", entry.device.0, entry.device.1)?;
            }
            Kind::Directory | Kind::Fifo => {}
        }
        for (name, value) in detail.recorded_xattrs {
            line.extend_from_slice(b" xattr.");
            escape(name, line);
            line.push(b'=');
            for byte in value {
                write!(line, "{byte:02x}")?;
            }
        }
        self.end()
    }

    /// Writes that a lower layer's name is hidden.
    pub fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        self.start(path);
        self.line.extend_from_slice(b" type=whiteout");
        self.end()
    }

    /// Writes a directory that the archive implies without an entry, or marks one opaque.
    pub fn directory(&mut self, path: &[u8], opaque: bool) -> io::Result<()> {
        self.start(path);
        self.line.extend_from_slice(if opaque { b" opaque" } else { b" type=dir mode=0755 uid=0 gid=0" });
        self.end()
    }

    /// Writes that an earlier directory of the layer is gone, with everything in it: a later entry took its place.
    pub fn removed(&mut self, path: &[u8]) -> io::Result<()> {
        self.start(path);
        self.line.extend_from_slice(b" type=removed");
        self.end()
    }

    /// Flushes and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn start(&mut self, path: &[u8]) {
        self.line.clear();
        self.line.extend_from_slice(b"./");
        escape(path, &mut self.line);
    }

    fn end(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }
}

/// What the unpacker knows beside the archive's entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detail<'a> {
    /// XXH3 of a file's contents.
    pub xxh3: u64,
    /// The path that a hard link names, made relative to the tree.
    pub target: &'a [u8],
    /// Attributes that could not be set.
    pub recorded_xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Reads an index line by line; a line of `None` kind (`opaque` alone) is folded into the directory's entry by
/// [`read`].
pub fn read(input: impl BufRead) -> io::Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut places: std::collections::HashMap<Vec<u8>, usize> = std::collections::HashMap::new();
    for (number, text) in input.split(b'\n').enumerate() {
        let text = text?;
        if text.is_empty() || text[0] == b'#' {
            continue;
        }
        let fault = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {what}", number + 1));
        let mut words = text.split(|&b| b == b' ');
        let path = words.next().and_then(|word| word.strip_prefix(b"./")).ok_or_else(|| fault("no path"))?;
        let path = unescape(path);
        let mut fields = Fields::default();
        for word in words {
            fields.take(word).ok_or_else(|| fault("a word that berth does not write"))?;
        }
        if let (None, true, Some(&place)) = (&fields.kind, fields.opaque, places.get(&path)) {
            lines[place].opaque = true;
            continue;
        }
        if fields.kind.as_deref() == Some(b"removed") {
            let inside = [path.as_slice(), b"/"].concat();
            lines.retain(|line| line.path != path && !line.path.starts_with(&inside));
            places = lines.iter().enumerate().map(|(place, line)| (line.path.clone(), place)).collect();
            continue;
        }
        let line = fields.line(path).ok_or_else(|| fault("an entry without its type"))?;
        match places.get(&line.path) {
            Some(&place) => lines[place] = line,
            None => {
                places.insert(line.path.clone(), lines.len());
                lines.push(line);
            }
        }
    }
    Ok(lines)
}

#[derive(Default)]
struct Fields {
    kind: Option<Vec<u8>>,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: (i64, u32),
    size: u64,
    xxh3: u64,
    link: Vec<u8>,
    hardlink: Option<Vec<u8>>,
    device: (u32, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
}

impl Fields {
    fn take(&mut self, word: &[u8]) -> Option<()> {
        let Some(equals) = word.iter().position(|&b| b == b'=') else {
            match word {
                b"opaque" => self.opaque = true,
                b"recorded" => {}
                _ => return None,
            }
            return Some(());
        };
        let (key, value) = (&word[..equals], &word[equals + 1..]);
        let text = std::str::from_utf8(value).ok()?;
        match key {
            b"type" => self.kind = Some(value.to_vec()),
            b"mode" => self.mode = u32::from_str_radix(text, 8).ok()?,
            b"uid" => self.uid = text.parse().ok()?,
            b"gid" => self.gid = text.parse().ok()?,
            b"time" => {
                let (seconds, nanos) = text.split_once('.')?;
                self.mtime = (seconds.parse().ok()?, nanos.parse().ok()?);
            }
            b"size" => self.size = text.parse().ok()?,
            b"xxh3" => self.xxh3 = u64::from_str_radix(text, 16).ok()?,
            b"link" => self.link = unescape(value),
            b"hardlink" => self.hardlink = Some(unescape(value.strip_prefix(b"./")?)),
            b"device" => {
                let mut parts = text.strip_prefix("linux,")?.split(',');
                self.device = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            }
            _ => {
                let name = unescape(key.strip_prefix(b"xattr.")?);
                let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                let value: Option<Vec<u8>> = value.chunks(2).map(hex).collect();
                self.xattrs.push((name, value?));
            }
        }
        Some(())
    }

    fn line(self, path: Vec<u8>) -> Option<Line> {
        let kind = match self.kind?.as_slice() {
            b"file" => match self.hardlink {
                Some(target) => LineKind::HardLink(target),
                None => LineKind::File { size: self.size, xxh3: self.xxh3 },
            },
            b"link" => LineKind::Symlink(self.link),
            b"dir" => LineKind::Directory,
            b"fifo" => LineKind::Fifo,
            b"char" => LineKind::CharDevice(self.device.0, self.device.1),
            b"block" => LineKind::BlockDevice(self.device.0, self.device.1),
            b"whiteout" => LineKind::Whiteout,
            _ => return None,
        };
        let Fields { mode, uid, gid, mtime, xattrs, opaque, .. } = self;
        Some(Line { path, kind, mode, uid, gid, mtime, xattrs, opaque })
    }
}

/// Writes `bytes` as vis(3) with octal escapes.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'=') {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        }
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// A path of an archive as it can be shown on a terminal.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    for &byte in bytes.iter().take(512) {
        if byte.is_ascii_graphic() || byte == b' ' || byte >= 0x80 {
            out.push(byte);
        } else {
            escape(&[byte], &mut out);
        }
    }
    String::from_utf8(out).unwrap_or_else(|error| {
        let mut escaped = Vec::new();
        escape(error.as_bytes(), &mut escaped);
        String::from_utf8_lossy(&escaped).into_owned()
    })
}
