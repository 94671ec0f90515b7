//! An image in one file has, name by name, what other tools make of the image.

use std::path::Path;
use std::process::Command;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::harness::UMOCI;
use testbed::odd::DEVICES;
use testbed::process;
use testbed::recipes::Recipe;
use testbed::tree::Compare;
use testbed::tree::Tree;

use crate::peers;
use crate::peers::Podman;

chapter!("onefile",
    [REGISTRY, UMOCI, Need::Root]:
        a_small_image_in_a_file_is_what_umoci_unpacks,
        a_five_layer_image_in_a_file_is_what_umoci_unpacks,
        a_distroless_image_in_a_file_is_what_umoci_unpacks,
        an_odd_image_in_a_file_is_what_umoci_unpacks,
        an_erofs_file_is_what_umoci_unpacks;
    [REGISTRY, PODMAN, Need::Root]:
        owners_and_attributes_in_a_file_are_those_that_podman_has;
    [REGISTRY]:
        two_pulls_into_files_give_the_same_bytes,
        a_pull_that_breaks_off_leaves_no_file;
);

/// What berth adds for enroot and for itself.
const ADDED: [&str; 5] = ["etc/berth", "etc/environment", "etc/fstab", "etc/rc", "etc/rc.local"];

/// umoci cannot set these as an ordinary user, and says so.
const UMOCI_LACKS: [&str; 2] = ["xattrs/read-only", "xattrs/capable"];

/// An image pulled into a file, as the kernel mounts it.
fn mounted(fixture: &Fixture, recipe: Recipe, name: &str) -> Tree {
    let registry = fixture.registry();
    let image = registry.reference(recipe.name());
    let file = fixture.path("work").join(name);
    fixture.berth(&["pull", "--output", file.to_str().expect("text"), &image]).ok();
    // In the mount namespace of the tests, gone with it at the latest.
    let place = fixture.make_dir("mounted", 0o755);
    let kind = if name.ends_with(".erofs") { "erofs" } else { "squashfs" };
    process::run(Command::new("mount").args(["-t", kind, "-o", "loop,ro"]).arg(&file).arg(&place)).ok();
    let tree = Tree::of(&place).expect("the tree of the mounted file");
    process::run(Command::new("umount").arg(&place)).ok();
    tree
}

fn assert_same(ours: &Tree, theirs: &Tree, compare: Compare<'_>) {
    assert!(theirs.0.len() > 1, "a peer's tree that is empty proves nothing");
    let differences = ours.differences(theirs, compare);
    assert!(differences.is_empty(), "the file's tree (first) differs:\n{}", differences.join("\n"));
}

fn like_umoci(recipe: Recipe, name: &str, except: &[&str]) {
    let fixture = Fixture::new();
    let ours = mounted(&fixture, recipe, name);
    let theirs = fixture.tree(&peers::umoci_rootfs(&fixture, recipe));
    // An image without `/etc` has one now.
    let etc = if theirs.0.contains_key("etc") { &[][..] } else { &["etc"][..] };
    let except = [&["."], &ADDED[..], etc, except].concat();
    let xattrs_except = &["user.rootlesscontainers", "security."];
    assert_same(&ours, &theirs, Compare { owners: false, times: true, xattrs_except, except: &except });
}

fn a_small_image_in_a_file_is_what_umoci_unpacks() {
    like_umoci(Recipe::Small, "image.sqsh", &[]);
}

fn a_five_layer_image_in_a_file_is_what_umoci_unpacks() {
    like_umoci(Recipe::Medium, "image.sqsh", &[]);
}

fn a_distroless_image_in_a_file_is_what_umoci_unpacks() {
    like_umoci(Recipe::Distroless, "image.sqsh", &[]);
}

fn an_odd_image_in_a_file_is_what_umoci_unpacks() {
    like_umoci(Recipe::Odd, "image.sqsh", &[&UMOCI_LACKS[..], &DEVICES[..]].concat());
}

fn an_erofs_file_is_what_umoci_unpacks() {
    like_umoci(Recipe::Odd, "image.erofs", &[&UMOCI_LACKS[..], &DEVICES[..]].concat());
}

fn owners_and_attributes_in_a_file_are_those_that_podman_has() {
    let fixture = Fixture::new();
    let ours = mounted(&fixture, Recipe::Odd, "image.sqsh");
    let podman = Podman::new(&fixture);
    let theirs = podman.tree(&podman.pull(Recipe::Odd));
    // podman leaves devices out, and takes a whiteout that is followed by a new folder of that name for nothing.
    let except = [&[".", "etc", "below/again/old"], &ADDED[..], &DEVICES[..]].concat();
    assert_same(&ours, &theirs, Compare { owners: true, times: true, xattrs_except: &["security."], except: &except });
}

fn two_pulls_into_files_give_the_same_bytes() {
    let fixture = Fixture::new();
    let registry = fixture.registry();
    let image = registry.reference(Recipe::Medium.name());
    let files = ["one.sqsh", "two.sqsh"].map(|name| fixture.path("work").join(name));
    for file in &files {
        fixture.berth(&["pull", "--output", file.to_str().expect("text"), &image]).ok();
    }
    let bytes = |file: &Path| std::fs::read(file).expect("the file");
    assert!(bytes(&files[0]) == bytes(&files[1]), "the files differ");
}

fn a_pull_that_breaks_off_leaves_no_file() {
    let fixture = Fixture::new();
    let registry = fixture.own_registry();
    let image = registry.reference("no-such-image");
    let file = fixture.path("work").join("image.sqsh");
    fixture.berth(&["pull", "--output", file.to_str().expect("text"), &image]).fails(125);
    let left: Vec<_> = std::fs::read_dir(fixture.path("work")).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
