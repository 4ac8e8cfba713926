//! Heads found and refused, each whole and split at every byte.

#![allow(unsafe_code, reason = "the clock of a thread")]

use std::time::Duration;

use super::{HEAD_BYTES_MAX, HeadEnd, fuzz};
use crate::http::head_error::HeadError;

type Found = Result<Option<usize>, HeadError>;

const REQUESTS: &[(&str, &[u8], Found)] = &[
    ("nothing", b"", Ok(None)),
    ("complete", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", Ok(Some(27))),
    ("followed by a body of any bytes", b"GET / HTTP/1.1\r\n\r\n\0\n\r\x01", Ok(Some(18))),
    ("followed by another", b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(18))),
    ("without the blank line", b"GET / HTTP/1.1\r\nhost: a\r\n", Ok(None)),
    ("up to the last CR", b"GET / HTTP/1.1\r\nhost: a\r\n\r", Ok(None)),
    ("one empty line before", b"\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(20))),
    ("two empty lines before", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(22))),
    ("only empty lines", b"\r\n\r\n", Ok(None)),
    ("three empty lines before", b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Err(HeadError::EmptyLines)),
    ("an empty line of LF before", b"\nGET / HTTP/1.1\r\n\r\n", Err(HeadError::BareLf)),
    ("bare LF after the start line", b"GET / HTTP/1.1\nhost: a\r\n\r\n", Err(HeadError::BareLf)),
    ("bare LF after a field", b"GET / HTTP/1.1\r\nhost: a\n\r\n", Err(HeadError::BareLf)),
    ("bare LF as the blank line", b"GET / HTTP/1.1\r\nhost: a\r\n\n", Err(HeadError::BareLf)),
    ("bare CR in a value", b"GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", Err(HeadError::BareCr)),
    ("CR CR LF", b"GET / HTTP/1.1\r\nhost: a\r\r\n\r\n", Err(HeadError::BareCr)),
    ("NUL in a value", b"GET / HTTP/1.1\r\nhost: a\0\r\n\r\n", Err(HeadError::ControlByte)),
    (
        "vertical tab before a coding",
        b"GET / HTTP/1.1\r\nte: \x0bchunked\r\n\r\n",
        Err(HeadError::ControlByte),
    ),
    ("DEL in the target", b"GET /\x7f HTTP/1.1\r\n\r\n", Err(HeadError::ControlByte)),
    ("control byte in an unfinished line", b"GET /\x01", Err(HeadError::ControlByte)),
    ("HTAB and bytes over 0x7f in a value", b"GET / HTTP/1.1\r\na: \t\xe4\xff\r\n\r\n", Ok(Some(26))),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00", Err(HeadError::ControlByte)),
];

#[test]
fn each_request_case_ends_as_stated_whole_and_split() {
    for (name, bytes, expected) in REQUESTS {
        assert_eq!(HeadEnd::of_request().find(bytes), *expected, "{name}");
        fuzz(bytes);
    }
}

#[test]
fn empty_line_before_a_response_is_refused() {
    assert_eq!(HeadEnd::of_response().find(b"\r\nHTTP/1.1 200 OK\r\n\r\n"), Err(HeadError::EmptyLines));
    assert_eq!(HeadEnd::of_response().find(b"HTTP/1.1 200 OK\r\n\r\n"), Ok(Some(19)));
}

/// A head of exactly `length` bytes.
fn head_of(length: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\na: ".to_vec();
    head.resize(length - 4, b'x');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[test]
fn head_of_the_limit_passes_and_one_byte_more_does_not() {
    assert_eq!(HeadEnd::of_request().find(&head_of(HEAD_BYTES_MAX)), Ok(Some(HEAD_BYTES_MAX)));
    assert_eq!(HeadEnd::of_request().find(&head_of(HEAD_BYTES_MAX + 1)), Err(HeadError::TooLarge));
    assert_eq!(HeadEnd::of_request().find(&head_of(HEAD_BYTES_MAX)[..HEAD_BYTES_MAX - 1]), Ok(None));
    for length in [HEAD_BYTES_MAX - 1, HEAD_BYTES_MAX, HEAD_BYTES_MAX + 1, HEAD_BYTES_MAX + 2] {
        fuzz(&head_of(length));
    }
}

#[test]
fn head_without_end_is_refused_as_soon_as_it_cannot_fit() {
    let endless = vec![b'x'; HEAD_BYTES_MAX];
    assert_eq!(HeadEnd::of_request().find(&endless[..HEAD_BYTES_MAX - 1]), Ok(None));
    assert_eq!(HeadEnd::of_request().find(&endless), Err(HeadError::TooLarge));
}

#[test]
fn each_call_looks_at_the_new_bytes_only() {
    let mut buf = head_of(1000);
    let mut end = HeadEnd::of_request();
    assert_eq!(end.find(&buf[..900]), Ok(None));
    // Were they looked at again, this LF would be refused.
    buf[100] = b'\n';
    assert_eq!(end.find(&buf[..950]), Ok(None));
    assert_eq!(end.find(&buf), Ok(Some(1000)));
}

/// What this thread has used of a processor: others use this machine.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to what it is given, and to nothing else.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

#[test]
fn half_a_megabyte_that_drips_takes_less_than_fifty_milliseconds() {
    // As many heads of the limit as make 512 KiB, each looked at after each of its bytes.
    let head = head_of(HEAD_BYTES_MAX);
    let drip = || {
        let began = cpu_time();
        for _ in 0..512 * 1024 / HEAD_BYTES_MAX {
            let mut end = HeadEnd::of_request();
            let found = (0..=head.len()).find_map(|len| end.find(&head[..len]).unwrap());
            assert_eq!(found, Some(HEAD_BYTES_MAX));
        }
        cpu_time() - began
    };
    // The best of some: caches are shared, too.
    let took = (0..5).map(|_| drip()).min().unwrap();
    assert!(took < Duration::from_millis(50), "{took:?}");
}
