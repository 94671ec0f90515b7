//! Archives that go by once: a pipe, a compressed file, the output of `docker save`.
//!
//! Members come in any order, and the documents that give them a meaning often come last. So every member that can be a
//! layer is handed to a [`LayerSink`] as it goes by, which unpacks it and keeps it under the digest of its bytes; small
//! documents are kept in memory; when the archive ends, the documents say which of the layers make the image. Nothing is
//! copied to a temporary file. Layers of images that were not asked for are in the sink then, as blobs nobody refers to.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::archive::{
    Input, Kind, Links, Members, Pipe, bad, compression_of, duplicate, is_unique, looks_like_tar, missing,
    read_document, show,
};
use super::docker_archive::{choose, layer_descriptor, layer_names, member_name, parse_manifest, synthesise};
use super::file_name;
use super::layout::{self, Documents, blob_path};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Compression, MAX_DOCUMENT, Platform, ResolvedImage};
use crate::progress::{Progress, Silent};

/// Bytes of all documents of one archive that are kept in memory at most.
const MAX_DOCUMENTS: u64 = 64 << 20;
/// Layers that one archive may have unpacked at most: ten of the largest images.
const MAX_STREAM_LAYERS: usize = 5000;

/// Takes layers as they go by.
pub trait LayerSink {
    /// Unpacks one layer and gives the SHA-256 digest of the bytes of `blob`, under which it is kept.
    ///
    /// `blob` ends after `size` bytes; it must be read to its end, and an archive that ends too early shows as an error
    /// of kind `UnexpectedEof`. Whether the layer belongs to an image is not known yet. The diff id of a compressed
    /// layer is checked by whoever gets the resolved image, because only then is it known.
    fn layer(&self, blob: &mut dyn Read, size: u64, compression: Compression) -> Result<Digest>;
}

/// A place that gives its image once, from front to back.
pub trait StreamSource: Send {
    /// See [`Source::name`](super::Source::name).
    fn name(&self) -> String;

    /// Reads all of it: layers go to `sink`, the image comes back when its documents were seen.
    fn import(self: Box<Self>, platform: &Platform, sink: &dyn LayerSink, progress: &dyn Progress) -> Result<Imported>;
}

/// What came out of a stream.
#[derive(Debug)]
pub struct Imported {
    /// The image; the sink has its layers.
    pub image: ResolvedImage,
    /// The names that the archive gives it, such as `docker.io/library/debian:12`. May be empty.
    pub tags: Vec<String>,
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes.
    Docker,
    /// An OCI image layout.
    Oci,
}

/// Imports an archive of `docker save` for this machine's platform, as it goes by.
///
/// # Errors
/// When the archive is damaged, has no such image, or several and none is `wanted`; and what the sink fails with.
pub fn import_stream(input: &mut dyn Read, sink: &dyn LayerSink, wanted: Option<&str>) -> Result<ResolvedImage> {
    let what = Naming { what: "the archive", wanted, format: Format::Docker };
    import(input, &what, &Platform::host(), sink, &Silent).map(|imported| imported.image)
}

/// How an archive is called, and which image of it is meant.
pub(super) struct Naming<'a> {
    pub what: &'a str,
    pub wanted: Option<&'a str>,
    pub format: Format,
}

/// Imports an archive that may be compressed as a whole.
pub(super) fn import(
    input: &mut dyn Read,
    naming: &Naming<'_>,
    platform: &Platform,
    sink: &dyn LayerSink,
    progress: &dyn Progress,
) -> Result<Imported> {
    let what = naming.what;
    let mut head = Vec::with_capacity(6);
    (&mut *input).take(6).read_to_end(&mut head).map_err(|e| Error::io("read", what, e))?;
    if head.is_empty() {
        return Err(bad(what, "the archive is empty"));
    }
    if let Some((kind, program)) = unsupported(&head) {
        let reason =
            format!("the archive is compressed with {kind}, which berth does not unpack; run `{program}` on it first");
        return Err(bad(what, reason));
    }
    let whole = head.as_slice().chain(input);
    let mut plain: Box<dyn Read + '_> = match compression_of(&head) {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, whole))),
        Compression::Zstd => Box::new(zstd::Decoder::new(whole).map_err(|e| Error::io("decompress", what, e))?),
    };
    let seen = Seen::collect(&mut *plain, what, sink)?;
    drain(&mut *plain);
    seen.image(naming, platform, progress)
}

/// What follows the end of a tar is padding; a writer that cannot get rid of it would fail.
fn drain(input: &mut dyn Read) {
    let _ = io::copy(&mut input.take(1 << 20), &mut io::sink());
}

/// Compressions that are known by sight only, and what undoes them.
fn unsupported(head: &[u8]) -> Option<(&'static str, &'static str)> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(("xz", "xz -d")),
        [b'B', b'Z', b'h', ..] => Some(("bzip2", "bzip2 -d")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some(("lz4", "lz4 -d")),
        _ => None,
    }
}

/// A layer that went by.
struct Blob {
    digest: Digest,
    size: u64,
    compression: Compression,
}

/// All that is left of an archive after it went by.
struct Seen<'a> {
    what: &'a str,
    documents: HashMap<String, Vec<u8>>,
    layers: HashMap<String, Blob>,
    links: Links,
}

impl<'a> Seen<'a> {
    fn collect(input: &mut dyn Read, what: &'a str, sink: &dyn LayerSink) -> Result<Seen<'a>> {
        let mut seen = Seen { what, documents: HashMap::new(), layers: HashMap::new(), links: Links::default() };
        let (mut bytes, mut layers) = (0, 0);
        let mut members = Members::new(Pipe(input), what);
        while let Some(member) = members.next()? {
            let Some(name) = member.name else { continue };
            match member.kind {
                Kind::Link(target) => seen.put_link(name, target),
                Kind::Other => {}
                Kind::File => match seen.file(&mut members, &name, member.size, sink)? {
                    Content::Document(document) => {
                        bytes += document.len() as u64;
                        bounded(bytes, MAX_DOCUMENTS, "bytes of documents", what)?;
                        seen.put_document(name, document)?;
                    }
                    Content::Layer(blob) => {
                        layers += 1;
                        bounded(layers, MAX_STREAM_LAYERS as u64, "layers", what)?;
                        seen.put_layer(name, blob)?;
                    }
                    Content::Useless => {}
                },
            }
        }
        Ok(seen)
    }

    /// Looks at how a file begins and keeps it, hands it on, or passes over it.
    fn file<I: Input>(&self, members: &mut Members<I>, name: &str, size: u64, sink: &dyn LayerSink) -> Result<Content> {
        let mut head = Vec::with_capacity(512);
        let read = members.data().take(512).read_to_end(&mut head);
        read.map_err(|e| members.truncation().unwrap_or_else(|| Error::io("read", self.what, e)))?;
        let compression = compression_of(&head);
        if compression != Compression::None || looks_like_tar(&head) {
            let given = sink.layer(&mut head.as_slice().chain(members.data()), size, compression);
            let digest = given.map_err(|e| members.truncation().unwrap_or(e))?;
            return Ok(Content::Layer(Blob { digest, size, compression }));
        }
        let is_json = matches!(head.iter().find(|b| !b.is_ascii_whitespace()), Some(b'{' | b'['));
        if !is_json || size > MAX_DOCUMENT {
            return Ok(Content::Useless);
        }
        let document = read_document(head.as_slice().chain(members.data()), size, MAX_DOCUMENT, name, self.what);
        document.map(Content::Document).map_err(|e| members.truncation().unwrap_or(e))
    }

    fn put_document(&mut self, name: String, document: Vec<u8>) -> Result<()> {
        self.links.remove(&name);
        self.layers.remove(&name);
        let unique = is_unique(&name);
        match self.documents.insert(name.clone(), document) {
            Some(_) if unique => Err(duplicate(self.what, &name)),
            _ => Ok(()),
        }
    }

    fn put_layer(&mut self, name: String, blob: Blob) -> Result<()> {
        if is_unique(&name) {
            return Err(bad(self.what, format!("`{name}` is no JSON document")));
        }
        self.links.remove(&name);
        self.documents.remove(&name);
        self.layers.insert(name, blob);
        Ok(())
    }

    fn put_link(&mut self, name: String, target: Option<String>) {
        self.documents.remove(&name);
        self.layers.remove(&name);
        self.links.insert(name, target);
    }

    fn image(&self, naming: &Naming<'_>, platform: &Platform, progress: &dyn Progress) -> Result<Imported> {
        let (docker, oci) = (self.documents.contains_key("manifest.json"), self.documents.contains_key("index.json"));
        match naming.format {
            Format::Docker if docker => self.docker_image(naming, platform),
            Format::Oci if oci => self.oci_image(naming, platform),
            // An archive of the other kind is clear enough; it is not worth sending a long pipe again.
            Format::Docker if oci => {
                progress.event(crate::progress::Event::Note("the archive holds an OCI image layout"));
                self.oci_image(naming, platform)
            }
            Format::Oci if docker => {
                progress.event(crate::progress::Event::Note("the archive is one of `docker save`"));
                self.docker_image(naming, platform)
            }
            _ => Err(bad(self.what, "it holds no image: it has neither a `manifest.json` nor an `index.json`")),
        }
    }

    fn docker_image(&self, naming: &Naming<'_>, platform: &Platform) -> Result<Imported> {
        let manifest = self.document("manifest.json", MAX_DOCUMENT)?;
        let entry = choose(parse_manifest(&manifest, self.what)?, naming.wanted, self.what)?;
        let config = self.document(&member_name(&entry.config, self.what)?, MAX_DOCUMENT)?;
        let names = layer_names(&entry, self.what)?;
        let image = synthesise(&entry, config, platform, self.what, |i, diff_id| {
            let blob = self.layer(&names[i])?;
            if blob.compression == Compression::None && blob.digest != *diff_id {
                let what = format!("layer {} of {}", i + 1, self.what);
                return Err(Error::DigestMismatch { what, expected: diff_id.clone(), actual: blob.digest.clone() });
            }
            Ok(layer_descriptor(blob.digest.clone(), blob.size, blob.compression))
        })?;
        Ok(Imported { image, tags: entry.tags().to_vec() })
    }

    fn oci_image(&self, naming: &Naming<'_>, platform: &Platform) -> Result<Imported> {
        let image = layout::resolve(self, naming.wanted, platform, self.what)?;
        for layer in &image.layers {
            let expected = &layer.descriptor.digest;
            let blob = self.layer(&blob_path(expected))?;
            if blob.digest != *expected {
                let what = format!("layer {} of {}", expected, self.what);
                return Err(Error::DigestMismatch { what, expected: expected.clone(), actual: blob.digest.clone() });
            }
            if blob.size != layer.descriptor.size {
                let what = format!("layer {} of {}", expected, self.what);
                return Err(Error::SizeMismatch { what, expected: layer.descriptor.size, actual: blob.size });
            }
        }
        Ok(Imported { image, tags: naming.wanted.map(str::to_owned).into_iter().collect() })
    }

    fn layer(&self, name: &str) -> Result<&Blob> {
        let target = self.links.follow(name, self.what)?;
        self.layers.get(target).ok_or_else(|| {
            if self.documents.contains_key(target) {
                bad(self.what, format!("`{}` should be a layer and is a JSON document", show(target)))
            } else {
                bad(self.what, format!("it has no layer `{}`, or it is no tar, gzip or zstd file", show(target)))
            }
        })
    }
}

/// What a file of an archive turned out to be.
enum Content {
    Document(Vec<u8>),
    Layer(Blob),
    Useless,
}

impl Documents for Seen<'_> {
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let name = self.links.follow(name, self.what)?;
        let document = self.documents.get(name).ok_or_else(|| missing(self.what, name))?;
        read_document(document.as_slice(), document.len() as u64, limit, name, self.what)
    }
}

fn bounded(value: u64, limit: u64, of: &str, what: &str) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::TooLarge { what: what.to_owned(), reason: format!("more than {limit} {of}") })
}

/// An archive in a file or a pipe.
#[derive(Debug)]
pub struct ArchiveStream {
    file: File,
    name: String,
    wanted: Option<String>,
    format: Format,
}

impl ArchiveStream {
    /// Opens the archive at `path`, or standard input for `-`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, or is a directory or a terminal.
    pub fn open(path: &str, wanted: Option<&str>, format: Format) -> Result<ArchiveStream> {
        let transport = match format {
            Format::Docker => "docker-archive",
            Format::Oci => "oci-archive",
        };
        let name = file_name(transport, path, wanted);
        let file = match path {
            "-" => {
                let stdin = io::stdin();
                if rustix::termios::isatty(&stdin) {
                    return Err(bad(
                        &name,
                        "standard input is a terminal; send an archive into it: `docker save IMAGE | …`",
                    ));
                }
                let owned = stdin.as_fd().try_clone_to_owned();
                File::from(owned.map_err(|e| Error::io("open", "standard input", e))?)
            }
            path => File::open(path).map_err(|e| Error::io("open", path, e))?,
        };
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(bad(&name, "it is a directory; an image layout in a directory is named `oci:DIR`"));
        }
        Ok(ArchiveStream { file, name, wanted: wanted.map(str::to_owned), format })
    }

    /// The file and the image's name, when it is a plain tar that can be read at any place; else the stream back.
    pub(super) fn into_plain_file(mut self) -> std::result::Result<(File, String), ArchiveStream> {
        let mut head = [0; 6];
        let plain = self.file.metadata().is_ok_and(|m| m.is_file())
            && self.file.stream_position().is_ok_and(|at| at == 0)
            && self.file.read_at(&mut head, 0).is_ok()
            && compression_of(&head) == Compression::None
            && unsupported(&head).is_none();
        if plain { Ok((self.file, self.name)) } else { Err(self) }
    }
}

impl StreamSource for ArchiveStream {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn import(
        mut self: Box<Self>,
        platform: &Platform,
        sink: &dyn LayerSink,
        progress: &dyn Progress,
    ) -> Result<Imported> {
        let naming = Naming { what: &self.name, wanted: self.wanted.as_deref(), format: self.format };
        import(&mut self.file, &naming, platform, sink, progress)
    }
}
