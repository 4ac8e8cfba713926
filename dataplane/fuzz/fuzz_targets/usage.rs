//! See `dataplane::checks::usage`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::usage(data));
