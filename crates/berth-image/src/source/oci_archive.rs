//! `oci-archive:FILE[:NAME]`: an OCI image layout in a plain tar that can be read at any place.

use std::fs::File;
use std::io::Read;

use super::Source;
use super::archive::{Index, bad};
use super::layout::{self, Documents, blob_path};
use super::oci_layout::check_size;
use crate::error::Result;
use crate::manifest::{Layer, Platform, ResolvedImage};
use crate::progress::Progress;

/// An image in an OCI image layout that lies in a tar.
#[derive(Debug)]
pub struct OciArchive {
    index: Index,
    wanted: Option<String>,
    name: String,
}

impl OciArchive {
    /// Reads where the members of the archive lie. [`open_oci_archive`](super::open_oci_archive) chooses between this
    /// and streaming.
    ///
    /// # Errors
    /// When it is no whole tar archive with an OCI image layout.
    pub fn new(file: File, name: String, wanted: Option<&str>) -> Result<OciArchive> {
        let index = Index::new(file, &name)?;
        if !index.has("oci-layout") {
            let remedy = if index.has("manifest.json") { "; try `docker-archive:`" } else { "" };
            return Err(bad(&name, format!("it holds no OCI image layout{remedy}")));
        }
        Ok(OciArchive { index, wanted: wanted.map(str::to_owned), name })
    }
}

impl Documents for OciArchive {
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.index.document(name, limit)
    }
}

impl Source for OciArchive {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn resolve(&self, platform: &Platform, _: &dyn Progress) -> Result<ResolvedImage> {
        layout::resolve(self, self.wanted.as_deref(), platform, &self.name)
    }

    fn open_layer(&self, layer: &Layer, _: &dyn Progress) -> Result<Box<dyn Read + Send>> {
        let (extent, size) = self.index.open(&blob_path(&layer.descriptor.digest))?;
        check_size(layer, size, &self.name)?;
        Ok(Box::new(extent))
    }
}
