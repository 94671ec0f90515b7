//! The server: threads that take requests and answer them.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use berth_imagefile::Tree;
use berth_imagefile::tree::Attributes;
use berth_imagefile::tree::Kind;
use rustix::io::Errno;

use crate::protocol::DIRENT;
use crate::protocol::ENTRY;
use crate::protocol::FOPEN_CACHE_DIR;
use crate::protocol::FOPEN_KEEP_CACHE;
use crate::protocol::MAJOR;
use crate::protocol::MINOR;
use crate::protocol::OUT_HEADER;
use crate::protocol::Put;
use crate::protocol::ROOT;
use crate::protocol::Request;
use crate::protocol::UNKNOWN_INODE;
use crate::protocol::flag;
use crate::protocol::opcode;

/// Seconds for which the kernel may keep what it was told: ten years.
const FOR_EVER: u64 = 10 * 365 * 24 * 3600;
/// Largest read, in pages of 4 KiB.
const READ_PAGES: u16 = 256;
/// Bytes of the largest read.
const LARGEST_READ: usize = READ_PAGES as usize * 4096;
/// Bytes of the largest request; the kernel wants at least 8 KiB.
const LARGEST_REQUEST: usize = 64 << 10;
/// Largest write that we say to take. There are none on a read-only mount, but less is not allowed.
const LARGEST_WRITE: u32 = 4096;
/// Requests that the kernel may have under way on its own account, for reading ahead.
const BACKGROUND: u16 = 64;
/// Bits that an offset in a listing begins with, for `.` and `..`: the tree's own offsets come behind.
const OWN_ENTRIES: u64 = 2;
/// Names that overlayfs takes orders from. An image has none to give.
const OVERLAY: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];

/// Whose files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// As the image has it.
    Image,
    /// All of this user and group, as numbered in the mount's user namespace: what a user would own who unpacked the image.
    All(u32, u32),
}

/// Serves a tree.
#[derive(Debug)]
pub struct Server {
    tree: Arc<dyn Tree>,
    connection: OwnedFd,
    owners: Owners,
    /// Files and directories are used without asking us for an open.
    no_open: AtomicBool,
    no_open_directory: AtomicBool,
}

/// What an answer consists of besides its header.
type Answer = Result<(), Errno>;

impl Server {
    /// A server of `tree` on the connection of a [`mount`](crate::mount::Mounted).
    pub fn new(tree: Arc<dyn Tree>, connection: OwnedFd, owners: Owners) -> Server {
        Server { tree, connection, owners, no_open: AtomicBool::new(false), no_open_directory: AtomicBool::new(false) }
    }

    /// Serves on so many threads, this one included, until the file system is unmounted everywhere.
    pub fn serve(&self, threads: usize) {
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Fewer threads serve too.
                let _ = std::thread::Builder::new().name("serve".to_owned()).spawn_scoped(scope, || self.work());
            }
            self.work();
        });
    }

    fn work(&self) {
        let mut request = vec![0; LARGEST_REQUEST];
        let mut answer = Vec::with_capacity(LARGEST_READ);
        loop {
            match rustix::io::read(&self.connection, &mut request) {
                Ok(length) => self.answer(&request[..length], &mut answer),
                // A request was taken back before it was taken.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                // Unmounted.
                Err(_) => return,
            }
        }
    }

    fn answer(&self, message: &[u8], answer: &mut Vec<u8>) {
        let Some(request) = Request::parse(message) else { return };
        answer.clear();
        let result = match request.opcode {
            // What is forgotten was never remembered; an interrupt comes too late for answers of this size.
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return,
            _ => self.perform(&request, answer),
        };
        let error = match result {
            Ok(()) => 0,
            Err(error) => {
                answer.clear();
                -error.raw_os_error()
            }
        };
        let mut head = Vec::with_capacity(OUT_HEADER);
        head.put32((OUT_HEADER + answer.len()) as u32);
        head.put32(error as u32);
        head.put64(request.unique);
        // The one who asked may be gone.
        let _ = rustix::io::writev(&self.connection, &[IoSlice::new(&head), IoSlice::new(answer)]);
    }

    fn perform(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        match request.opcode {
            opcode::INIT => self.init(request, answer),
            opcode::LOOKUP => self.lookup(request, answer),
            opcode::GETATTR => {
                let attributes = self.attributes(self.node(request)?)?;
                answer.put64(FOR_EVER);
                answer.put64(0);
                self.put_attributes(&attributes, answer);
                Ok(())
            }
            opcode::READLINK => {
                answer.extend_from_slice(&self.tree.read_link(self.node(request)?).map_err(number)?);
                Ok(())
            }
            opcode::OPEN => open(&self.no_open, FOPEN_KEEP_CACHE, answer),
            opcode::OPENDIR => open(&self.no_open_directory, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR, answer),
            opcode::READ => self.read(request, answer),
            opcode::READDIR => self.read_dir(request, answer, false),
            opcode::READDIRPLUS => self.read_dir(request, answer, true),
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Ok(()),
            opcode::STATFS => {
                let statistics = self.tree.statistics();
                let blocks = statistics.bytes.div_ceil(u64::from(statistics.block_size.max(1)));
                for value in [blocks, 0, 0, statistics.nodes, 0] {
                    answer.put64(value);
                }
                for value in [statistics.block_size, 255, statistics.block_size] {
                    answer.put32(value);
                }
                answer.zeros_to(80);
                Ok(())
            }
            opcode::GETXATTR => self.get_xattr(request, answer),
            opcode::LISTXATTR => self.list_xattrs(request, answer),
            // Anything else the kernel does by itself, or not at all, once it was told so.
            _ => Err(Errno::NOSYS),
        }
    }

    fn init(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        let word = |at| request.u32(at).ok_or(Errno::PROTO);
        let (major, minor, read_ahead, offered) = (word(0)?, word(4)?, word(8)?, word(12)?);
        if major < MAJOR || (major == MAJOR && minor < MINOR) {
            return Err(Errno::PROTO);
        }
        let wanted = flag::ASYNC_READ
            | flag::DO_READDIRPLUS
            | flag::READDIRPLUS_AUTO
            | flag::NO_OPEN_SUPPORT
            | flag::PARALLEL_DIROPS
            | flag::MAX_PAGES
            | flag::CACHE_SYMLINKS
            | flag::NO_OPENDIR_SUPPORT;
        self.no_open.store(offered & flag::NO_OPEN_SUPPORT != 0, Ordering::Relaxed);
        self.no_open_directory.store(offered & flag::NO_OPENDIR_SUPPORT != 0, Ordering::Relaxed);
        for value in [MAJOR, MINOR, read_ahead, offered & wanted] {
            answer.put32(value);
        }
        answer.put16(BACKGROUND);
        answer.put16(BACKGROUND * 3 / 4);
        answer.put32(LARGEST_WRITE);
        // Granularity of times, in nanoseconds.
        answer.put32(1);
        answer.put16(READ_PAGES);
        answer.zeros_to(64);
        Ok(())
    }

    fn lookup(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        let name = request.name(0).ok_or(Errno::PROTO)?;
        match self.tree.lookup(self.node(request)?, name).map_err(number)? {
            Some(node) => self.put_entry(node, &self.attributes(node)?, answer),
            None => {
                // Node 0: there is no such name, and there will be none.
                answer.put64(0);
                answer.put64(0);
                answer.put64(FOR_EVER);
                answer.zeros_to(ENTRY);
            }
        }
        Ok(())
    }

    fn read(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        let (offset, size) = (request.u64(8).ok_or(Errno::PROTO)?, request.u32(16).ok_or(Errno::PROTO)?);
        answer.resize((size as usize).min(LARGEST_READ), 0);
        let length = self.tree.read(self.node(request)?, offset, answer).map_err(number)?;
        answer.truncate(length);
        Ok(())
    }

    fn read_dir(&self, request: &Request<'_>, answer: &mut Vec<u8>, plus: bool) -> Answer {
        let (offset, size) = (request.u64(8).ok_or(Errno::PROTO)?, request.u32(16).ok_or(Errno::PROTO)?);
        let size = (size as usize).min(LARGEST_READ);
        let directory = self.node(request)?;
        let head = if plus { ENTRY + DIRENT } else { DIRENT };
        let put = |answer: &mut Vec<u8>, entry: Option<(u64, &Attributes)>, dirent: Dirent<'_>| {
            if answer.len() + (head + dirent.name.len()).next_multiple_of(8) > size {
                return false;
            }
            if plus {
                let end = answer.len() + ENTRY;
                if let Some((node, attributes)) = entry {
                    self.put_entry(node, attributes, answer);
                }
                answer.zeros_to(end);
            }
            dirent.put(answer);
            true
        };
        if offset < OWN_ENTRIES {
            let inode = self.tree.attributes(directory).map_err(number)?.inode;
            let own = [(b".".as_slice(), inode), (b"..", UNKNOWN_INODE)];
            for (at, (name, inode)) in own.into_iter().enumerate().skip(offset as usize) {
                let dirent = Dirent { inode, next: at as u64 + 1, kind: Kind::Directory, name };
                if !put(answer, None, dirent) {
                    return Ok(());
                }
            }
        }
        let mut failed = None;
        let from = offset.saturating_sub(OWN_ENTRIES);
        let listed = self.tree.read_dir(directory, from, &mut |entry| {
            let dirent =
                Dirent { inode: entry.inode, next: entry.next + OWN_ENTRIES, kind: entry.kind, name: entry.name };
            if !plus {
                return put(answer, None, dirent);
            }
            match self.attributes(entry.node) {
                Ok(attributes) if attributes.kind == entry.kind => put(answer, Some((entry.node, &attributes)), dirent),
                Ok(_) => {
                    failed = Some(Errno::IO);
                    false
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        // What was found before a fault is given; the fault comes up again with the next piece.
        match failed.or(listed.err().map(number)) {
            Some(error) if answer.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    fn get_xattr(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        if !self.tree.has_xattrs() {
            // The kernel stops asking.
            return Err(Errno::NOSYS);
        }
        let (size, name) = (request.u32(0).ok_or(Errno::PROTO)?, request.name(8).ok_or(Errno::PROTO)?);
        if OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Errno::NODATA);
        }
        let xattrs = self.tree.xattrs(self.node(request)?).map_err(number)?;
        let (_, value) = xattrs.into_iter().find(|(known, _)| known == name).ok_or(Errno::NODATA)?;
        put_sized(&value, size, answer)
    }

    fn list_xattrs(&self, request: &Request<'_>, answer: &mut Vec<u8>) -> Answer {
        if !self.tree.has_xattrs() {
            return Err(Errno::NOSYS);
        }
        let size = request.u32(0).ok_or(Errno::PROTO)?;
        let mut names = Vec::new();
        for (name, _) in self.tree.xattrs(self.node(request)?).map_err(number)? {
            if !OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
                names.extend_from_slice(&name);
                names.push(0);
            }
        }
        put_sized(&names, size, answer)
    }

    /// The tree's number of the node that a request is about.
    fn node(&self, request: &Request<'_>) -> Result<u64, Errno> {
        match request.node {
            ROOT => Ok(self.tree.root()),
            // 0 is no node, and 1 the root: others are two behind the tree's own.
            node => node.checked_sub(2).ok_or(Errno::STALE),
        }
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        self.tree.attributes(node).map_err(number)
    }

    fn put_entry(&self, node: u64, attributes: &Attributes, answer: &mut Vec<u8>) {
        answer.put64(if node == self.tree.root() { ROOT } else { node + 2 });
        for value in [0, FOR_EVER, FOR_EVER, 0] {
            answer.put64(value);
        }
        self.put_attributes(attributes, answer);
    }

    fn put_attributes(&self, attributes: &Attributes, answer: &mut Vec<u8>) {
        let (uid, gid) = match self.owners {
            Owners::Image => (attributes.uid, attributes.gid),
            Owners::All(uid, gid) => (uid, gid),
        };
        let time = attributes.mtime as u64;
        for value in [attributes.inode, attributes.size, attributes.blocks, time, time, time] {
            answer.put64(value);
        }
        let (major, minor) = attributes.device;
        let device = (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12;
        let mode = attributes.kind.mode_bits() | attributes.mode;
        let fraction = attributes.mtime_nanoseconds;
        let block_size = self.tree.statistics().block_size;
        for value in [fraction, fraction, fraction, mode, attributes.links, uid, gid, device, block_size, 0] {
            answer.put32(value);
        }
    }
}

/// An entry of a listing.
struct Dirent<'a> {
    inode: u64,
    next: u64,
    kind: Kind,
    name: &'a [u8],
}

impl Dirent<'_> {
    fn put(&self, answer: &mut Vec<u8>) {
        answer.put64(self.inode);
        answer.put64(self.next);
        answer.put32(self.name.len() as u32);
        answer.put32(self.kind.mode_bits() >> 12);
        answer.extend_from_slice(self.name);
        answer.zeros_to(answer.len().next_multiple_of(8));
    }
}

/// An open: not wanted at all where the kernel can do without.
fn open(without: &AtomicBool, flags: u32, answer: &mut Vec<u8>) -> Answer {
    if without.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    answer.put64(0);
    answer.put32(flags);
    answer.put32(0);
    Ok(())
}

/// A value, or how long it is if nothing else is asked.
fn put_sized(value: &[u8], size: u32, answer: &mut Vec<u8>) -> Answer {
    match size as usize {
        0 => {
            answer.put32(value.len() as u32);
            answer.put32(0);
        }
        size if value.len() > size => return Err(Errno::RANGE),
        _ => answer.extend_from_slice(value),
    }
    Ok(())
}

fn number(error: berth_imagefile::Error) -> Errno {
    Errno::from_raw_os_error(error.errno())
}
