//! Walks the members of a tar: ustar, pax and GNU long names, base-256 sizes.
//!
//! Bounds hold what a hostile archive may cost: [`MAX_MEMBERS`] headers, names of [`MAX_NAME`] bytes, extended headers
//! of [`MAX_EXTENSION`] bytes, members of [`MAX_MEMBER`] bytes.

use std::io::{self, Read};

use super::header::{BLOCK, checksum_ok, number, pax_record, short_name, text};
use super::{link_target, normal_name, show};
use crate::error::{Error, Result};

/// The largest number of headers in one archive. 100 images of 200 layers, three members each, fit.
const MAX_MEMBERS: usize = 1 << 16;
/// The longest name of a member or target of a link, in bytes. Real ones have at most 150.
const MAX_NAME: usize = 1024;
/// The largest pax or GNU extended header, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;
/// The largest member, in bytes (1 TiB).
const MAX_MEMBER: u64 = 1 << 40;

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
