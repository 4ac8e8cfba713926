//! What runs out, or is made to: descriptors, room in heads, time to end.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::path::{ASK, ASK_STREAM, CHAT, gated, json_answer};
use crate::plane::{GOOD, PATIENCE, Peer, Plane, Upstream, deployment, key, post};

const DESCRIPTORS_MAX: usize = 96;

fn models() -> Vec<u8> {
    format!("GET /v1/models HTTP/1.1\r\nhost: h\r\napi-key: {}\r\n\r\n", key(GOOD)).into_bytes()
}

/// Whether the peer is answered; what is not answered must be closed.
fn is_served(peer: &mut Peer) -> bool {
    peer.send(&models());
    let began = Instant::now();
    let served = peer.more();
    assert!(began.elapsed() < PATIENCE, "neither answered nor closed");
    served && peer.answer().status == 200
}

#[test]
fn without_descriptors_clients_are_turned_away_and_those_who_are_in_are_served() {
    let plane = Plane::start(vec![]);
    let limit = format!("--nofile={DESCRIPTORS_MAX}:");
    let set = Command::new("prlimit").args(["--pid", &plane.pid().to_string(), &limit]).status();
    assert!(set.unwrap().success());
    let mut peers: Vec<Peer> = (0..2 * DESCRIPTORS_MAX).map(|_| plane.connect()).collect();
    let served: Vec<bool> = peers.iter_mut().map(is_served).collect();
    let count = served.iter().filter(|served| **served).count();
    assert!((10..DESCRIPTORS_MAX).contains(&count), "{count} served");
    let mut inside: Vec<Peer> =
        peers.into_iter().zip(served).filter_map(|(peer, served)| served.then_some(peer)).collect();
    // Neither the workers nor the ops listener spin: what is measured is an interval, not a wait.
    let (before, began) = (plane.cpu_ticks(), Instant::now());
    while began.elapsed() < Duration::from_millis(400) {
        assert!(inside.iter_mut().all(is_served));
        std::thread::sleep(Duration::from_millis(100));
    }
    let ticks = plane.cpu_ticks() - before;
    assert!(ticks < 30, "{ticks} hundredths of a second of CPU in {:?}", began.elapsed());
    drop(inside);
    // Places are free again once the closes have been seen.
    let end = Instant::now() + PATIENCE;
    while !is_served(&mut plane.connect()) {
        assert!(Instant::now() < end, "nobody is served any more");
    }
    assert!(plane.metric("liutong_connections_refused_total") >= DESCRIPTORS_MAX as u64);
}

#[test]
fn heads_without_measure_are_refused_however_they_come() {
    let upstream = Upstream::fixed(json_answer("{}"));
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let line = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\n");
    let heads = [
        format!("{line}{}: y\r\n\r\n", "x".repeat(70_000)),
        format!("{line}x: {}\r\n\r\n", "y".repeat(1 << 20)),
        format!("{line}{}\r\n", "x: y\r\n".repeat(10_000)),
        format!("{line}{}\r\n", "x: y\r\n".repeat(101)),
        "x".repeat(70_000),
    ];
    for (number, head) in heads.iter().enumerate() {
        for piece in [usize::MAX, 1_000, 63] {
            let mut peer = plane.connect();
            head.as_bytes().chunks(piece).for_each(|piece| peer.send(piece));
            let answer = peer.answer();
            assert_eq!((answer.status, answer.code().as_str()), (431, "request_too_large"), "head {number}");
            assert_eq!(answer.header("connection"), Some("close"), "head {number}");
        }
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
    assert_eq!(plane.ask(&post(CHAT, ASK)).status, 200);
}

#[test]
fn an_answer_before_the_end_of_the_request_reaches_the_client() {
    let body = format!(r#"{{"model":"fast","pad":"{}"}}"#, "x".repeat(900_000));
    for (keeps, status) in [(true, 400), (false, 400), (true, 200), (false, 200)] {
        // It reads a few bytes of the head, answers, and then reads on, or leaves.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    stream.read_exact(&mut [0; 10]).unwrap();
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
                    let _ = stream.write_all(answer.as_bytes());
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let mut rest = [0; 65536];
                    while keeps && matches!(stream.read(&mut rest), Ok(1..)) {}
                });
            }
        });
        let plane = Plane::start(vec![deployment(1, address)]);
        for _ in 0..3 {
            let answer = plane.ask(&post(CHAT, &body));
            // Where the upstream left with the request unread, its reset may have come before its answer.
            let seen = (answer.status, answer.body.as_slice());
            assert!(seen == (status, b"{}") || (!keeps && seen.0 == 502), "{answer:?}");
            assert!(answer.whole);
        }
        // Such a connection carries no other request.
        assert_eq!(plane.metric("liutong_upstream_connects_total"), 3);
    }
}

#[test]
fn the_end_of_the_process_waits_for_streams_and_tells_everyone_else() {
    let (upstream, open) = gated();
    let mut plane = Plane::start(vec![deployment(3, upstream.address)]);
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK_STREAM));
    peer.first_event();
    let mut idle = plane.connect();
    assert!(is_served(&mut idle));
    plane.signal("-TERM");
    // An idle connection is closed, and nobody else gets in.
    assert!(!idle.more());
    let end = Instant::now() + PATIENCE;
    while plane.try_connect().is_some_and(|mut late| late.more()) {
        assert!(Instant::now() < end, "it still accepts");
    }
    open.send(()).unwrap();
    let answer = peer.answer();
    assert!(answer.whole && answer.body.ends_with(b"data: [DONE]\n\n"));
    assert!(plane.wait().success());
    let event = plane.usage(2).into_iter().find(|event| event.stream).unwrap();
    assert_eq!((event.status, event.tokens.total), (200, 7));
}

#[test]
fn a_stream_that_outlasts_the_end_of_the_process_is_cut_and_recorded() {
    let (stop, stopped) = mpsc::channel::<()>();
    let stopped = Mutex::new(stopped);
    let upstream = Upstream::start(move |_, stream| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n";
        stream.write_all(head.as_bytes()).unwrap();
        stopped.lock().unwrap().recv().is_ok()
    });
    let short = |text: String| text.replace("[limits]\n", "[limits]\ndrain_seconds = 1\n");
    let mut plane = Plane::start_edited(vec![deployment(3, upstream.address)], short);
    let ask = String::from_utf8(post(CHAT, ASK_STREAM)).unwrap();
    let mut peers = [plane.connect(), plane.connect()];
    peers[0].send(ask.as_bytes());
    peers[1].send(ask.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    peers.iter_mut().for_each(Peer::first_event);
    plane.signal("-TERM");
    assert!(!peers[0].answer().whole);
    // To an old client an orderly end would be the end of a whole answer.
    let end =
        std::iter::repeat_with(|| peers[1].stream.read(&mut [0; 64])).find(|read| !matches!(read, Ok(1..)));
    assert_eq!(end.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(plane.wait().success());
    // It was not the client who left.
    assert!(plane.usage(2).iter().all(|event| event.status == 503));
    drop(stop);
}
