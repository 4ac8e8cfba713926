//! See `dataplane::checks::model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::model(data));
