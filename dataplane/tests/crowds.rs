//! A thousand clients that stall, at each stage of an exchange, and a thousand that hardly read, over
//! HTTP/1.1 and HTTP/2: what they take is bounded, and those who do neither do not notice.
//!
//! A program of its own, whose tests take turns: they measure.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use wire::table::Deployment;

use crate::http2_peer::{FramePeer, frame, head_frame};
use crate::plane::{PATIENCE, Peer, Plane, Upstream, deployment, post};
use crate::tls_peer::Certified;

#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/http2_peer.rs"]
mod http2_peer;
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/plane.rs"]
mod plane;
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/tls_peer.rs"]
mod tls_peer;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"messages":[{"role":"user","content":"hi"}], "model" : "fast"}"#;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

const CROWD: usize = 1_000;
/// What the plane may hold of one client that stalls, and of one that hardly reads.
const STALLED_BYTES_MAX: usize = 16 * 1024;
const READER_BYTES_MAX: usize = 48 * 1024;
/// The same of a reader over HTTP/2 that has a connection to itself, and of one of a hundred on one.
const HTTP2_READER_BYTES_MAX: usize = 256 * 1024;
const HTTP2_STREAM_BYTES_MAX: usize = 128 * 1024;
/// What the kernel may hold for one of either.
const KERNEL_BYTES_MAX: usize = 768 * 1024;
/// Good exchanges of one measurement, and measurements.
const EXCHANGES: usize = 400;
const ROUNDS: usize = 5;
/// As many may others on this machine spoil, and one must not.
const ROUNDS_MAX: usize = 30;
/// What the kernel reads for a client that does not: several writes must fit, since one that does not is
/// dropped, and sent again ever later.
const WINDOW: usize = 256 * 1024;
/// Below this, whatever else the machine does hides what is measured.
const RESOLUTION: Duration = Duration::from_millis(1);

/// One test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for ever where a body says so, or sends a stream of 10 MB, or answers.
fn upstream() -> Upstream {
    Upstream::start(|request, stream| {
        if request.contains("for ever") {
            return stream.read(&mut [0]).is_ok_and(|read| read > 0);
        }
        if !request.contains("much") {
            return stream.write_all(ANSWER).is_ok();
        }
        // Else a crowd's answers wait in this machine's TCP, of which there is not enough for all.
        socket2::SockRef::from(&*stream).set_send_buffer_size(64 * 1024).unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        let event = format!("data: {}\n\n", "x".repeat(1_000));
        stream.write_all(head.as_bytes()).is_ok()
            && (0..10_000).all(|_| stream.write_all(event.as_bytes()).is_ok())
    })
}

fn patient(upstream: &Upstream) -> Deployment {
    let (first_byte_timeout_ms, idle_timeout_ms) = (60_000, 60_000);
    Deployment { first_byte_timeout_ms, idle_timeout_ms, ..deployment(1, upstream.address) }
}

/// A plane with room for a crowd; `tls` are the lines of its certificate, where it has one.
fn plane(upstream: &Upstream, tls: &str) -> Plane {
    // Two for each client of a crowd, and as many here.
    let me = std::process::id().to_string();
    let set = Command::new("prlimit").args(["--pid", &me, "--nofile=10000:"]).status();
    assert!(set.unwrap().success(), "this test needs 10,000 descriptors (ulimit -Hn)");
    Plane::start_edited(vec![patient(upstream)], |text| {
        text.replace("exchanges = 1024", "exchanges = 8192") + tls
    })
}

/// The slowest but one in a hundred of good exchanges. `connect` makes a connection, and what it makes asks
/// once.
fn p99<A: FnMut()>(connect: impl Fn() -> A) -> Duration {
    let mut ask = connect();
    let mut took: Vec<Duration> = (0..EXCHANGES)
        .map(|_| {
            let began = Instant::now();
            ask();
            began.elapsed()
        })
        .collect();
    took.sort();
    took[EXCHANGES * 99 / 100]
}

/// Asks the plane with the crowd and the one without, in turns: the best round of each counts, since others
/// use this machine.
fn assert_unnoticed<A: FnMut()>(what: &str, crowded: impl Fn() -> A, quiet: impl Fn() -> A) {
    let (mut with, mut without) = (Duration::MAX, Duration::MAX);
    for round in 1..=ROUNDS_MAX {
        (with, without) = (with.min(p99(&crowded)), without.min(p99(&quiet)));
        if round >= ROUNDS && with <= 2 * without.max(RESOLUTION) {
            return println!("{what}: p99 {with:?}, {without:?} without");
        }
    }
    panic!("{what}: p99 {with:?}, {without:?} without");
}

/// Asks over HTTP/1.1.
fn asking(plane: &Plane) -> impl FnMut() + use<> {
    let (mut peer, request) = (plane.connect(), post(CHAT, ASK));
    move || {
        peer.send(&request);
        assert_eq!(peer.answer().status, 200);
    }
}

/// Asks over HTTP/2.
fn asking_http2(plane: &Plane, certified: &Certified) -> impl FnMut() + use<> {
    let (mut peer, mut stream) = (FramePeer::connect(plane, certified), 1);
    move || {
        assert!(peer.send(&[head_frame(stream, true), frame(0, 1, stream, ASK.as_bytes())].concat()));
        let answer = std::iter::from_fn(|| peer.next()).find(|(kind, flags, ..)| (*kind, *flags) == (0, 1));
        assert_eq!(answer.map(|(.., data)| data).as_deref(), Some(&b"{}"[..]));
        stream += 2;
    }
}

/// Connects with a small window, so that the kernel does not read for a client that does not.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(WINDOW).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// Waits until the plane has nothing to do: all who can be waited for wait.
fn wait_for_rest(plane: &Plane) {
    let end = Instant::now() + 3 * PATIENCE;
    let mut before = plane.cpu_ticks();
    loop {
        assert!(Instant::now() < end, "the plane does not come to rest");
        std::thread::sleep(Duration::from_millis(200));
        let now = plane.cpu_ticks();
        if now <= before + 1 {
            return;
        }
        before = now;
    }
}

/// What the kernel holds of answers that the plane has written, in bytes.
fn written_and_unread(plane: &Plane) -> usize {
    let from = format!("0100007F:{:04X}", plane.http.port());
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own = lines.filter(|fields| fields[1] == from && fields[3] == "01");
    own.map(|fields| usize::from_str_radix(fields[4].split_once(':').unwrap().0, 16).unwrap()).sum()
}

/// Waits until so many exchanges are admitted.
fn wait_for_admitted(plane: &Plane, count: u64) {
    let end = Instant::now() + 3 * PATIENCE;
    while plane.metric("liutong_exchanges_admitted_total") < count {
        assert!(Instant::now() < end, "{count} exchanges are not admitted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_clients_that_stall_at_each_stage_are_not_noticed() {
    let _turn = turn();
    let upstream = upstream();
    let plane = plane(&upstream, "");
    let whole = post(CHAT, r#"{"model":"fast","text":"for ever"}"#);
    let head = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let quiet = self::plane(&upstream, "");
    let admitted = plane.metric("liutong_exchanges_admitted_total");
    for (stage, sent, exchanges) in [
        ("nothing", 0, 0),
        ("half a head", head / 2, 0),
        ("a head", head, CROWD),
        ("half a body", head + 9, CROWD),
        ("all", whole.len(), CROWD),
    ] {
        let (before, already) = (plane.resident(), plane.metric("liutong_exchanges_admitted_total"));
        let crowd: Vec<Peer> = (0..CROWD)
            .map(|_| {
                let mut peer = plane.connect();
                peer.send(&whole[..sent]);
                peer
            })
            .collect();
        wait_for_admitted(&plane, already + exchanges as u64);
        assert_unnoticed(stage, || asking(&plane), || asking(&quiet));
        let each = plane.resident().saturating_sub(before) / CROWD;
        println!("{stage}: {each} bytes each");
        assert!(each < STALLED_BYTES_MAX, "{stage}: {each} bytes each");
        drop(crowd);
    }
    assert!(plane.metric("liutong_exchanges_admitted_total") > admitted + 3 * CROWD as u64);
}

#[test]
fn a_thousand_readers_that_hardly_read_are_not_noticed() {
    let _turn = turn();
    let upstream = upstream();
    let plane = plane(&upstream, "");
    let quiet = self::plane(&upstream, "");
    let (before, already) = (plane.resident(), plane.metric("liutong_exchanges_admitted_total"));
    let request = post(CHAT, r#"{"model":"fast","stream":true,"text":"much"}"#);
    let mut crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| {
            let mut stream = connect_narrow(plane.http);
            stream.write_all(&request).unwrap();
            stream
        })
        .collect();
    wait_for_admitted(&plane, already + CROWD as u64);
    let mut piece = [0; 512];
    for stream in &mut crowd {
        assert!(stream.read(&mut piece).unwrap() > 0);
    }
    wait_for_rest(&plane);
    assert_unnoticed("hardly reading", || asking(&plane), || asking(&quiet));
    let each = plane.resident().saturating_sub(before) / CROWD;
    let held = written_and_unread(&plane) / CROWD;
    println!("hardly reading: {each} bytes each, {held} in the kernel");
    assert!(held < KERNEL_BYTES_MAX, "{held} bytes each in the kernel");
    assert!(each < READER_BYTES_MAX, "{each} bytes each");
    // What they read is still the stream.
    for stream in &mut crowd {
        assert!(stream.read(&mut piece).unwrap() > 0);
    }
}

/// Asks for `streams` long answers at once, with windows as large as can be: what stops them is the socket.
fn many_streams(plane: &Plane, certified: &Certified, streams: usize) -> FramePeer {
    let mut peer = FramePeer::over(connect_narrow(plane.http), certified);
    let largest = [&[0, 4][..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    let wider = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
    assert!(peer.send(&[frame(4, 0, 0, &largest), frame(8, 0, 0, &wider)].concat()));
    for stream in (1..).step_by(2).take(streams) {
        let body = frame(0, 1, stream, br#"{"model":"fast","stream":true,"text":"much"}"#);
        assert!(peer.send(&[head_frame(stream, true), body].concat()));
    }
    peer
}

#[test]
fn a_thousand_readers_over_http_2_that_hardly_read_are_not_noticed() {
    let _turn = turn();
    let upstream = upstream();
    let (dir, certified) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
    let tls = format!("[http.tls]\n{}", certified.write(dir.path(), "server"));
    for (connections, bytes_max) in [(CROWD, HTTP2_READER_BYTES_MAX), (CROWD / 100, HTTP2_STREAM_BYTES_MAX)] {
        let plane = plane(&upstream, &tls);
        let quiet = self::plane(&upstream, &tls);
        let (before, already) = (plane.resident(), plane.metric("liutong_exchanges_admitted_total"));
        let mut crowd: Vec<FramePeer> =
            (0..connections).map(|_| many_streams(&plane, &certified, CROWD / connections)).collect();
        wait_for_admitted(&plane, already + CROWD as u64);
        for peer in &mut crowd {
            assert!(std::iter::from_fn(|| peer.next()).any(|(kind, ..)| kind == 0), "the answer has begun");
        }
        wait_for_rest(&plane);
        let what = format!("{CROWD} streams on {connections} connections");
        assert_unnoticed(&what, || asking_http2(&plane, &certified), || asking_http2(&quiet, &certified));
        let each = plane.resident().saturating_sub(before) / CROWD;
        let held = written_and_unread(&plane) / connections;
        println!("{what}: {each} bytes each, {held} in the kernel for each connection");
        assert!(held < KERNEL_BYTES_MAX, "{what}: {held} bytes each in the kernel");
        assert!(each < bytes_max, "{what}: {each} bytes each");
        // What they read is still the stream.
        for peer in &mut crowd {
            assert!(std::iter::from_fn(|| peer.next()).any(|(kind, ..)| kind == 0));
        }
    }
}
