//! The check of the fuzz target on images that are damaged by rule, so that every run of the tests has some.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/image_checks.rs"]
mod image_checks;

/// xorshift64: the same inputs on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/image");
    let mut paths: Vec<_> = fs::read_dir(dir).expect("the seeds").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

/// Changes a few numbers of an image: tables begin and end at other places, counts lie, references lead astray.
fn damage(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut image = seed.to_vec();
    for _ in 0..1 + random.below(6) {
        // Half of the damage goes where all the rest hangs: the head, and the tables at the end.
        let at = match random.below(4) {
            0 => random.below(96),
            1 => 1024 + random.below(128),
            2 => image.len().saturating_sub(1 + random.below(2048)),
            _ => random.below(image.len()),
        };
        let at = at.min(image.len().saturating_sub(8));
        match random.below(6) {
            0 => image[at] ^= 1 << random.below(8),
            1 => image[at] = [0, 1, 2, 0x7f, 0x80, 0xff][random.below(6)],
            2 => image[at..at + 4].fill(0xff),
            3 => {
                let value = (random.below(image.len()) as u32).to_le_bytes();
                image[at..at + 4].copy_from_slice(&value);
            }
            4 => {
                let from = random.below(image.len() - 8);
                image.copy_within(from..from + 8, at);
            }
            _ => image.truncate(at.max(200)),
        }
        if image.len() < 200 {
            break;
        }
    }
    image
}

#[test]
fn any_image_is_read_or_refused() {
    let seeds = seeds();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    image_checks::image(b"");
    seeds.iter().for_each(|seed| image_checks::image(seed));
    for _ in 0..6_000 {
        let seed = &seeds[random.below(seeds.len())];
        image_checks::image(&damage(&mut random, seed));
    }
}

#[test]
fn every_seed_is_an_image() {
    for seed in seeds() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &seed).unwrap();
        let tree = berth_imagefile::open(file, "seed").unwrap();
        assert!(berth_imagefile::listing::listing(&*tree, 1000).unwrap().len() > 45);
    }
}

/// A squashfs image of three directories in each other, with nothing compressed, and where the entry of the innermost is.
fn nested() -> (Vec<u8>, usize) {
    use berth_imagefile::Compression;
    use berth_imagefile::squashfs::Options;
    use berth_imagefile::squashfs::SquashfsWriter;
    use berth_imagefile::write::Sink as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let options = Options { compression: Compression::None, threads: 1, ..Options::default() };
    let mut writer = SquashfsWriter::create(fs::File::create_new(&path).unwrap(), "image", options).unwrap();
    writer.add_implied(b"outer/middle/innermost").unwrap();
    writer.finish().unwrap();
    let image = fs::read(path).unwrap();
    let name = image.windows(9).position(|bytes| bytes == b"innermost").unwrap();
    (image, name)
}

fn open(image: &[u8]) -> std::sync::Arc<dyn berth_imagefile::Tree> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, image).unwrap();
    berth_imagefile::open(file, "image").unwrap()
}

/// The error of a lookup of the innermost directory, and of the listing of the one above.
fn faults(image: &[u8]) -> [String; 2] {
    let tree = open(image);
    let outer = tree.lookup(tree.root(), b"outer").unwrap().unwrap();
    let middle = tree.lookup(outer, b"middle").unwrap().unwrap();
    let found = tree.lookup(middle, b"innermost").unwrap_err().to_string();
    [found, berth_imagefile::listing::listing(&*tree, 100).unwrap_err().to_string()]
}

#[test]
fn a_directory_that_holds_one_above_it_is_an_error() {
    let (mut image, name) = nested();
    assert_eq!(berth_imagefile::listing::listing(&*open(&image), 100).unwrap().len(), 4);
    // The root's place takes that of the innermost directory.
    let root = [image[32], image[33]];
    image[name - 8..name - 6].copy_from_slice(&root);
    for fault in faults(&image) {
        assert!(fault.contains("holds a directory that lies behind it"), "{fault}");
    }
    // The same, listed as a file.
    image[name - 4] = 2;
    let [lookup, listing] = faults(&image);
    assert!(lookup.contains("an entry of the wrong type"), "{lookup}");
    assert!(listing.contains("not of the kind that its directory says"), "{listing}");
}
