//! The checks of the fuzz targets on inputs made by rule, so that every run of the tests has some of them.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/checks.rs"]
mod checks;

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

/// Changes a seed a little: a bit, a byte with meaning, a piece gone, doubled or moved.
fn mutate(random: &mut Random, input: &[u8]) -> Vec<u8> {
    const MEANING: &[u8] = b"\0 /.:@#=%0179-\"{}[],\\xLKgS\xff\x80\x7f\n";
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let length = random.below(64).min(bytes.len() - at);
        match random.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = MEANING[random.below(MEANING.len())],
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let piece = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn run(seeds: &[Vec<u8>], rounds: usize, check: fn(&[u8])) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    check(b"");
    seeds.iter().for_each(|seed| check(seed));
    for _ in 0..rounds {
        let seed = &seeds[random.below(seeds.len())];
        check(&mutate(&mut random, seed));
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(dir).expect("the seeds").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

#[test]
fn any_reference_is_refused_or_written_back() {
    run(&seeds("reference"), 20_000, checks::reference);
}

#[test]
fn any_manifest_leads_to_an_image_or_an_error() {
    run(&seeds("manifest"), 5_000, checks::manifest);
}

#[test]
fn any_layer_is_unpacked_or_refused_and_stays_in_its_folder() {
    run(&seeds("layer"), 1_500, checks::layer);
}
