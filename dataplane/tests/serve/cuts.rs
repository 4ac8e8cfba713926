//! What becomes of an exchange whose key is revoked while it is under way.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use wire::event::UsageSource;
use wire::table::{Deployment, Dialect, OnDisconnect};

use crate::control::revoke;
use crate::plane::{GOOD, OTHER, PATIENCE, Peer, Plane, Upstream, deployment, key, post_as};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"fast","messages":[]}"#;
const ASK_STREAM: &str = r#"{"model":"fast","stream":true,"messages":[]}"#;
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";

/// A stream with an event every 5 ms for as long as anybody reads it; says when its connection is gone.
fn endless() -> (Upstream, mpsc::Receiver<()>) {
    let (gone, heard) = mpsc::channel();
    let gone = Mutex::new(gone);
    let upstream = Upstream::start(move |_, stream| {
        let mut bytes = STREAM_HEAD.to_owned();
        while stream.write_all((bytes + &format!("{:x}\r\n{EVENT}\r\n", EVENT.len())).as_bytes()).is_ok() {
            bytes = String::new();
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = gone.lock().unwrap().send(());
        false
    });
    (upstream, heard)
}

fn stream_as(plane: &Plane, number: u8) -> Peer {
    let mut peer = plane.connect();
    peer.send(&post_as(&key(number), CHAT, ASK_STREAM));
    peer.first_event();
    peer
}

#[test]
fn streams_of_a_revoked_key_are_cut_where_told_and_no_others() {
    for on_disconnect in [OnDisconnect::Cancel, OnDisconnect::Drain] {
        let (upstream, gone) = endless();
        let dialect = Dialect::Vllm;
        let spec = Deployment { dialect, on_disconnect, ..deployment(1, upstream.address) };
        let plane = Plane::start(vec![spec]);
        let (mut cut, mut other) = (stream_as(&plane, GOOD), stream_as(&plane, OTHER));
        revoke(&plane, &key(GOOD), true);
        let answer = cut.answer();
        assert_eq!((answer.status, answer.whole), (200, false), "it must not be taken for whole");
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.ends_with("\"code\":\"invalid_api_key\"}}\n\n"), "{body}");
        gone.recv_timeout(PATIENCE).expect("the upstream is not left to go on");
        let event = plane.usage(1)[0];
        assert_eq!((event.status, event.usage_source, event.tokens.prompt), (401, UsageSource::Partial, 3));
        let seen = other.unread().len();
        while other.unread().len() < seen + 50 * EVENT.len() {
            assert!(other.more(), "the other key's stream goes on");
        }
    }
}

#[test]
fn streams_of_a_revoked_key_go_on_where_it_is_not_told() {
    let (upstream, _gone) = endless();
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut peer = stream_as(&plane, GOOD);
    revoke(&plane, &key(GOOD), false);
    assert_eq!(plane.ask(&post_as(&key(GOOD), CHAT, ASK)).status, 401);
    let seen = peer.unread().len();
    while peer.unread().len() < seen + 50 * EVENT.len() {
        assert!(peer.more());
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_as_well() {
    let upstream = Upstream::start(move |_, stream| {
        let event = format!("data: {{\"text\":\"{}\"}}\n\n", "x".repeat(60_000));
        let mut bytes = STREAM_HEAD.to_owned();
        while stream.write_all((bytes + &format!("{:x}\r\n{event}\r\n", event.len())).as_bytes()).is_ok() {
            bytes = String::new();
        }
        false
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut peer = plane.connect();
    peer.send(&post_as(&key(GOOD), CHAT, ASK_STREAM));
    peer.first_event();
    // Long enough for every buffer on the way to be full: what is under way is then a write to the client.
    std::thread::sleep(Duration::from_millis(300));
    revoke(&plane, &key(GOOD), true);
    assert_eq!(plane.usage(1)[0].status, 401);
    assert!(!peer.answer().whole);
}

#[test]
fn whoever_waits_for_an_answer_or_still_sends_is_told() {
    let (came, asked) = mpsc::channel();
    let came = Mutex::new(came);
    let upstream = Upstream::start(move |_, stream| {
        came.lock().unwrap().send(()).unwrap();
        let _ = stream.read(&mut [0]);
        false
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let (mut waiting, mut sending) = (plane.connect(), plane.connect());
    let request = post_as(&key(GOOD), CHAT, ASK);
    waiting.send(&request);
    asked.recv_timeout(PATIENCE).unwrap();
    sending.send(&request[..request.len() - 5]);
    while plane.metric("liutong_exchanges_admitted_total") < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    revoke(&plane, &key(GOOD), true);
    for (peer, connection) in [(&mut waiting, None), (&mut sending, Some("close"))] {
        let answer = peer.answer();
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"));
        assert_eq!(answer.header("connection"), connection);
    }
    assert_eq!(plane.usage(2).iter().map(|event| event.status).collect::<Vec<_>>(), [401, 401]);
    // Where the next request begins on the second one nobody knows: part of a body was lost with its read.
    sending.send(&[&request[request.len() - 5..], &post_as(&key(OTHER), CHAT, ASK)].concat());
    assert!(!sending.more() && sending.unread().is_empty(), "{:?}", sending.unread());
    assert_eq!(plane.metric("liutong_exchanges_admitted_total"), 2);
}
