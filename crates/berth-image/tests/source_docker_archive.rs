//! `docker-archive:` from files, by random access and as a stream.
#![allow(missing_docs)]

mod source_fixtures;

use std::io::Read;

use berth_image::Digest;
use berth_image::manifest::{Compression, Platform};
use berth_image::progress::Silent;
use berth_image::source::{Opened, import_stream, open_docker_archive};
use proptest::prelude::*;
use source_fixtures::*;

/// Reads an archive by random access and as a stream, which must agree on every byte.
fn read_both(archive: &[u8], wanted: Option<&str>) -> berth_image::Result<Whole> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "image.tar", archive);
    let opened = open_docker_archive(&path, wanted)?;
    assert!(matches!(opened, Opened::Source(_)), "a plain file is read by random access");
    let whole = read_opened(opened)?;
    assert_eq!(read_stream(archive, wanted)?, whole);
    Ok(whole)
}

fn read_stream(mut archive: &[u8], wanted: Option<&str>) -> berth_image::Result<Whole> {
    let sink = Sink::default();
    let image = import_stream(&mut archive, &sink, wanted)?;
    let kept = sink.0.into_inner().unwrap();
    Ok((image.digest, image.layers.iter().map(|layer| kept[&layer.descriptor.digest].0.clone()).collect()))
}

/// Both ways must refuse it, for the same reason.
fn refused_both(archive: &[u8], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "image.tar", archive);
    let indexed = refusal(open_docker_archive(&path, None).and_then(read_opened));
    assert!(indexed.contains(reason), "random access: {indexed}");
    let streamed = refusal(read_stream(archive, None));
    assert!(streamed.contains(reason), "stream: {streamed}");
}

#[test]
fn podmans_archive_gives_its_layers_in_order() {
    let (one, two) = (layer("one"), layer("two"));
    let (_, layers) = read_both(&podman_archive(&[&one, &two], &["docker.io/library/x:1"]).end(), None).unwrap();
    assert_eq!(layers, [one, two]);
}

#[test]
fn the_same_image_has_the_same_digest_however_it_is_packed() {
    let (one, two) = (layer("one"), layer("two"));
    let config = config(&[&one, &two]);
    let names = ["a/layer.tar".to_owned(), "b/layer.tar".to_owned()];
    let podman = podman_archive(&[&one, &two], &[]).end();
    let manifest_first = Tar::default()
        .file("manifest.json", &manifest(&[entry("c.json", &[], &names)]))
        .file("./b/layer.tar", &two)
        .file("c.json", &config)
        .file("a/layer.tar", &one)
        .end();
    let blobs: Vec<String> = [&one, &two].map(|l| format!("blobs/sha256/{}", hex(l))).into();
    let config_name = format!("blobs/sha256/{}", hex(&config));
    let docker_25 = Tar::default()
        .file(&blobs[0], &one)
        .file(&blobs[1], &two)
        .file(&config_name, &config)
        .file("index.json", b"{\"schemaVersion\":2,\"manifests\":[]}")
        .file("manifest.json", &manifest(&[entry(&config_name, &["x:1"], &blobs)]))
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .end();
    let expected = read_both(&podman, None).unwrap();
    assert_eq!(read_both(&manifest_first, None).unwrap(), expected);
    assert_eq!(read_both(&docker_25, None).unwrap(), expected);
}

#[test]
fn shared_layers_are_found_through_links() {
    let (one, two) = (layer("one"), layer("two"));
    let config = config(&[&one, &two, &one]);
    let names = ["a/layer.tar", "b/layer.tar", "c/layer.tar"].map(str::to_owned);
    for (flag, target) in [(b'2', "../a/layer.tar"), (b'1', "a/layer.tar")] {
        let archive = Tar::default()
            .link(flag, "c/layer.tar", target)
            .file("a/layer.tar", &one)
            .file("b/layer.tar", &two)
            .file("config.json", &config)
            .file("manifest.json", &manifest(&[entry("config.json", &[], &names)]))
            .end();
        assert_eq!(read_both(&archive, None).unwrap().1, [one.clone(), two.clone(), one.clone()]);
    }
}

#[test]
fn compressed_layers_are_named_by_the_digest_of_their_bytes() {
    let one = layer("one");
    for (packed, compression) in [(gzip(&one), Compression::Gzip), (zstd(&one), Compression::Zstd)] {
        let archive = Tar::default()
            .file("layer.tar.gz", &packed)
            .file("config.json", &config(&[&one]))
            .file("manifest.json", &manifest(&[entry("config.json", &[], &["layer.tar.gz".to_owned()])]))
            .end();
        assert_eq!(read_both(&archive, None).unwrap().1, std::slice::from_ref(&packed));
        let image = import_stream(&mut &archive[..], &Sink::default(), None).unwrap();
        assert_eq!(image.layers[0].compression, compression);
        assert_eq!(image.layers[0].descriptor.digest, Digest::of(&packed));
        assert_eq!(image.layers[0].diff_id, Digest::of(&one));
    }
}

#[test]
fn an_archive_compressed_as_a_whole_is_streamed() {
    let one = layer("one");
    let archive = podman_archive(&[&one], &["x:1"]).end();
    let expected = read_both(&archive, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for packed in [gzip(&archive), zstd(&archive)] {
        let path = write(folder.path(), "image.tar.packed", &packed);
        let opened = open_docker_archive(&path, None).unwrap();
        let Opened::Stream(stream) = opened else { panic!("a compressed archive cannot be read by random access") };
        let sink = Sink::default();
        let imported = stream.import(&Platform::host(), &sink, &Silent).unwrap();
        assert_eq!(imported.image.digest, expected.0);
        assert_eq!(imported.tags, ["x:1"]);
        let cut = write(folder.path(), "cut", &packed[..packed.len() / 2]);
        refusal(open_docker_archive(&cut, None).and_then(read_opened));
    }
    let path = write(folder.path(), "image.tar.xz", b"\xfd7zXZ\0 and more");
    assert!(refusal(open_docker_archive(&path, None).and_then(read_opened)).contains("run `xz -d` on it first"));
}

#[test]
fn a_pipe_is_streamed() {
    let one = layer("one");
    let archive = podman_archive(&[&one], &[]).end();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let expected = read_both(&archive, None).unwrap();
    let whole = std::thread::scope(|scope| {
        scope.spawn(|| std::fs::write(&path, &archive).unwrap());
        let opened = open_docker_archive(path.to_str().unwrap(), None).unwrap();
        assert!(matches!(opened, Opened::Stream(_)));
        read_opened(opened).unwrap()
    });
    assert_eq!(whole, expected);
    let empty = write(folder.path(), "empty", b"");
    refusal(open_docker_archive(&empty, None).and_then(read_opened));
    assert!(refusal(read_stream(b"", None)).contains("the archive is empty"));
}

#[test]
fn one_of_several_images_is_chosen_by_name_or_identifier() {
    let (one, two) = (layer("one"), layer("two"));
    let configs = [config(&[&one]), config(&[&two])];
    let names = configs.each_ref().map(|c| format!("{}.json", hex(c)));
    let archive = Tar::default()
        .file("1.tar", &one)
        .file("2.tar", &two)
        .file(&names[0], &configs[0])
        .file(&names[1], &configs[1])
        .file(
            "manifest.json",
            &manifest(&[
                entry(&names[0], &["docker.io/library/debian:12"], &["1.tar".to_owned()]),
                entry(&names[1], &["example.org/tool:latest", "localhost/built:latest"], &["2.tar".to_owned()]),
            ]),
        )
        .end();
    for (wanted, expected) in [
        ("docker.io/library/debian:12", &one),
        ("debian:12", &one),
        ("example.org/tool", &two),
        ("built", &two),
        (&names[1][..12], &two),
    ] {
        assert_eq!(read_both(&archive, Some(wanted)).unwrap().1, std::slice::from_ref(expected), "{wanted}");
    }
    refused_both(
        &archive,
        "several images; add `:NAME` for one of `docker.io/library/debian:12`, `example.org/tool:latest`, `localhost/built:latest`",
    );
    assert!(refusal(read_both(&archive, Some("debian:13"))).contains("no image `debian:13`, but `docker.io"));
}

#[test]
fn long_names_and_large_sizes_of_every_dialect_are_read() {
    let one = layer("one");
    let name = format!("{}/layer.tar", "d".repeat(150));
    let config = config(&[&one]);
    let mut base256 = header("short", b'0', "", 0);
    base256[124..136].fill(0);
    base256[124] = 0x80;
    base256[128..136].copy_from_slice(&(one.len() as u64).to_be_bytes());
    sum(&mut base256);
    let mut prefixed = header("layer.tar", b'0', "", one.len() as u64);
    prefixed[345..345 + 150].fill(b'd');
    sum(&mut prefixed);
    let mut pax_records = pax("mtime", "1.5");
    pax_records.extend(pax("path", &name));
    pax_records.extend(pax("size", &one.len().to_string()));
    let raw = |mut tar: Tar, header: [u8; 512]| {
        tar.0.extend(header);
        tar.data(&one)
    };
    let gnu_name = format!("{name}\0");
    for tar in [
        raw(Tar::default().extension(b'x', &pax_records), header("short", b'0', "", 0)),
        raw(Tar::default().extension(b'L', gnu_name.as_bytes()), base256),
        raw(Tar::default().extension(b'g', &pax("comment", "x")), prefixed),
    ] {
        let archive = tar
            .file("config.json", &config)
            .file("manifest.json", &manifest(&[entry("config.json", &[], std::slice::from_ref(&name))]))
            .end();
        assert_eq!(read_both(&archive, None).unwrap().1, std::slice::from_ref(&one));
    }
}

#[test]
fn archives_that_end_early_are_refused_at_every_block() {
    let (one, two) = (layer("one"), layer("two"));
    let archive = podman_archive(&[&one, &two], &[]).0;
    let folder = tempfile::tempdir().unwrap();
    let manifest_ends = archive.len() - 2 * 512;
    for cut in (0..manifest_ends).step_by(256) {
        let cut = &archive[..cut];
        let path = write(folder.path(), "cut.tar", cut);
        refusal(open_docker_archive(&path, None).and_then(read_opened));
        refusal(read_stream(cut, None));
    }
    refused_both(&archive[..700], "truncated");
}

#[test]
fn a_member_larger_than_any_disk_is_refused() {
    for size in [1 << 63, u64::MAX, (1 << 40) + 1] {
        let mut tar = Tar::default();
        tar.0.extend(header("huge", b'0', "", size));
        refused_both(&tar.end(), "larger than berth accepts");
    }
    let mut tar = Tar::default();
    tar.0.extend(header("huge", b'0', "", 1 << 39));
    refused_both(&tar.end(), "truncated");
    let mut negative = header("huge", b'0', "", 0);
    negative[124..136].fill(0xff);
    sum(&mut negative);
    refused_both(&Tar(negative.to_vec()).end(), "no valid size");
}

#[test]
fn names_and_links_that_leave_the_archive_are_refused() {
    let one = layer("one");
    let with = |name: &str, tar: Tar| {
        tar.file("config.json", &config(&[&one]))
            .file("manifest.json", &manifest(&[entry("config.json", &[], &[name.to_owned()])]))
            .end()
    };
    for name in ["../../etc/passwd", "/etc/passwd", "a/../../x", ""] {
        let archive = with(name, Tar::default().file("../../etc/passwd", &one).file("/etc/passwd", &one));
        refused_both(&archive, "which is no file of the archive");
    }
    for (flag, target) in [(b'2', "../../etc/passwd"), (b'2', "/etc/passwd"), (b'1', "../x")] {
        refused_both(&with("a/l", Tar::default().link(flag, "a/l", target)), "leads out of the archive");
    }
    let cycle = Tar::default().link(b'2', "a", "b").link(b'2', "b", "a");
    refused_both(&with("a", cycle), "or to itself");
    refused_both(&with("a", Tar::default().link(b'2', "a", "gone")), "gone`");
}

#[test]
fn two_manifests_in_one_archive_are_refused() {
    let one = layer("one");
    let archive = podman_archive(&[&one], &[]).file("manifest.json", b"[]").end();
    refused_both(&archive, "has `manifest.json` twice");
}

#[test]
fn a_configuration_that_is_not_what_its_name_says_is_refused() {
    let one = layer("one");
    let name = format!("{}.json", "ab".repeat(32));
    let archive = Tar::default()
        .file("1.tar", &one)
        .file(&name, &config(&[&one]))
        .file("manifest.json", &manifest(&[entry(&name, &[], &["1.tar".to_owned()])]))
        .end();
    refused_both(&archive, "the configuration of ");
    refused_both(&archive, "wrong content");
}

#[test]
fn layers_that_do_not_match_the_configuration_are_refused() {
    let (one, two) = (layer("one"), layer("two"));
    let with = |layers: &[&str], config: &[u8]| {
        let layers: Vec<String> = layers.iter().map(|l| (*l).to_owned()).collect();
        Tar::default()
            .file("1.tar", &one)
            .file("2.tar", &two)
            .file("config.json", config)
            .file("manifest.json", &manifest(&[entry("config.json", &[], &layers)]))
            .end()
    };
    refused_both(&with(&["1.tar"], &config(&[&one, &two])), "has 1 layers, but the configuration names 2");
    refused_both(&with(&["1.tar", "2.tar"], &config(&[&one])), "has 2 layers, but the configuration names 1");
    // By random access, whoever unpacks the layer finds this out.
    assert!(
        refusal(read_stream(&with(&["2.tar"], &config(&[&one])), None))
            .contains("layer 1 of the archive has the wrong content")
    );
    let many = vec!["1.tar"; 500];
    refused_both(&with(&many, &config(&[&one])), "500 layers, the limit is 499");
}

#[test]
fn what_is_no_archive_is_refused() {
    refused_both(&b"hello".repeat(1000), "no tar archive");
    refused_both(&Tar::default().file("x", b"y").end(), "manifest.json");
    refused_both(&Tar::default().file("manifest.json", b"[{]").end(), "`manifest.json` is not valid");
    refused_both(&Tar::default().file("manifest.json", b"[]").end(), "no images");
    let mut damaged = Tar::default().file("x", b"y").file("z", b"y").end();
    damaged[1024] ^= 1;
    refused_both(&damaged, "the header at byte 1024 is damaged");
    let sparse = Tar::default().extension(b'x', &pax("GNU.sparse.major", "1")).file("x", b"y").end();
    refused_both(&sparse, "sparse");
}

/// Empty files without end.
struct Endless {
    header: [u8; 512],
    at: usize,
    given: u64,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.header[self.at..];
        let n = from.len().min(buffer.len());
        buffer[..n].copy_from_slice(&from[..n]);
        self.at = (self.at + n) % 512;
        self.given += n as u64;
        Ok(n)
    }
}

#[test]
fn endless_members_are_refused_after_a_bounded_number() {
    let mut endless = Endless { header: header("x", b'0', "", 0), at: 0, given: 0 };
    let error = refusal(import_stream(&mut endless, &Sink::default(), None));
    assert!(error.contains("more than 65536 members"), "{error}");
    assert!(endless.given < 40 << 20, "read {} bytes", endless.given);
    // Extended headers alone, which never become a member.
    let mut endless = Endless { header: header("x", b'x', "", 0), at: 0, given: 0 };
    assert!(refusal(import_stream(&mut endless, &Sink::default(), None)).contains("more than 65536 members"));

    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "many.tar", &header("x", b'0', "", 0).repeat(70_000));
    assert!(refusal(open_docker_archive(&path, None).and_then(read_opened)).contains("more than 65536 members"));
}

#[test]
fn documents_kept_in_memory_are_bounded() {
    let document = format!("[\"{}\"]", "x".repeat((4 << 20) - 100));
    let mut tar = Tar::default();
    for i in 0..17 {
        tar = tar.file(&format!("{i}.json"), document.as_bytes());
    }
    assert!(refusal(read_stream(&tar.end(), None)).contains("bytes of documents"));
    let long = "x".repeat(2000);
    refused_both(
        &Tar::default().extension(b'x', &pax("path", &long)).file("x", b"y").end(),
        "2000 bytes, the limit is 1024",
    );
    let mut tar = Tar::default();
    tar.0.extend(header("x", b'x', "", 1 << 30));
    refused_both(&tar.end(), "extended header");
}

#[test]
fn an_image_for_another_processor_is_refused() {
    let one = layer("one");
    let config = String::from_utf8(config(&[&one])).unwrap().replace(&Platform::host().architecture, "s390x");
    let archive = Tar::default()
        .file("1.tar", &one)
        .file("config.json", config.as_bytes())
        .file("manifest.json", &manifest(&[entry("config.json", &[], &["1.tar".to_owned()])]))
        .end();
    refused_both(&archive, "linux/s390x");
}

proptest! {
    /// Headers with any bytes in them, their checksum right, lead to an image or an error: no panic, no endless loop, and
    /// never a layer that is not the configuration's.
    #[test]
    fn damaged_headers_do_no_harm(
        block in 0usize..20,
        field in prop::sample::select(vec![0, 100, 124, 130, 135, 156, 157, 257, 345]),
        bytes in prop::collection::vec(any::<u8>(), 1..12),
    ) {
        let one = layer("one");
        let mut archive = podman_archive(&[&one], &["x:1"]).end();
        let at = (block * 512) % archive.len();
        let header: &mut [u8; 512] = (&mut archive[at..at + 512]).try_into().unwrap();
        header[field..field + bytes.len()].copy_from_slice(&bytes);
        sum(header);
        if let Ok((_, layers)) = read_stream(&archive, None) {
            prop_assert_eq!(layers, std::slice::from_ref(&one));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "image.tar", &archive);
        if let Ok(Opened::Source(source)) = open_docker_archive(&path, None) {
            let _ = source.resolve(&Platform::host(), &Silent);
        }
    }
}
