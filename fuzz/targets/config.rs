//! Fuzzes `container_checks::config`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../container_checks.rs"]
mod container_checks;

fuzz_target!(|data: &[u8]| container_checks::config(data));
