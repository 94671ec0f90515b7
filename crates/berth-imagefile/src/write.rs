//! Writing images: entries come one by one, in any order that puts a hard link behind its target, and each once gone
//! through is done with.

pub(crate) mod nodes;

use std::io::Read;

use crate::error::Result;
use crate::tree::Xattr;

/// What every entry has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, set-user-id, set-group-id and sticky included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since the epoch, nanoseconds. Formats that keep less round down.
    pub mtime: (i64, u32),
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
pub enum Content<'a> {
    /// A directory. One that is already there gets the new metadata and keeps what it holds.
    Directory,
    /// A regular file of `size` bytes, which `data` gives. Blocks of zeros become holes.
    File {
        /// Bytes.
        size: u64,
        /// The contents; reading stops after `size` bytes.
        data: &'a mut dyn Read,
    },
    /// One more name of an entry that was added before, by its path. Metadata stays that of the first name.
    HardLink(&'a [u8]),
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Content::Directory => "Directory",
            Content::File { .. } => "File",
            Content::HardLink(_) => "HardLink",
            Content::Symlink(_) => "Symlink",
            Content::CharDevice(..) => "CharDevice",
            Content::BlockDevice(..) => "BlockDevice",
            Content::Fifo => "Fifo",
            Content::Socket => "Socket",
        })
    }
}

/// Where entries go.
pub trait Sink {
    /// Adds an entry. The path is taken from the root, whatever slashes and `.` it has; `..` is refused. Directories above
    /// that were not added yet are made, and get their metadata when they come. An entry replaces one of the same path,
    /// unless both are directories. The empty path is the root.
    fn add(&mut self, path: &[u8], metadata: &Metadata, content: Content<'_>) -> Result<()>;

    /// Makes a directory and those above it where there is none: as if something was added in it.
    fn add_implied(&mut self, path: &[u8]) -> Result<()>;
}

/// What a finished image has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image.
    pub bytes: u64,
    /// Inodes.
    pub nodes: u64,
    /// Bytes of all files' contents, as they came.
    pub contents: u64,
    /// Extended attributes that the format has no name for; they are not in the image.
    pub xattrs_left_out: u64,
}
