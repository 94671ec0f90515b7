//! A tree that tells the system's log what is wrong with it: readers of a damaged image only learn "input/output error".

use std::collections::HashSet;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use berth_imagefile::tree::{Attributes, DirEntry, Statistics, Xattr};
use berth_imagefile::{Error, Result, Tree};

/// Where the system's log listens.
const LOG: &str = "/dev/log";
/// Messages of one server at most: an image may be damaged everywhere.
const MOST: usize = 20;
/// `LOG_USER | LOG_ERR`, as syslog(3) has it.
const PRIORITY: u32 = 11;

/// See the module.
#[derive(Debug)]
pub struct Reporting {
    tree: Arc<dyn Tree>,
    log: Option<UnixDatagram>,
    told: Mutex<HashSet<String>>,
}

impl Reporting {
    /// Opens the log, as long as it can be seen.
    pub fn new(tree: Arc<dyn Tree>) -> Reporting {
        let log = UnixDatagram::unbound().ok().filter(|log| log.connect(LOG).is_ok());
        if let Some(log) = &log {
            let _ = log.set_nonblocking(true);
        }
        Reporting { tree, log, told: Mutex::default() }
    }

    /// Each thing is told once.
    fn seen<T>(&self, outcome: Result<T>) -> Result<T> {
        if let Err(error @ (Error::Io { .. } | Error::Truncated { .. } | Error::Damaged { .. })) = &outcome
            && let (Some(log), Ok(mut told)) = (&self.log, self.told.lock())
            && told.len() < MOST
            && told.insert(error.to_string())
        {
            let _ = log.send(format!("<{PRIORITY}>berth[{}]: {error}", std::process::id()).as_bytes());
        }
        outcome
    }
}

impl Tree for Reporting {
    fn root(&self) -> u64 {
        self.tree.root()
    }

    fn attributes(&self, node: u64) -> Result<Attributes> {
        self.seen(self.tree.attributes(node))
    }

    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Option<u64>> {
        self.seen(self.tree.lookup(directory, name))
    }

    fn read_dir(&self, directory: u64, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.seen(self.tree.read_dir(directory, offset, each))
    }

    fn read_link(&self, node: u64) -> Result<Vec<u8>> {
        self.seen(self.tree.read_link(node))
    }

    fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.seen(self.tree.read(node, offset, buffer))
    }

    fn xattrs(&self, node: u64) -> Result<Vec<Xattr>> {
        self.seen(self.tree.xattrs(node))
    }

    fn has_xattrs(&self) -> bool {
        self.tree.has_xattrs()
    }

    fn statistics(&self) -> Statistics {
        self.tree.statistics()
    }
}
