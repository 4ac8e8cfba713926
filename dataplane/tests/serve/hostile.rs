//! What must be refused, as files, against the running process: each gets the status of the rule that it
//! breaks, its connection is closed, and nothing of it reaches an upstream.
//!
//! A file's extension names its rule; `src/http/hostile.rs` holds the parsers to it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::plane::{GOOD, Peer, Plane, Upstream, deployment, key, post};

/// The status of a rule that a head breaks.
fn status_of(rule: &str) -> u16 {
    match rule {
        "TooLarge" | "TooManyFields" | "FieldNameTooLong" => 431,
        "MethodRefused" => 405,
        "ExpectationFailed" => 417,
        _ => 400,
    }
}

/// Each file of a folder: its name, its rule, its bytes.
fn files(folder: &str) -> Vec<(String, String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(folder);
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap().to_string_lossy().into_owned();
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (text(file.file_stem()), text(file.extension()), std::fs::read(&file).unwrap()))
        .collect()
}

fn upstream() -> Upstream {
    Upstream::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_ok())
}

/// One answer, which says that the connection is closed, and its end; the code of its error.
fn assert_refused(peer: &mut Peer, status: u16, what: &str) -> String {
    let answer = peer.answer();
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{what}");
    assert_eq!(answer.json()["error"].as_object().unwrap().len(), 4, "{what}");
    while peer.more() {}
    assert!(peer.unread().is_empty(), "{what}: a second answer");
    answer.code()
}

#[test]
fn every_hostile_head_is_refused_and_nothing_goes_upstream() {
    let upstream = upstream();
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let files = files("request");
    assert!(files.len() > 90, "{}", files.len());
    for (name, rule, bytes) in files {
        let mut peer = plane.connect();
        peer.send(&bytes);
        // A head that is refused only for its size or its end needs nothing more; one that is cut needs its
        // end.
        let _ = peer.stream.shutdown(std::net::Shutdown::Write);
        assert_refused(&mut peer, status_of(&rule), &name);
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(plane.ask(&post("/v1/chat/completions", r#"{"model":"fast"}"#)).status, 200);
}

#[test]
fn every_hostile_chunked_body_is_refused_and_nothing_goes_upstream() {
    let upstream = upstream();
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\napi-key: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        key(GOOD)
    );
    // The fault stands in a string, where nothing else can be what is refused.
    let before = r#"{"model":"fast","text":""#;
    let files = files("chunked");
    assert!(files.len() > 45, "{}", files.len());
    let mut left = 0;
    for (name, rule, bytes) in files {
        let mut peer = plane.connect();
        peer.send(
            &[head.as_bytes(), format!("{:x}\r\n{before}\r\n", before.len()).as_bytes(), &bytes].concat(),
        );
        if rule == "Truncated" {
            // A client that ends in the middle has left; nobody is there to be told.
            let _ = peer.stream.shutdown(std::net::Shutdown::Write);
            assert!(!peer.more() && peer.unread().is_empty(), "{name}");
            left += 1;
        } else {
            assert_eq!(assert_refused(&mut peer, 400, &name), "invalid_request", "{name}");
        }
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(plane.ask(&post("/v1/chat/completions", r#"{"model":"fast"}"#)).status, 200);
    assert_eq!(plane.metric("liutong_clients_left_total"), left);
}

#[test]
fn what_is_refused_for_its_size_is_closed_and_does_not_go_upstream() {
    let upstream = upstream();
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let head = |framing: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\napi-key: {}\r\n{framing}\r\n\r\n",
            key(GOOD)
        )
    };
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let cases = [
        ("a length over the limit", head("content-length: 1048577"), 413),
        ("chunks over the limit", head("transfer-encoding: chunked") + &chunk.repeat(17), 413),
        ("a long head", format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "y".repeat(33_000)), 431),
        ("a long target", format!("GET /{} HTTP/1.1\r\nhost: h\r\n\r\n", "y".repeat(33_000)), 431),
    ];
    for (what, bytes, status) in cases {
        let mut peer = plane.connect();
        peer.send(bytes.as_bytes());
        assert_refused(&mut peer, status, what);
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn an_upgrade_is_ignored_and_not_forwarded() {
    let (told, heard) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let upstream = Upstream::start(move |request, stream| {
        told.lock().unwrap().send(request.to_lowercase()).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_ok()
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let request = String::from_utf8(post("/v1/chat/completions", r#"{"model":"fast"}"#)).unwrap();
    let upgrade =
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\ncontent-type";
    let answer = plane.ask(request.replacen("content-type", upgrade, 1).as_bytes());
    assert_eq!(answer.status, 200);
    let sent = heard.recv().unwrap();
    assert!(!sent.contains("upgrade") && !sent.contains("http2-settings"), "{sent}");
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
