//! See `dataplane::checks::http2_answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dataplane::checks::http2_answer(data));
