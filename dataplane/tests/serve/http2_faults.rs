//! HTTP/2 when something goes wrong: streams that are cut, clients that cancel, stall, or only make work.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use wire::table::{Deployment, OnDisconnect};

use crate::control::revoke;
use crate::http2_peer::{
    FramePeer, ask, begin, connect, connect_with, frame, head_frame, post, read, read_body, runtime,
};
use crate::path::{ASK, ASK_STREAM, CHAT, EVENTS, WHOLE, json_answer, stream_answer};
use crate::plane::{GOOD, PATIENCE, Plane, Upstream, deployment, key};
use crate::tls_peer::{Certified, plane, start};

/// An upstream that says when it was asked and when its connection has ended.
pub(crate) fn silent() -> (Upstream, mpsc::Receiver<()>, mpsc::Receiver<Instant>) {
    let ((came, asked), (gone, heard)) = (mpsc::channel(), mpsc::channel());
    let (came, gone) = (Mutex::new(came), Mutex::new(gone));
    let upstream = Upstream::start(move |_, stream| {
        came.lock().unwrap().send(()).unwrap();
        let _ = stream.read(&mut [0]);
        let _ = gone.lock().unwrap().send(Instant::now());
        false
    });
    (upstream, asked, heard)
}

#[test]
fn a_stream_that_breaks_says_so_and_ends_with_a_reset() {
    let upstream = Upstream::start(|_, stream| {
        let bytes = stream_answer(&EVENTS[..2]);
        stream.write_all(&bytes[..bytes.len() - 5]).unwrap();
        false
    });
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let answer = ask(&mut client, post(CHAT), ASK_STREAM).await;
        assert_eq!((answer.status, answer.reset()), (200, Some(Reason::INTERNAL_ERROR)));
        let text = String::from_utf8(answer.body).unwrap();
        let told = text.strip_prefix(&EVENTS[..2].concat()).unwrap();
        assert!(told.starts_with("data: {\"error\":") && told.contains("upstream_error"), "{told}");
    });
    assert_eq!(plane.usage(1)[0].status, 502);
}

#[test]
fn an_answer_shorter_than_its_length_ends_with_a_reset() {
    let upstream = Upstream::start(|_, stream| {
        stream.write_all(&json_answer(WHOLE)[..200]).unwrap();
        false
    });
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let answer = ask(&mut client, post(CHAT), ASK).await;
        assert_eq!((answer.status, answer.reset()), (200, Some(Reason::INTERNAL_ERROR)));
    });
}

#[test]
fn a_cancelled_stream_cancels_its_upstream_at_once_and_no_other() {
    let (upstream, asked, heard) = silent();
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK.as_bytes()), true).unwrap();
        asked.recv_timeout(PATIENCE).unwrap();
        let cancelled = Instant::now();
        sending.send_reset(Reason::CANCEL);
        drop(answer);
        let took = heard.recv_timeout(PATIENCE).unwrap() - cancelled;
        // Sooner than anything else would end it.
        assert!(took < Duration::from_secs(10), "{took:?}");
        let refused = ask(&mut client, post("/v1/files"), ASK).await;
        assert_eq!(refused.status, 404, "the connection goes on");
    });
    let statuses: Vec<u16> = plane.usage(2).iter().map(|event| event.status).collect();
    assert_eq!(statuses, [499, 404]);
}

#[test]
fn a_connection_that_is_lost_cancels_all_of_its_streams() {
    let (upstream, asked, heard) = silent();
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    for stream in [1, 3, 5] {
        assert!(peer.send(&head_frame(stream, true)));
        assert!(peer.send(&frame(0, 1, stream, ASK.as_bytes())));
        asked.recv_timeout(PATIENCE).unwrap();
    }
    drop(peer);
    for _ in 0..3 {
        heard.recv_timeout(PATIENCE).unwrap();
    }
    assert!(plane.usage(3).iter().all(|event| event.status == 499));
}

#[test]
fn where_the_policy_is_drain_a_cancelled_stream_is_read_on_for_its_usage() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, stream| {
        let bytes = stream_answer(&EVENTS);
        let first = bytes.windows(2).position(|w| w == b"\n\n").unwrap() + 4;
        stream.write_all(&bytes[..first]).unwrap();
        gate.lock().unwrap().recv().unwrap();
        // Apart: the first of them finds out that the client has cancelled.
        for piece in bytes[first..].chunks(40) {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    });
    let (dir, certified) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
    let draining = Deployment { on_disconnect: OnDisconnect::Drain, ..deployment(1, upstream.address) };
    let plane = start(vec![draining], &certified.write(dir.path(), "server"));
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK_STREAM.as_bytes()), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), EVENTS[0].as_bytes());
        sending.send_reset(Reason::CANCEL);
        drop(body);
        // Behind it on the same connection: the reset has been read by then.
        assert_eq!(ask(&mut client, post("/v1/files"), ASK).await.status, 404);
        open.send(()).unwrap();
    });
    let events = plane.usage(2);
    let left = events.iter().find(|event| event.status == 499).unwrap();
    assert_eq!(left.tokens.completion, 2);
}

#[test]
fn an_upstream_is_read_only_as_fast_as_the_client_reads() {
    const WINDOW: u16 = 20_000;
    let (told, written) = mpsc::channel();
    let told = Mutex::new(told);
    let upstream = Upstream::start(move |_, stream| {
        let body = vec![b'a'; 64 << 20];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        for piece in body.chunks(1 << 20) {
            if stream.write_all(piece).is_err() {
                return false;
            }
            told.lock().unwrap().send(piece.len()).unwrap();
        }
        true
    });
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client =
            connect_with(&plane, &certified, |builder| builder.initial_window_size(WINDOW.into())).await;
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK.as_bytes()), true).unwrap();
        let (parts, mut body) = answer.await.unwrap().into_parts();
        let mut got = 0;
        while got < usize::from(WINDOW) {
            got += body.data().await.unwrap().unwrap().len();
        }
        // What the sockets between hold is all that the upstream can get rid of.
        let mut sent = 0;
        while let Ok(len) = written.recv_timeout(Duration::from_millis(500)) {
            sent += len;
        }
        assert!(sent < 48 << 20, "{sent} bytes were taken from the upstream");
        assert_eq!(ask(&mut client, post("/v1/files"), ASK).await.status, 404, "others are served");
        body.flow_control().release_capacity(got).unwrap();
        let rest = read_body(parts.status.as_u16(), parts.headers, body).await;
        assert!(rest.end.is_ok() && got + rest.body.len() == 64 << 20);
    });
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_reset_and_reaches_nobody() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        for (announced, sent) in [(ASK.len() - 1, ASK), (ASK.len() + 1, ASK)] {
            let mut client = connect(&plane, &certified).await;
            let request = post(CHAT).header("content-length", announced);
            let (answer, mut sending) = begin(&mut client, request, false).await;
            sending.send_data(Bytes::from_static(sent.as_bytes()), true).unwrap();
            let error = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
        }
    });
    assert_eq!(upstream.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_key_that_is_not_good_is_refused_before_a_body_is_waited_for() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let (answer, _sending) =
            begin(&mut client, post(CHAT).header("authorization", "Bearer x"), false).await;
        assert_eq!(read(answer).await.status, 400, "two credentials");
        let request = http::Request::post(format!("https://localhost{CHAT}")).header("api-key", "x");
        let (answer, _sending) = begin(&mut client, request, false).await;
        assert_eq!(read(answer).await.status, 401);
    });
}

#[test]
fn a_key_that_is_revoked_is_refused_on_a_connection_that_is_open() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        assert_eq!(ask(&mut client, post(CHAT), ASK).await.status, 200);
        // One whose body is still to come, and one that comes later.
        let (answer, mut sending) = begin(&mut client, post(CHAT), false).await;
        assert_eq!(ask(&mut client, post("/v1/files"), ASK).await.status, 404, "the head has been read");
        revoke(&plane, &key(GOOD), false);
        sending.send_data(Bytes::from_static(ASK.as_bytes()), true).unwrap();
        assert_eq!(read(answer).await.status, 401);
        assert_eq!(ask(&mut client, post(CHAT), ASK).await.status, 401);
    });
}

#[test]
fn a_connection_without_streams_ends_with_one_goodbye() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (mut plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    assert!(peer.send(&head_frame(1, true)) && peer.send(&frame(0, 1, 1, ASK.as_bytes())));
    while peer.next().is_some_and(|(kind, flags, ..)| (kind, flags) != (0, 1)) {}
    // Some time without a stream is the very condition.
    std::thread::sleep(Duration::from_millis(1_200));
    plane.signal("-TERM");
    let last: Vec<_> = std::iter::from_fn(|| peer.next()).filter(|(kind, ..)| *kind != 4).collect();
    let [(7, _, 0, goodbye)] = &last[..] else { panic!("{last:?}") };
    assert_eq!(goodbye[..8], [0, 0, 0, 1, 0, 0, 0, 0], "stream 1 was the last, and there was no error");
    assert!(plane.stop().success());
}

#[test]
fn without_tls_a_client_is_told_that_it_needs_it() {
    let plane = Plane::start(vec![]);
    let answer = plane.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("HTTP/2 over TLS"));
}

#[test]
fn what_is_no_preface_ends_the_connection() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let tcp = std::net::TcpStream::connect(plane.http).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut tls =
        crate::tls_peer::connect_over(tcp, &crate::http2_peer::config(&certified), "localhost").stream;
    tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut end = Vec::new();
    let _ = tls.read_to_end(&mut end);
    assert!(!end.starts_with(b"HTTP/1.1 200"));
}
