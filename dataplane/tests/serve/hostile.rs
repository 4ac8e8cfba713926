//! Hostile request heads, as files, against the running process: each is refused, its connection closed, and
//! nothing of it reaches an upstream.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::plane::{GOOD, Plane, Upstream, deployment, key, post};

#[test]
fn every_hostile_head_is_refused_and_nothing_goes_upstream() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_ok()
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/request");
    let mut tried = 0;
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let mut peer = plane.connect();
        peer.send(&bytes);
        // A head that is refused only for its size or its end needs nothing more; one that is cut needs its
        // end.
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let answer = peer.answer();
        assert!((400..=431).contains(&answer.status), "{name}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        assert_eq!(answer.json()["error"].as_object().unwrap().len(), 4, "{name}");
        while peer.more() {}
        assert!(peer.unread().is_empty(), "{name}: a second answer");
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(plane.ask(&post("/v1/chat/completions", r#"{"model":"fast"}"#)).status, 200);
}

#[test]
fn a_smuggled_second_request_is_never_served() {
    let upstream = Upstream::fixed("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let second = "GET /v1/models HTTP/1.1\r\nhost: h\r\n\r\n";
    let framings = [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: 5\r\ncontent-length: 6",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, gzip",
        "content-length: +5",
        "transfer-encoding : chunked",
        "transfer-encoding:\x0bchunked",
    ];
    for framing in framings {
        let mut peer = plane.connect();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\napi-key: {}\r\n{framing}\r\n\r\n",
            key(GOOD)
        );
        peer.send((head + "0\r\n\r\n" + second).as_bytes());
        assert_eq!(peer.answer().status, 400, "{framing}");
        while peer.more() {}
        assert!(peer.unread().is_empty(), "{framing}");
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
}
