//! A directory of the host, walked by descriptor.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::io::Errno;

use crate::error::Error;
use crate::error::Result;
use crate::error::printable;
use crate::tree::Xattr;
use crate::write::Content;
use crate::write::Metadata;
use crate::write::Sink;

/// Most directories in each other: each holds a descriptor while it is walked.
const DEEPEST: usize = 512;
/// Longest list of names, and longest value, of xattrs.
const XATTRS: usize = 65_536;

/// Adds all that `root` holds, names in order of their bytes. Links are not followed; what changes meanwhile is taken as it is
/// found, and what vanishes is an error.
pub fn add_directory(root: BorrowedFd<'_>, sink: &mut dyn Sink) -> Result<()> {
    let top = rustix::fs::openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| read_error(b"", error))?;
    let status = rustix::fs::fstat(&top).map_err(|error| read_error(b"", error))?;
    let mut buffers = Buffers::new();
    sink.add(b"", &metadata(&status, buffers.xattrs_of(&top, b"")?), Content::Directory)?;
    Walk { sink, names: HashMap::new(), path: Vec::new(), buffers }.directory(top, 0)
}

struct Walk<'a> {
    sink: &'a mut dyn Sink,
    /// First names of files that have several, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
    path: Vec<u8>,
    buffers: Buffers,
}

impl Walk<'_> {
    fn directory(&mut self, directory: OwnedFd, depth: usize) -> Result<()> {
        if depth >= DEEPEST {
            let reason = format!("more than {DEEPEST} directories in each other");
            return Err(Error::CannotWrite { path: printable(&self.path), reason });
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(|error| read_error(&self.path, error))? {
            let entry = entry.map_err(|error| read_error(&self.path, error))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        for name in names {
            let parent = self.path.len();
            if parent > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.entry(directory.as_fd(), &name, depth)?;
            self.path.truncate(parent);
        }
        Ok(())
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
        let fault = |path: &[u8]| {
            let path = path.to_vec();
            move |error| read_error(&path, error)
        };
        // By descriptor from here on: the attributes, the xattrs and the contents are of one file.
        let place = rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(fault(&self.path))?;
        let status = rustix::fs::fstat(&place).map_err(fault(&self.path))?;
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind != FileType::Directory && status.st_nlink > 1 {
            let file = (status.st_dev, status.st_ino);
            if let Some(first) = self.names.get(&file) {
                return self.sink.add(&self.path, &Metadata::default(), Content::HardLink(first));
            }
            self.names.insert(file, self.path.clone());
        }
        let open = |flags| {
            rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(fault(&self.path))
        };
        match kind {
            FileType::Directory => {
                let directory = open(OFlags::RDONLY | OFlags::DIRECTORY)?;
                let metadata = metadata(&status, self.buffers.xattrs_of(&directory, &self.path)?);
                self.sink.add(&self.path, &metadata, Content::Directory)?;
                self.directory(directory, depth + 1)
            }
            FileType::RegularFile => {
                let file = open(OFlags::RDONLY | OFlags::NONBLOCK)?;
                let now = rustix::fs::fstat(&file).map_err(fault(&self.path))?;
                if (now.st_dev, now.st_ino) != (status.st_dev, status.st_ino) {
                    return Err(read_error(&self.path, Errno::STALE));
                }
                let metadata = metadata(&now, self.buffers.xattrs_of(&file, &self.path)?);
                let size = now.st_size.try_into().unwrap_or(0);
                self.sink.add(&self.path, &metadata, Content::File { size, data: &mut File::from(file) })
            }
            _ => {
                // These cannot be opened, so their xattrs are asked for by path: through the descriptor, not by the name.
                let metadata = metadata(&status, self.buffers.xattrs_of_place(&place, &self.path)?);
                let device = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
                let target;
                let content = match kind {
                    FileType::Symlink => {
                        target = rustix::fs::readlinkat(&place, "", Vec::new()).map_err(fault(&self.path))?;
                        Content::Symlink(target.to_bytes())
                    }
                    FileType::CharacterDevice => Content::CharDevice(device.0, device.1),
                    FileType::BlockDevice => Content::BlockDevice(device.0, device.1),
                    FileType::Fifo => Content::Fifo,
                    FileType::Socket => Content::Socket,
                    _ => return Err(read_error(&self.path, Errno::INVAL)),
                };
                self.sink.add(&self.path, &metadata, content)
            }
        }
    }
}

fn metadata(status: &Stat, xattrs: Vec<Xattr>) -> Metadata {
    Metadata {
        mode: status.st_mode & 0o7777,
        uid: status.st_uid,
        gid: status.st_gid,
        mtime: (status.st_mtime, u32::try_from(status.st_mtime_nsec).unwrap_or(0)),
        xattrs,
    }
}

/// Buffers for names and values of xattrs.
struct Buffers {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Buffers {
    fn new() -> Buffers {
        Buffers { names: vec![0; XATTRS], value: vec![0; XATTRS] }
    }

    fn xattrs_of(&mut self, file: &OwnedFd, path: &[u8]) -> Result<Vec<Xattr>> {
        self.collect(
            path,
            |buffer| rustix::fs::flistxattr(file, buffer),
            |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
        )
    }

    fn xattrs_of_place(&mut self, place: &OwnedFd, path: &[u8]) -> Result<Vec<Xattr>> {
        // An O_PATH descriptor has no xattrs of its own, but /proc leads from it to the very file.
        let itself = format!("/proc/self/fd/{}", place.as_raw_fd());
        self.collect(
            path,
            |buffer| rustix::fs::listxattr(&itself, buffer),
            |name, buffer| rustix::fs::getxattr(&itself, name, buffer),
        )
    }

    fn collect(
        &mut self,
        path: &[u8],
        list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
        get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
    ) -> Result<Vec<Xattr>> {
        let length = match list(&mut self.names) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => 0,
            Err(error) => return Err(read_error(path, error)),
        };
        let mut xattrs = Vec::new();
        for name in self.names[..length].split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            match get(name, &mut self.value) {
                Ok(length) => xattrs.push((name.to_bytes().to_vec(), self.value[..length].to_vec())),
                // Gone since, or not for us to see.
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(read_error(path, error)),
            }
        }
        Ok(xattrs)
    }
}

fn read_error(path: &[u8], error: Errno) -> Error {
    let name = if path.is_empty() { "the top directory".to_owned() } else { printable(path) };
    Error::Io { action: "read", name, source: error.into() }
}
