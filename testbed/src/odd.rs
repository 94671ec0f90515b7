//! An image with everything that a layer may hold and that a careless unpacker gets wrong.

use std::io;

use serde_json::json;

use crate::image::Compression;
use crate::image::Layout;
use crate::tar::Dialect;
use crate::tar::Header;
use crate::tar::Kind;

/// A capability set as the kernel stores it: version 2, `cap_net_raw=ep`.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Names that only a root with all ids, and no unpacking user, can make as they are.
pub const DEVICES: [&str; 3] = ["dev/null-node", "dev/loop-node", "dev/far-node"];

/// Adds the image `odd` to a layout.
pub fn make(layout: &Layout) -> io::Result<()> {
    let layers = [
        layout.layer(Compression::Gzip(6), base)?,
        layout.layer(Compression::Gzip(6), changes)?,
        layout.layer(Compression::None, second_thoughts)?,
    ];
    layout.image("odd", &layers, &json!({"Cmd": ["/nothing"], "Env": ["PATH=/"]}))?;
    Ok(())
}

type Tar<'a, 'b> = &'a mut crate::image::LayerWriter<'b>;

fn base(tar: Tar<'_, '_>) -> io::Result<()> {
    modes(tar)?;
    names(tar)?;
    links(tar)?;
    contents(tar)?;
    attributes(tar)?;
    below(tar)
}

fn modes(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("modes/", 0o755))?;
    for mode in [0o000, 0o111, 0o400, 0o444, 0o600, 0o640, 0o666, 0o777, 0o755, 0o4755, 0o2755, 0o6711, 0o1644] {
        tar.file(&Header::file(format!("modes/file-{mode:04o}"), mode), format!("{mode:o}").as_bytes())?;
    }
    for mode in [0o000, 0o300, 0o500, 0o555, 0o700, 0o711, 0o750, 0o777, 0o1777, 0o2775, 0o3770] {
        tar.entry(&Header::dir(format!("modes/dir-{mode:04o}/"), mode))?;
        // The folder's mode comes before its content: it may be applied only afterwards.
        tar.file(&Header::file(format!("modes/dir-{mode:04o}/inside"), 0o644), b"inside")?;
    }
    tar.entry(&Header::dir("owners/", 0o755).owner(1000, 1000))?;
    for (uid, gid) in [(0, 0), (1, 2), (1000, 1000), (1000, 0), (33, 4242), (60_000, 60_001)] {
        tar.file(&Header::file(format!("owners/{uid}-{gid}"), 0o640).owner(uid, gid), b"owned")?;
    }
    tar.file(&Header::file("owners/setuid", 0o4755).owner(1000, 1000), b"owned")?;
    tar.entry(&Header::symlink("owners/link", "nowhere").owner(1000, 33))?;
    Ok(())
}

fn names(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("names/", 0o755))?;
    let plain = [
        "a b",
        "-rf",
        "a:b",
        "a,b",
        "a\\b",
        "a=b",
        "quo\"te",
        "quo'te",
        "new\nline",
        "tab\there",
        "star*",
        "$HOME",
        "%41",
        "ünïcødé",
        "日本語",
        "🦀",
        "\u{7f}",
        "...",
        "..a",
        ".hidden",
        "wh.",
        ".wh",
        "@LongLink",
    ];
    for name in plain {
        tar.file(&Header::file(format!("names/{name}"), 0o644), name.as_bytes())?;
    }
    for dialect in [Dialect::Pax, Dialect::Gnu, Dialect::Ustar] {
        let dir = format!("names/{dialect:?}");
        tar.dialect(dialect).entry(&Header::dir(format!("{dir}/"), 0o755))?;
        for length in [99, 100, 101] {
            let name = "n".repeat(length - dir.len() - 1);
            tar.file(&Header::file(format!("{dir}/{name}"), 0o644), b"long")?;
        }
        if dialect != Dialect::Ustar {
            tar.file(&Header::file(format!("{dir}/{}", "x".repeat(255)), 0o644), b"longest")?;
            let deep = format!("{dir}/{}", format!("{}/", "d".repeat(200)).repeat(6));
            tar.file(&Header::file(format!("{deep}bottom"), 0o644), b"deep")?;
            tar.entry(&Header::symlink(format!("{dir}/long-link"), "t/".repeat(400)))?;
        }
    }
    // Bytes that are no UTF-8 at all, which pax cannot say but every file system can.
    tar.dialect(Dialect::Gnu).file(&Header::file(b"names/latin\xe9\xff".as_slice(), 0o644), b"bytes")?;
    tar.dialect(Dialect::Pax);
    Ok(())
}

fn links(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("links/", 0o755))?.entry(&Header::dir("links/sub/", 0o755))?;
    tar.file(&Header::file("links/one", 0o644), b"one file, four names")?;
    for name in ["links/two", "links/sub/three", "links/a-first"] {
        tar.entry(&Header::hard(name, "links/one", 0o644))?;
    }
    for (name, target) in [
        ("relative", "sub/three"),
        ("absolute", "/links/one"),
        ("upwards", "../../../../../../links/one"),
        ("dangling", "no/such/file"),
        ("loop", "loop"),
        ("to-dir", "sub"),
        ("spaces", "a b\tc"),
    ] {
        tar.entry(&Header::symlink(format!("links/{name}"), target))?;
    }
    // A second name of a symbolic link itself.
    tar.entry(&Header::hard("links/same-link", "links/dangling", 0o777))?;
    tar.entry(&Header::fifo("links/pipe", 0o622))?;
    Ok(())
}

fn contents(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("contents/", 0o755))?;
    for size in [0usize, 1, 511, 512, 513, 65_535, 65_536, 1_048_577] {
        let content: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        tar.file(&Header::file(format!("contents/{size}"), 0o644), &content)?;
    }
    let chunks: [(u64, &[u8]); 3] = [(0, &[b'a'; 512]), (1 << 20, &[b'b'; 1024]), ((8 << 20) - 512, &[b'c'; 512])];
    tar.sparse(&Header::file("contents/sparse", 0o644), 8 << 20, &chunks)?;
    tar.sparse(&Header::file("contents/all-hole", 0o644), 1 << 20, &[])?;
    for (name, seconds) in [("epoch", 0), ("old", 1), ("2038", 1 << 31), ("2100", 4_102_444_800)] {
        tar.file(&Header::file(format!("contents/time-{name}"), 0o644).modified(seconds), b"")?;
    }
    // A file whose folder no entry names.
    tar.file(&Header::file("unnamed/folder/file", 0o644), b"orphan")?;
    tar.file(&Header::file("./contents/./dotted", 0o644), b"dots")?;
    Ok(())
}

fn attributes(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("xattrs/", 0o755).xattr("user.on-folder", "yes"))?;
    tar.file(&Header::file("xattrs/text", 0o644).xattr("user.comment", "hello"), b"text")?;
    let binary: Vec<u8> = (0..=255).collect();
    tar.file(&Header::file("xattrs/binary", 0o644).xattr("user.bin", binary), b"binary")?;
    tar.file(&Header::file("xattrs/read-only", 0o444).xattr("user.comment", "on a file without write"), b"ro")?;
    tar.file(&Header::file("xattrs/capable", 0o755).xattr("security.capability", CAPABILITY), b"ping")?;
    tar.entry(&Header::dir("dev/", 0o755))?;
    tar.entry(&Header::device(DEVICES[0], Kind::Char, 0o666, 1, 3))?;
    tar.entry(&Header::device(DEVICES[1], Kind::Block, 0o660, 7, 0))?;
    tar.entry(&Header::device(DEVICES[2], Kind::Char, 0o600, 4095, 65_536))?;
    Ok(())
}

/// What the next layers change.
fn below(tar: Tar<'_, '_>) -> io::Result<()> {
    for dir in ["below/", "below/kept/", "below/gone/", "below/gone/deep/", "below/opaque/", "below/opaque/sub/"] {
        tar.entry(&Header::dir(dir, 0o755))?;
    }
    for dir in ["below/late/", "below/to-file/", "below/to-link/", "below/again/", "below/mode/"] {
        tar.entry(&Header::dir(dir, 0o755))?;
        tar.file(&Header::file(format!("{dir}old"), 0o644), b"old")?;
    }
    for file in [
        "kept/file",
        "gone/file",
        "gone/deep/file",
        "opaque/old",
        "opaque/sub/old",
        "file",
        "replaced",
        "to-dir",
        "removed-once",
    ] {
        tar.file(&Header::file(format!("below/{file}"), 0o644), file.as_bytes())?;
    }
    tar.entry(&Header::symlink("below/link-to-dir", "kept"))?;
    Ok(())
}

fn whiteout(tar: Tar<'_, '_>, name: &str) -> io::Result<()> {
    tar.file(&Header::file(name, 0o000), b"")?;
    Ok(())
}

fn changes(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("below/", 0o755))?;
    whiteout(tar, "below/.wh.file")?;
    whiteout(tar, "below/.wh.gone")?;
    whiteout(tar, "below/.wh.removed-once")?;
    whiteout(tar, "below/.wh.never-there")?;
    // Opaque first, then the new content; and the other way round, which means the same.
    tar.entry(&Header::dir("below/opaque/", 0o755))?;
    whiteout(tar, "below/opaque/.wh..wh..opq")?;
    tar.file(&Header::file("below/opaque/new", 0o644), b"new")?;
    tar.entry(&Header::dir("below/late/", 0o750))?;
    tar.file(&Header::file("below/late/new", 0o644), b"new")?;
    whiteout(tar, "below/late/.wh..wh..opq")?;
    // Every change of type.
    tar.entry(&Header::dir("below/to-dir/", 0o755))?;
    tar.file(&Header::file("below/to-dir/inside", 0o644), b"inside")?;
    tar.file(&Header::file("below/to-file", 0o644), b"a file now")?;
    tar.entry(&Header::symlink("below/to-link", "kept"))?;
    tar.entry(&Header::dir("below/link-to-dir/", 0o755))?;
    tar.file(&Header::file("below/link-to-dir/inside", 0o644), b"no longer a link")?;
    // A changed file, a changed mode, nothing else.
    tar.file(&Header::file("below/replaced", 0o600).owner(5, 6), b"replaced")?;
    tar.entry(&Header::dir("below/mode/", 0o700))?;
    // Gone and made anew in one layer: the marker is about the layers below only.
    whiteout(tar, "below/.wh.again")?;
    tar.entry(&Header::dir("below/again/", 0o755))?;
    tar.file(&Header::file("below/again/new", 0o644), b"new")?;
    Ok(())
}

fn second_thoughts(tar: Tar<'_, '_>) -> io::Result<()> {
    tar.entry(&Header::dir("below/", 0o755))?;
    tar.file(&Header::file("below/removed-once", 0o644), b"back again")?;
    tar.entry(&Header::dir("below/gone/", 0o711))?;
    tar.file(&Header::file("below/gone/anew", 0o644), b"in a folder of the same name")?;
    whiteout(tar, "below/opaque/.wh.new")?;
    tar.entry(&Header::dir("links/", 0o755))?;
    whiteout(tar, "links/.wh.one")?;
    tar.entry(&Header::dir("late/", 0o755).xattr("user.layer", "third"))?;
    Ok(())
}
