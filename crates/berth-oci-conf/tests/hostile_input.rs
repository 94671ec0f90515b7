//! Made-up files: see `fuzz/oci_conf_checks.rs` for what must hold.

#[path = "../../../fuzz/oci_conf_checks.rs"]
mod oci_conf_checks;

use berth_oci_conf::Release;
use berth_oci_conf::keys::KEYS;
use berth_oci_conf::patterns::Values;
use berth_oci_conf::patterns::expand;
use proptest::prelude::*;

/// Words of which files are made, and what breaks them.
fn words() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    prop_oneof![
        4 => proptest::sample::select(keys).prop_map(str::to_owned),
        6 => proptest::sample::select(vec![
            "=", "\"", "\"", "\n", "\n", " ", "\\", "\\\n", "#", "%", "%b", "%@", "%t", "'", "\r\n", "\0", "+=", "exec ", "$HOME",
            "Include ", "include x\n", "Include none\n", "\u{feff}", "true", "crun --root=/tmp run %n.%j", "[ ", " && ", "(", "~/x",
            "IgnoreFileConfigJson=true\n", "RunTimeRun=\"x\"\n", "RunTimeRun=\"\"\n", "{1,300}", "sudo ", "env ", "ü",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..512)) {
        oci_conf_checks::oci_conf(&data);
    }

    #[test]
    fn files_of_known_words_are_read_or_refused(words in proptest::collection::vec(words(), 0..40)) {
        oci_conf_checks::oci_conf(words.concat().as_bytes());
    }

    #[test]
    fn any_value_is_expanded_or_refused(value in "([%][%@bejmnprstuUZ]|\\PC){0,20}", release in proptest::sample::select(Release::KNOWN.to_vec())) {
        let _ = expand(&value, &Values::default(), release);
    }

    #[test]
    fn what_has_no_pattern_stays_as_it_is(value in "[^%]{0,40}") {
        prop_assert_eq!(expand(&value, &Values::default(), Release::LAST).unwrap(), value);
    }
}

#[test]
fn the_examples_hold() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for dir in ["bad", "good", "guide/new", "guide/old"] {
        for entry in std::fs::read_dir(tests.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                oci_conf_checks::oci_conf(&std::fs::read(path).unwrap());
            }
        }
    }
}
