//! An OCI image layout with one image, made of bytes: a tar of busybox and some files, a configuration, a manifest.

use std::path::Path;

use berth_image::Digest;
use serde_json::{Value, json};

/// Writes the layout to `directory`; `config` is the image's execution configuration.
pub fn write(directory: &Path, tag: &str, config: &Value) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let layer = tar(&files());
    let layer_descriptor = put(&layer, "application/vnd.oci.image.layer.v1.tar");
    let image = json!({
        "created": "2024-05-01T12:00:00Z",
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
    });
    let config_descriptor = put(image.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor,
        "layers": [layer_descriptor],
    });
    let mut descriptor = put(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Name, mode, type and content or target of each entry.
fn files() -> Vec<(String, u32, u8, Vec<u8>)> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("these tests need a static busybox: install the package busybox-static");
    let mut files = vec![
        ("bin/".to_owned(), 0o755, b'5', Vec::new()),
        ("bin/busybox".to_owned(), 0o755, b'0', std::fs::read(busybox).unwrap()),
        ("etc/".to_owned(), 0o755, b'5', Vec::new()),
        ("etc/passwd".to_owned(), 0o644, b'0', b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n".to_vec()),
        ("etc/group".to_owned(), 0o644, b'0', b"root:x:0:\nweb:x:34:\n".to_vec()),
    ];
    for command in ["cat", "echo", "env", "id", "pwd", "sh", "true"] {
        files.push((format!("bin/{command}"), 0o777, b'2', b"busybox".to_vec()));
    }
    files
}

/// A tar archive in the ustar format.
fn tar(files: &[(String, u32, u8, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, kind, content) in files {
        let is_link = *kind == b'2';
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let size = if is_link { 0 } else { content.len() };
        for (at, text) in [
            (100, format!("{mode:07o}\0")),
            (108, "0000000\0".to_owned()),
            (116, "0000000\0".to_owned()),
            (124, format!("{size:011o}\0")),
            (136, "00000000000\0".to_owned()),
            (148, "        ".to_owned()),
            (156, char::from(*kind).to_string()),
            (257, "ustar\x0000".to_owned()),
        ] {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        if is_link {
            header[157..157 + content.len()].copy_from_slice(content);
        }
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        if !is_link {
            archive.extend_from_slice(content);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}
