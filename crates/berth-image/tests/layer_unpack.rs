//! What becomes of a layer's archive, honest or not.

#[path = "common/tarball.rs"]
mod tarball;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use berth_image::Error;
use berth_image::digest::Digest;
use berth_image::layer::decode::Bounds;
use berth_image::layer::index::{self, Line, LineKind};
use berth_image::layer::tree::Policy;
use berth_image::layer::{Expected, Unpacked, Unpacking, unpack};
use tarball::{Header, Tarball, block};
use tempfile::TempDir;

struct Case {
    dir: TempDir,
    policy: Policy,
    bounds: Bounds,
}

impl Case {
    fn new() -> Case {
        let policy = Policy { own: false, keep_setid: true, umask: 0o777, entries: 1_000_000, bytes: 1 << 40 };
        Case { dir: tempfile::tempdir().unwrap(), policy, bounds: Bounds::default() }
    }

    fn unpack(&self, blob: &[u8]) -> Result<Unpacked, Error> {
        let digest = Digest::of(blob);
        self.unpack_expecting(blob, &digest, blob.len() as u64)
    }

    fn unpack_expecting(&self, mut blob: &[u8], digest: &Digest, size: u64) -> Result<Unpacked, Error> {
        let expected = Expected { name: "test", digest: Some(digest), size: Some(size) };
        let unpacking = Unpacking { policy: self.policy, bounds: self.bounds, cancel: &AtomicBool::new(false) };
        unpack(&mut blob, &expected, self.dir.path(), &unpacking, &|_| {})
    }

    fn good(tar: Tarball) -> (Case, Unpacked) {
        let case = Case::new();
        let unpacked = case.unpack(&tar.finish()).unwrap_or_else(|e| panic!("{e}"));
        (case, unpacked)
    }

    fn bad(tar: Tarball) -> String {
        Case::new().unpack(&tar.finish()).expect_err("this layer must be refused").to_string()
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn line(&self, path: &str) -> Line {
        let text = std::fs::read(self.dir.path().join("index")).unwrap();
        let lines = index::read(text.as_slice()).unwrap();
        lines.into_iter().find(|line| line.path == path.as_bytes()).unwrap_or_else(|| panic!("{path} not in the index"))
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let metadata = std::fs::symlink_metadata(self.path(path)).unwrap();
        metadata.file_type().is_char_device() && metadata.rdev() == 0
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "user.overlay.opaque").as_deref() == Some(b"y")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_directories_and_links_come_out_with_modes_times_and_contents() {
    let tar = Tarball::new()
        .dir("./", 0o755)
        .dir("bin/", 0o555)
        .entry(Header { name: "bin/tool", mode: 0o4755, uid: 7, gid: 8, mtime: 12345, ..Header::default() }, b"#!x")
        .hard_link("bin/other", "bin/tool")
        .symlink("sbin", "bin")
        .entry(Header { name: "pipe", kind: b'6', mode: 0o622, ..Header::default() }, b"");
    let (case, unpacked) = Case::good(tar);
    assert_eq!((unpacked.written.entries, unpacked.written.bytes), (6, 3));
    let tool = std::fs::metadata(case.path("bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.mtime(), tool.nlink()), (0o4755, 12345, 2));
    assert_eq!(std::fs::metadata(case.path("bin")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(std::fs::read_link(case.path("sbin")).unwrap(), Path::new("bin"));
    let pipe = std::fs::symlink_metadata(case.path("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o622);
    let line = case.line("bin/tool");
    assert_eq!((line.uid, line.gid, line.mode), (7, 8, 0o4755));
    assert_eq!(line.kind, LineKind::File { size: 3, xxh3: xxhash_rust::xxh3::xxh3_64(b"#!x") });
    assert_eq!(case.line("bin/other").kind, LineKind::HardLink(b"bin/tool".to_vec()));
    std::fs::set_permissions(case.path("bin"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn compressed_layers_come_out_as_plain_ones_whatever_the_media_type_says() {
    let plain = Tarball::new().file("a", vec![b'x'; 3_000_000]).finish();
    for blob in [
        plain.clone(),
        gzip(&plain),
        zstd::encode_all(&plain[..], 1).unwrap(),
        [gzip(&plain[..1_000_000]), gzip(&plain[1_000_000..])].concat(),
    ] {
        let case = Case::new();
        let unpacked = case.unpack(&blob).unwrap();
        assert_eq!(unpacked.digest, Digest::of(&blob));
        assert_eq!(std::fs::metadata(case.path("a")).unwrap().len(), 3_000_000);
    }
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    let (case, _) = Case::good(
        Tarball::new()
            .file("etc/.wh.gone", "")
            .dir("var", 0o755)
            .file("var/.wh..wh..opq", "")
            .file("var/new", "1")
            .file(".wh..wh.plnk/x", ""),
    );
    assert!(case.is_whiteout("etc/gone"));
    assert!(is_opaque(&case.path("var")) && !is_opaque(&case.path("etc")));
    assert_eq!(case.read("var/new"), "1");
    assert_eq!(case.line("etc/gone").kind, LineKind::Whiteout);
    assert!(case.line("var").opaque);
}

#[test]
fn a_whiteout_beside_its_own_name_hides_only_what_is_below() {
    for whiteout_first in [true, false] {
        let whiteout = |tar: Tarball| tar.file(".wh.dir", "").file(".wh.file", "");
        let names = |tar: Tarball| tar.dir("dir", 0o755).file("dir/kept", "1").file("file", "2");
        let tar = if whiteout_first { names(whiteout(Tarball::new())) } else { whiteout(names(Tarball::new())) };
        let (case, _) = Case::good(tar);
        assert!(is_opaque(&case.path("dir")), "whiteout first: {whiteout_first}");
        assert_eq!(case.read("dir/kept"), "1");
        assert_eq!(case.read("file"), "2");
    }
    // Also where the directory has no entry of its own.
    let (case, _) = Case::good(Tarball::new().file(".wh.dir", "").file("dir/kept", "1"));
    assert!(is_opaque(&case.path("dir")));
}

#[test]
fn an_opaque_root_is_told() {
    let (_, unpacked) = Case::good(Tarball::new().file(".wh..wh..opq", "").file("a", ""));
    assert!(unpacked.written.root_opaque);
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for name in ["../evil", "a/../../evil", "a/..", "..", "./../evil"] {
        let error = Case::bad(Tarball::new().file(name, "x"));
        assert!(error.contains("`..`") && error.contains(name), "{error}");
    }
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let error = Case::bad(Tarball::new().file(name, ""));
        assert!(error.contains("whiteout without a name"), "{name}: {error}");
    }
}

#[test]
fn absolute_names_stay_in_the_tree() {
    let (case, _) = Case::good(Tarball::new().file("/etc/absolute", "1").file("//double//slash", "2"));
    assert_eq!(case.read("etc/absolute"), "1");
    assert_eq!(case.read("double/slash"), "2");
}

#[test]
fn writing_through_links_cannot_leave_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for link in [target, "/", "../../../../../../..", "/proc/self/root", "/proc/self/cwd"] {
        let (case, _) =
            Case::good(Tarball::new().symlink("link", link).file("link/evil", "x").dir("link/evil-dir", 0o700));
        assert!(std::fs::symlink_metadata(case.path("link")).unwrap().is_symlink());
        assert!(!Path::new("/evil").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "{link}");
    }
    // A file entry over a link replaces the link.
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    let (case, _) = Case::good(Tarball::new().symlink("f", victim.to_str().unwrap()).file("f", "evil"));
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(case.read("f"), "evil");
    // A directory entry over a link does not change what the link points to.
    let mode = std::fs::metadata(outside.path()).unwrap().mode();
    Case::good(
        Tarball::new()
            .dir("d", 0o755)
            .symlink("d", target)
            .entry(Header { name: "d", kind: b'5', mode: 0o777, ..Header::default() }, b""),
    );
    assert_eq!(std::fs::metadata(outside.path()).unwrap().mode(), mode);
    // A directory entry whose place a link takes later.
    Case::good(Tarball::new().dir("d", 0o777).symlink("d", target));
    assert_eq!(std::fs::metadata(outside.path()).unwrap().mode(), mode);
}

#[test]
fn entries_through_a_link_are_indexed_where_they_really_are() {
    let tar = Tarball::new()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/a", "1")
        .file("lib/b", "2")
        .file("usr/lib/c", "3");
    let (case, _) = Case::good(tar);
    assert_eq!(case.read("usr/lib/a"), "1");
    for path in ["usr/lib/a", "usr/lib/b", "usr/lib/c"] {
        case.line(path);
    }
}

#[test]
fn a_link_to_what_only_a_lower_layer_has_gets_its_directory() {
    let (case, _) = Case::good(Tarball::new().symlink("var/run", "/run").file("var/run/pid", "1"));
    assert_eq!(case.read("run/pid"), "1");
    let error = Case::bad(Tarball::new().symlink("a", "b").symlink("b", "a").file("a/x", ""));
    assert!(error.contains("circle"), "{error}");
}

#[test]
fn hard_links_reach_only_what_the_layer_has() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    for link in ["../../../etc/passwd", "nothing", "/etc/passwd", victim.to_str().unwrap(), "", "self"] {
        let error = Case::bad(Tarball::new().hard_link("self", link));
        assert!(error.contains("hard link"), "{link}: {error}");
    }
    // A link to a symbolic link is another symbolic link; writing it later does not follow it.
    let tar = Tarball::new().symlink("l", victim.to_str().unwrap()).hard_link("m", "l").file("m", "evil");
    let (case, _) = Case::good(tar);
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(case.read("m"), "evil");
    let error = Case::bad(Tarball::new().dir("d", 0o755).hard_link("e", "d"));
    assert!(error.contains("hard link to a directory"), "{error}");
}

#[test]
fn device_nodes_are_recorded_and_not_made() {
    let node = |kind, device| Header { name: "dev/node", kind, device, mode: 0o660, ..Header::default() };
    for (kind, device, expected) in [
        (b'3', (1, 3), LineKind::CharDevice(1, 3)),
        (b'4', (8, 0), LineKind::BlockDevice(8, 0)),
        (b'3', (0, 0), LineKind::CharDevice(0, 0)),
    ] {
        let (case, unpacked) = Case::good(Tarball::new().entry(node(kind, device), b""));
        let stands_for_it = std::fs::symlink_metadata(case.path("dev/node")).unwrap();
        assert!(stands_for_it.is_file() && stands_for_it.mode() & 0o777 == 0o660);
        assert_eq!(case.line("dev/node").kind, expected);
        assert_eq!(unpacked.written.notes.len(), 1);
    }
}

#[test]
fn attributes_that_steer_overlayfs_are_dropped_and_others_kept() {
    let tar = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.user.kept", b"value\0with=anything\n"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("LIBARCHIVE.xattr.user.other%41", b"dmFsdWU"),
        ])
        .file("file", "x");
    let (case, unpacked) = Case::good(tar);
    assert_eq!(xattr(&case.path("file"), "user.kept").as_deref(), Some(&b"value\0with=anything\n"[..]));
    assert_eq!(xattr(&case.path("file"), "user.otherA").as_deref(), Some(&b"value"[..]));
    assert_eq!(xattr(&case.path("file"), "user.overlay.redirect"), None);
    assert_eq!(case.line("file").xattrs, [(b"security.capability".to_vec(), b"\x01\0\0\x02".to_vec())]);
    assert_eq!(unpacked.written.notes.len(), 2);
}

#[test]
fn set_id_bits_are_dropped_where_others_can_look_in() {
    let mut case = Case::new();
    case.policy.keep_setid = false;
    case.unpack(
        &Tarball::new().entry(Header { name: "su", mode: 0o6755, ..Header::default() }, b"x").dir("d", 0o2755).finish(),
    )
    .unwrap();
    assert_eq!(std::fs::metadata(case.path("su")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(case.line("su").mode, 0o6755);
}

#[test]
fn later_entries_of_a_name_win() {
    let tar = Tarball::new()
        .file("a/b/c", "1")
        .file("a/b/c", "2")
        .file("x", "1")
        .dir("x", 0o700)
        .dir("y/z", 0o755)
        .file("y", "now a file")
        .dir("m", 0o755)
        .dir("m", 0o711);
    let (case, _) = Case::good(tar);
    assert_eq!(case.read("a/b/c"), "2");
    assert!(case.path("x").is_dir());
    assert_eq!(case.read("y"), "now a file");
    assert_eq!(std::fs::metadata(case.path("m")).unwrap().mode() & 0o777, 0o711);
    let lines = index::read(std::fs::read(case.dir.path().join("index")).unwrap().as_slice()).unwrap();
    assert!(!lines.iter().any(|line| line.path == b"y/z"), "what was replaced is not in the index");
}

#[test]
fn names_of_every_dialect_are_read() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let gnu = Tarball::new()
        .entry(Header { name: "././@LongLink", kind: b'L', ..Header::default() }, format!("{long}\0").as_bytes())
        .entry(Header { name: "truncated", magic: b"ustar  \0", ..Header::default() }, b"1");
    let pax =
        Tarball::new().pax(&[("path", long.as_bytes())]).entry(Header { name: "short", ..Header::default() }, b"1");
    let (directory, file) = long.split_once('/').unwrap();
    for tar in [gnu, pax] {
        let (case, _) = Case::good(tar);
        assert_eq!(case.read(&long), "1");
    }
    let prefix = Tarball::new().entry(Header { name: &file[..90], prefix: directory, ..Header::default() }, b"1");
    assert_eq!(Case::good(prefix).0.read(&format!("{directory}/{}", &file[..90])), "1");
    let v7 = Tarball::new()
        .entry(Header { name: "dir/", kind: 0, mode: 0o755, magic: &[0; 8], ..Header::default() }, b"")
        .entry(Header { name: "dir/a", kind: 0, magic: &[0; 8], ..Header::default() }, b"1");
    assert_eq!(Case::good(v7).0.read("dir/a"), "1");
    let odd = Tarball::new()
        .pax(&[("path", b"sp ace\n\xff\\#=")])
        .file("x", "1")
        .pax(&[("uid", b"4000000000"), ("mtime", b"-1.5")])
        .file("y", "2");
    let (case, _) = Case::good(odd);
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"sp ace\n\xff\\#=");
    assert_eq!(std::fs::read_to_string(case.dir.path().join("tree").join(name)).unwrap(), "1");
    assert_eq!((case.line("y").uid, case.line("y").mtime), (4_000_000_000, (-2, 500_000_000)));
    let lines = index::read(std::fs::read(case.dir.path().join("index")).unwrap().as_slice()).unwrap();
    assert!(lines.iter().any(|line| line.path == b"sp ace\n\xff\\#="));
}

/// An old GNU header of a sparse file: regions in the header.
fn gnu_sparse(name: &str, regions: &[(u64, u64)], real: u64, data: &[u8]) -> Tarball {
    let mut header =
        block(&Header { name, kind: b'S', size: data.len() as u64, magic: b"ustar  \0", ..Header::default() });
    let mut put = |at: usize, value: u64| {
        let text = if value < 1 << 33 {
            format!("{value:011o}\0").into_bytes()
        } else {
            [&[0x80u8, 0, 0, 0][..], &value.to_be_bytes()].concat()
        };
        header[at..at + 12].copy_from_slice(&text);
    };
    for (index, (offset, length)) in regions.iter().enumerate() {
        put(386 + index * 24, *offset);
        put(386 + index * 24 + 12, *length);
    }
    put(483, real);
    tarball::checksum(&mut header);
    Tarball::new().raw(&header).data(data)
}

#[test]
fn sparse_files_of_every_dialect_get_their_holes() {
    let expected = [&[0u8; 4096][..], b"middle", &[0; 10_000], b"end"].concat();
    let regions = [(4096, 6), (14102, 3)];
    let gnu = gnu_sparse("sparse", &regions, expected.len() as u64, b"middleend");
    let real = expected.len().to_string();
    let pax01 = Tarball::new()
        .pax(&[
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.size", real.as_bytes()),
            ("GNU.sparse.map", b"4096,6,14102,3"),
        ])
        .file("GNUSparseFile.0/sparse", "middleend");
    let map = format!("2\n4096\n6\n14102\n3\n{}", "\0".repeat(512));
    let pax10 = Tarball::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", real.as_bytes()),
        ])
        .file("GNUSparseFile.0/sparse", [&map.as_bytes()[..512], b"middleend"].concat());
    for tar in [gnu, pax01, pax10] {
        let (case, unpacked) = Case::good(tar.file("after", "next"));
        assert_eq!(std::fs::read(case.path("sparse")).unwrap(), expected);
        assert_eq!(case.read("after"), "next");
        assert_eq!(unpacked.written.bytes, expected.len() as u64 + 4);
        assert_eq!(
            case.line("sparse").kind,
            LineKind::File { size: expected.len() as u64, xxh3: xxhash_rust::xxh3::xxh3_64(&expected) }
        );
    }
}

#[test]
fn claims_of_sparse_files_are_bounded() {
    let huge = 10 << 40;
    let error = Case::bad(gnu_sparse("sparse", &[(huge - 1, 1)], huge, b"x"));
    assert!(error.contains("sparse file size") && error.contains("limit"), "{error}");
    for (regions, real) in
        [(vec![(0, 10)], 5), (vec![(5, 4), (0, 4)], 100), (vec![(u64::MAX >> 2, 1)], 100), (vec![(0, 3)], 100)]
    {
        let error = Case::bad(gnu_sparse("sparse", &regions, real, b"12345678"));
        assert!(error.contains("sparse"), "{error}");
    }
    let mut case = Case::new();
    case.policy.bytes = 1 << 20;
    let error = case.unpack(&gnu_sparse("sparse", &[(1 << 21, 1)], (1 << 21) + 1, b"x").finish()).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    // A plain file that claims 10 TB.
    let error = Case::bad(Tarball::new().entry(Header { name: "big", size: huge, ..Header::default() }, b"x"));
    assert!(error.contains("file size"), "{error}");
}

#[test]
fn decompression_bombs_are_stopped_by_ratio_and_by_size() {
    let zeros = Tarball::new().file("zeros", vec![0; 8 << 20]).finish();
    let blob = zstd::encode_all(&zeros[..], 3).unwrap();
    let mut case = Case::new();
    case.bounds = Bounds { ratio_from: 1 << 20, ..Bounds::default() };
    let error = case.unpack(&blob).unwrap_err();
    assert!(error.to_string().contains("decompression bomb"), "{error}");
    let mut case = Case::new();
    case.bounds = Bounds { bytes: 1 << 20, ..Bounds::default() };
    assert!(matches!(case.unpack(&blob).unwrap_err(), Error::TooLarge { .. }));
    assert!(Case::new().unpack(&blob).is_ok(), "an honest layer of zeros is fine");
}

#[test]
fn damaged_blobs_are_told_by_their_digest_first() {
    let blob = gzip(&Tarball::new().file("a", vec![7; 500_000]).finish());
    let digest = Digest::of(&blob);
    let size = blob.len() as u64;
    for place in [20, blob.len() / 2, blob.len() - 1] {
        let mut damaged = blob.clone();
        damaged[place] ^= 0x10;
        let error = Case::new().unpack_expecting(&damaged, &digest, size).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "byte {place}: {error}");
    }
    let error = Case::new().unpack_expecting(&blob[..blob.len() - 10], &digest, size).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    let longer = [&blob[..], b"more"].concat();
    let error = Case::new().unpack_expecting(&longer, &digest, size).unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { .. }), "{error}");
    // A blob that is what its digest says and still no good.
    let cut = gzip(&Tarball::new().file("a", vec![7; 500_000]).unfinished()[..10_000]);
    let error = Case::new().unpack(&cut).unwrap_err();
    assert!(error.to_string().contains("ends too early") && error.to_string().contains("`a`"), "{error}");
    let error = Case::new().unpack(&blob[..blob.len() / 2]).unwrap_err();
    assert!(error.to_string().contains("ends too early"), "{error}");
    let error = Case::new().unpack(&[b'?'; 4096]).unwrap_err();
    assert!(error.to_string().contains("no tar header"), "{error}");
}

#[test]
fn limits_on_entries_depth_and_headers_hold() {
    let mut case = Case::new();
    case.policy.entries = 2;
    assert!(matches!(
        case.unpack(&Tarball::new().file("a", "").file("b", "").file("c", "").finish()),
        Err(Error::TooLarge { .. })
    ));
    let deep = "d/".repeat(300);
    assert!(Case::bad(Tarball::new().pax(&[("path", deep.as_bytes())]).dir("x", 0o755)).contains("deeper"));
    let error =
        Case::bad(Tarball::new().entry(Header { name: "x", kind: b'x', size: 1 << 30, ..Header::default() }, b""));
    assert!(error.contains("pax header"), "{error}");
    let long = "n".repeat(5000);
    assert!(Case::bad(Tarball::new().pax(&[("path", long.as_bytes())]).file("x", "")).contains("path"));
    let name = "n".repeat(300);
    assert!(
        Case::bad(Tarball::new().pax(&[("path", name.as_bytes())]).file("x", ""))
            .contains("longer than this file system")
    );
}

#[test]
fn a_directory_of_very_many_entries_is_only_large() {
    let mut tar = Tarball::new();
    let count = 20_000;
    for number in 0..count {
        tar = tar.file(&format!("many/{number}"), "");
    }
    let (case, unpacked) = Case::good(tar);
    assert_eq!(unpacked.written.entries, count);
    assert_eq!(std::fs::read_dir(case.path("many")).unwrap().count() as u64, count);
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is done to an archive, unpacking ends with an answer, and nothing appears beside its directory.
        #[test]
        fn no_damage_makes_the_unpacker_panic_or_leave_its_place(
            changes in proptest::collection::vec((0usize..8192, any::<u8>()), 0..12),
            cut in 0usize..8192,
        ) {
            let mut bytes = Tarball::new()
                .dir("dir", 0o755)
                .file("dir/file", "content")
                .symlink("link", "/dir")
                .file("link/through", "x")
                .hard_link("hard", "dir/file")
                .pax(&[("SCHILY.xattr.user.x", b"y"), ("mtime", b"1.5")])
                .file(".wh.gone", "")
                .entry(Header { name: "dev", kind: b'3', ..Header::default() }, b"")
                .finish();
            let length = bytes.len();
            for (place, byte) in changes {
                bytes[place % length] = byte;
            }
            bytes.truncate(length - cut.min(length) / 4);
            // Right checksums let the damage through to the fields.
            for block in bytes.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    tarball::checksum(block.try_into().unwrap());
                }
            }
            let outer = tempfile::tempdir().unwrap();
            let dir = outer.path().join("work");
            std::fs::create_dir(&dir).unwrap();
            let expected = Expected { name: "test", digest: None, size: None };
            let policy = Policy { own: false, keep_setid: true, umask: 0, entries: 1000, bytes: 1 << 20 };
            let unpacking = Unpacking { policy, bounds: Bounds::default(), cancel: &AtomicBool::new(false) };
            let result = unpack(&mut &bytes[..], &expected, &dir, &unpacking, &|_| {});
            if result.is_ok() {
                let index = std::fs::read(dir.join("index")).unwrap();
                prop_assert!(index::read(index.as_slice()).is_ok());
            }
            prop_assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
        }
    }
}
