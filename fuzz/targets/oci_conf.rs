//! Fuzzes `oci_conf_checks::oci_conf`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../oci_conf_checks.rs"]
mod oci_conf_checks;

fuzz_target!(|data: &[u8]| oci_conf_checks::oci_conf(data));
