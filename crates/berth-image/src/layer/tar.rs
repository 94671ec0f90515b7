//! A streaming tar reader for every dialect that image builders write: v7, ustar, GNU (long names, base-256 numbers,
//! old sparse files), star and pax (global and extended headers, sparse 0.0, 0.1 and 1.0, xattrs of SCHILY and
//! libarchive).
//!
//! The reader never buffers file contents: it hands out slices of whatever its input has ready. Everything that a header
//! claims is bounded before it is believed (see [`Limits`]). Format: POSIX.1-2024 `pax`, GNU tar manual appendix D,
//! libarchive's `tar(5)`.

use std::io::{self, BufRead};

use base64::Engine as _;

/// The block size of every tar.
const BLOCK: usize = 512;

/// Bounds on what an archive may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest path or link target in bytes. Linux accepts 4095.
    pub path: usize,
    /// Largest pax header in bytes (it holds xattrs too).
    pub pax: u64,
    /// Largest logical file size in bytes: a sparse file may claim far more than the archive holds.
    pub file: u64,
    /// Most data regions of one sparse file.
    pub regions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { path: 4095, pax: 4 << 20, file: 1 << 40, regions: 1 << 20 }
    }
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The input failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The archive ends in the middle of something.
    #[error("the archive ends too early, {0}")]
    Truncated(&'static str),
    /// A header that is no tar header.
    #[error("no tar header at byte {position}: {reason}")]
    BadHeader {
        /// Offset in the uncompressed stream.
        position: u64,
        /// What is wrong.
        reason: String,
    },
    /// A claim that exceeds a limit.
    #[error("{what} of {value} exceeds the limit of {limit}")]
    Limit {
        /// Which claim.
        what: &'static str,
        /// What was claimed.
        value: u64,
        /// What is accepted.
        limit: u64,
    },
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A hard link to [`Entry::link`], a path in the archive.
    HardLink,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// One member of an archive. Its buffers are reused from entry to entry.
#[derive(Debug)]
pub struct Entry {
    /// The path as written, not yet made safe.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-user-id, set-group-id and sticky included.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub mtime: (i64, u32),
    /// Logical size of a regular file in bytes.
    pub size: u64,
    /// Link target.
    pub link: Vec<u8>,
    /// Device number.
    pub device: (u32, u32),
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Data regions (offset, length) of a sparse file, in order; `None` for a plain file.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// Reads the entries of an archive one after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    limits: Limits,
    position: u64,
    /// Bytes of the current entry's data not yet read.
    remaining: u64,
    /// Padding after the current entry's data.
    padding: u64,
    global: Pax,
    entry: Entry,
}

/// What pax headers say of the next entry.
#[derive(Clone, Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: SparsePax,
}

#[derive(Clone, Debug, Default)]
struct SparsePax {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    map: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the beginning of an archive.
    pub fn new(input: R, limits: Limits) -> Reader<R> {
        let entry = Entry {
            path: Vec::new(),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        Reader { input, limits, position: 0, remaining: 0, padding: 0, global: Pax::default(), entry }
    }

    /// The next entry, or `None` at the archive's end. Data of the last entry that was not read is skipped.
    pub fn next_entry(&mut self) -> Result<Option<&mut Entry>, TarError> {
        let skip = self.remaining + self.padding;
        self.skip(skip)?;
        (self.remaining, self.padding) = (0, 0);
        let mut pax = self.global.clone();
        let (mut long_path, mut long_link) = (None, None);
        loop {
            let at = self.position;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header[124..136]).ok_or_else(|| bad(at, "the size is no number"))?;
            match header[156] {
                b'x' | b'X' => {
                    let body = self.body(size, self.limits.pax, "a pax header")?;
                    parse_pax(&body, &mut pax, &self.limits).map_err(|reason| bad(at, reason))?;
                }
                b'g' => {
                    let body = self.body(size, self.limits.pax, "a global pax header")?;
                    parse_pax(&body, &mut self.global, &self.limits).map_err(|reason| bad(at, reason))?;
                    pax = self.global.clone();
                }
                b'L' => long_path = Some(self.long_name(size)?),
                b'K' => long_link = Some(self.long_name(size)?),
                // Volume labels, multi-volume parts and GNU's directory dumps carry nothing to unpack.
                b'V' | b'M' | b'N' => self.skip(padded(size))?,
                _ => {
                    self.fill_entry(&header, at, size, pax, long_path, long_link)?;
                    return Ok(Some(&mut self.entry));
                }
            }
        }
    }

    /// The next piece of the current entry's stored data, or `None` at its end. For a sparse file these are the bytes
    /// of its regions, one after the other. Call [`Reader::consume`] with what was used.
    pub fn data(&mut self) -> Result<Option<&[u8]>, TarError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let remaining = self.remaining;
        let buffer = self.input.fill_buf()?;
        if buffer.is_empty() {
            return Err(TarError::Truncated("in the contents of a file"));
        }
        let take = buffer.len().min(usize::try_from(remaining).unwrap_or(usize::MAX));
        Ok(Some(&buffer[..take]))
    }

    /// Marks bytes that [`Reader::data`] gave as used.
    pub fn consume(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.remaining -= bytes as u64;
        self.position += bytes as u64;
    }

    /// The entry that [`Reader::next_entry`] gave last.
    pub fn entry(&mut self) -> &mut Entry {
        &mut self.entry
    }

    /// The input, after the archive's end.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Offset in the archive.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn fill_entry(
        &mut self,
        header: &[u8; BLOCK],
        at: u64,
        header_size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<(), TarError> {
        let stored = pax.size.unwrap_or(header_size);
        let entry = &mut self.entry;
        entry.xattrs = pax.xattrs;
        entry.mode = number(&header[100..108]).unwrap_or(0) as u32 & 0o7777;
        entry.uid = pax.uid.or_else(|| number(&header[108..116])).unwrap_or(0);
        entry.gid = pax.gid.or_else(|| number(&header[116..124])).unwrap_or(0);
        entry.mtime = pax.mtime.unwrap_or_else(|| (signed_number(&header[136..148]).unwrap_or(0), 0));
        entry.device = (number(&header[329..337]).unwrap_or(0) as u32, number(&header[337..345]).unwrap_or(0) as u32);
        entry.sparse = None;
        entry.path.clear();
        if let Some(name) = pax.sparse.name.clone().or(pax.path).or(long_path) {
            entry.path = name;
        } else {
            // The prefix field is ustar's; in GNU archives that place holds other things.
            if &header[257..263] == b"ustar\0" && header[345] != 0 {
                // star archives ("tar\0" at 508) keep times behind a shorter prefix.
                let prefix = if &header[508..512] == b"tar\0" { &header[345..476] } else { &header[345..500] };
                entry.path.extend_from_slice(until_nul(prefix));
                entry.path.push(b'/');
            }
            entry.path.extend_from_slice(until_nul(&header[0..100]));
        }
        entry.link.clear();
        match pax.link.or(long_link) {
            Some(link) => entry.link = link,
            None => entry.link.extend_from_slice(until_nul(&header[157..257])),
        }
        for (what, value) in [("a path", &entry.path), ("a link target", &entry.link)] {
            if value.len() > self.limits.path {
                return Err(TarError::Limit { what, value: value.len() as u64, limit: self.limits.path as u64 });
            }
            if value.contains(&0) {
                return Err(bad(at, format!("{what} contains a zero byte")));
            }
        }
        if entry.path.is_empty() {
            return Err(bad(at, "an entry without a name"));
        }
        entry.kind = match header[156] {
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'0' | 0 | b'7' | b'S' => {
                // v7 archives mark directories by a final slash only.
                if header[156] == 0 && entry.path.ends_with(b"/") { Kind::Directory } else { Kind::File }
            }
            other => return Err(bad(at, format!("unknown entry type {:?}", char::from(other)))),
        };
        // Links and nodes have no data, whatever their size field says; pax lets hard links carry contents, which no
        // image builder writes.
        let has_data = entry.kind == Kind::File || header[156] == b'D';
        entry.size = if entry.kind == Kind::File { stored } else { 0 };
        if stored > self.limits.file {
            return Err(TarError::Limit { what: "a file size", value: stored, limit: self.limits.file });
        }
        self.remaining = if has_data { stored } else { 0 };
        self.padding = if has_data { padded(stored) - stored } else { 0 };
        if entry.kind == Kind::HardLink && stored > 0 && header_size > 0 && &header[257..263] != b"ustar\0" {
            // Old archives repeat the size of the target without the data: nothing follows.
            self.remaining = 0;
        }
        if header[156] == b'S' {
            self.gnu_sparse(header, at)?;
        } else if self.entry.kind == Kind::File {
            self.pax_sparse(pax.sparse, at)?;
        }
        Ok(())
    }

    /// The old GNU format: regions in the header and in extension blocks after it.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK], at: u64) -> Result<(), TarError> {
        let real = number(&header[483..495]).ok_or_else(|| bad(at, "the sparse file's real size is no number"))?;
        let mut regions = Vec::new();
        let mut more = header[482] != 0;
        sparse_structs(&header[386..482], &mut regions).map_err(|reason| bad(at, reason))?;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated("in the map of a sparse file"))?;
            sparse_structs(&block[0..504], &mut regions).map_err(|reason| bad(at, reason))?;
            more = block[504] != 0;
            self.check_regions(regions.len())?;
        }
        self.set_sparse(regions, real, at)
    }

    fn pax_sparse(&mut self, sparse: SparsePax, at: u64) -> Result<(), TarError> {
        let Some(real) = sparse.real_size else { return Ok(()) };
        let regions = if sparse.major == Some(1) {
            self.sparse_map_in_data(at)?
        } else if let Some(map) = sparse.map {
            let numbers: Option<Vec<u64>> =
                map.split(|&b| b == b',').map(|n| std::str::from_utf8(n).ok()?.parse().ok()).collect();
            let numbers = numbers.ok_or_else(|| bad(at, "the sparse map is no list of numbers"))?;
            if numbers.len() % 2 != 0 {
                return Err(bad(at, "the sparse map has an odd number of values"));
            }
            numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
        } else {
            if sparse.offsets.len() != sparse.lengths.len() {
                return Err(bad(at, "the sparse map has offsets without lengths"));
            }
            sparse.offsets.into_iter().zip(sparse.lengths).collect()
        };
        self.set_sparse(regions, real, at)
    }

    /// pax sparse 1.0: the map is decimal lines at the beginning of the data, padded to a block.
    fn sparse_map_in_data(&mut self, at: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.remaining < BLOCK as u64 {
                return Err(bad(at, "the sparse map is longer than the file"));
            }
            let block = self.block()?.ok_or(TarError::Truncated("in the map of a sparse file"))?;
            self.remaining -= BLOCK as u64;
            for &byte in &block {
                if byte != b'\n' {
                    text.push(byte);
                    if text.len() > 20 {
                        return Err(bad(at, "the sparse map is no list of numbers"));
                    }
                    continue;
                }
                let value = std::str::from_utf8(&text).ok().and_then(|t| t.parse::<u64>().ok());
                let value = value.ok_or_else(|| bad(at, "the sparse map is no list of numbers"))?;
                text.clear();
                match wanted {
                    None => {
                        let count = usize::try_from(value).unwrap_or(usize::MAX);
                        self.check_regions(count)?;
                        wanted = Some(count * 2);
                    }
                    Some(_) => numbers.push(value),
                }
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
            }
        }
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn check_regions(&self, count: usize) -> Result<(), TarError> {
        if count > self.limits.regions {
            let (value, limit) = (count as u64, self.limits.regions as u64);
            return Err(TarError::Limit { what: "a sparse map", value, limit });
        }
        Ok(())
    }

    fn set_sparse(&mut self, regions: Vec<(u64, u64)>, real: u64, at: u64) -> Result<(), TarError> {
        if real > self.limits.file {
            return Err(TarError::Limit { what: "a sparse file size", value: real, limit: self.limits.file });
        }
        self.check_regions(regions.len())?;
        let mut end = 0;
        let mut stored = 0u64;
        for &(offset, length) in &regions {
            let stop = offset.checked_add(length).filter(|&stop| offset >= end && stop <= real);
            end = stop.ok_or_else(|| bad(at, "the regions of a sparse file overlap or reach over its end"))?;
            stored += length;
        }
        if stored != self.remaining {
            return Err(bad(at, "the regions of a sparse file do not add up to its data"));
        }
        self.entry.size = real;
        self.entry.sparse = Some(regions);
        Ok(())
    }

    /// The next header block with a right checksum, or `None` at the end (a zero block, or the input's end at a block's
    /// edge: some builders write no end marker).
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let at = self.position;
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let expected = number(&block[148..156]).ok_or_else(|| bad(at, "the checksum is no number"))?;
        let plain: u64 = block.iter().map(|&b| u64::from(b)).sum();
        let field: u64 = block[148..156].iter().map(|&b| u64::from(b)).sum();
        let unsigned = plain - field + 8 * u64::from(b' ');
        if unsigned != expected {
            // Some old archivers summed signed bytes.
            let signed: i64 = block.iter().map(|&b| i64::from(b as i8)).sum::<i64>()
                - block[148..156].iter().map(|&b| i64::from(b as i8)).sum::<i64>()
                + 8 * i64::from(b' ');
            if u64::try_from(signed) != Ok(expected) {
                return Err(bad(at, "the checksum is wrong"));
            }
        }
        Ok(Some(block))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(TarError::Truncated("in a header"));
            }
            let take = buffer.len().min(BLOCK - filled);
            block[filled..filled + take].copy_from_slice(&buffer[..take]);
            self.input.consume(take);
            filled += take;
        }
        self.position += BLOCK as u64;
        Ok(Some(block))
    }

    fn body(&mut self, size: u64, limit: u64, what: &'static str) -> Result<Vec<u8>, TarError> {
        if size > limit {
            return Err(TarError::Limit { what, value: size, limit });
        }
        let mut body = Vec::with_capacity(size as usize);
        while (body.len() as u64) < size {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(TarError::Truncated("in a header"));
            }
            let take = buffer.len().min(size as usize - body.len());
            body.extend_from_slice(&buffer[..take]);
            self.input.consume(take);
        }
        self.position += size;
        self.skip(padded(size) - size)?;
        Ok(body)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.body(size, self.limits.path as u64 + 1, "a long name")?;
        name.truncate(until_nul(&name).len());
        Ok(name)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        while bytes > 0 {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(TarError::Truncated("in the contents of a file"));
            }
            let take = buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.input.consume(take);
            self.position += take as u64;
            bytes -= take as u64;
        }
        Ok(())
    }
}

fn bad(position: u64, reason: impl Into<String>) -> TarError {
    TarError::BadHeader { position, reason: reason.into() }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// A numeric field: octal digits between blanks and zeros, or base-256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    signed_number(field).and_then(|value| u64::try_from(value).ok())
}

fn signed_number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (index, &byte) in field.iter().enumerate() {
            // The marker bit is part of the sign extension in a negative number and not of a positive one.
            let byte = if index == 0 && !negative { byte & 0x7f } else { byte };
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
            if negative && index == 0 {
                value = -256 + i64::from(byte);
            }
        }
        return Some(value);
    }
    let mut value: i64 = 0;
    let mut digits = field.iter().skip_while(|&&b| b == b' ' || b == 0).peekable();
    if digits.peek() == Some(&&b'-') {
        return None;
    }
    for &byte in digits {
        match byte {
            b'0'..=b'7' => value = value.checked_mul(8)?.checked_add(i64::from(byte - b'0'))?,
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(value)
}

/// Pairs of 12-byte numbers; an empty pair ends the list.
fn sparse_structs(field: &[u8], regions: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    for pair in field.chunks_exact(24) {
        if pair[12] == 0 {
            break;
        }
        let offset = number(&pair[..12]).ok_or("the sparse map holds something that is no number")?;
        let length = number(&pair[12..]).ok_or("the sparse map holds something that is no number")?;
        regions.push((offset, length));
    }
    Ok(())
}

/// Parses `LENGTH KEY=VALUE\n` records into `pax`. The order of the records is kept, the last one of a key wins.
fn parse_pax(mut body: &[u8], pax: &mut Pax, limits: &Limits) -> Result<(), String> {
    while !body.is_empty() {
        let space = body.iter().take(20).position(|&b| b == b' ').ok_or("a pax record without a length")?;
        let length = std::str::from_utf8(&body[..space]).ok().and_then(|t| t.parse::<usize>().ok());
        let length = length.ok_or("a pax record whose length is no number")?;
        if length <= space + 1 || length > body.len() || body[length - 1] != b'\n' {
            return Err("a pax record that is longer than its header".to_owned());
        }
        let record = &body[space + 1..length - 1];
        body = &body[length..];
        let equals = record.iter().position(|&b| b == b'=').ok_or("a pax record without an equals sign")?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        pax_record(key, value, pax, limits)?;
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], pax: &mut Pax, limits: &Limits) -> Result<(), String> {
    let decimal = || {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or_else(|| format!("the pax record `{}` is no number", String::from_utf8_lossy(key)))
    };
    // An empty value takes an earlier one back.
    let present = |bytes: &[u8]| if bytes.is_empty() { None } else { Some(bytes.to_vec()) };
    match key {
        b"path" => pax.path = present(value),
        b"linkpath" => pax.link = present(value),
        b"size" => pax.size = Some(decimal()?),
        b"uid" => pax.uid = Some(decimal()?),
        b"gid" => pax.gid = Some(decimal()?),
        b"mtime" => pax.mtime = Some(pax_time(value).ok_or("the pax record `mtime` is no time")?),
        b"GNU.sparse.major" => pax.sparse.major = Some(decimal()?),
        b"GNU.sparse.minor" => pax.sparse.minor = Some(decimal()?),
        b"GNU.sparse.name" => pax.sparse.name = present(value),
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => pax.sparse.real_size = Some(decimal()?),
        b"GNU.sparse.map" => pax.sparse.map = Some(value.to_vec()),
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            let list = if key.ends_with(b"offset") { &mut pax.sparse.offsets } else { &mut pax.sparse.lengths };
            if list.len() >= limits.regions {
                return Err("a sparse map with too many regions".to_owned());
            }
            list.push(decimal()?);
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                set_xattr(&mut pax.xattrs, name.to_vec(), value.to_vec());
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let engine = base64::engine::GeneralPurpose::new(
                    &base64::alphabet::STANDARD,
                    base64::engine::GeneralPurposeConfig::new()
                        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
                );
                let value = engine.decode(value).map_err(|_| "a libarchive xattr that is no base64".to_owned())?;
                set_xattr(&mut pax.xattrs, percent_decode(name), value);
            }
        }
    }
    Ok(())
}

fn set_xattr(list: &mut Vec<(Vec<u8>, Vec<u8>)>, name: Vec<u8>, value: Vec<u8>) {
    match list.iter_mut().find(|(known, _)| *known == name) {
        Some(known) => known.1 = value,
        None => list.push((name, value)),
    }
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        match (first, tail) {
            (b'%', [a, b, after @ ..]) if hex(*a).is_some() && hex(*b).is_some() => {
                out.push(hex(*a).unwrap_or(0) << 4 | hex(*b).unwrap_or(0));
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

/// Decimal seconds with an optional fraction, of which nine digits count.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        // -1.25 is 0.75 after -2.
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}
