//! Images made to do harm: each is refused with a clear error or made harmless, nothing is left, nothing outside the store
//! is touched.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use testbed::chapter;
use testbed::fixture::Fixture;
use testbed::harness::Need;
use testbed::image::Compression;
use testbed::image::INDEX;
use testbed::image::Layer;
use testbed::image::LayerWriter;
use testbed::image::Layout;
use testbed::image::MANIFEST;
use testbed::process;
use testbed::process::Output;
use testbed::tar::Dialect;
use testbed::tar::Header;
use testbed::tar::Kind;

chapter!("hostile",
    []:
        names_that_climb_out_are_refused,
        names_through_a_planted_link_stay_inside,
        hard_links_out_of_the_layer_are_refused,
        whiteouts_that_climb_out_are_refused,
        absolute_names_land_inside,
        planted_overlay_attributes_have_no_effect,
        a_truncated_layer_is_refused,
        a_corrupted_layer_is_refused,
        a_wrong_digest_is_refused,
        a_wrong_size_is_refused,
        a_wrong_diff_id_is_refused,
        a_header_with_a_wrong_checksum_is_refused,
        a_ten_terabyte_file_claim_takes_no_space,
        a_decompression_bomb_is_stopped,
        a_huge_header_is_refused,
        a_huge_manifest_is_refused,
        an_index_that_contains_itself_ends,
        indexes_nested_without_end_are_refused,
        an_unknown_layer_type_is_told,
        an_unknown_manifest_type_is_told,
        a_manifest_that_is_no_json_is_told,
        a_digest_that_is_no_digest_is_told;
    [Need::Namespaces]:
        device_nodes_are_not_made,
        setuid_files_give_no_rights,
        a_folder_of_very_many_names_is_imported;
);

/// A world with something outside the store that a hostile layer would like to change.
struct World {
    fixture: Fixture,
    layout: Layout,
    canary: PathBuf,
}

impl World {
    fn new() -> World {
        let fixture = Fixture::new();
        let layout = fixture.layout("hostile");
        let canary = fixture.write("canary", "untouched");
        World { fixture, layout, canary }
    }

    fn image(&self, layers: &[Layer]) -> String {
        self.layout.image("x", layers, &json!({"Cmd": ["/nothing"]})).expect("an image");
        format!("oci:{}:x", self.layout.dir().display())
    }

    fn layer(&self, fill: impl FnOnce(&mut LayerWriter<'_>) -> io::Result<()>) -> Layer {
        self.layout.layer(Compression::Gzip(6), fill).expect("a layer")
    }

    fn pull(&self, image: &str) -> Output {
        self.fixture.berth(&["pull", image])
    }

    /// The image must be refused with an error that has the word in it, and leave nothing.
    #[track_caller]
    fn refused(&self, image: &str, word: &str) {
        let output = self.pull(image);
        let report = output.report();
        let told = output.fails(125);
        assert!(told.starts_with("berth: "), "{report}");
        assert!(told.to_lowercase().contains(word), "no '{word}' in: {report}");
        assert!(!told.contains("panicked"), "{report}");
        self.nothing_left();
    }

    #[track_caller]
    fn nothing_left(&self) {
        self.unharmed();
        assert_eq!(self.fixture.image_names(), Vec::<String>::new());
        assert_eq!(self.fixture.unfinished(), Vec::<PathBuf>::new(), "partial state");
        self.fixture.berth(&["verify"]).ok();
    }

    #[track_caller]
    fn unharmed(&self) {
        assert_eq!(fs::read_to_string(&self.canary).expect("the canary"), "untouched");
        let top: Vec<String> = fs::read_dir(self.fixture.path(""))
            .expect("the test's folder")
            .map(|entry| entry.expect("a name").file_name().to_string_lossy().into_owned())
            .filter(|name| !["home", "run", "tmp", "work", "hostile", "canary"].contains(&name.as_str()))
            .collect();
        assert_eq!(top, Vec::<String>::new(), "something was made outside the store");
        assert_eq!(fs::read_dir(self.fixture.path("work")).expect("the folder").count(), 0);
        assert_eq!(fs::read_dir(self.fixture.path("tmp")).expect("the folder").count(), 0);
    }
}

fn names_that_climb_out_are_refused() {
    for name in ["../escape", "a/../../escape", "../../../../../../../../../../../../tmp/escape", "..", "a/.."] {
        let world = World::new();
        let layer = world.layer(|tar| tar.file(&Header::file(name, 0o644), b"x").map(drop));
        world.refused(&world.image(&[layer]), "..");
    }
}

fn names_through_a_planted_link_stay_inside() {
    let world = World::new();
    let outside = world.fixture.path("");
    for target in [outside.display().to_string(), "../../../../../../../../../..".to_owned(), "/".to_owned()] {
        let through = |name: &str| format!("link/{}", name.trim_start_matches('/'));
        let layer = world.layer(|tar| {
            tar.entry(&Header::symlink("link", &target))?;
            tar.file(&Header::file(through("canary"), 0o644), b"changed")?;
            tar.file(&Header::file(through(&world.canary.display().to_string()), 0o644), b"changed")?;
            tar.entry(&Header::dir("link/planted/", 0o777))?;
            Ok(())
        });
        // Refused, or kept inside the layer: both are fine, a write outside is not.
        let output = world.pull(&world.image(&[layer]));
        assert!([0, 125].contains(&output.code()), "{}", output.report());
        world.unharmed();
    }
    // The link in one layer, the name through it in the next.
    let first = world.layer(|tar| tar.entry(&Header::symlink("link", outside.display().to_string())).map(drop));
    let second = world.layer(|tar| tar.file(&Header::file("link/canary", 0o644), b"changed").map(drop));
    let output = world.pull(&world.image(&[first, second]));
    assert!([0, 125].contains(&output.code()), "{}", output.report());
    world.unharmed();
}

fn hard_links_out_of_the_layer_are_refused() {
    let canary = World::new();
    for target in ["../../../../canary".to_owned(), canary.canary.display().to_string(), "no/such/entry".to_owned()] {
        let world = World::new();
        let layer = world.layer(|tar| {
            tar.entry(&Header::hard("stolen", &target, 0o644))?;
            Ok(())
        });
        world.refused(&world.image(&[layer]), "link");
    }
    // Through a symbolic link of the layer's own.
    let world = World::new();
    let layer = world.layer(|tar| {
        tar.entry(&Header::symlink("out", world.canary.display().to_string()))?;
        tar.entry(&Header::hard("stolen", "out", 0o644))?;
        tar.file(&Header::file("stolen", 0o644), b"changed")?;
        Ok(())
    });
    drop(world.pull(&world.image(&[layer])));
    world.unharmed();
}

fn whiteouts_that_climb_out_are_refused() {
    for name in [".wh...", ".wh..", "a/.wh...", ".wh.a/../../b", ".wh."] {
        let world = World::new();
        let layer = world.layer(|tar| tar.file(&Header::file(name, 0), b"").map(drop));
        world.refused(&world.image(&[layer]), "");
    }
}

fn absolute_names_land_inside() {
    let world = World::new();
    let name = world.canary.display().to_string();
    let layer = world.layer(|tar| {
        tar.file(&Header::file(&name, 0o644), b"inside")?;
        tar.file(&Header::file("//double//slashes", 0o644), b"inside")?;
        Ok(())
    });
    let image = world.image(&[layer]);
    world.pull(&image).ok();
    world.unharmed();
    let tree = world.fixture.merged_tree(&image);
    assert!(tree.0.contains_key(name.trim_start_matches('/')), "{:?}", tree.0.keys());
    assert!(tree.0.contains_key("double/slashes"), "{:?}", tree.0.keys());
}

fn planted_overlay_attributes_have_no_effect() {
    // These would hide or redirect what the layers below have.
    let world = World::new();
    let below = world.layer(|tar| {
        tar.entry(&Header::dir("d/", 0o755))?.file(&Header::file("d/below", 0o644), b"below")?;
        tar.file(&Header::file("secret", 0o644), b"secret")?;
        Ok(())
    });
    let above = world.layer(|tar| {
        let mut dir = Header::dir("d/", 0o755);
        for prefix in ["user.overlay.", "trusted.overlay.", "user.overlay.overlay."] {
            dir = dir.xattr(&format!("{prefix}opaque"), "y").xattr(&format!("{prefix}redirect"), "/secret");
        }
        tar.entry(&dir)?;
        tar.file(
            &Header::file("file", 0o644).xattr("user.overlay.metacopy", "").xattr("user.overlay.whiteout", ""),
            b"x",
        )?;
        Ok(())
    });
    let image = world.image(&[below, above]);
    let output = world.pull(&image);
    assert!([0, 125].contains(&output.code()), "{}", output.report());
    if output.code() == 0 {
        let tree = world.fixture.merged_tree(&image);
        assert!(tree.0.contains_key("d/below"), "{:?}", tree.0.keys());
        assert!(tree.0.contains_key("file"), "{:?}", tree.0.keys());
    }
    world.unharmed();
}

/// An honest layer of some size.
fn honest(world: &World) -> Layer {
    world.layer(|tar| {
        for number in 0..50u32 {
            let content: Vec<u8> = (0..20_000u32).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect();
            tar.file(&Header::file(format!("file-{number}"), 0o644), &content)?;
        }
        Ok(())
    })
}

fn a_truncated_layer_is_refused() {
    for keep in [0, 1, 10, 1000] {
        let world = World::new();
        let layer = honest(&world);
        let image = world.image(std::slice::from_ref(&layer));
        let blob = world.layout.blob(&layer.blob.digest);
        let content = fs::read(&blob).expect("the layer");
        fs::write(&blob, &content[..keep]).expect("a shorter layer");
        world.refused(&image, "");
    }
    // Cut where the compressed stream still looks whole, and named by the digest of what is left.
    for end in [512, 1000, 20_000] {
        let world = World::new();
        let layer = honest(&world);
        let archive = testbed::image::unpacked(
            &fs::read(world.layout.blob(&layer.blob.digest)).expect("the layer"),
            &layer.blob.media_type,
        )
        .expect("its archive");
        let cut = world
            .layout
            .raw_layer(Compression::Gzip(6), |out| out.write_all(&archive[..end + 700]))
            .expect("a shorter layer");
        world.refused(&world.image(&[cut]), "");
    }
}

fn a_corrupted_layer_is_refused() {
    let world = World::new();
    let layer = honest(&world);
    let image = world.image(std::slice::from_ref(&layer));
    let blob = world.layout.blob(&layer.blob.digest);
    let content = fs::read(&blob).expect("the layer");
    for at in [0, 20, content.len() / 2, content.len() - 1] {
        let mut bad = content.clone();
        bad[at] ^= 1;
        fs::write(&blob, &bad).expect("a corrupted layer");
        world.refused(&image, "");
    }
    fs::write(&blob, content).expect("the layer as it was");
    world.pull(&image).ok();
}

fn a_wrong_digest_is_refused() {
    let world = World::new();
    let (layer, other) = (honest(&world), world.layer(|tar| tar.file(&Header::file("f", 0o644), b"other").map(drop)));
    let image = world.image(std::slice::from_ref(&layer));
    fs::copy(world.layout.blob(&other.blob.digest), world.layout.blob(&layer.blob.digest)).expect("a swap");
    world.refused(&image, "");
    // The manifest itself.
    let world = World::new();
    let layer = honest(&world);
    let image = world.image(&[layer]);
    let manifest = world.layout.blob(&world.layout.find("x").expect("the image").digest);
    let text = fs::read_to_string(&manifest).expect("the manifest");
    fs::write(&manifest, text.replace("schemaVersion\":2", "schemaVersion\":2 ")).expect("a changed manifest");
    world.refused(&image, "");
}

fn a_wrong_size_is_refused() {
    for change in [-1i64, 1, 1_000_000] {
        let world = World::new();
        let mut layer = honest(&world);
        layer.blob.size = layer.blob.size.saturating_add_signed(change);
        world.refused(&world.image(&[layer]), "");
    }
}

fn a_wrong_diff_id_is_refused() {
    let world = World::new();
    let mut layer = honest(&world);
    layer.diff_id = format!("sha256:{}", "1".repeat(64));
    // Not hashing a second time is sound, as the blob's own digest was right: then the image is simply used.
    let output = world.pull(&world.image(&[layer]));
    assert!([0, 125].contains(&output.code()), "{}", output.report());
    world.unharmed();
}

fn a_header_with_a_wrong_checksum_is_refused() {
    let world = World::new();
    let layer = world
        .layout
        .raw_layer(Compression::None, |out| {
            let mut block = Header::file("f", 0o644).block();
            block[0] = b'g';
            out.write_all(&block)?;
            out.write_all(&[0; 1024])
        })
        .expect("a layer");
    world.refused(&world.image(&[layer]), "");
}

fn a_ten_terabyte_file_claim_takes_no_space() {
    let huge = 10u64 << 40;
    // All of it a hole, said by a sparse map.
    let world = World::new();
    let layer = world.layer(|tar| tar.sparse(&Header::file("huge", 0o644), huge, &[(huge - 1, b"x")]).map(drop));
    let output = world.pull(&world.image(&[layer]));
    let report = output.report();
    assert!([0, 125].contains(&output.code()), "{report}");
    assert!(output.wall < Duration::from_secs(60), "{report}");
    world.unharmed();
    // A plain file whose content never comes.
    let world = World::new();
    let layer = world
        .layout
        .layer(Compression::Gzip(6), |tar| tar.entry(&Header { size: huge, ..Header::file("huge", 0o644) }).map(drop))
        .expect("a layer");
    world.refused(&world.image(&[layer]), "");
    // The same told by the size of the blob.
    let world = World::new();
    let mut layer = honest(&world);
    layer.blob.size = huge;
    world.refused(&world.image(&[layer]), "");
}

fn a_decompression_bomb_is_stopped() {
    // 20 GB of zeros in 20 MB of gzip, or in 2 kB of zstd: as one file, and as what follows the end of the archive.
    let world = World::new();
    let zeros = vec![0u8; 1 << 20];
    let layer = world
        .layout
        .raw_layer(Compression::Zstd(1), |out| {
            out.write_all(&Header { size: 200 << 30, ..Header::file("bomb", 0o644) }.block())?;
            (0..20 << 10).try_for_each(|_| out.write_all(&zeros))
        })
        .expect("a layer");
    let mut command = world.fixture.berth_command(&["pull", &world.image(&[layer])]);
    limit_file_size(&mut command, 1 << 30);
    let output = process::run_with(&mut command, b"", Duration::from_secs(200));
    assert_ne!(output.code(), 0, "{}", output.report());
    world.nothing_left();
}

/// A file of more than so many bytes cannot be written: a bomb that is not stopped fails the test, not the machine.
#[allow(unsafe_code)] // setrlimit between fork and exec.
fn limit_file_size(command: &mut std::process::Command, bytes: u64) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setrlimit and signal may be called between fork and exec; the structure lives on the stack.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

fn a_huge_header_is_refused() {
    for flag in [b'x', b'L', b'g'] {
        let world = World::new();
        let size = 300u64 << 20;
        let layer = world
            .layout
            .raw_layer(Compression::Zstd(1), |out| {
                out.write_all(&Header { size, ..Header::file("h", 0o644) }.block_of(Kind::Other(flag)))?;
                let part = vec![b'a'; 1 << 20];
                (0..300).try_for_each(|_| out.write_all(&part))?;
                out.write_all(&[0; 1024])
            })
            .expect("a layer");
        let image = world.image(&[layer]);
        let output = world.pull(&image);
        assert_eq!(output.code(), 125, "{}", output.report());
        assert!(output.peak < 200 << 20, "{} MB of memory for a header", output.peak >> 20);
        world.nothing_left();
    }
}

fn a_huge_manifest_is_refused() {
    let world = World::new();
    let text = format!("{{\"schemaVersion\":2,\"pad\":\"{}\"}}", "x".repeat(64 << 20));
    let manifest = world.layout.add(MANIFEST, text.as_bytes()).expect("a manifest");
    world.layout.tag("x", &manifest).expect("a tag");
    world.refused(&format!("oci:{}:x", world.layout.dir().display()), "");
}

fn an_index_that_contains_itself_ends() {
    // A digest cannot contain itself, but a layout's files may be anything.
    let world = World::new();
    let digest = format!("sha256:{}", "2".repeat(64));
    let entry = json!({"mediaType": INDEX, "digest": digest, "size": 300,
        "platform": {"os": "linux", "architecture": "amd64"}});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    fs::write(world.layout.blob(&digest), &index).expect("an index");
    let target = testbed::image::Descriptor { media_type: INDEX.to_owned(), digest, size: index.len() as u64 };
    world.layout.tag("x", &target).expect("a tag");
    world.refused(&format!("oci:{}:x", world.layout.dir().display()), "");
}

fn indexes_nested_without_end_are_refused() {
    let world = World::new();
    let layer = honest(&world);
    let config = world.layout.config(std::slice::from_ref(&layer), &json!({}), "amd64").expect("a config");
    let mut target = world.layout.manifest(&config, &[layer]).expect("a manifest");
    for _ in 0..200 {
        let mut entry = serde_json::to_value(&target).expect("JSON");
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        target = world.layout.add(INDEX, index.to_string().as_bytes()).expect("an index");
    }
    world.layout.tag("x", &target).expect("a tag");
    world.refused(&format!("oci:{}:x", world.layout.dir().display()), "");
}

fn an_unknown_layer_type_is_told() {
    let world = World::new();
    let mut layer = honest(&world);
    layer.blob.media_type = "application/vnd.example.layer.v9+lzip".to_owned();
    world.refused(&world.image(&[layer]), "vnd.example.layer");
}

fn an_unknown_manifest_type_is_told() {
    let world = World::new();
    let manifest = world.layout.add(
        "application/vnd.example.thing.v1+json",
        b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.example.thing.v1+json\"}",
    );
    world.layout.tag("x", &manifest.expect("a blob")).expect("a tag");
    world.refused(&format!("oci:{}:x", world.layout.dir().display()), "vnd.example.thing");
}

fn a_manifest_that_is_no_json_is_told() {
    for text in ["", "{", "[]", "null", "{\"schemaVersion\":2}", "\u{0}\u{0}", "{\"schemaVersion\":2,\"layers\":[1]}"] {
        let world = World::new();
        let manifest = world.layout.add(MANIFEST, text.as_bytes()).expect("a blob");
        world.layout.tag("x", &manifest).expect("a tag");
        world.refused(&format!("oci:{}:x", world.layout.dir().display()), "");
    }
}

fn a_digest_that_is_no_digest_is_told() {
    for digest in ["sha256:../../../../canary", "sha256:", "md5:00", "../../../canary", "sha256:ABC", ""] {
        let world = World::new();
        let mut layer = honest(&world);
        layer.blob.digest = digest.to_owned();
        world.refused(&world.image(&[layer]), "");
    }
}

fn device_nodes_are_not_made() {
    let world = World::new();
    let layer = world.layer(|tar| {
        tar.entry(&Header::dir("dev/", 0o755))?;
        tar.entry(&Header::device("dev/disk", Kind::Block, 0o666, 254, 0))?;
        tar.entry(&Header::device("dev/mem", Kind::Char, 0o666, 1, 1))?;
        // What means "nothing here" to the kernel's overlay must not come from a layer's own device.
        tar.entry(&Header::device("zero-zero", Kind::Char, 0o666, 0, 0))?;
        tar.dialect(Dialect::Gnu).file(&Header::file("plain", 0o644), b"x")?;
        Ok(())
    });
    let image = world.image(&[layer]);
    // Refusing would keep many an old image from running; the nodes of a container come from its launcher.
    world.pull(&image).ok();
    let tree = world.fixture.merged_tree(&image);
    let devices: Vec<_> = tree.0.iter().filter(|(_, entry)| ["char", "block"].contains(&entry.kind.as_str())).collect();
    assert!(devices.is_empty(), "{devices:?}");
    assert!(tree.0.contains_key("plain"));
    world.unharmed();
}

fn setuid_files_give_no_rights() {
    let world = World::new();
    let small = world.fixture.images();
    let busybox = {
        let parts = small.parts(&small.find("distroless").expect("the image")).expect("its parts");
        let blob = fs::read(small.blob(&parts[1].digest)).expect("the layer");
        let archive = testbed::image::unpacked(&blob, &parts[1].media_type).expect("its archive");
        let mut reader = testbed::tar::Reader::new(archive.as_slice());
        let header = reader.entry().expect("an entry").expect("the program");
        let mut content = Vec::new();
        reader.content(&header, &mut content).expect("its content");
        content
    };
    let layer = world.layer(|tar| tar.file(&Header::file("id", 0o4755), &busybox).map(drop));
    let image = world.image(&[layer]);
    let uid = world.fixture.berth(&["run", &image, "/id", "-u"]).ok();
    assert_eq!(uid.trim(), world.fixture.user.uid.to_string());
}

fn a_folder_of_very_many_names_is_imported() {
    // A million was tried by hand: 100,000 keep the test short.
    let world = World::new();
    let layer = world.layer(|tar| {
        tar.entry(&Header::dir("many/", 0o755))?;
        for number in 0..100_000 {
            tar.entry(&Header::file(format!("many/{number}"), 0o644))?;
        }
        Ok(())
    });
    let image = world.image(&[layer]);
    let output = world.pull(&image);
    assert!(output.peak < 200 << 20, "{} MB of memory", output.peak >> 20);
    output.ok();
    assert_eq!(world.fixture.merged_tree(&image).0.len(), 100_002);
}
