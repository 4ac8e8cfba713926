//! Clients that are slow, at each stage of an exchange, over HTTP/1.1 and HTTP/2. Each limit of time is set
//! to a second here.

use std::io::{ErrorKind, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use tempfile::TempDir;

use crate::http2_faults::silent;
use crate::http2_peer::{
    FramePeer, ask, begin, connect, connect_with, frame, head_frame, post as http2_post, read, read_body,
    runtime,
};
use crate::path::{ASK, ASK_STREAM, CHAT, WHOLE, json_answer};
use crate::plane::{PATIENCE, Peer, Plane, Upstream, deployment, post};
use crate::tls_peer::Certified;

const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const CANCEL: u32 = 8;

/// A plane whose limit `key` is a second.
fn plane(upstream: &Upstream, key: &str) -> Plane {
    Plane::start_edited(vec![deployment(1, upstream.address)], |text| {
        text.replace("[limits]\n", &format!("[limits]\n{key} = 1\n"))
    })
}

/// The same over TLS.
fn tls_plane(upstream: &Upstream, key: &str) -> (Plane, TempDir, Certified) {
    let (dir, certified) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
    let tls = format!("[http.tls]\n{}", certified.write(dir.path(), "server"));
    let plane = Plane::start_edited(vec![deployment(1, upstream.address)], |text| {
        text.replace("[limits]\n", &format!("[limits]\n{key} = 1\n")) + &tls
    });
    (plane, dir, certified)
}

/// Sends a byte now and then until the other end has had enough; how long that took.
fn drip(peer: &mut Peer, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    peer.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for byte in bytes {
        peer.send(&[*byte]);
        match peer.stream.peek(&mut [0]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
        assert!(began.elapsed() < PATIENCE, "it waits for every byte");
    }
    peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    began.elapsed()
}

/// Not at once, and sooner than without the limit, which is 10 s or more, or with one that begins anew with
/// each byte: a machine with much else to do may take several seconds for one.
fn assert_a_second(took: Duration) {
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

/// How a connection ends for who reads all that is left of it.
pub(crate) fn ended(peer: &mut Peer) -> Result<usize, ErrorKind> {
    let mut piece = [0; 65_536];
    loop {
        match peer.stream.read(&mut piece) {
            Ok(1..) => {}
            end => return end.map_err(|error| error.kind()),
        }
    }
}

/// A stream without end, which says when nobody takes it any more.
fn endless() -> (Upstream, mpsc::Receiver<()>) {
    let (gone, heard) = mpsc::channel();
    let gone = Mutex::new(gone);
    let upstream = Upstream::start(move |_, stream| {
        let event = format!("data: {}\n\n", "x".repeat(8_000));
        let mut out = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_owned() + &event;
        while stream.write_all(out.as_bytes()).is_ok() {
            out.clone_from(&event);
        }
        gone.lock().unwrap().send(()).unwrap();
        false
    });
    (upstream, heard)
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = plane(&upstream, "idle_seconds");
    let mut unused = plane.connect();
    let mut used = plane.connect();
    used.send(&post(CHAT, ASK));
    assert_eq!(used.answer().status, 200);
    let began = Instant::now();
    for peer in [&mut unused, &mut used] {
        assert!(!peer.more() && peer.unread().is_empty());
    }
    assert_a_second(began.elapsed());
}

#[test]
fn a_head_that_drips_is_408_after_its_time_in_all() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = plane(&upstream, "head_seconds");
    let mut peer = plane.connect();
    assert_a_second(drip(&mut peer, &post(CHAT, ASK)));
    let answer = peer.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert_eq!(answer.header("connection"), Some("close"));
}

#[test]
fn a_body_that_drips_is_408_and_one_of_the_least_rate_is_served() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = plane(&upstream, "body_seconds");
    let body = format!(r#"{{"model":"fast","pad":"{}"}}"#, "x".repeat(60_000));
    let request = post(CHAT, &body);
    let head = request.len() - body.len();
    let mut peer = plane.connect();
    peer.send(&request[..head]);
    assert_a_second(drip(&mut peer, &request[head..]));
    let answer = peer.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert_eq!(answer.header("connection"), Some("close"));
    // Six times the least rate, so that a machine with much else to do keeps it, for longer than the second
    // that any body may take.
    let (mut peer, began) = (plane.connect(), Instant::now());
    peer.send(&request[..head]);
    for piece in request[head..].chunks(6_144) {
        peer.send(piece);
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(peer.answer().status, 200);
    assert!(began.elapsed() > Duration::from_secs(2));
    assert_eq!(plane.usage(2).iter().map(|event| event.status).collect::<Vec<_>>(), [408, 200]);
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_its_upstream_too() {
    let (upstream, gone) = endless();
    let plane = plane(&upstream, "write_seconds");
    let mut peer = plane.connect();
    peer.send(&post(CHAT, ASK_STREAM));
    peer.first_event();
    gone.recv_timeout(PATIENCE).expect("the upstream is let go");
    assert_eq!(plane.usage(1)[0].status, 499);
    assert!(!peer.answer().whole);
}

#[test]
fn an_old_client_that_does_not_read_can_not_take_what_it_has_for_whole() {
    let (upstream, gone) = endless();
    let plane = plane(&upstream, "write_seconds");
    let mut peer = plane.connect();
    peer.send(String::from_utf8(post(CHAT, ASK_STREAM)).unwrap().replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    peer.first_event();
    gone.recv_timeout(PATIENCE).expect("the upstream is let go");
    assert_eq!(plane.usage(1)[0].status, 499);
    assert_eq!(ended(&mut peer), Err(ErrorKind::ConnectionReset));
}

#[test]
fn an_idle_connection_of_http_2_is_told_goodbye_and_pings_do_not_keep_it() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = tls_plane(&upstream, "idle_seconds");
    let mut peer = FramePeer::connect(&plane, &certified);
    assert!(peer.send(&head_frame(1, true)) && peer.send(&frame(0, 1, 1, ASK.as_bytes())));
    while peer.next().is_some_and(|(kind, flags, ..)| (kind, flags) != (0, 1)) {}
    let began = Instant::now();
    let goodbye = loop {
        // Each ping waits for what comes next: its answer, or the end.
        assert!(peer.send(&frame(PING, 0, 0, &[7; 8])));
        match peer.next() {
            Some((PING, 1, ..)) => std::thread::sleep(Duration::from_millis(20)),
            Some((GOAWAY, _, _, payload)) => break payload,
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < PATIENCE, "pings keep it open");
    };
    assert_a_second(began.elapsed());
    assert_eq!(goodbye[4..8], [0; 4], "without an error");
    // Its answers to what was still under way, and the end.
    while let Some((kind, ..)) = peer.next() {
        assert!(matches!(kind, PING | GOAWAY), "{kind}");
    }
}

#[test]
fn a_connection_of_http_2_whose_last_stream_was_cancelled_is_idle() {
    let (upstream, asked, _gone) = silent();
    let (plane, _dir, certified) = tls_plane(&upstream, "idle_seconds");
    let mut peer = FramePeer::connect(&plane, &certified);
    assert!(peer.send(&[head_frame(1, true), frame(0, 1, 1, ASK.as_bytes())].concat()));
    asked.recv_timeout(PATIENCE).unwrap();
    assert!(peer.send(&frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())));
    let began = Instant::now();
    assert_eq!(peer.goodbye(), Some(0), "without an error");
    assert_a_second(began.elapsed());
    assert_eq!(plane.usage(1)[0].status, 499);
}

#[test]
fn a_head_of_http_2_that_never_ends_does_not_keep_its_connection() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = tls_plane(&upstream, "idle_seconds");
    let mut peer = FramePeer::connect(&plane, &certified);
    let began = Instant::now();
    assert!(peer.send(&head_frame(1, false)));
    while peer.next().is_some() {}
    assert_a_second(began.elapsed());
}

#[test]
fn a_body_of_http_2_that_stalls_or_drips_is_408_and_its_connection_goes_on() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = tls_plane(&upstream, "body_seconds");
    runtime().block_on(async {
        let mut client = connect(&plane, &certified).await;
        let began = Instant::now();
        let (stalled, _unsent) = begin(&mut client, http2_post(CHAT), false).await;
        let (mut dripping, mut sending) = begin(&mut client, http2_post(CHAT), false).await;
        let drip = async {
            loop {
                let _ = sending.send_data(Bytes::from_static(b" "), false);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let dripped =
            tokio::select! { answer = &mut dripping => answer.unwrap(), () = drip => unreachable!() };
        assert_a_second(began.elapsed());
        assert_eq!(dripped.status(), 408);
        let stalled = read(stalled).await;
        assert_eq!(stalled.status, 408);
        assert!(String::from_utf8_lossy(&stalled.body).contains("request_timeout"));
        assert_eq!(ask(&mut client, http2_post(CHAT), ASK).await.status, 200, "the connection goes on");
    });
}

#[test]
fn a_stream_that_is_not_read_is_reset_and_its_connection_goes_on() {
    let (upstream, gone) = endless();
    let (plane, _dir, certified) = tls_plane(&upstream, "write_seconds");
    runtime().block_on(async {
        let mut client =
            connect_with(&plane, &certified, |builder| builder.initial_window_size(20_000)).await;
        let (answer, mut sending) = begin(&mut client, http2_post(CHAT), false).await;
        sending.send_data(Bytes::from_static(ASK_STREAM.as_bytes()), true).unwrap();
        let body = answer.await.unwrap().into_body();
        gone.recv_timeout(PATIENCE).expect("the upstream is let go");
        assert_eq!(ask(&mut client, http2_post("/v1/files"), ASK).await.status, 404, "others are served");
        let answer = read_body(200, http::HeaderMap::new(), body).await;
        assert_eq!(answer.reset(), Some(Reason::INTERNAL_ERROR));
    });
    let mut statuses: Vec<u16> = plane.usage(2).iter().map(|event| event.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [404, 499]);
}

#[test]
fn who_drips_a_request_to_the_ops_listener_keeps_others_waiting_for_two_seconds() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let plane = Plane::start(vec![deployment(1, upstream.address)]);
    let mut dripping = Peer::new(std::net::TcpStream::connect(plane.ops).unwrap());
    let began = Instant::now();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            assert_eq!(plane.ops("/healthz").status, 200);
            began.elapsed()
        });
        drip(&mut dripping, &[b'x'; 400]);
        let waited = other.join().unwrap();
        assert!(waited < Duration::from_secs(10), "{waited:?}");
    });
}

#[test]
fn a_connection_of_http_2_that_is_not_read_is_closed_with_all_its_streams() {
    let (upstream, gone) = endless();
    let (plane, _dir, certified) = tls_plane(&upstream, "write_seconds");
    let mut peer = FramePeer::connect(&plane, &certified);
    // Windows as large as can be: what stops is the socket.
    let largest = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    let wider = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    assert!(peer.send(&[frame(4, 0, 0, &largest), frame(8, 0, 0, &wider)].concat()));
    for stream in [1, 3, 5] {
        assert!(peer.send(&[head_frame(stream, true), frame(0, 1, stream, ASK_STREAM.as_bytes())].concat()));
    }
    for _ in 0..3 {
        gone.recv_timeout(PATIENCE).expect("each upstream is let go");
    }
    assert!(plane.usage(3).iter().all(|event| event.status == 499));
    let end = std::iter::repeat_with(|| peer.next()).find(Option::is_none);
    assert!(end.is_some(), "the connection is closed");
}
