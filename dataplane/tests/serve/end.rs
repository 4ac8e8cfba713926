//! What the end of the process makes of exchanges that take longer than it waits: each is settled once, with
//! the status and the source of what became of it.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use wire::event::UsageSource;
use wire::table::{Deployment, Dialect, OnDisconnect};

use crate::plane::{GOOD, PATIENCE, Peer, Plane, Upstream, deployment, key, post_as};

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"fast","messages":[]}"#;
const ASK_STREAM: &str = r#"{"model":"fast","stream":true,"messages":[]}"#;
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";

/// More than what is between an upstream and a data plane can hold.
const READ_ON_BYTES: usize = 32 << 20;
/// What a stream that runs writes at once.
const EVENTS_AT_ONCE: usize = 300;

/// A stream that is told to run, and what it has got rid of.
#[derive(Default)]
struct Stream {
    runs: AtomicBool,
    written: AtomicUsize,
}

/// Streams without end where a stream is asked for; else the answer never comes. Says which requests came.
fn never_done() -> (Upstream, mpsc::Receiver<()>, Arc<Stream>) {
    let stream_of_test = Arc::<Stream>::default();
    let told = stream_of_test.clone();
    let (came, asked) = mpsc::channel();
    let came = Mutex::new(came);
    let upstream = Upstream::start(move |request, stream| {
        came.lock().unwrap().send(()).unwrap();
        let mut bytes = STREAM_HEAD.to_owned();
        let is_stream = request.contains("\"stream\":true");
        let mut goes_on = is_stream;
        while goes_on {
            let runs = told.runs.load(Ordering::Relaxed);
            let events = EVENT.repeat(if runs { EVENTS_AT_ONCE } else { 1 });
            bytes += &format!("{:x}\r\n{events}\r\n", events.len());
            goes_on = stream.write_all(bytes.as_bytes()).is_ok();
            told.written.fetch_add(std::mem::take(&mut bytes).len(), Ordering::Relaxed);
            if !runs {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = stream.read(&mut [0]);
        false
    });
    (upstream, asked, stream_of_test)
}

fn begin(plane: &Plane, asked: &mpsc::Receiver<()>, body: &str) -> Peer {
    let mut peer = plane.connect();
    peer.send(&post_as(&key(GOOD), CHAT, body));
    asked.recv_timeout(PATIENCE).unwrap();
    peer
}

#[test]
fn what_takes_longer_than_the_end_waits_is_told_and_recorded_as_cut_by_us() {
    let (upstream, asked, _) = never_done();
    for on_disconnect in [OnDisconnect::Cancel, OnDisconnect::Drain] {
        let spec = Deployment {
            on_disconnect,
            dialect: Dialect::Vllm,
            first_byte_timeout_ms: 60_000,
            ..deployment(1, upstream.address)
        };
        let settings = |text: String| text.replace("[limits]\n", "[limits]\ndrain_seconds = 1\n");
        let mut plane = Plane::start_edited(vec![spec], settings);
        let (mut streaming, mut waiting) = (begin(&plane, &asked, ASK_STREAM), begin(&plane, &asked, ASK));
        streaming.first_event();
        let mut sending = plane.connect();
        let request = post_as(&key(GOOD), CHAT, ASK);
        sending.send(&request[..request.len() - 5]);
        while plane.metric("liutong_exchanges_admitted_total") < 3 {
            std::thread::sleep(Duration::from_millis(2));
        }
        plane.signal("-TERM");

        let stream = streaming.answer();
        assert_eq!((stream.status, stream.whole), (200, false), "it must not be taken for whole");
        let body = String::from_utf8(stream.body).unwrap();
        assert!(body.ends_with("\"code\":\"gateway_overloaded\"}}\n\n"), "{body}");
        for peer in [&mut waiting, &mut sending] {
            let answer = peer.answer();
            assert_eq!((answer.status, answer.code().as_str()), (503, "gateway_overloaded"));
            assert_eq!(answer.header("x-should-retry"), Some("false"));
        }
        assert!(plane.wait().success());
        let mut found: Vec<_> =
            plane.usage(3).iter().map(|event| (event.status, event.usage_source)).collect();
        found.sort_by_key(|(_, source)| *source as u8);
        let mut expected = [UsageSource::None, UsageSource::None, UsageSource::Partial].map(|s| (503, s));
        expected.sort_by_key(|(_, source)| *source as u8);
        assert_eq!(found, expected, "{on_disconnect:?}");
    }
}

#[test]
fn a_stream_that_is_read_on_for_a_client_that_left_is_the_clients_doing_also_at_the_end() {
    let (upstream, asked, stream) = never_done();
    let spec = Deployment {
        on_disconnect: OnDisconnect::Drain,
        dialect: Dialect::Vllm,
        ..deployment(1, upstream.address)
    };
    let settings = |text: String| text.replace("[limits]\n", "[limits]\ndrain_seconds = 0\n");
    let mut plane = Plane::start_edited(vec![spec], settings);
    let mut peer = begin(&plane, &asked, ASK_STREAM);
    peer.first_event();
    drop(peer);
    // Another event after the client has gone is how it is found out. What is read of the upstream from then
    // on is for nobody: much more than fits into what is between it and the data plane.
    stream.runs.store(true, Ordering::Relaxed);
    let before = stream.written.load(Ordering::Relaxed);
    let end = Instant::now() + 2 * PATIENCE;
    while stream.written.load(Ordering::Relaxed) < before + READ_ON_BYTES {
        assert!(Instant::now() < end, "it is read on");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(plane.metric("liutong_usage_in_flight"), 1, "it is read on");
    // It runs on as fast as it can: no read of it ever waits.
    assert!(plane.stop().success());
    let event = plane.usage(1)[0];
    assert_eq!((event.status, event.usage_source), (499, UsageSource::Partial));
}

#[test]
fn the_end_is_written_down_before_the_slots_are_gone() {
    let mut plane = Plane::start(vec![deployment(1, Upstream::fixed(ANSWER).address)]);
    assert_eq!(plane.ask(&post_as(&key(GOOD), CHAT, ASK)).status, 200);
    // Without a control plane it waits for a while before it gives up to ship what there is.
    plane.signal("-TERM");
    let is_clean = || {
        let files = plane.files().into_iter().filter(|path| path.parent().unwrap().ends_with("numbers"));
        let texts: Vec<_> = files.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
        texts.iter().any(|text| text.starts_with("liutong numbers 1 clean\n"))
    };
    let end = Instant::now() + PATIENCE;
    while !is_clean() {
        assert!(Instant::now() < end, "never written");
        std::thread::sleep(Duration::from_millis(1));
    }
    let slots = std::fs::read_dir(plane.control_socket().with_file_name("run")).unwrap().count();
    assert_eq!(slots, 1, "a kill finds slots, or the word that says how it ended");
    assert!(plane.wait().success());
}
