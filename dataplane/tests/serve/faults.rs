//! What a client sees when an upstream fails, and what an upstream sees when a client leaves.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use wire::event::UsageSource;
use wire::id::DeploymentId;
use wire::table::{Deployment, Dialect, OnDisconnect};

use crate::plane::{PATIENCE, Plane, Upstream, deployment, post};
use crate::slow::ended;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"fast"}"#;
const ASK_STREAM: &str = r#"{"stream":true,"model":"fast"}"#;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn refusing() -> SocketAddr {
    // Bound, so that nobody else gets the port, and dropped, so that nobody listens.
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_upstream_that_refuses_is_503_and_another_one_takes_its_place() {
    let plane = Plane::start(vec![deployment(1, refusing())]);
    let answer = plane.ask(&post(CHAT, ASK));
    assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_unavailable"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let upstream = Upstream::fixed(OK);
    let plane = Plane::start(vec![deployment(1, refusing()), deployment(2, upstream.address)]);
    for _ in 0..10 {
        assert_eq!(plane.ask(&post(CHAT, ASK)).status, 200);
    }
}

/// An address where connecting takes for ever: nobody accepts, and no more may wait. Good while what else is
/// returned is kept.
fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let waiting = std::iter::from_fn(connect).collect();
    (address, listener, waiting)
}

#[test]
fn a_deployment_that_takes_long_to_fail_is_left_alone_from_then_on() {
    let (address, _listener, _waiting) = black_hole();
    let upstream = Upstream::fixed(OK);
    let dead = Deployment { connect_timeout_ms: 2_000, ..deployment(1, address) };
    let plane = Plane::start(vec![dead, deployment(2, upstream.address)]);
    let failures = || plane.metric("liutong_upstream_failures_total");
    // On one connection, since each worker finds out by itself.
    let mut peer = plane.connect();
    let mut ask = || {
        peer.send(&post(CHAT, ASK));
        assert_eq!(peer.answer().status, 200);
    };
    while failures() == 0 {
        ask();
    }
    (0..20).for_each(|_| ask());
    // Once more where these took longer than it is left alone for.
    assert!(failures() <= 2, "{}", failures());
}

#[test]
fn a_refusal_is_told_where_no_other_deployment_can_be_reached() {
    let refusal = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: application/json\r\n\
                   content-length: 18\r\n\r\n{\"error\":\"slowly\"}";
    let upstream = Upstream::fixed(refusal);
    let plane = Plane::start(vec![deployment(1, upstream.address), deployment(2, refusing())]);
    let mut attempts = Vec::new();
    for count in 1..=20 {
        let answer = plane.ask(&post(CHAT, ASK));
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
        assert_eq!(answer.body, br#"{"error":"slowly"}"#);
        let event = plane.usage(count).pop().unwrap();
        assert_eq!((event.status, event.deployment), (429, DeploymentId(1)));
        attempts.push(event.attempts);
    }
    assert!(attempts.iter().all(|attempts| *attempts == 2), "{attempts:?}");
}

#[test]
fn what_breaks_the_rules_is_502_and_never_sent_twice() {
    let answers: [&[u8]; 9] = [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://evil/\r\ncontent-length: 0\r\n\r\n",
        b"220 mail server\r\n\r\n",
    ];
    for bytes in answers {
        let bytes = bytes.to_vec();
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(&bytes).unwrap();
            false
        });
        let plane = Plane::start(vec![deployment(1, upstream.address), deployment(2, upstream.address)]);
        let answer = plane.ask(&post(CHAT, ASK));
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_error"));
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(upstream.requests.load(Ordering::SeqCst), 1);
        assert_eq!(plane.usage(1)[0].status, 502);
    }
}

#[test]
fn our_own_credentials_refusal_is_our_trouble() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let upstream = Upstream::fixed(format!("HTTP/1.1 {status}\r\ncontent-length: 6\r\n\r\nsecret"));
        let plane = Plane::start(vec![deployment(1, upstream.address)]);
        let answer = plane.ask(&post(CHAT, ASK));
        assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_unavailable"));
        assert!(!answer.body.windows(6).any(|w| w == b"secret"));
        let metrics = String::from_utf8(plane.ops("/metrics").body).unwrap();
        assert!(metrics.contains("\nliutong_upstream_credential_refused_total 1\n"));
    }
}

#[test]
fn other_errors_of_an_upstream_pass_as_they_are() {
    for status in [400, 404, 422, 429, 500, 503] {
        let bytes = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 7\r\ncontent-length: 11\r\n\r\n{{\"error\":1}}"
        );
        let upstream = Upstream::fixed(bytes);
        let plane = Plane::start(vec![deployment(1, upstream.address)]);
        let answer = plane.ask(&post(CHAT, ASK));
        assert_eq!((answer.status, answer.body.as_slice()), (status, &b"{\"error\":1}"[..]));
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(plane.usage(1)[0].usage_source, UsageSource::None);
    }
}

#[test]
fn a_busy_deployment_is_passed_over_for_another() {
    let busy = Upstream::fixed("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n");
    let free = Upstream::fixed(OK);
    let plane = Plane::start(vec![deployment(1, busy.address), deployment(2, free.address)]);
    for _ in 0..10 {
        assert_eq!(plane.ask(&post(CHAT, ASK)).status, 200);
    }
    let tries: u64 = plane.usage(10).iter().map(|event| u64::from(event.attempts)).sum();
    let sent = busy.requests.load(Ordering::SeqCst) + free.requests.load(Ordering::SeqCst);
    assert_eq!(tries, sent as u64);
}

#[test]
fn an_upstream_that_is_silent_is_504() {
    let upstream = Upstream::start(|_, stream| stream.read(&mut [0]).is_ok());
    let slow = Deployment { first_byte_timeout_ms: 50, ..deployment(1, upstream.address) };
    let plane = Plane::start(vec![slow]);
    let answer = plane.ask(&post(CHAT, ASK));
    assert_eq!((answer.status, answer.code().as_str()), (504, "upstream_timeout"));
    assert_eq!(plane.usage(1)[0].status, 504);
}

#[test]
fn interim_answers_are_skipped_but_not_without_end() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let plane = |count: usize| {
        let upstream = Upstream::fixed([interim.repeat(count), OK.to_vec()].concat());
        Plane::start(vec![deployment(1, upstream.address)])
    };
    assert_eq!(plane(8).ask(&post(CHAT, ASK)).status, 200);
    assert_eq!(plane(9).ask(&post(CHAT, ASK)).status, 502);
}

#[test]
fn a_stream_that_breaks_says_so_between_events_and_never_ends_cleanly() {
    let cases = [(chunk(EVENT), true), (chunk(EVENT) + &chunk("data: {\"cho"), false)];
    for (bytes, at_boundary) in cases {
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all((STREAM_HEAD.to_owned() + &bytes).as_bytes()).unwrap();
            false
        });
        let plane = Plane::start(vec![deployment(1, upstream.address)]);
        let ask = r#"{"stream":true,"stream_options":{"include_usage":true},"model":"fast"}"#;
        let answer = plane.ask(&post(CHAT, ask));
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.starts_with(EVENT), "{body}");
        assert_eq!(body.contains("\"upstream_error\""), at_boundary, "{body}");
        assert!(!answer.whole, "{body}");
        let event = plane.usage(1)[0];
        assert_eq!((event.status, event.usage_source), (502, UsageSource::None));
    }
}

#[test]
fn an_answer_until_the_close_that_ends_early_is_not_taken_for_whole() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
    let cases = [
        (head.to_owned() + EVENT + "data: [DONE]\n\n", true, 200),
        (head.to_owned() + EVENT, false, 502),
        (head.to_owned() + EVENT + "data: {", false, 502),
        (json.to_owned() + "{\"a\":[1]}\n", true, 200),
        (json.to_owned() + "{\"a\":[1", false, 502),
        (json.to_owned(), true, 502),
        (json.to_owned() + "not JSON", true, 200),
    ];
    for (bytes, whole, status) in cases {
        let text = bytes.clone();
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(bytes.as_bytes()).unwrap();
            false
        });
        let plane = Plane::start(vec![deployment(1, upstream.address)]);
        let answer = plane.ask(&post(CHAT, ASK_STREAM));
        assert_eq!(answer.whole, whole, "{text}");
        assert_eq!(plane.usage(1)[0].status, status, "{text}");
    }
}

#[test]
fn a_stream_that_breaks_after_its_last_event_is_complete() {
    let events = chunk(EVENT)
        + &chunk("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n")
        + &chunk("data: [DONE]\n\n");
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all((STREAM_HEAD.to_owned() + &events).as_bytes()).unwrap();
        false
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let answer = plane.ask(&post(CHAT, ASK_STREAM));
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"), "nothing behind the last event");
    assert!(!answer.whole);
    let event = plane.usage(1)[0];
    assert_eq!((event.status, event.usage_source, event.tokens.total), (200, UsageSource::Final, 2));
}

#[test]
fn a_body_that_is_only_announced_takes_nothing_from_others() {
    let upstream = Upstream::fixed(OK);
    let plane = Plane::start_with(vec![deployment(1, upstream.address)], "");
    let announced: Vec<_> = (0..64)
        .map(|_| {
            let mut peer = plane.connect();
            let head = String::from_utf8(post(CHAT, "")).unwrap();
            peer.send(head.replace("content-length: 0", "content-length: 1000000").as_bytes());
            peer
        })
        .collect();
    let body = format!(r#"{{"pad":"{}","model":"fast"}}"#, "x".repeat(100_000));
    assert_eq!(plane.ask(&post(CHAT, &body)).status, 200);
    let metrics = String::from_utf8(plane.ops("/metrics").body).unwrap();
    assert!(metrics.contains("\nliutong_body_bytes_held 0\n"), "{metrics}");
    drop(announced);
}

#[test]
fn a_connection_with_surplus_bytes_or_a_wrong_length_is_not_used_again() {
    let answers = [
        [OK, b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"].concat(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_vec(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nx".to_vec(),
    ];
    for bytes in answers {
        let upstream = Upstream::fixed(bytes);
        let plane = Plane::start(vec![deployment(1, upstream.address)]);
        for _ in 0..3 {
            let answer = plane.ask(&post(CHAT, ASK));
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
        }
        let metrics = String::from_utf8(plane.ops("/metrics").body).unwrap();
        assert!(metrics.contains("\nliutong_upstream_connects_total 3\n"), "{metrics}");
    }
}

/// A stream that goes on for ever; tells when its connection is gone.
fn endless(usage_in_events: bool) -> (Upstream, mpsc::Receiver<Instant>) {
    let (gone, heard) = mpsc::channel();
    let gone = Mutex::new(gone);
    let upstream = Upstream::start(move |_, stream| {
        let mut bytes = STREAM_HEAD.to_owned();
        let event = if usage_in_events {
            "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n"
        } else {
            EVENT
        };
        while stream.write_all((bytes + &chunk(event)).as_bytes()).is_ok() {
            bytes = String::new();
            std::thread::sleep(Duration::from_millis(10));
        }
        gone.lock().unwrap().send(Instant::now()).unwrap();
        false
    });
    (upstream, heard)
}

#[test]
fn a_client_that_leaves_cancels_the_upstream_and_partial_usage_is_recorded() {
    let (upstream, gone) = endless(true);
    let plane = Plane::start(vec![Deployment { dialect: Dialect::Vllm, ..deployment(1, upstream.address) }]);
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK_STREAM));
    while !peer.unread().windows(2).any(|w| w == b"\n\n") {
        assert!(peer.more());
    }
    assert!(!peer.unread().windows(7).any(|w| w == b"\"usage\""), "cut out again");
    drop(peer);
    gone.recv_timeout(PATIENCE).unwrap();
    let event = plane.usage(1)[0];
    assert_eq!((event.status, event.usage_source), (499, UsageSource::Partial));
    assert_eq!(event.tokens.prompt, 3);
}

#[test]
fn an_old_client_that_half_closes_can_not_take_what_it_has_for_whole() {
    let (upstream, gone) = endless(false);
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut peer = plane.connect();
    peer.send(String::from_utf8(post(CHAT, ASK_STREAM)).unwrap().replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    peer.first_event();
    peer.stream.shutdown(Shutdown::Write).unwrap();
    gone.recv_timeout(PATIENCE).unwrap();
    assert_eq!(plane.usage(1)[0].status, 499);
    assert_eq!(ended(&mut peer), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_client_that_leaves_before_an_answer_cancels_the_upstream() {
    let (gone, heard) = mpsc::channel();
    let gone = Mutex::new(gone);
    let (came, asked) = mpsc::channel();
    let came = Mutex::new(came);
    let upstream = Upstream::start(move |_, stream| {
        came.lock().unwrap().send(()).unwrap();
        let end = stream.read(&mut [0]);
        gone.lock().unwrap().send(matches!(end, Ok(0) | Err(_))).unwrap();
        false
    });
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK));
    asked.recv_timeout(PATIENCE).unwrap();
    drop(peer);
    assert!(heard.recv_timeout(PATIENCE).unwrap());
    assert_eq!(plane.usage(1)[0].status, 499);
}

#[test]
fn where_the_policy_is_drain_the_rest_is_read_for_its_usage() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let upstream = Upstream::start(move |_, stream| {
        stream.write_all((STREAM_HEAD.to_owned() + &chunk(EVENT)).as_bytes()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
        for event in [EVENT; 20].into_iter().chain([usage, "data: [DONE]\n\n"]) {
            stream.write_all(chunk(event).as_bytes()).unwrap();
            // Apart, and many: one of the first finds out that the client is gone.
            std::thread::sleep(Duration::from_millis(20));
        }
        stream.write_all(b"0\r\n\r\n").is_ok()
    });
    let draining = Deployment { on_disconnect: OnDisconnect::Drain, ..deployment(1, upstream.address) };
    let plane = Plane::start(vec![draining]);
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK_STREAM));
    while !peer.unread().windows(2).any(|w| w == b"\n\n") {
        assert!(peer.more());
    }
    drop(peer);
    open.send(()).unwrap();
    let event = plane.usage(1)[0];
    assert_eq!((event.status, event.usage_source, event.tokens.completion), (499, UsageSource::Final, 4));
}

#[test]
fn an_answer_without_a_body_is_not_waited_for_whatever_length_it_states() {
    let upstream = Upstream::fixed("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n");
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut peer = plane.connect();
    for _ in 0..3 {
        peer.send(&post(CHAT, ASK));
        // Only its head can be read for certain: a body would be the next answer's head.
        while !peer.unread().ends_with(b"\r\n\r\n") {
            assert!(peer.more());
        }
        assert!(peer.unread().starts_with(b"HTTP/1.1 204 "));
        assert!(!peer.unread().windows(14).any(|name| name == b"content-length"));
        peer.take_unread();
    }
    assert_eq!(plane.metric("liutong_upstream_connects_total"), 1);
}
