//! An imported image is, name by name, what other tools make of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::PODMAN;
use testbed::harness::REGISTRY;
use testbed::harness::UMOCI;
use testbed::odd::DEVICES;
use testbed::recipes::Recipe;
use testbed::tree::Compare;
use testbed::tree::Tree;

use crate::peers;
use crate::peers::Podman;

chapter!("trees",
    [REGISTRY, UMOCI]:
        a_small_image_is_what_umoci_unpacks,
        a_five_layer_image_is_what_umoci_unpacks,
        an_odd_image_is_what_umoci_unpacks,
        a_distroless_image_is_what_umoci_unpacks;
    [UMOCI]:
        a_bundle_has_the_tree_that_umoci_unpacks,
        each_planted_difference_is_found;
    [REGISTRY, PODMAN]:
        an_odd_image_is_what_podman_mounts,
        a_five_layer_image_is_what_podman_mounts,
        owners_that_a_user_cannot_give_are_recorded;
    [REGISTRY]:
        every_compression_gives_the_same_tree;
);

/// The top folder's own mode and times are each tool's taste where no entry of the image says them.
const TOP: &str = ".";

/// umoci cannot set these as an ordinary user, and says so: what podman makes of them is compared elsewhere.
const UMOCI_LACKS: [&str; 2] = ["xattrs/read-only", "xattrs/capable"];

fn umoci_compare<'a>(except: &'a [&'a str]) -> Compare<'a> {
    // umoci notes owners that it could not give in an attribute of its own.
    Compare { owners: false, times: true, xattrs_except: &["user.rootlesscontainers", "security."], except }
}

fn assert_same(ours: &Tree, theirs: &Tree, compare: Compare<'_>) {
    assert!(theirs.0.len() > 1, "a peer's tree that is empty proves nothing");
    let differences = ours.differences(theirs, compare);
    assert!(differences.is_empty(), "berth's tree (first) differs:\n{}", differences.join("\n"));
}

fn pulled(fixture: &Fixture, recipe: Recipe) -> Tree {
    let registry = fixture.registry();
    let image = registry.reference(recipe.name());
    fixture.berth(&["pull", &image]).ok();
    fixture.merged_tree(&image)
}

fn like_umoci(recipe: Recipe, except: &[&str]) {
    let fixture = Fixture::new();
    let ours = pulled(&fixture, recipe);
    let theirs = fixture.tree(&peers::umoci_rootfs(&fixture, recipe));
    assert_same(&ours, &theirs, umoci_compare(except));
}

fn a_small_image_is_what_umoci_unpacks() {
    like_umoci(Recipe::Small, &[TOP]);
}

fn a_five_layer_image_is_what_umoci_unpacks() {
    like_umoci(Recipe::Medium, &[TOP]);
}

fn a_distroless_image_is_what_umoci_unpacks() {
    like_umoci(Recipe::Distroless, &[TOP]);
}

fn an_odd_image_is_what_umoci_unpacks() {
    // Both put empty files in the place of devices, umoci with modes that its umask cut.
    like_umoci(Recipe::Odd, &[&[TOP], &UMOCI_LACKS[..], &DEVICES[..]].concat());
}

/// A copy of all layers, beside the kernel's view of them that the others compare.
fn a_bundle_has_the_tree_that_umoci_unpacks() {
    let fixture = Fixture::new();
    let image = format!("oci:{}:{}", fixture.layout_of(Recipe::Odd).dir().display(), Recipe::Odd.name());
    let bundle = fixture.path("work").join("bundle");
    fixture.berth(&["bundle", "--quiet", &image, &bundle.display().to_string()]).ok();
    let theirs = fixture.tree(&peers::umoci_rootfs(&fixture, Recipe::Odd));
    let except = [&[TOP], &UMOCI_LACKS[..], &DEVICES[..]].concat();
    assert_same(&fixture.tree(&bundle.join("rootfs")), &theirs, umoci_compare(&except));
}

fn like_podman(recipe: Recipe, except: &[&str]) {
    let fixture = Fixture::new();
    let ours = pulled(&fixture, recipe);
    let podman = Podman::new(&fixture);
    let theirs = podman.tree(&podman.pull(recipe));
    let compare = Compare { owners: false, times: true, xattrs_except: &["security."], except };
    assert_same(&ours, &theirs, compare);
}

fn an_odd_image_is_what_podman_mounts() {
    // podman leaves devices out. And it takes a whiteout that is followed by a new
    // folder of that name for nothing; the specification (and umoci) let it hide the old one.
    like_podman(Recipe::Odd, &[&[TOP, "below/again/old"], &DEVICES[..]].concat());
}

fn a_five_layer_image_is_what_podman_mounts() {
    like_podman(Recipe::Medium, &[TOP]);
}

/// What berth recorded of owners, over all layers, in the words of mtree(5): `./name … uid=1 gid=2 …`.
fn recorded_owners(fixture: &Fixture, image: &str) -> std::collections::BTreeMap<String, (u32, u32)> {
    let mut owners = std::collections::BTreeMap::new();
    for layer in fixture.inspect(image)["Layers"].as_array().expect("layers") {
        let tree = Path::new(layer["Path"].as_str().expect("the path of a layer"));
        let index = fs::read_to_string(tree.with_file_name("index")).expect("the index beside the layer's tree");
        for line in index.lines() {
            let mut words = line.split_whitespace();
            let Some(name) = words.next().and_then(|name| name.strip_prefix("./")) else { continue };
            let number = |key: &str, words: std::str::SplitWhitespace<'_>| {
                words.filter_map(|word| word.strip_prefix(key)).next().and_then(|value| value.parse().ok())
            };
            if let (Some(uid), Some(gid)) = (number("uid=", words.clone()), number("gid=", words)) {
                owners.insert(name.to_owned(), (uid, gid));
            }
        }
    }
    owners
}

fn owners_that_a_user_cannot_give_are_recorded() {
    let fixture = Fixture::new();
    pulled(&fixture, Recipe::Odd);
    let podman = Podman::new(&fixture);
    let theirs = podman.tree(&podman.pull(Recipe::Odd));
    let registry = fixture.registry();
    let image = registry.reference("odd");
    fixture.berth(&["pull", &image]).ok();
    let ours = recorded_owners(&fixture, &image);
    let strange: Vec<_> = theirs.0.iter().filter(|(_, entry)| (entry.uid, entry.gid) != (0, 0)).collect();
    assert!(strange.len() > 5, "the odd image has owners of all kinds");
    for (name, entry) in strange {
        assert_eq!(ours.get(name), Some(&(entry.uid, entry.gid)), "owner of {name} by podman, and as recorded");
    }
}

fn every_compression_gives_the_same_tree() {
    use testbed::image::Compression;
    let fixture = Fixture::new();
    let small = fixture.images();
    let parts = small.parts(&small.find("small").expect("the image")).expect("its parts");
    let blob = fs::read(small.blob(&parts[1].digest)).expect("the layer");
    let archive = testbed::image::unpacked(&blob, &parts[1].media_type).expect("a layer that unpacks");
    let mut trees = Vec::new();
    for (tag, compression) in
        [("none", Compression::None), ("gzip", Compression::Gzip(1)), ("zstd", Compression::Zstd(3))]
    {
        let layout = fixture.layout(tag);
        let layer =
            layout.raw_layer(compression, |out| out.write_all(&archive)).expect("a layer of another compression");
        layout.image("x", &[layer], &serde_json::json!({})).expect("an image");
        let image = format!("oci:{}:x", layout.dir().display());
        fixture.berth(&["pull", &image]).ok();
        trees.push(fixture.merged_tree(&image));
    }
    let all = Compare { owners: true, times: true, xattrs_except: &[], except: &[] };
    assert!(trees[0].0.len() > 200, "busybox has many names");
    assert_same(&trees[0], &trees[1], all);
    assert_same(&trees[0], &trees[2], all);
}

fn each_planted_difference_is_found() {
    // The comparison itself, on a whole unpacked image: one change at a time, and each is told by name.
    let fixture = Fixture::new();
    let root = peers::umoci_rootfs(&fixture, Recipe::Odd);
    let before = fixture.tree(&root);
    let compare = umoci_compare(&[]);
    let found = |tree: &Tree| before.differences(tree, Compare { times: false, ..compare });
    assert!(found(&fixture.tree(&root)).is_empty(), "nothing was changed yet");

    let mut expected = Vec::new();
    let mode = root.join("contents/513");
    fs::set_permissions(&mode, fs::Permissions::from_mode(0o645)).expect("a changed mode");
    expected.push("contents/513: mode 644 against 645".to_owned());
    assert_eq!(found(&fixture.tree(&root)), expected);

    let byte = root.join("contents/65536");
    let mut content = fs::read(&byte).expect("a file");
    content[40_000] ^= 1;
    fs::write(&byte, content).expect("a changed byte");
    assert_eq!(found(&fixture.tree(&root)).len(), 2, "one byte of 65,536");

    fs::remove_file(root.join("links/upwards")).expect("a link");
    symlink("../links/one", root.join("links/upwards")).expect("another link");
    assert_eq!(found(&fixture.tree(&root)).len(), 3, "the target of a link");

    rustix::fs::removexattr(root.join("xattrs/text"), "user.comment").expect("an attribute");
    assert_eq!(found(&fixture.tree(&root)).len(), 4, "a lost attribute");

    fs::remove_file(root.join("links/two")).expect("a name of a file with four");
    fs::copy(root.join("links/a-first"), root.join("links/two")).expect("a copy in its place");
    fs::set_permissions(root.join("links/two"), fs::Permissions::from_mode(0o644)).expect("its mode");
    let all = found(&fixture.tree(&root));
    assert_eq!(all.len(), 5, "a hard link that became a copy: {all:?}");
}
