//! What can be read of an image, in the terms of a file system.

use std::fmt::Debug;

use crate::error::Result;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The bits of `st_mode` that say the kind.
    pub fn mode_bits(self) -> u32 {
        match self {
            Kind::Fifo => 0o010000,
            Kind::CharDevice => 0o020000,
            Kind::Directory => 0o040000,
            Kind::BlockDevice => 0o060000,
            Kind::File => 0o100000,
            Kind::Symlink => 0o120000,
            Kind::Socket => 0o140000,
        }
    }

    /// The kind that `st_mode` says.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::CharDevice, Kind::BlockDevice, Kind::Fifo, Kind::Socket]
            .into_iter()
            .find(|kind| kind.mode_bits() == mode & 0o170000)
    }
}

/// What `stat` tells of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Inode number as the image has it: equal for hard links of one file.
    pub inode: u64,
    /// Permission bits, set-user-id, set-group-id and sticky included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes: of a file's contents, a link's target, a directory's listing.
    pub size: u64,
    /// Units of 512 bytes that the contents would take, without holes.
    pub blocks: u64,
    /// Names that this node has.
    pub links: u32,
    /// Modification time: seconds since the epoch.
    pub mtime: i64,
    /// Modification time: nanoseconds after `mtime`.
    pub mtime_nanoseconds: u32,
    /// Device number of a device: major, minor.
    pub device: (u32, u32),
}

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: no slash, never empty, never `.` or `..`.
    pub name: &'a [u8],
    /// The node that it names.
    pub node: u64,
    /// Inode number of that node, as in [`Attributes::inode`].
    pub inode: u64,
    /// What the directory says of the node's kind. A damaged image may lie: who goes on to the node without
    /// [`Tree::lookup`] compares with [`Attributes::kind`], or may go round in a circle.
    pub kind: Kind,
    /// Where a later [`Tree::read_dir`] goes on behind this entry.
    pub next: u64,
}

/// What `statfs` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of the image.
    pub bytes: u64,
    /// Nodes that the image says it has.
    pub nodes: u64,
    /// Bytes of a block.
    pub block_size: u32,
}

/// An extended attribute: name with its prefix (`user.…`), value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A read-only file system. Nodes are named by numbers that the image's format gives them; only numbers that came from
/// [`Tree::root`], [`Tree::lookup`] or [`Tree::read_dir`] mean something, and any other gives an error.
///
/// Nothing changes, so answers may be kept for ever. All calls may be made from many threads.
pub trait Tree: Send + Sync + Debug {
    /// The node of the root directory.
    fn root(&self) -> u64;

    /// What `stat` tells of a node.
    fn attributes(&self, node: u64) -> Result<Attributes>;

    /// The node of a name in a directory, `None` if there is no such name.
    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Option<u64>>;

    /// Gives the entries of a directory from `offset` on (0, or [`DirEntry::next`] of an earlier entry) until `each` says
    /// `false`. An entry that got `false` counts as not given.
    fn read_dir(&self, directory: u64, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()>;

    /// The target of a symbolic link.
    fn read_link(&self, node: u64) -> Result<Vec<u8>>;

    /// Reads contents of a regular file; less than asked only at its end. Returns how many bytes.
    fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// All extended attributes of a node.
    fn xattrs(&self, node: u64) -> Result<Vec<Xattr>>;

    /// Whether any node may have extended attributes.
    fn has_xattrs(&self) -> bool;

    /// What `statfs` tells.
    fn statistics(&self) -> Statistics;
}
