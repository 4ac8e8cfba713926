//! What must hold of the parsers whatever bytes they get: one function for each, which panics where it does
//! not.
//!
//! The fuzzers (`dataplane/fuzz`) call these with what they think of; `tests` call the same functions with
//! the seeds of the fuzzers and mutations of them that a fixed seed decides. Each begins with the parser's
//! own `fuzz`, which holds that nothing panics and that how the bytes are split changes nothing, and goes on
//! with a second reader that shares no code with ours: `httparse` for heads and chunks, `serde_json` for
//! bodies and usage, a naive one for event streams.

/// Event streams.
mod events;
/// Heads and chunks, beside `httparse`.
mod heads;
/// HTTP/2 as HTTP/1.1, both ways.
mod http2;
/// The model of a request body, beside `serde_json`.
mod model;
/// The usage in an answer, beside `serde_json`.
mod usage;

pub use crate::http::known_head::fuzz as known_head;
pub use events::events;
pub use heads::{chunked, request_head, response_head};
pub use http2::{http2_answer, http2_request};
pub use model::model;
pub use usage::usage;

use wire::codec::DecodeError;
use wire::frame::Frame;

/// A check, and what its fuzzer and its seeds are called.
pub type Check = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Check; 10] = [
    ("request_head", request_head),
    ("known_head", known_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("http2_request", http2_request),
    ("http2_answer", http2_answer),
    ("events", events),
    ("model", model),
    ("usage", usage),
    ("frames", frames),
];

/// Frames between the planes: as they are, and as a frame of kind `data[0]` whose checksum is right, since
/// hardly any other gets past it.
pub fn frames(data: &[u8]) {
    wire::frame::fuzz(data);
    wire::record::fuzz(data);
    let Some((kind, payload)) = data.split_first() else { return };
    let sealed = seal(*kind, payload);
    let decoded = Frame::decode(&sealed);
    for len in (0..sealed.len()).rev().take(256) {
        assert_eq!(Frame::decode(&sealed[..len]), Ok(None), "taken before it was whole");
    }
    match decoded {
        Ok(Some((frame, used))) => {
            assert_eq!(used, sealed.len());
            let again = frame.to_bytes();
            assert_eq!(Frame::decode(&again), Ok(Some((frame, again.len()))), "does not read back");
        }
        Ok(None) => panic!("a whole frame is waited for"),
        Err(error) => assert!(!matches!(error, DecodeError::Checksum(_)), "the checksum is right"),
    }
}

/// A frame with this payload.
fn seal(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let checked = [&[wire::frame::VERSION, kind, 0, 0], payload].concat();
    [&len[..], &crc32c::crc32c(&checked).to_le_bytes(), &checked].concat()
}

#[cfg(test)]
mod tests;
