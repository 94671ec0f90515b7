//! The check of the fuzz target on configurations made by rule, so that every run of the tests has some of them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

#[path = "../../../fuzz/container_checks.rs"]
mod container_checks;

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

/// Values that somebody once forgot to think of.
fn odd(random: &mut Random) -> Value {
    let strings = ["", "/", ".", "..", "../../etc", "/a/../../b", "a\0b", "%s%n", "-1", "🦀", "/proc/self/fd/7", "\n"];
    match random.below(9) {
        0 => json!(u64::MAX),
        1 => json!(i64::MIN),
        2 => json!(-1),
        3 => json!(4_294_967_295_u32),
        4 => json!([]),
        5 => json!(strings[random.below(strings.len())].repeat(1 + random.below(3))),
        6 => json!("x".repeat(5_000)),
        7 => json!(true),
        _ => json!(strings[random.below(strings.len())]),
    }
}

/// Changes something in the document: a value becomes an odd one or goes away, a list gets longer.
fn mutate(random: &mut Random, value: &mut Value) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let key = map.keys().nth(random.below(map.len())).cloned().unwrap_or_default();
            match random.below(12) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(key, odd(random))),
                _ => mutate(random, &mut map[&key]),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list[at] = odd(random),
                _ => mutate(random, &mut list[at]),
            }
        }
        other => *other = odd(random),
    }
}

#[test]
fn any_configuration_becomes_a_plan_or_an_error() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/config");
    let seeds: Vec<Vec<u8>> =
        fs::read_dir(dir).expect("the seeds").flatten().map(|entry| fs::read(entry.path()).expect("a seed")).collect();
    assert!(seeds.len() >= 2);
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for seed in &seeds {
        container_checks::config(seed);
        let document: Value = serde_json::from_slice(seed).expect("a seed is JSON");
        for _ in 0..1_500 {
            let mut document = document.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut random, &mut document);
            }
            container_checks::config(document.to_string().as_bytes());
        }
    }
}

#[test]
fn documents_of_any_depth_are_read_or_refused() {
    let deep = |field: &str, open: &str, close: &str| {
        let (open, close) = (open.repeat(100_000), close.repeat(100_000));
        format!("{{\"ociVersion\":\"1.2.0\",\"{field}\":{open}1{close}}}")
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        // What nobody knows is passed over, without a stack that grows.
        container_checks::config(deep("unknown", open, close).as_bytes());
        assert!(serde_json::from_str::<berth_container::oci::Spec>(&deep("mounts", open, close)).is_err());
    }
}
