//! Fuzzes `checks::reference`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
#[allow(dead_code)] // One of three is used here.
mod checks;

fuzz_target!(|data: &[u8]| checks::reference(data));
