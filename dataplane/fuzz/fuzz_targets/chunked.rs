//! See `dataplane::checks::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::chunked(data));
