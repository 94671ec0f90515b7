//! Makes images: OCI layouts on disk, layer by layer, with every byte under the test's control.

use std::fs;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::http;
use crate::tar;

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    named(Sha256::digest(bytes).as_slice())
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip at this level.
    Gzip(u32),
    /// Zstandard at this level.
    Zstd(i32),
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// What a manifest says of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the content.
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// A layer in a layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// The blob.
    pub blob: Descriptor,
    /// Digest of the tar archive before compression.
    pub diff_id: String,
    /// Bytes of the tar archive.
    pub raw: u64,
}

/// An OCI image layout on disk.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

/// Counts and hashes what passes.
struct Hashed<W> {
    out: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Hashed<W> {
    fn new(out: W) -> Self {
        Hashed { out, hash: Sha256::new(), count: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.out, named(self.hash.finalize().as_slice()), self.count)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

type Sink = Hashed<BufWriter<File>>;

enum Packer {
    None(Box<Sink>),
    Gzip(Box<flate2::write::GzEncoder<Sink>>),
    Zstd(Box<zstd::Encoder<'static, Sink>>),
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Packer::None(out) => out.write(bytes),
            Packer::Gzip(out) => out.write(bytes),
            Packer::Zstd(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a layer's archive is written to.
pub type LayerWriter<'a> = tar::Writer<&'a mut dyn Write>;

impl Layout {
    /// Opens a layout, or starts an empty one.
    pub fn create(dir: &Path) -> io::Result<Layout> {
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        let layout = Layout { dir: dir.to_owned() };
        if !dir.join("oci-layout").exists() {
            fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
            fs::write(
                dir.join("index.json"),
                json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string(),
            )?;
        }
        Ok(layout)
    }

    /// The layout's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a blob lies.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Adds a blob of any type.
    pub fn add(&self, media_type: &str, bytes: &[u8]) -> io::Result<Descriptor> {
        let digest = digest(bytes);
        fs::write(self.blob(&digest), bytes)?;
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 })
    }

    /// Adds a layer whose archive `fill` writes, end-of-archive blocks included by this function.
    pub fn layer(
        &self,
        compression: Compression,
        fill: impl FnOnce(&mut LayerWriter<'_>) -> io::Result<()>,
    ) -> io::Result<Layer> {
        self.raw_layer(compression, |out| {
            let mut writer = tar::Writer::new(out, tar::Dialect::Pax);
            fill(&mut writer)?;
            writer.finish()?;
            Ok(())
        })
    }

    /// Adds a layer whose bytes before compression `fill` writes.
    pub fn raw_layer(
        &self,
        compression: Compression,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<Layer> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("layer-{}-{serial}.tmp", std::process::id()));
        let sink = Hashed::new(BufWriter::with_capacity(1 << 18, File::create(&path)?));
        let packer = match compression {
            Compression::None => Packer::None(Box::new(sink)),
            Compression::Gzip(level) => {
                Packer::Gzip(Box::new(flate2::write::GzEncoder::new(sink, flate2::Compression::new(level))))
            }
            Compression::Zstd(level) => Packer::Zstd(Box::new(zstd::Encoder::new(sink, level)?)),
        };
        let mut archive = Hashed::new(packer);
        fill(&mut archive)?;
        let (packer, diff_id, raw) = archive.finish();
        let sink = match packer {
            Packer::None(sink) => *sink,
            Packer::Gzip(encoder) => encoder.finish()?,
            Packer::Zstd(encoder) => encoder.finish()?,
        };
        let (file, digest, size) = sink.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&path, self.blob(&digest))?;
        Ok(Layer { blob: Descriptor { media_type: compression.media_type().to_owned(), digest, size }, diff_id, raw })
    }

    /// Adds an image made of these layers under a tag; `config` is the `config` object of the image configuration.
    pub fn image(&self, tag: &str, layers: &[Layer], config: &Value) -> io::Result<Descriptor> {
        let config = self.config(layers, config, "amd64")?;
        let manifest = self.manifest(&config, layers)?;
        self.tag(tag, &manifest)?;
        Ok(manifest)
    }

    /// Adds an image configuration.
    pub fn config(&self, layers: &[Layer], config: &Value, architecture: &str) -> io::Result<Descriptor> {
        let ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let history: Vec<Value> = layers.iter().map(|_| json!({"created_by": "testbed"})).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
            "history": history,
        });
        self.add(CONFIG, config.to_string().as_bytes())
    }

    /// Adds a manifest.
    pub fn manifest(&self, config: &Descriptor, layers: &[Layer]) -> io::Result<Descriptor> {
        let blobs: Vec<&Descriptor> = layers.iter().map(|layer| &layer.blob).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": blobs});
        self.add(MANIFEST, manifest.to_string().as_bytes())
    }

    /// Names a manifest or an index, replacing what had that name.
    pub fn tag(&self, tag: &str, target: &Descriptor) -> io::Result<()> {
        let path = self.dir.join("index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let manifests = index["manifests"].as_array_mut().ok_or_else(|| io::Error::other("index without manifests"))?;
        manifests.retain(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] != tag);
        let mut entry = serde_json::to_value(target)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        manifests.push(entry);
        fs::write(path, index.to_string())
    }

    /// The descriptor under a tag.
    pub fn find(&self, tag: &str) -> io::Result<Descriptor> {
        let index: Value = serde_json::from_slice(&fs::read(self.dir.join("index.json"))?)?;
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        let entry = entries
            .into_iter()
            .find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag)
            .ok_or_else(|| io::Error::other(format!("no {tag} in {}", self.dir.display())))?;
        Ok(serde_json::from_value(entry)?)
    }

    /// The blobs below a manifest: its config first, then the layers, lowest first.
    pub fn parts(&self, manifest: &Descriptor) -> io::Result<Vec<Descriptor>> {
        let value: Value = serde_json::from_slice(&fs::read(self.blob(&manifest.digest))?)?;
        let mut parts = vec![serde_json::from_value(value["config"].clone())?];
        for layer in value["layers"].as_array().into_iter().flatten() {
            parts.push(serde_json::from_value(layer.clone())?);
        }
        Ok(parts)
    }

    /// Pushes the image under `tag` to a registry on loopback that speaks plain HTTP, as `name:tag` and `name:latest`.
    pub fn push(&self, tag: &str, registry: SocketAddr, name: &str) -> io::Result<Descriptor> {
        self.push_as(tag, registry, name, &[tag, "latest"])
    }

    /// The same with tags of the caller's choice.
    pub fn push_as(&self, tag: &str, registry: SocketAddr, name: &str, tags: &[&str]) -> io::Result<Descriptor> {
        let manifest = self.find(tag)?;
        for part in self.parts(&manifest)? {
            self.push_blob(registry, name, &part)?;
        }
        for tag in tags {
            self.push_manifest(registry, name, tag, &manifest)?;
        }
        Ok(manifest)
    }

    /// Pushes a manifest or index whose parts are there already.
    pub fn push_manifest(&self, registry: SocketAddr, name: &str, tag: &str, manifest: &Descriptor) -> io::Result<()> {
        let mut file = File::open(self.blob(&manifest.digest))?;
        let answer = http::request(
            registry,
            "PUT",
            &format!("/v2/{name}/manifests/{tag}"),
            &[("Content-Type", &manifest.media_type)],
            Some((&mut file, manifest.size)),
        )?;
        expect(&answer, 201, "manifest")
    }

    fn push_blob(&self, registry: SocketAddr, name: &str, blob: &Descriptor) -> io::Result<()> {
        let there = http::request(registry, "HEAD", &format!("/v2/{name}/blobs/{}", blob.digest), &[], None)?;
        if there.status == 200 {
            return Ok(());
        }
        let start = http::request(registry, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], None)?;
        expect(&start, 202, "upload")?;
        let location = start.header("location").unwrap_or_default();
        // Absolute or not: only the path is of use, the server is known.
        let path = location.find("/v2/").map_or("", |at| &location[at..]);
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut file = File::open(self.blob(&blob.digest))?;
        let answer = http::request(
            registry,
            "PUT",
            &format!("{path}{joint}digest={}", blob.digest),
            &[("Content-Type", "application/octet-stream")],
            Some((&mut file, blob.size)),
        )?;
        expect(&answer, 201, "blob")
    }

    /// Packs the whole layout as one tar archive (`oci-archive:`).
    pub fn oci_archive(&self, file: &Path) -> io::Result<()> {
        let mut writer = tar::Writer::new(BufWriter::new(File::create(file)?), tar::Dialect::Pax);
        writer.entry(&tar::Header::dir("blobs/", 0o755))?.entry(&tar::Header::dir("blobs/sha256/", 0o755))?;
        let mut names: Vec<String> = vec!["oci-layout".to_owned(), "index.json".to_owned()];
        for entry in fs::read_dir(self.dir.join("blobs/sha256"))? {
            names.push(format!("blobs/sha256/{}", entry?.file_name().to_string_lossy()));
        }
        names[2..].sort();
        for name in names {
            let mut content = File::open(self.dir.join(&name))?;
            let size = content.metadata()?.len();
            writer.stream(&tar::Header { size, ..tar::Header::file(&name, 0o644) }, &mut content)?;
        }
        writer.finish()?.flush()
    }

    /// Packs one image as `docker save` does: `manifest.json`, the config and uncompressed layers.
    pub fn docker_archive(&self, tag: &str, reference: &str, file: &Path) -> io::Result<()> {
        let parts = self.parts(&self.find(tag)?)?;
        let mut writer = tar::Writer::new(BufWriter::new(File::create(file)?), tar::Dialect::Pax);
        let config = fs::read(self.blob(&parts[0].digest))?;
        let config_name = format!("{}.json", parts[0].digest.trim_start_matches("sha256:"));
        writer.file(&tar::Header::file(&config_name, 0o644), &config)?;
        let mut names = Vec::new();
        for layer in &parts[1..] {
            let archive = unpacked(&fs::read(self.blob(&layer.digest))?, &layer.media_type)?;
            let hex = digest(&archive).trim_start_matches("sha256:").to_owned();
            let name = format!("{hex}/layer.tar");
            writer.entry(&tar::Header::dir(format!("{hex}/"), 0o755))?;
            writer.file(&tar::Header::file(&name, 0o644), &archive)?;
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [reference], "Layers": names}]);
        writer.file(&tar::Header::file("manifest.json", 0o644), manifest.to_string().as_bytes())?;
        writer.finish()?.flush()
    }
}

/// A blob's bytes before compression.
pub fn unpacked(blob: &[u8], media_type: &str) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    if media_type.ends_with("gzip") {
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut archive)?;
    } else if media_type.ends_with("zstd") {
        zstd::Decoder::new(blob)?.read_to_end(&mut archive)?;
    } else {
        archive.extend_from_slice(blob);
    }
    Ok(archive)
}

fn expect(answer: &http::Response, status: u16, what: &str) -> io::Result<()> {
    if answer.status == status {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&answer.body);
    Err(io::Error::other(format!("the registry answered {} to a {what}: {body}", answer.status)))
}
