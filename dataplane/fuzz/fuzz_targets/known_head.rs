//! See `dataplane::checks::known_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::known_head(data));
