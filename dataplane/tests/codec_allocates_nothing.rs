//! The codec allocates nothing: heads found and parsed, a response head written into a buffer that is used
//! again, and the chunks of an event stream decoded, all under an allocator that counts.

// A global allocator can only be written with unsafe code; this one passes every call on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dataplane::http::framing::{BodyDecoder, BodyFraming};
use dataplane::http::head_end::HeadEnd;
use dataplane::http::head_write;
use dataplane::http::request_head::RequestHead;
use dataplane::http::response_head::ResponseHead;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread makes in `work`.
fn allocations(mut work: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

const REQUEST: &[u8] =
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\nAccept: application/json\r\n\
    Content-Type: application/json\r\nUser-Agent: OpenAI/Python 3.54.0\r\nAuthorization: Bearer sk-lt-abc\r\n\
    X-Stainless-Lang: python\r\nContent-Length: 312\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nserver: uvicorn\r\n\
    transfer-encoding: chunked\r\n\r\n";

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))), 1);
}

#[test]
fn heads_are_found_and_parsed_without_allocation() {
    let count = allocations(|| {
        for end in 0..=REQUEST.len() {
            let found = HeadEnd::of_request().find(&REQUEST[..end]);
            assert_eq!(found, Ok((end == REQUEST.len()).then_some(end)));
        }
        let request = RequestHead::parse(REQUEST).expect("a valid head");
        assert_eq!(request.forwarded().count(), 2);
        let response = ResponseHead::parse(RESPONSE, false).expect("a valid head");
        assert!(response.is_event_stream);
    });
    assert_eq!(count, 0);
}

#[test]
fn heads_are_written_into_a_used_buffer_without_allocation() {
    let mut out = Vec::with_capacity(512);
    let count = allocations(|| {
        for status in [200, 429, 503] {
            out.clear();
            head_write::status_line(&mut out, status);
            head_write::header(&mut out, "content-type", b"text/event-stream");
            head_write::framing(&mut out, BodyFraming::Length(u64::MAX));
            head_write::end(&mut out);
            std::hint::black_box(head_write::chunk_size_line(out.len()));
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn chunks_of_an_event_stream_are_decoded_without_allocation() {
    let mut wire = b"fe\r\n".to_vec();
    wire.resize(4 + 0xfe, b'x');
    wire.extend_from_slice(b"\r\n");
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let count = allocations(|| {
        for _ in 0..10_000 {
            let decoded = decoder.decode(&mut wire).expect("a valid chunk");
            assert_eq!((decoded.data, decoded.consumed), (4..258, 260));
        }
    });
    assert_eq!(count, 0);
}
