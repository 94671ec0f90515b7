//! Archives of images, written byte by byte so that they can be wrong in any way.
#![allow(dead_code, missing_docs)] // each test file uses its part

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;

use berth_image::manifest::{Compression, Platform};
use berth_image::progress::Silent;
use berth_image::source::{LayerSink, Opened, Source};
use berth_image::{Digest, Error, Result};

/// A tar being written.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn file(mut self, name: &str, data: &[u8]) -> Tar {
        self.0.extend(header(name, b'0', "", data.len() as u64));
        self.data(data)
    }

    pub fn link(mut self, flag: u8, name: &str, target: &str) -> Tar {
        self.0.extend(header(name, flag, target, 0));
        self
    }

    /// An extended header (`x`, `L`, `K`) for the member that follows.
    pub fn extension(mut self, flag: u8, data: &[u8]) -> Tar {
        self.0.extend(header("extension", flag, "", data.len() as u64));
        self.data(data)
    }

    pub fn data(mut self, data: &[u8]) -> Tar {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub fn header(name: &str, flag: u8, target: &str, size: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[157..157 + target.len()].copy_from_slice(target.as_bytes());
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    if size < 1 << 33 {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    sum(&mut block);
    block
}

/// Writes the checksum.
pub fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length += 1;
    }
    format!("{length}{body}").into_bytes()
}

/// A layer with one file.
pub fn layer(text: &str) -> Vec<u8> {
    Tar::default().file(&format!("etc/{text}"), text.repeat(300).as_bytes()).end()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let architecture = Platform::host().architecture;
    format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["/bin/sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
    .into_bytes()
}

/// One entry of `manifest.json`.
pub fn entry(config: &str, tags: &[&str], layers: &[String]) -> String {
    serde_json::json!({"Config": config, "RepoTags": tags, "Layers": layers}).to_string()
}

pub fn manifest(entries: &[String]) -> Vec<u8> {
    format!("[{}]", entries.join(",")).into_bytes()
}

pub fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).hex().to_owned()
}

/// What `podman save` writes: layers, configuration, links, manifest.
pub fn podman_archive(layers: &[&[u8]], tags: &[&str]) -> Tar {
    let config = config(layers);
    let mut tar = Tar::default();
    for layer in layers {
        tar = tar.file(&format!("{}.tar", hex(layer)), layer);
    }
    let config_name = format!("{}.json", hex(&config));
    tar = tar.file(&config_name, &config);
    let names: Vec<String> = layers.iter().map(|layer| format!("{}.tar", hex(layer))).collect();
    tar = tar.link(b'2', "0123/layer.tar", &format!("../{}", names[0])).file("0123/VERSION", b"1.0");
    tar.file("manifest.json", &manifest(&[entry(&config_name, tags, &names)])).file("repositories", b"{}")
}

/// Keeps whole layers, as a store would keep their trees.
#[derive(Default)]
pub struct Sink(pub Mutex<BTreeMap<Digest, (Vec<u8>, Compression)>>);

impl LayerSink for Sink {
    fn layer(&self, blob: &mut dyn Read, size: u64, compression: Compression) -> Result<Digest> {
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|e| Error::io("read", "a layer", e))?;
        assert_eq!(bytes.len() as u64, size, "a layer ends where it was said to end");
        let digest = Digest::of(&bytes);
        self.0.lock().unwrap().insert(digest.clone(), (bytes, compression));
        Ok(digest)
    }
}

/// What a source gives when all of it is asked for: the image's digest, and each layer's bytes.
pub type Whole = (Digest, Vec<Vec<u8>>);

pub fn read_source(source: &dyn Source) -> Result<Whole> {
    let image = source.resolve(&Platform::host(), &Silent)?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        let mut bytes = Vec::new();
        source.open_layer(layer, &Silent)?.read_to_end(&mut bytes).unwrap();
        assert_eq!(Digest::of(&bytes), layer.descriptor.digest);
        layers.push(bytes);
    }
    Ok((image.digest, layers))
}

pub fn read_opened(opened: Opened) -> Result<Whole> {
    match opened {
        Opened::Source(source) => read_source(&*source),
        Opened::Stream(stream) => {
            let sink = Sink::default();
            let image = stream.import(&Platform::host(), &sink, &Silent)?.image;
            let kept = sink.0.into_inner().unwrap();
            Ok((image.digest, image.layers.iter().map(|layer| kept[&layer.descriptor.digest].0.clone()).collect()))
        }
    }
}

pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The error's whole text, or a panic that says what came instead.
pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("this must be refused").to_string()
}
