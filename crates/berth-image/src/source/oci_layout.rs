//! `oci:DIR[:NAME]`: an OCI image layout in a directory.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::archive::read_document;
use super::layout::{self, Documents, blob_path};
use super::{Source, file_name};
use crate::error::{Error, Result};
use crate::manifest::{Layer, Platform, ResolvedImage};
use crate::progress::Progress;

/// An image in an OCI image layout on disk.
#[derive(Debug)]
pub struct OciLayout {
    path: PathBuf,
    directory: OwnedFd,
    wanted: Option<String>,
    name: String,
}

impl OciLayout {
    /// Opens the layout in the directory `path`. `wanted` is the image's `org.opencontainers.image.ref.name` there, or
    /// its digest; a layout with one image needs none.
    ///
    /// # Errors
    /// [`Error::Io`] when the directory cannot be opened.
    pub fn open(path: &str, wanted: Option<&str>) -> Result<OciLayout> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open", path, e))?;
        Ok(OciLayout {
            path: Path::new(path).to_owned(),
            directory,
            wanted: wanted.map(str::to_owned),
            name: file_name("oci", path, wanted),
        })
    }

    /// Opens a regular file of the layout, never one outside of it: the kernel resolves the path below the directory,
    /// symbolic links included. `O_NONBLOCK` keeps a planted FIFO from hanging the open.
    fn file(&self, name: &str) -> Result<(File, u64)> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match crate::inside::open(&self.directory, name, flags, resolve) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::XDEV) => {
                let reason = format!("{} is a link that leads out of the layout", path.display());
                return Err(Error::BadManifest { what: self.name.clone(), reason });
            }
            Err(rustix::io::Errno::NOENT) if name == "oci-layout" => {
                let reason = format!("{} is no OCI image layout: it has no file `oci-layout`", self.path.display());
                return Err(Error::BadManifest { what: self.name.clone(), reason });
            }
            Err(e) => return Err(Error::io("open", path, e)),
        };
        let metadata = file.metadata().map_err(|e| Error::io("examine", &path, e))?;
        if !metadata.is_file() {
            let reason = format!("{} is no regular file", path.display());
            return Err(Error::BadManifest { what: self.name.clone(), reason });
        }
        Ok((file, metadata.len()))
    }
}

impl Documents for OciLayout {
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, size) = self.file(name)?;
        read_document(file, size, limit, name, &self.name)
    }
}

impl Source for OciLayout {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&self, platform: &Platform, _: &dyn Progress) -> Result<ResolvedImage> {
        layout::resolve(self, self.wanted.as_deref(), platform, &self.name)
    }

    fn open_layer(&self, layer: &Layer, _: &dyn Progress) -> Result<Box<dyn Read + Send>> {
        let (file, size) = self.file(&blob_path(&layer.descriptor.digest))?;
        check_size(layer, size, &self.name)?;
        Ok(Box::new(file.take(size)))
    }
}

/// A file of the wrong size is told before any of it is unpacked.
pub(super) fn check_size(layer: &Layer, actual: u64, what: &str) -> Result<()> {
    if actual == layer.descriptor.size {
        return Ok(());
    }
    let what = format!("layer {} of {what}", layer.descriptor.digest);
    Err(Error::SizeMismatch { what, expected: layer.descriptor.size, actual })
}
