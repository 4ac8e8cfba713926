//! See `dataplane::checks::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::frames(data));
