//! What is in the store, and how it goes.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;
use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::REGISTRY;

chapter!("store",
    [REGISTRY]:
        images_are_listed_as_a_table_and_as_json,
        an_image_is_inspected,
        a_removed_image_frees_its_layers,
        layers_of_other_images_survive_a_removal,
        a_dry_run_removes_nothing,
        a_sound_store_verifies,
        a_changed_byte_is_found_by_verify,
        a_missing_file_is_found_by_verify,
        a_removed_reference_is_pulled_again;
    [REGISTRY, Need::Root]:
        a_site_store_is_read_and_not_written;
);

fn pulled(fixture: &Fixture, name: &str) -> String {
    let registry = fixture.registry();
    let image = registry.reference(name);
    fixture.berth(&["pull", &image]).ok();
    image
}

/// A layer's tree of the image.
fn layer(fixture: &Fixture, image: &str) -> PathBuf {
    let inspected = fixture.inspect(image);
    PathBuf::from(inspected["Layers"][0]["Path"].as_str().expect("a path"))
}

fn images_are_listed_as_a_table_and_as_json() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "small");
    let digest = fixture.images().find("small").expect("the image").digest;
    let table = fixture.berth(&["images"]).ok();
    let head = table.lines().next().unwrap_or_default();
    for column in ["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE"] {
        assert!(head.contains(column), "{table}");
    }
    assert_eq!(table.lines().count(), 2, "{table}");
    assert_eq!(fixture.berth(&["images", "-q"]).ok().trim_end(), digest);
    let json: Value = serde_json::from_str(&fixture.berth(&["--json", "images"]).ok()).expect("JSON");
    assert_eq!(json[0]["digest"], digest.as_str());
    assert!(json[0]["size"].as_u64().expect("a size") > 1_000_000, "{json}");
    let name = json[0]["name"].as_str().expect("a name");
    assert!(image.ends_with(name.trim_start_matches("docker://").trim_end_matches(":latest")), "{name}");
}

fn an_image_is_inspected() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "medium");
    let inspected = fixture.inspect(&image);
    let images = fixture.images();
    assert_eq!(inspected["Digest"], images.find("medium").expect("the image").digest.as_str());
    assert_eq!(inspected["Layers"].as_array().expect("layers").len(), 5);
    assert_eq!(inspected["Config"]["WorkingDir"], "/opt/app");
    assert_eq!((&inspected["Os"], &inspected["Architecture"]), (&"linux".into(), &"amd64".into()));
    for layer in inspected["Layers"].as_array().expect("layers") {
        assert!(Path::new(layer["Path"].as_str().expect("a path")).is_dir(), "{layer}");
    }
}

fn a_removed_image_frees_its_layers() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "small");
    let tree = layer(&fixture, &image);
    fixture.berth(&["rmi", &image]).ok();
    fixture.berth(&["gc"]).ok();
    assert_eq!(fixture.image_names(), Vec::<String>::new());
    assert!(!tree.exists(), "{} is still there", tree.display());
    let layers = fs::read_dir(fixture.store().join("layers/sha256")).map_or(0, Iterator::count);
    assert_eq!(layers, 0, "layers left");
}

fn layers_of_other_images_survive_a_removal() {
    let fixture = Fixture::new();
    let small = pulled(&fixture, "small");
    let configured = pulled(&fixture, "configured");
    let shared = layer(&fixture, &small);
    assert_eq!(shared, layer(&fixture, &configured));
    fixture.berth(&["rmi", &small]).ok();
    fixture.berth(&["gc"]).ok();
    assert!(shared.is_dir());
    assert_eq!(fixture.berth(&["run", &configured, "echo", "still"]).ok(), "still\n");
}

fn a_dry_run_removes_nothing() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "small");
    let tree = layer(&fixture, &image);
    fixture.berth(&["gc", "--keep-size", "0", "--dry-run"]).ok();
    assert!(tree.is_dir());
    fixture.berth(&["inspect", &image]).ok();
}

fn a_sound_store_verifies() {
    let fixture = Fixture::new();
    pulled(&fixture, "odd");
    pulled(&fixture, "small");
    fixture.berth(&["verify"]).ok();
}

fn a_changed_byte_is_found_by_verify() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "debian");
    let victim = layer(&fixture, &image).join("usr/bin/bash");
    let mut content = fs::read(&victim).expect("bash in the layer");
    let time = fs::metadata(&victim).and_then(|meta| meta.modified()).expect("its time");
    content[1000] ^= 1;
    fs::write(&victim, content).expect("a changed byte");
    fs::File::open(&victim).and_then(|file| file.set_modified(time)).expect("its time as it was");
    let found = fixture.berth(&["verify"]);
    assert_eq!(found.code(), 1, "{}", found.report());
    assert!(found.report().contains("usr/bin/bash"), "{}", found.report());
}

fn a_missing_file_is_found_by_verify() {
    let fixture = Fixture::new();
    let image = pulled(&fixture, "debian");
    fs::remove_file(layer(&fixture, &image).join("usr/bin/tar")).expect("a file of the layer");
    let found = fixture.berth(&["verify", &image]);
    assert_eq!(found.code(), 1, "{}", found.report());
    assert!(found.report().contains("usr/bin/tar"), "{}", found.report());
}

fn a_removed_reference_is_pulled_again() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference("small");
    assert_eq!(fixture.berth(&["run", &image, "echo", "one"]).ok(), "one\n");
    fixture.berth(&["rmi", &image]).ok();
    let told = fixture.berth(&["run", "--pull", "never", &image, "echo", "two"]).fails(125);
    assert!(told.contains("hint: "), "{told}");
    assert_eq!(fixture.berth(&["run", &image, "echo", "two"]).ok(), "two\n");
}

fn a_site_store_is_read_and_not_written() {
    // The site's administrator pulls; a user finds the image there, though it is not in a store of the user's own.
    let site = Fixture::as_oneself();
    let registry = site.registry();
    let image = registry.reference("small");
    let store = site.path("site-store");
    site.berth(&["--store", &store.display().to_string(), "pull", &image]).ok();
    // A store is private until it is opened.
    fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("an open store");
    let before = site.tree(&store);
    let mut user = Fixture::new();
    let config = user.write("config.toml", format!("stores = [\"{}\"]\n", store.display()));
    user.env.push(("BERTH_CONFIG".to_owned(), config.display().to_string()));
    let fetched = registry.blob_fetches();
    assert_eq!(user.berth(&["run", "--pull", "missing", &image, "echo", "shared"]).ok(), "shared\n");
    assert_eq!(fetched, registry.blob_fetches(), "nothing was fetched again");
    let all = testbed::tree::Compare { owners: true, times: true, xattrs_except: &[], except: &[] };
    assert_eq!(before.differences(&site.tree(&store), all), Vec::<String>::new());
}
