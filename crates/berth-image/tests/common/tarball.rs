//! A tar writer that can lie: every header field can be set to anything.

#![allow(dead_code)]

/// An archive in the making.
#[derive(Default)]
pub struct Tarball {
    bytes: Vec<u8>,
}

/// One header, with the defaults of a plain file.
#[derive(Clone)]
pub struct Header<'a> {
    pub name: &'a str,
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime: u64,
    pub link: &'a str,
    pub device: (u32, u32),
    pub magic: &'a [u8; 8],
    pub prefix: &'a str,
}

impl Default for Header<'_> {
    fn default() -> Self {
        Header {
            name: "file",
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_700_000_000,
            link: "",
            device: (0, 0),
            magic: b"ustar\x0000",
            prefix: "",
        }
    }
}

impl Tarball {
    pub fn new() -> Tarball {
        Tarball::default()
    }

    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Tarball {
        self.entry(Header { name, ..Header::default() }, content.as_ref())
    }

    pub fn dir(self, name: &str, mode: u32) -> Tarball {
        self.entry(Header { name, kind: b'5', mode, ..Header::default() }, b"")
    }

    pub fn symlink(self, name: &str, link: &str) -> Tarball {
        self.entry(Header { name, kind: b'2', mode: 0o777, link, ..Header::default() }, b"")
    }

    pub fn hard_link(self, name: &str, link: &str) -> Tarball {
        self.entry(Header { name, kind: b'1', link, ..Header::default() }, b"")
    }

    /// A header whose size is that of the data (unless it says otherwise), and the data.
    pub fn entry(mut self, mut header: Header<'_>, data: &[u8]) -> Tarball {
        if header.size == 0 {
            header.size = data.len() as u64;
        }
        self.bytes.extend_from_slice(&block(&header));
        self.data(data)
    }

    pub fn data(mut self, data: &[u8]) -> Tarball {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Tarball {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A pax header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tarball {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(Header { name: "pax", kind: b'x', ..Header::default() }, &body)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

/// A header block with the right checksum.
pub fn block(header: &Header<'_>) -> [u8; 512] {
    let mut block = [0u8; 512];
    put(&mut block[0..100], header.name.as_bytes());
    octal(&mut block[100..108], u64::from(header.mode));
    octal(&mut block[108..116], header.uid);
    octal(&mut block[116..124], header.gid);
    octal(&mut block[124..136], header.size);
    octal(&mut block[136..148], header.mtime);
    block[156] = header.kind;
    put(&mut block[157..257], header.link.as_bytes());
    block[257..265].copy_from_slice(header.magic);
    octal(&mut block[329..337], u64::from(header.device.0));
    octal(&mut block[337..345], u64::from(header.device.1));
    put(&mut block[345..500], header.prefix.as_bytes());
    checksum(&mut block);
    block
}

pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn put(field: &mut [u8], text: &[u8]) {
    field[..text.len()].copy_from_slice(text);
}

/// Octal digits, or base-256 for what does not fit, as GNU tar writes it.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if text.len() <= digits {
        put(field, text.as_bytes());
        return;
    }
    for (place, byte) in field.iter_mut().rev().zip(value.to_le_bytes()) {
        *place = byte;
    }
    field[0] |= 0x80;
}
