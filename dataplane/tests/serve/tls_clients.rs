//! Clients that speak TLS: the same bytes as without, in whatever pieces they come.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{HandshakeKind, ProtocolVersion};

use crate::path::{ASK, ASK_STREAM, CHAT, EVENTS, WHOLE, gated, json_answer};
use crate::plane::{PATIENCE, Plane, UNKNOWN, Upstream, deployment, key, post, post_as};
use crate::tls_peer::{Certified, Drip, connect, connect_over, end, plane, shown, start};

/// An upstream that answers with the request's own body.
fn echo() -> Upstream {
    Upstream::start(|request, stream| {
        stream.write_all(&json_answer(request.split_once("\r\n\r\n").unwrap().1)).is_ok()
    })
}

fn metric(plane: &Plane, name: &str) -> u64 {
    let text = String::from_utf8(plane.ops("/metrics").body).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn an_answer_is_the_same_with_each_version_and_its_connection_is_kept() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    for (version, number) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let mut peer = connect(&plane, &Arc::new(certified.client(&[version], None)));
        for _ in 0..3 {
            peer.send(&post(CHAT, ASK));
            let answer = peer.answer();
            assert_eq!((answer.status, answer.body.as_slice()), (200, WHOLE.as_bytes()));
        }
        assert_eq!(peer.stream.conn.protocol_version(), Some(number));
    }
    assert_eq!(plane.usage(6).iter().map(|event| event.tokens.total).sum::<u32>(), 6 * 18);
    assert_eq!(metric(&plane, "liutong_tls_handshakes_total"), 2);
}

#[test]
fn an_answer_with_its_head_leaves_in_one_record() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = connect(&plane, &Arc::new(certified.trusting()));
    // Twice, so that the tickets, which come in records of their own, are read.
    for _ in 0..2 {
        peer.send(&post(CHAT, ASK));
        peer.answer();
    }
    peer.send(&post(CHAT, ASK));
    let mut records = [0; 65536];
    let got = peer.stream.sock.read(&mut records).unwrap();
    let payload = usize::from(u16::from_be_bytes([records[3], records[4]]));
    assert!(
        got > WHOLE.len() && got == 5 + payload,
        "{got} bytes, of which {payload} are in the first record"
    );
}

#[test]
fn an_event_reaches_the_client_before_the_next_one_is_sent() {
    let (upstream, open) = gated();
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = connect(&plane, &Arc::new(certified.trusting()));
    peer.send(&post(CHAT, ASK_STREAM));
    peer.first_event();
    open.send(()).unwrap();
    let answer = peer.answer();
    assert!(answer.whole);
    assert_eq!(String::from_utf8_lossy(&answer.body), [EVENTS[0], EVENTS[1], EVENTS[3]].concat());
}

#[test]
fn a_second_connection_is_resumed_by_any_worker() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(certified.client(&[version], None));
        // Enough for both workers to meet a session of the other.
        for round in 0..12 {
            let mut peer = connect(&plane, &config);
            peer.send(&post(CHAT, ASK));
            assert_eq!(peer.answer().status, 200);
            let expected = if round == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
            assert_eq!(peer.stream.conn.handshake_kind(), Some(expected), "{version:?} {round}");
        }
    }
    assert_eq!(metric(&plane, "liutong_tls_handshakes_resumed_total"), 22);
}

#[test]
fn pipelined_requests_are_answered_in_order_in_one_record_or_many() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    let bodies: Vec<String> = (0..20).map(|n| format!(r#"{{"n":{n},"model":"fast"}}"#)).collect();
    let requests: Vec<u8> = bodies.iter().flat_map(|body| post(CHAT, body)).collect();
    for fragment in [None, Some(64)] {
        let mut config = certified.trusting();
        config.max_fragment_size = fragment;
        let mut peer = connect(&plane, &Arc::new(config));
        peer.send(&requests);
        for body in &bodies {
            assert_eq!(peer.answer().body, body.replace("fast", "upstream-model").into_bytes());
        }
    }
}

#[test]
fn records_that_come_byte_by_byte_are_understood() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = Arc::new(certified.client(&[version], None));
        let tcp = TcpStream::connect(plane.http).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = connect_over(Drip(tcp), &config, "localhost");
        for _ in 0..2 {
            peer.send(&post(CHAT, ASK));
            assert_eq!(peer.answer().body, ASK.replace("fast", "upstream-model").into_bytes());
        }
    }
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    let upstream = echo();
    let (plane, _dir, certified) = plane(&upstream);
    let body = format!(r#"{{"text":"{}","model":"fast"}}"#, "0123456789abcdef".repeat(5 << 16));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut peer = connect(&plane, &Arc::new(certified.client(&[version], None)));
        peer.send(&post(CHAT, &body));
        let answer = peer.answer();
        assert_eq!(answer.status, 200);
        assert!(answer.whole && answer.body == body.replace("fast", "upstream-model").into_bytes());
    }
}

#[test]
fn a_refused_key_is_401_and_the_connection_goes_on() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = connect(&plane, &Arc::new(certified.trusting()));
    peer.send(&post_as(&key(UNKNOWN), CHAT, ASK));
    let answer = peer.answer();
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"));
    peer.send(&post(CHAT, ASK));
    assert_eq!(peer.answer().status, 200);
}

#[test]
fn what_ends_in_order_ends_with_close_notify() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (mut plane, _dir, certified) = plane(&upstream);
    let config = Arc::new(certified.trusting());
    let mut peer = connect(&plane, &config);
    peer.send(&[&post(CHAT, ASK)[..], b"GET / HTTP/1.1\r\nno colon\r\n\r\n"].concat());
    assert_eq!((peer.answer().status, peer.answer().status), (200, 400));
    end(&mut peer).expect("close_notify after a refusal that closes");

    let request =
        String::from_utf8(post(CHAT, ASK)).unwrap().replace("host: h", "host: h\r\nconnection: close");
    let mut peer = connect(&plane, &config);
    peer.send(request.as_bytes());
    assert_eq!(peer.answer().status, 200);
    end(&mut peer).expect("close_notify after the last answer");

    let mut idle = connect(&plane, &config);
    idle.send(&post(CHAT, ASK));
    assert_eq!(idle.answer().status, 200);
    assert!(plane.stop().success());
    end(&mut idle).expect("close_notify at the end of the process");
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let (dir, upstream) = (tempfile::tempdir().unwrap(), Upstream::fixed(""));
    let first = Certified::of(&["localhost"]);
    let others = [Certified::of(&["api.example", "*.wild.example"]), Certified::of(&["other.example"])];
    let mut tls = first.write(dir.path(), "first");
    for (number, other) in others.iter().enumerate() {
        tls += "[[http.tls.certificates]]\n";
        tls += &other.write(dir.path(), &number.to_string());
    }
    let plane = start(vec![deployment(3, upstream.address)], &tls);
    for (name, expected) in [
        ("localhost", &first),
        ("api.example", &others[0]),
        ("any.wild.example", &others[0]),
        ("other.example", &others[1]),
    ] {
        let got = shown(&plane, &Arc::new(expected.trusting()), name);
        assert_eq!(got, Some(expected.der()), "{name}");
    }
    assert_eq!(shown(&plane, &Arc::new(others[1].trusting()), "unknown.example"), None, "it gets the first");
    let mut no_name = first.trusting();
    no_name.enable_sni = false;
    assert_eq!(shown(&plane, &Arc::new(no_name), "localhost"), Some(first.der()));
}
