//! Images from elsewhere than a registry.

use std::fs;
use std::time::Duration;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::harness::SKOPEO;
use testbed::process;
use testbed::recipes::Recipe;

use crate::peers::Podman;

chapter!("sources",
    [Need::Namespaces]:
        an_oci_layout_is_used,
        an_oci_archive_is_used,
        a_docker_archive_is_used,
        a_docker_archive_is_read_from_standard_input,
        a_folder_is_used_as_it_is,
        a_tag_that_is_not_in_the_layout_is_told,
        an_archive_that_is_none_is_told;
    [Need::Namespaces, SKOPEO]:
        what_skopeo_writes_is_read;
    [Need::Namespaces, PODMAN]:
        podmans_own_storage_is_read;
    [REGISTRY, Need::Namespaces]:
        the_same_layers_from_two_sources_are_kept_once;
);

#[track_caller]
fn runs(fixture: &Fixture, image: &str) {
    let told = fixture.berth(&["run", image, "sh", "-c", "busybox | head -1 | cut -c1-7; ls -d /bin/wc"]).ok();
    assert_eq!(told, "BusyBox\n/bin/wc\n", "{image}");
}

fn an_oci_layout_is_used() {
    let fixture = Fixture::new();
    let layout = fixture.layout_of(Recipe::Small);
    runs(&fixture, &format!("oci:{}:small", layout.dir().display()));
    // The only one there is needs no tag.
    runs(&fixture, &format!("oci:{}", layout.dir().display()));
}

fn an_oci_archive_is_used() {
    let fixture = Fixture::new();
    let archive = fixture.path("image.tar");
    fixture.layout_of(Recipe::Small).oci_archive(&archive).expect("an archive");
    runs(&fixture, &format!("oci-archive:{}:small", archive.display()));
    runs(&fixture, &format!("oci-archive:{}", archive.display()));
}

fn a_docker_archive_is_used() {
    let fixture = Fixture::new();
    let archive = fixture.path("image.tar");
    fixture.layout_of(Recipe::Small).docker_archive("small", "example.org/small:1", &archive).expect("an archive");
    runs(&fixture, &format!("docker-archive:{}", archive.display()));
    runs(&fixture, &format!("docker-archive:{}:example.org/small:1", archive.display()));
}

fn a_docker_archive_is_read_from_standard_input() {
    let fixture = Fixture::new();
    let archive = fixture.path("image.tar");
    fixture.layout_of(Recipe::Small).docker_archive("small", "example.org/small:1", &archive).expect("an archive");
    let content = fs::read(archive).expect("the archive");
    let digest = fixture.berth_with(&["pull", "docker-archive:-"], &content, Duration::from_secs(60)).ok();
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(fixture.image_names().len(), 1);
}

fn a_folder_is_used_as_it_is() {
    let fixture = Fixture::new();
    let layout = fixture.layout_of(Recipe::Small);
    let image = format!("oci:{}:small", layout.dir().display());
    fixture.berth(&["pull", &image]).ok();
    let inspected = fixture.inspect(&image);
    let tree = inspected["Layers"][0]["Path"].as_str().expect("a path");
    let root = fixture.make_dir("root", 0o755);
    for name in ["bin", "etc"] {
        fixture.make_dir(&format!("root/{name}"), 0o755);
    }
    fs::copy(format!("{tree}/bin/busybox"), root.join("bin/busybox")).expect("a copy");
    fixture.user.own(&root.join("bin/busybox")).expect("its owner");
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).expect("a link");
    fixture.write("root/etc/mark", "of the folder");
    let source = format!("dir:{}", root.display());
    let script = "/bin/busybox cat /etc/mark; echo x > /new && /bin/busybox test -e /new";
    assert_eq!(fixture.berth(&["run", &source, "/bin/sh", "-c", script]).ok(), "of the folder");
    assert!(!root.join("new").exists(), "the folder is not written to");
    let names: Vec<_> =
        fs::read_dir(&root).expect("the folder").map(|entry| entry.expect("a name").file_name()).collect();
    assert_eq!(names.len(), 2, "no mount point was made in it: {names:?}");
}

fn a_tag_that_is_not_in_the_layout_is_told() {
    let fixture = Fixture::new();
    let layout = fixture.layout_of(Recipe::Small);
    let told = fixture.berth(&["pull", &format!("oci:{}:nope", layout.dir().display())]).fails(125);
    assert!(told.contains("nope"), "{told}");
    let told = fixture.berth(&["pull", "oci:/no/such/folder"]).fails(125);
    assert!(told.contains("/no/such/folder"), "{told}");
}

fn an_archive_that_is_none_is_told() {
    let fixture = Fixture::new();
    let file = fixture.write("no-archive", "this is no tar archive at all");
    for kind in ["oci-archive", "docker-archive"] {
        let told = fixture.berth(&["pull", &format!("{kind}:{}", file.display())]).fails(125);
        assert!(told.contains("no-archive"), "{told}");
    }
    assert_eq!(fixture.image_names(), Vec::<String>::new());
}

fn what_skopeo_writes_is_read() {
    let fixture = Fixture::new();
    let layout = fixture.layout_of(Recipe::Small);
    let from = format!("oci:{}:small", layout.dir().display());
    for (to, name) in [("docker-archive", "example.org/x:1"), ("oci-archive", "x"), ("oci", "x")] {
        let target = format!("{to}:{}:{name}", fixture.path("work").join(format!("skopeo-{to}")).display());
        process::run(&mut fixture.command("skopeo", &["--insecure-policy", "copy", "-q", &from, &target])).ok();
        runs(&fixture, &target);
    }
}

fn podmans_own_storage_is_read() {
    let fixture = Fixture::new();
    let podman = Podman::new(&fixture);
    let id = podman.pull(Recipe::Small);
    podman.run(&["tag", &id, "localhost/from-podman:1"]).ok();
    // Both find podman's storage by podman's own settings, as people have them.
    fixture.make_dir("home/.config", 0o755);
    fixture.make_dir("home/.config/containers", 0o755);
    let settings = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        fixture.path("work/podman").display(),
        fixture.path("run/podman").display()
    );
    fixture.write("home/.config/containers/storage.conf", settings);
    runs(&fixture, "podman://localhost/from-podman:1");
    runs(&fixture, "containers-storage:localhost/from-podman:1");
}

fn the_same_layers_from_two_sources_are_kept_once() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let layout = fixture.layout_of(Recipe::Debian);
    fixture.berth(&["pull", &format!("oci:{}:debian", layout.dir().display())]).ok();
    fixture.berth(&["pull", &registry.reference("debian")]).ok();
    let images = fixture.images();
    let layer = images.parts(&images.find("debian").expect("the image")).expect("its parts")[1].digest.clone();
    assert_eq!(registry.blob_fetches().get(&layer), None, "the layer was in the store already");
}
