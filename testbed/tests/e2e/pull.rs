//! From a registry into the store: what is fetched, how often, and with which credentials.

use std::fs;

use testbed::chapter;
use testbed::fault::base64;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;
use testbed::image::INDEX;
use testbed::process;
use testbed::registry::Options;

chapter!("pull",
    [REGISTRY]:
        the_manifest_digest_is_printed,
        sixteen_processes_fetch_each_layer_once,
        a_second_image_fetches_only_what_differs,
        a_second_pull_fetches_no_layer,
        an_image_is_found_by_its_digest,
        the_platform_is_chosen_from_an_index,
        a_plain_http_registry_on_loopback_needs_no_option,
        an_unknown_tag_is_told_and_nothing_kept;
    [REGISTRY, Need::Program("openssl", "openssl")]:
        a_certificate_of_a_known_authority_is_trusted,
        a_certificate_of_an_unknown_authority_is_refused,
        an_insecure_registry_is_used_on_request;
    [REGISTRY, Need::Program("htpasswd", "apache2-utils")]:
        a_login_is_taken_from_the_option,
        a_login_is_taken_from_an_auth_file,
        a_wrong_password_is_told_without_repeating_it;
);

fn the_manifest_digest_is_printed() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let images = fixture.images();
    for name in ["small", "debian"] {
        let printed = fixture.berth(&["pull", &registry.reference(name)]).ok();
        assert_eq!(printed.trim_end(), images.find(name).expect("the image").digest);
    }
}

fn sixteen_processes_fetch_each_layer_once() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("medium");
    let pulls: Vec<_> = (0..16)
        .map(|_| {
            let mut command = fixture.berth_command(&["pull", &image]);
            std::thread::spawn(move || process::run(&mut command))
        })
        .collect();
    let digests: Vec<String> = pulls.into_iter().map(|pull| pull.join().expect("a pull that ends").ok()).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    let images = fixture.images();
    let parts = images.parts(&images.find("medium").expect("the image")).expect("its parts");
    let fetches = registry.blob_fetches();
    for layer in &parts[1..] {
        assert_eq!(fetches.get(&layer.digest), Some(&1), "fetches of the layer {}", layer.digest);
    }
    fixture.berth(&["verify"]).ok();
}

fn a_second_image_fetches_only_what_differs() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    fixture.berth(&["pull", &registry.reference("debian")]).ok();
    let before = registry.blob_fetches();
    fixture.berth(&["pull", &registry.reference("medium")]).ok();
    let after = registry.blob_fetches();
    let images = fixture.images();
    let shared = images.parts(&images.find("debian").expect("the image")).expect("its parts")[1].digest.clone();
    assert_eq!((before.get(&shared), after.get(&shared)), (Some(&1), Some(&1)), "the layer that both images have");
    // Four more layers and a configuration.
    assert_eq!(after.len() - before.len(), 5, "{after:?}");
}

fn a_second_pull_fetches_no_layer() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let first = fixture.berth(&["pull", &registry.reference("small")]).ok();
    let second = fixture.berth(&["pull", &registry.reference("small")]).ok();
    assert_eq!(first, second);
    let images = fixture.images();
    let layer = images.parts(&images.find("small").expect("the image")).expect("its parts")[1].digest.clone();
    assert_eq!(registry.blob_fetches().get(&layer), Some(&1));
}

fn an_image_is_found_by_its_digest() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let digest = fixture.images().find("small").expect("the image").digest;
    let image = registry.reference(&format!("small@{digest}"));
    assert_eq!(fixture.berth(&["pull", &image]).ok().trim_end(), digest);
    let wrong = registry.reference(&format!("small@sha256:{}", "0".repeat(64)));
    let told = fixture.berth(&["pull", &wrong]).fails(125);
    assert!(told.contains("small"), "{told}");
}

fn the_platform_is_chosen_from_an_index() {
    let fixture = Fixture::new();
    let registry = fixture.own_registry();
    let layout = fixture.layout("index");
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let layer = layout
            .layer(testbed::image::Compression::Gzip(6), |tar| {
                tar.file(&testbed::tar::Header::file("architecture", 0o644), architecture.as_bytes())?;
                Ok(())
            })
            .expect("a layer");
        let config =
            layout.config(std::slice::from_ref(&layer), &serde_json::json!({}), architecture).expect("a config");
        let manifest = layout.manifest(&config, std::slice::from_ref(&layer)).expect("a manifest");
        layout.tag(architecture, &manifest).expect("a tag");
        layout.push(architecture, registry.address(), "both").expect("a push");
        let mut entry = serde_json::to_value(&manifest).expect("JSON");
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let index = layout.add(INDEX, index.to_string().as_bytes()).expect("an index");
    layout.push_manifest(registry.address(), "both", "latest", &index).expect("a push");
    let image = registry.reference("both:latest");
    fixture.berth(&["pull", &image]).ok();
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(fixture.inspect(&image)["Architecture"], host);
    let other = if host == "amd64" { "arm64" } else { "amd64" };
    fixture.berth(&["pull", "--platform", &format!("linux/{other}"), &image]).ok();
    let told = fixture.berth(&["pull", "--platform", "linux/riscv64", &image]).fails(125);
    assert!(told.contains("riscv64"), "{told}");
}

fn a_plain_http_registry_on_loopback_needs_no_option() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = format!("localhost:{}/small", registry.address().port());
    fixture.berth(&["pull", &image]).ok();
}

fn an_unknown_tag_is_told_and_nothing_kept() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let told = fixture.berth(&["pull", &registry.reference("small:nope")]).fails(125);
    assert!(told.starts_with("berth: ") && told.contains("nope"), "{told}");
    assert_eq!(fixture.image_names(), Vec::<String>::new());
    assert_eq!(fixture.unfinished(), Vec::<std::path::PathBuf>::new());
}

fn tls() -> Options {
    Options { tls: true, ..Options::default() }
}

fn a_certificate_of_a_known_authority_is_trusted() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&tls());
    let dir = fixture.make_dir("certs", 0o755);
    fs::copy(registry.authority(), dir.join("ca.crt")).expect("a copy of the authority");
    fixture.berth(&["pull", "--cert-dir", &dir.display().to_string(), &registry.reference("small")]).ok();
}

fn a_certificate_of_an_unknown_authority_is_refused() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&tls());
    // On loopback any certificate will do, unless somebody says which authority to trust: here that of another registry.
    let other = fixture.registry_with(&tls());
    let dir = fixture.make_dir("certs", 0o755);
    fs::copy(other.authority(), dir.join("ca.crt")).expect("a copy of the authority");
    let line = ["pull", "--cert-dir", &dir.display().to_string(), &registry.reference("small")];
    let told = fixture.berth(&line).fails(125);
    assert!(told.to_lowercase().contains("certificate"), "{told}");
    assert!(told.contains("hint: "), "{told}");
}

fn an_insecure_registry_is_used_on_request() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&tls());
    fixture.berth(&["pull", "--insecure", &registry.reference("small")]).ok();
}

fn login() -> Options {
    Options { login: Some(("alice".to_owned(), "open-sesame-17".to_owned())), ..Options::default() }
}

fn a_login_is_taken_from_the_option() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&login());
    let image = registry.reference("small");
    let told = fixture.berth(&["pull", &image]).fails(125);
    assert!(told.contains("hint: "), "{told}");
    fixture.berth(&["pull", "--creds", "alice:open-sesame-17", &image]).ok();
}

fn a_login_is_taken_from_an_auth_file() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&login());
    let image = registry.reference("small");
    let auths =
        format!(r#"{{"auths": {{"{}": {{"auth": "{}"}}}}}}"#, registry.address(), base64(b"alice:open-sesame-17"));
    let file = fixture.write("auth.json", &auths);
    fixture.berth(&["pull", "--authfile", &file.display().to_string(), &image]).ok();
    // And from where podman and docker keep it, for another user of the same registry.
    for place in ["run/containers/auth.json", "home/.docker/config.json"] {
        let other = Fixture::new();
        other.make_dir(place.rsplit_once('/').expect("a folder").0, 0o700);
        other.write(place, &auths);
        other.berth(&["pull", &image]).ok();
    }
}

fn a_wrong_password_is_told_without_repeating_it() {
    let fixture = Fixture::new();
    let registry = fixture.registry_with(&login());
    let told = fixture.berth(&["-v", "pull", "--creds", "alice:wrong-99", &registry.reference("small")]).fails(125);
    assert!(!told.contains("wrong-99"), "a password in a message: {told}");
    assert!(told.contains(&registry.address().to_string()), "{told}");
}
