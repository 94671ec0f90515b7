//! Fuzzes `image_checks::image`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../image_checks.rs"]
mod image_checks;

fuzz_target!(|data: &[u8]| image_checks::image(data));
