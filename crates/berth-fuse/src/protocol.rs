//! The bytes of the protocol, as of its version 7.31 (Linux 5.4) and what later versions added that we use.
//!
//! Source: the kernel's `include/uapi/linux/fuse.h`. Numbers are in the machine's byte order.

/// The version that is spoken.
pub const MAJOR: u32 = 7;
/// Newer kernels speak older versions.
pub const MINOR: u32 = 31;
/// The node number that the protocol gives to the root.
pub const ROOT: u64 = 1;
/// Bytes of a request's header.
pub const IN_HEADER: usize = 40;
/// Bytes of an answer's header.
pub const OUT_HEADER: usize = 16;
/// Bytes of attributes.
pub const ATTRIBUTES: usize = 88;
/// Bytes of what is told of a name.
pub const ENTRY: usize = 40 + ATTRIBUTES;
/// Bytes of an entry of a listing, before its name.
pub const DIRENT: usize = 24;
/// "Not known", as an inode number in a listing.
pub const UNKNOWN_INODE: u64 = 0xffff_ffff;

/// Requests by number.
pub mod opcode {
    #![allow(missing_docs, reason = "the names of the protocol")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const READLINK: u32 = 5;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const BATCH_FORGET: u32 = 42;
    pub const READDIRPLUS: u32 = 44;
}

/// What kernel and server can do, told by each when they meet.
pub mod flag {
    /// Several reads of one file at once.
    pub const ASYNC_READ: u32 = 1;
    /// Listings with attributes.
    pub const DO_READDIRPLUS: u32 = 1 << 13;
    /// The kernel decides when to ask for these.
    pub const READDIRPLUS_AUTO: u32 = 1 << 14;
    /// Files may be used without asking for an open.
    pub const NO_OPEN_SUPPORT: u32 = 1 << 17;
    /// Several lookups in one directory at once.
    pub const PARALLEL_DIROPS: u32 = 1 << 18;
    /// The largest read is told.
    pub const MAX_PAGES: u32 = 1 << 22;
    /// Targets of links may be kept.
    pub const CACHE_SYMLINKS: u32 = 1 << 23;
    /// Directories may be used without asking for an open.
    pub const NO_OPENDIR_SUPPORT: u32 = 1 << 24;
}

/// Pages of an opened file may stay.
pub const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// So may the listing of an opened directory.
pub const FOPEN_CACHE_DIR: u32 = 1 << 3;

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub opcode: u32,
    /// By which the answer is matched.
    pub unique: u64,
    pub node: u64,
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Takes a message apart.
    pub fn parse(message: &'a [u8]) -> Option<Request<'a>> {
        let head = message.get(..IN_HEADER)?;
        Some(Request {
            opcode: u32_at(head, 4)?,
            unique: u64_at(head, 8)?,
            node: u64_at(head, 16)?,
            body: message.get(IN_HEADER..)?,
        })
    }

    /// A number of the body.
    pub fn u32(&self, at: usize) -> Option<u32> {
        u32_at(self.body, at)
    }

    /// A number of the body.
    pub fn u64(&self, at: usize) -> Option<u64> {
        u64_at(self.body, at)
    }

    /// A name in the body, without the zero byte behind it.
    pub fn name(&self, at: usize) -> Option<&'a [u8]> {
        self.body.get(at..)?.split(|&byte| byte == 0).next()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// An answer that is being put together: numbers one behind the other.
pub trait Put {
    /// Appends a number.
    fn put16(&mut self, value: u16);
    /// Appends a number.
    fn put32(&mut self, value: u32);
    /// Appends a number.
    fn put64(&mut self, value: u64);
    /// Appends zero bytes up to a length.
    fn zeros_to(&mut self, length: usize);
}

impl Put for Vec<u8> {
    fn put16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn zeros_to(&mut self, length: usize) {
        self.resize(length.max(self.len()), 0);
    }
}
