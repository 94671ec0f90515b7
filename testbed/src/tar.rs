//! A tar writer that can also write what no sane tool would, and a reader for the archives inside Debian packages.
//!
//! Test images need owners, device nodes and names that the user who runs the tests may not create on disk, and hostile
//! images need headers that the system's tar refuses to make: so entries are written from descriptions, never from files
//! that would have to exist first.

use std::io;
use std::io::Read;
use std::io::Write;

/// Size of a tar header and of the unit that contents are padded to.
pub const BLOCK: usize = 512;

/// The `typeflag` byte of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A hard link to an earlier entry.
    Hard,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
    /// Anything else, as its raw byte.
    Other(u8),
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Kind::File => b'0',
            Kind::Hard => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Dir => b'5',
            Kind::Fifo => b'6',
            Kind::Other(flag) => flag,
        }
    }

    fn from_flag(flag: u8) -> Kind {
        match flag {
            b'0' | 0 => Kind::File,
            b'1' => Kind::Hard,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        }
    }
}

/// How a name, link or number that the old header cannot hold is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// POSIX.1-2001 extended headers, as Docker, podman and buildkit write.
    Pax,
    /// GNU `L`/`K` entries and base-256 numbers, as older builders write.
    Gnu,
    /// POSIX.1-1988: a name is split at a slash into prefix and name.
    Ustar,
}

/// What one entry says about itself.
#[derive(Debug, Clone)]
pub struct Header {
    /// Name as it stands in the archive.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Type of the entry.
    pub kind: Kind,
    /// Permission bits, setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes of content that follow (files only).
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: u64,
    /// Device number (major, minor).
    pub device: (u32, u32),
    /// Extended attributes, written as `SCHILY.xattr.*` (Pax only).
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Further pax records, as they are (Pax only).
    pub records: Vec<(String, Vec<u8>)>,
}

impl Header {
    fn new(name: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Header {
        Header {
            name: name.as_ref().to_vec(),
            link: Vec::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            // A fixed day: images must come out the same bytes every time.
            mtime: 1_700_000_000,
            device: (0, 0),
            xattrs: Vec::new(),
            records: Vec::new(),
        }
    }

    /// A directory; its name should end in a slash, as every builder writes it.
    pub fn dir(name: impl AsRef<[u8]>, mode: u32) -> Header {
        Header::new(name, Kind::Dir, mode)
    }

    /// A regular file; [`Writer::file`] fills in the size.
    pub fn file(name: impl AsRef<[u8]>, mode: u32) -> Header {
        Header::new(name, Kind::File, mode)
    }

    /// A symbolic link.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Header {
        Header { link: target.as_ref().to_vec(), ..Header::new(name, Kind::Symlink, 0o777) }
    }

    /// A hard link to `target`, a name inside the archive. It carries the mode of the file, as every tool writes it:
    /// unpackers apply what the last entry of a file says.
    pub fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>, mode: u32) -> Header {
        Header { link: target.as_ref().to_vec(), ..Header::new(name, Kind::Hard, mode) }
    }

    /// A named pipe.
    pub fn fifo(name: impl AsRef<[u8]>, mode: u32) -> Header {
        Header::new(name, Kind::Fifo, mode)
    }

    /// A device node.
    pub fn device(name: impl AsRef<[u8]>, kind: Kind, mode: u32, major: u32, minor: u32) -> Header {
        Header { device: (major, minor), ..Header::new(name, kind, mode) }
    }

    /// The same entry with another owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Header {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// The same entry with one more extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Header {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The same entry with one more pax record.
    #[must_use]
    pub fn record(mut self, key: &str, value: impl AsRef<[u8]>) -> Header {
        self.records.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The same entry with another time (seconds since the epoch).
    #[must_use]
    pub fn modified(mut self, seconds: u64) -> Header {
        self.mtime = seconds;
        self
    }

    /// The header block of the same entry under another type.
    pub fn block_of(&self, kind: Kind) -> [u8; BLOCK] {
        Header { kind, ..self.clone() }.block()
    }

    /// The 512-byte header block, fields cut to what they hold, checksum right.
    pub fn block(&self) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        put(&mut block[0..100], &self.name);
        octal(&mut block[100..108], u64::from(self.mode));
        number(&mut block[108..116], self.uid);
        number(&mut block[116..124], self.gid);
        number(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.mtime);
        block[156] = self.kind.flag();
        put(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        seal(&mut block);
        block
    }
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    // A number that does not fit is cut from the left; the extended header has the whole of it.
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}

/// Octal where it fits, GNU base-256 where not.
fn number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if value < 1 << (3 * digits).min(63) {
        octal(field, value);
        return;
    }
    field.fill(0);
    let bytes = value.to_be_bytes();
    let width = field.len().min(8);
    let at = field.len() - width;
    field[at..].copy_from_slice(&bytes[8 - width..]);
    field[0] |= 0x80;
}

/// Writes the checksum into a header block.
pub fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

/// One pax record: its length counts itself.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// Writes an archive entry by entry.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    dialect: Dialect,
}

impl<W: Write> Writer<W> {
    /// Writes to `out` in the given dialect.
    pub fn new(out: W, dialect: Dialect) -> Writer<W> {
        Writer { out, dialect }
    }

    /// Changes the dialect of the entries that follow.
    pub fn dialect(&mut self, dialect: Dialect) -> &mut Self {
        self.dialect = dialect;
        self
    }

    /// Writes an entry without content.
    pub fn entry(&mut self, header: &Header) -> io::Result<&mut Self> {
        let mut header = header.clone();
        match self.dialect {
            Dialect::Pax => self.pax(&header)?,
            Dialect::Gnu => self.gnu(&header)?,
            Dialect::Ustar => {}
        }
        let mut block = header.block();
        if self.dialect == Dialect::Ustar && header.name.len() > 100 {
            let split = header
                .name
                .iter()
                .enumerate()
                .rposition(|(at, byte)| *byte == b'/' && at <= 155 && header.name.len() - at - 1 <= 100)
                .ok_or_else(|| io::Error::other("a name that ustar cannot split"))?;
            let prefix: Vec<u8> = header.name.drain(..=split).take(split).collect();
            block = header.block();
            put(&mut block[345..500], &prefix);
            seal(&mut block);
        }
        self.out.write_all(&block)?;
        Ok(self)
    }

    /// Writes a file with its content.
    pub fn file(&mut self, header: &Header, content: &[u8]) -> io::Result<&mut Self> {
        let header = Header { size: content.len() as u64, ..header.clone() };
        self.entry(&header)?;
        self.raw(content)?;
        self.pad(header.size)
    }

    /// Writes a file whose `header.size` bytes of content come from a reader.
    pub fn stream(&mut self, header: &Header, content: &mut dyn Read) -> io::Result<&mut Self> {
        self.entry(header)?;
        let copied = io::copy(&mut content.take(header.size), &mut self.out)?;
        if copied != header.size {
            return Err(io::Error::other("the content ended before its size"));
        }
        self.pad(header.size)
    }

    /// Writes a file of `size` zero bytes that occupies only `chunks` (offset, content) as a GNU sparse 1.0 entry, as
    /// `tar --sparse --format=pax` does.
    pub fn sparse(&mut self, header: &Header, size: u64, chunks: &[(u64, &[u8])]) -> io::Result<&mut Self> {
        let mut map = format!("{}\n", chunks.len());
        for (offset, content) in chunks {
            map.push_str(&format!("{offset}\n{}\n", content.len()));
        }
        let mut body = map.into_bytes();
        body.resize(body.len().next_multiple_of(BLOCK), 0);
        for (_, content) in chunks {
            body.extend_from_slice(content);
        }
        let real = header.name.clone();
        let sparse = Header { name: [b"GNUSparseFile.0/", real.as_slice()].concat(), ..header.clone() }
            .record("GNU.sparse.major", b"1")
            .record("GNU.sparse.minor", b"0")
            .record("GNU.sparse.name", &real)
            .record("GNU.sparse.realsize", size.to_string());
        self.file(&sparse, &body)
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<&mut Self> {
        self.out.write_all(bytes)?;
        Ok(self)
    }

    /// Pads to a whole block after `size` bytes.
    pub fn pad(&mut self, size: u64) -> io::Result<&mut Self> {
        let rest = (size % BLOCK as u64) as usize;
        if rest != 0 {
            self.out.write_all(&[0u8; BLOCK][rest..])?;
        }
        Ok(self)
    }

    /// Ends the archive with its two empty blocks and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0u8; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn pax(&mut self, header: &Header) -> io::Result<()> {
        let mut records = Vec::new();
        if header.name.len() > 100 || !header.name.is_ascii() {
            records.extend(pax_record("path", &header.name));
        }
        if header.link.len() > 100 || !header.link.is_ascii() {
            records.extend(pax_record("linkpath", &header.link));
        }
        for (key, value) in [("uid", header.uid), ("gid", header.gid)] {
            if value >= 1 << 21 {
                records.extend(pax_record(key, value.to_string().as_bytes()));
            }
        }
        for (name, value) in &header.xattrs {
            records.extend(pax_record(&format!("SCHILY.xattr.{name}"), value));
        }
        for (key, value) in &header.records {
            records.extend(pax_record(key, value));
        }
        if records.is_empty() {
            return Ok(());
        }
        let extended =
            Header { size: records.len() as u64, ..Header::new("PaxHeaders.0/entry", Kind::Other(b'x'), 0o644) };
        self.raw(&extended.block())?.raw(&records)?.pad(extended.size)?;
        Ok(())
    }

    fn gnu(&mut self, header: &Header) -> io::Result<()> {
        for (flag, value) in [(b'K', &header.link), (b'L', &header.name)] {
            if value.len() > 100 {
                let mut content = value.clone();
                content.push(0);
                let long =
                    Header { size: content.len() as u64, ..Header::new("././@LongLink", Kind::Other(flag), 0o644) };
                self.raw(&long.block())?.raw(&content)?.pad(long.size)?;
            }
        }
        Ok(())
    }
}

/// Reads the entries of a package's archive: old, ustar and GNU headers, and pax `path` and `linkpath`.
#[derive(Debug)]
pub struct Reader<R: Read> {
    input: R,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader { input }
    }

    /// The next entry, or nothing at the end. A file's content must be read from [`Reader::content`] before the next call.
    pub fn entry(&mut self) -> io::Result<Option<Header>> {
        let (mut name, mut link) = (None, None);
        loop {
            let mut block = [0u8; BLOCK];
            if let Err(error) = self.input.read_exact(&mut block) {
                return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
            }
            if block.iter().all(|byte| *byte == 0) {
                // What follows is padding; the writer at the other end of a pipe wants it read.
                io::copy(&mut self.input, &mut io::sink())?;
                return Ok(None);
            }
            let size = parse(&block[124..136])?;
            match block[156] {
                b'L' => name = Some(self.long(size)?),
                b'K' => link = Some(self.long(size)?),
                b'x' => {
                    for (key, value) in self.records(size)? {
                        match key.as_slice() {
                            b"path" => name = Some(value),
                            b"linkpath" => link = Some(value),
                            _ => {}
                        }
                    }
                }
                b'g' => drop(self.bytes(size)?),
                flag => {
                    let kind = Kind::from_flag(flag);
                    let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500]) } else { Vec::new() };
                    let short = text(&block[0..100]);
                    let short = if prefix.is_empty() { short } else { [prefix, short].join(&b'/') };
                    return Ok(Some(Header {
                        link: link.unwrap_or_else(|| text(&block[157..257])),
                        mode: parse(&block[100..108])? as u32 & 0o7777,
                        uid: parse(&block[108..116])?,
                        gid: parse(&block[116..124])?,
                        size: if kind == Kind::File { size } else { 0 },
                        mtime: parse(&block[136..148])?,
                        ..Header::new(name.unwrap_or(short), kind, 0)
                    }));
                }
            }
        }
    }

    /// Copies the content of the entry just read.
    pub fn content(&mut self, header: &Header, sink: &mut dyn Write) -> io::Result<()> {
        io::copy(&mut (&mut self.input).take(header.size), sink)?;
        let pad = header.size.next_multiple_of(BLOCK as u64) - header.size;
        io::copy(&mut (&mut self.input).take(pad), &mut io::sink())?;
        Ok(())
    }

    fn bytes(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut content = vec![0u8; size.next_multiple_of(BLOCK as u64) as usize];
        self.input.read_exact(&mut content)?;
        content.truncate(size as usize);
        Ok(content)
    }

    fn long(&mut self, size: u64) -> io::Result<Vec<u8>> {
        Ok(text(&self.bytes(size)?))
    }

    fn records(&mut self, size: u64) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let content = self.bytes(size)?;
        let mut rest = content.as_slice();
        let mut records = Vec::new();
        while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
            let length: usize = std::str::from_utf8(&rest[..space])
                .ok()
                .and_then(|digits| digits.parse().ok())
                .filter(|length| (space + 2..=rest.len()).contains(length))
                .ok_or_else(|| io::Error::other("a pax record with a bad length"))?;
            let record = &rest[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').unwrap_or(record.len() - 1);
            records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
            rest = &rest[length..];
        }
        Ok(records)
    }
}

fn text(field: &[u8]) -> Vec<u8> {
    field.iter().copied().take_while(|byte| *byte != 0).collect()
}

fn parse(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        return Ok(field[1..].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)));
    }
    let digits = String::from_utf8_lossy(field);
    let digits = digits.trim_matches(['\0', ' ']);
    if digits.is_empty() { Ok(0) } else { u64::from_str_radix(digits, 8).map_err(io::Error::other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(dialect: Dialect, header: &Header, content: &[u8]) -> (Header, Vec<u8>) {
        let mut writer = Writer::new(Vec::new(), dialect);
        writer.file(header, content).unwrap();
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(bytes.as_slice());
        let back = reader.entry().unwrap().unwrap();
        let mut read = Vec::new();
        reader.content(&back, &mut read).unwrap();
        assert!(reader.entry().unwrap().is_none());
        (back, read)
    }

    #[test]
    fn every_dialect_keeps_a_long_name_and_the_content() {
        let name = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        for dialect in [Dialect::Pax, Dialect::Gnu, Dialect::Ustar] {
            let (back, content) = round_trip(dialect, &Header::file(&name, 0o4755).owner(7, 8), b"hello");
            assert_eq!(back.name, name.as_bytes(), "{dialect:?}");
            assert_eq!((back.mode, back.uid, back.gid, back.size), (0o4755, 7, 8, 5));
            assert_eq!(content, b"hello");
        }
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("path", b"x"), b"9 path=x\n");
        let long = pax_record("path", &[b'x'; 91]);
        assert!(long.starts_with(format!("{} ", long.len()).as_bytes()));
    }
}
