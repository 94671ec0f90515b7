//! From an index or manifest to the image for a platform, without a registry.

use std::collections::HashMap;

use berth_image::manifest::{
    Compression, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Platform, ResolvedImage, resolve,
};
use berth_image::{Digest, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Documents by digest.
#[derive(Default)]
struct Documents(HashMap<String, Vec<u8>>);

impl Documents {
    fn add(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let digest = Digest::of(&bytes).to_string();
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }

    /// A manifest of layers with these media types, for a platform; gives the document.
    fn image(&mut self, platform: &str, layers: &[&str]) -> Value {
        let platform = Platform::parse(platform).unwrap();
        let ids: Vec<_> = layers.iter().map(|l| Digest::of(l.as_bytes()).to_string()).collect();
        let config = json!({"os": platform.os, "architecture": platform.architecture, "variant": platform.variant,
            "config": null_config(), "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = self.add("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<_> =
            layers.iter().zip(&ids).map(|(t, d)| json!({"mediaType": t, "digest": d, "size": 1})).collect();
        json!({"schemaVersion": 2, "config": config, "layers": layers})
    }

    fn index(&mut self, platforms: &[&str]) -> Value {
        let entries: Vec<Value> = platforms
            .iter()
            .map(|platform| {
                let image = self.image(platform, &[TAR]);
                let mut entry = self.add(OCI_MANIFEST, &image);
                entry["platform"] = serde_json::to_value(Platform::parse(platform).unwrap()).unwrap();
                entry
            })
            .collect();
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    }

    fn resolve(&self, top: &Value, media_type: &str, platform: &str) -> Result<ResolvedImage, Error> {
        let mut reader =
            |d: &berth_image::manifest::Descriptor| Ok(self.0.get(&d.digest.to_string()).cloned().unwrap_or_default());
        let top = serde_json::to_vec(top).unwrap();
        resolve(&mut reader, top, media_type, &Platform::parse(platform).unwrap(), "the image")
    }
}

fn null_config() -> Value {
    json!({"Env": null, "Cmd": null})
}

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn manifests_of_both_families_are_read_with_every_packing() {
    let mut documents = Documents::default();
    let image = documents.image(
        "linux/amd64",
        &[
            TAR,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ],
    );
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST, "", "application/json; charset=utf-8"] {
        let resolved = documents.resolve(&image, media_type, "linux/amd64").unwrap();
        let packed: Vec<_> = resolved.layers.iter().map(|l| l.compression).collect();
        assert_eq!(packed, [Compression::None, Compression::Zstd, Compression::Gzip, Compression::Gzip]);
        assert_eq!(resolved.digest, Digest::of(&serde_json::to_vec(&image).unwrap()));
    }
}

#[test]
fn the_entry_of_an_index_is_the_best_that_the_machine_can_run() {
    let offers = [
        "linux/arm64/v9",
        "linux/amd64/v3",
        "linux/amd64",
        "linux/arm64",
        "linux/arm/v6",
        "linux/arm/v7",
        "windows/amd64",
    ];
    for (wanted, got) in [
        ("linux/amd64", Some("linux/amd64")),
        ("linux/amd64/v3", Some("linux/amd64/v3")),
        ("linux/amd64/v4", Some("linux/amd64/v3")),
        ("linux/amd64/v2", Some("linux/amd64")),
        ("linux/x86_64", Some("linux/amd64")),
        ("linux/aarch64", Some("linux/arm64")),
        ("linux/arm64/v8", Some("linux/arm64")),
        ("linux/arm64/v9", Some("linux/arm64/v9")),
        ("linux/arm/v6", Some("linux/arm/v6")),
        ("linux/arm", Some("linux/arm/v7")),
        ("linux/arm/v5", None),
        ("linux/ppc64le", None),
    ] {
        let mut documents = Documents::default();
        let index = documents.index(&offers);
        let resolved = documents.resolve(&index, OCI_INDEX, wanted);
        let resolved = resolved.map(|i| {
            let c = i.config;
            Platform { os: c.os, architecture: c.architecture, variant: c.variant }.to_string()
        });
        match got {
            Some(got) => assert_eq!(resolved.unwrap(), got, "{wanted}"),
            None => assert!(matches!(resolved, Err(Error::NotFound { .. })), "{wanted}: {resolved:?}"),
        }
    }
}

#[test]
fn a_platform_that_is_not_offered_is_answered_with_those_that_are() {
    let mut documents = Documents::default();
    let mut index = documents.index(&["linux/arm64", "linux/s390x"]);
    let mut attestation = documents.add(OCI_MANIFEST, &json!({"schemaVersion": 2}));
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    index["manifests"].as_array_mut().unwrap().push(attestation);
    let error = documents.resolve(&index, DOCKER_LIST, "linux/amd64").unwrap_err().to_string();
    assert!(error.contains("not for linux/amd64; the image is offered for: linux/arm64, linux/s390x"), "{error}");
    assert!(!error.contains("unknown"), "{error}");
    // The same for an image without an index.
    let image = documents.image("linux/arm64", &[TAR]);
    let error = documents.resolve(&image, OCI_MANIFEST, "linux/amd64").unwrap_err().to_string();
    assert!(error.contains("linux/arm64 only"), "{error}");
}

#[test]
fn an_attestation_before_the_image_is_passed_over() {
    let mut documents = Documents::default();
    let mut index = documents.index(&["linux/amd64"]);
    let mut attestation = documents.add(OCI_MANIFEST, &json!({"schemaVersion": 2, "note": "not an image"}));
    attestation["platform"] = json!({"os": "linux", "architecture": "amd64"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    index["manifests"].as_array_mut().unwrap().insert(0, attestation);
    assert!(documents.resolve(&index, OCI_INDEX, "linux/amd64").is_ok());
}

#[test]
fn indexes_nest_four_deep_and_no_deeper() {
    for (depth, fits) in [(4, true), (5, false)] {
        let mut documents = Documents::default();
        let mut top = documents.image("linux/amd64", &[TAR]);
        let mut media_type = OCI_MANIFEST;
        for _ in 0..depth {
            let entry = documents.add(media_type, &top);
            top = json!({"schemaVersion": 2, "manifests": [entry]});
            media_type = OCI_INDEX;
        }
        let resolved = documents.resolve(&top, OCI_INDEX, "linux/amd64");
        assert_eq!(resolved.is_ok(), fits, "{depth}: {:?}", resolved.err());
    }
}

#[test]
fn an_index_that_claims_to_contain_itself_is_refused() {
    // The digest is one that its own bytes cannot have: the source lies about it, and is found out by the check.
    let digest = Digest::of(b"anything").to_string();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_INDEX, "digest": digest, "size": 0}]});
    let bytes = serde_json::to_vec(&index).unwrap();
    let mut sized = index.clone();
    sized["manifests"][0]["size"] = json!(bytes.len());
    let mut documents = Documents::default();
    documents.0.insert(digest, bytes);
    let error = documents.resolve(&sized, OCI_INDEX, "linux/amd64").unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let mut documents = Documents::default();
    let image = |documents: &mut Documents, layer: &str| documents.image("linux/amd64", &[layer]);
    let foreign = image(&mut documents, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let odd = image(&mut documents, "application/x-\u{1b}odd");
    let encrypted = image(&mut documents, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    let mut artifact = image(&mut documents, TAR);
    artifact["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let mut both = image(&mut documents, TAR);
    both["manifests"] = json!([]);
    let good = image(&mut documents, TAR);
    let mut uneven = good.clone();
    uneven["layers"].as_array_mut().unwrap().clear();
    for (document, media_type, words) in [
        (foreign, OCI_MANIFEST, "layer 1: it is a foreign layer"),
        (odd, OCI_MANIFEST, "`application/x-\\u{1b}odd`"),
        (encrypted, OCI_MANIFEST, "encrypted"),
        (artifact, OCI_MANIFEST, "artifact"),
        (both, "", "ambiguous"),
        (uneven, OCI_MANIFEST, "0 layers, but the configuration names 1"),
        (good.clone(), OCI_INDEX, "not what its media type"),
        (good, "text/html", "`text/html` is not that of an image"),
        (json!({"schemaVersion": 1, "fsLayers": [], "history": []}), "", "schema 1"),
        (json!({"schemaVersion": 2}), "", "manifest is not valid"),
        (json!([]), "", "not valid"),
        (json!({}), "", "no schemaVersion"),
    ] {
        let error = documents.resolve(&document, media_type, "linux/amd64").unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn bounds_hold() {
    let mut documents = Documents::default();
    let many = vec![TAR; 500];
    let image = documents.image("linux/amd64", &many);
    assert!(matches!(documents.resolve(&image, "", "linux/amd64"), Err(Error::TooLarge { .. })));
    let fits = documents.image("linux/amd64", &many[..499]);
    assert_eq!(documents.resolve(&fits, "", "linux/amd64").unwrap().layers.len(), 499);
    let mut huge = documents.image("linux/amd64", &[TAR]);
    huge["config"]["size"] = json!((4u64 << 20) + 1);
    assert!(matches!(documents.resolve(&huge, "", "linux/amd64"), Err(Error::TooLarge { .. })));
    let mut wrong = documents.image("linux/amd64", &[TAR]);
    wrong["config"]["size"] = json!(3);
    assert!(matches!(documents.resolve(&wrong, "", "linux/amd64"), Err(Error::SizeMismatch { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_document_makes_it_panic(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let platform = Platform::parse("linux/amd64").unwrap();
        for document in [text.into_bytes(), bytes] {
            let mut reader = |_: &berth_image::manifest::Descriptor| Ok(Vec::new());
            prop_assert!(resolve(&mut reader, document, "", &platform, "it").is_err());
        }
    }
}
