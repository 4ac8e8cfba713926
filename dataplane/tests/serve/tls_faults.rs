//! Clients that speak TLS badly, not at all, or leave; answers that break off; certificates that are no good.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::path::{ASK, ASK_STREAM, CHAT, EVENTS, WHOLE, json_answer, stream_answer};
use crate::plane::{PATIENCE, Peer, Plane, Upstream, deployment, post};
use crate::tls_peer::{Certified, connect, end, plane, shown, start, write_private};

fn becomes(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn has_metric(plane: &Plane, line: &str) -> bool {
    String::from_utf8(plane.ops("/metrics").body).unwrap().lines().any(|found| found == line)
}

#[test]
fn a_slow_handshake_is_cut_off_and_a_slow_head_is_408() {
    let upstream = Upstream::fixed("");
    let (plane, _dir, certified) = plane(&upstream);
    let limit = Duration::from_secs(60);
    let mut slow = connect(&plane, &Arc::new(certified.trusting()));
    slow.stream.sock.set_read_timeout(Some(limit)).unwrap();
    slow.send(&post(CHAT, ASK)[..40]);
    let began = Instant::now();
    let silent = [&b""[..], &[22, 3, 1, 2, 0, 1]].map(|sent| {
        let mut tcp = TcpStream::connect(plane.http).unwrap();
        tcp.write_all(sent).unwrap();
        tcp.set_read_timeout(Some(limit)).unwrap();
        tcp
    });
    for mut tcp in silent {
        assert_eq!(tcp.read(&mut [0; 64]).unwrap(), 0, "closed without a word");
    }
    assert!((9..30).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(has_metric(&plane, "liutong_tls_handshakes_failed_total 2"));

    let answer = slow.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    // What comes now is not looked at, and the client can read on.
    slow.send(&post(CHAT, ASK)[40..]);
    end(&mut slow).expect("close_notify");
    assert!(becomes(|| has_metric(&plane, "liutong_connections_closed_total 3")));
    assert!(has_metric(&plane, "liutong_panics_total 0"));
}

#[test]
fn a_client_without_tls_is_told_so_and_garbage_gets_an_alert() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let answer = plane.ask(&post(CHAT, ASK));
    assert_eq!((answer.status, answer.code().as_str()), (400, "tls_required"));
    assert!(answer.whole);
    for garbage in [&b"\0\0\0\0\0\0"[..], b"hello, world", &[22, 3, 1, 0xff, 0xff, 0]] {
        let mut peer = Peer::new(TcpStream::connect(plane.http).unwrap());
        peer.send(garbage);
        while peer.more() {}
        assert_eq!(peer.unread().first(), Some(&21), "an alert: {:?}", peer.unread());
    }
    let mut peer = connect(&plane, &Arc::new(certified.trusting()));
    peer.send(&post(CHAT, ASK));
    assert_eq!(peer.answer().status, 200, "others are served on");
    assert!(has_metric(&plane, "liutong_panics_total 0"));
}

#[test]
fn a_client_that_only_speaks_another_protocol_is_refused() {
    let upstream = Upstream::fixed("");
    let (plane, _dir, certified) = plane(&upstream);
    let mut config = certified.trusting();
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    let mut peer = connect(&plane, &Arc::new(config.clone()));
    let error = peer.stream.conn.complete_io(&mut peer.stream.sock).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let mut peer = connect(&plane, &Arc::new(config));
    peer.stream.conn.complete_io(&mut peer.stream.sock).unwrap();
    assert_eq!(peer.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_stream_that_was_cut_does_not_end_with_close_notify() {
    let upstream = Upstream::start(|_, stream| {
        let bytes = stream_answer(&EVENTS);
        stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
        false
    });
    let (plane, _dir, certified) = plane(&upstream);
    let config = Arc::new(certified.trusting());
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut peer = connect(&plane, &config);
        let request = String::from_utf8(post(CHAT, ASK_STREAM)).unwrap().replace("HTTP/1.1", version);
        peer.send(request.as_bytes());
        peer.first_event();
        let error = end(&mut peer).expect_err(version).kind();
        assert!(matches!(error, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{version} {error}");
    }
}

#[test]
fn a_client_that_leaves_cancels_the_upstream() {
    for politely in [true, false] {
        let (told, cut) = mpsc::channel();
        let upstream = Upstream::start(move |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
            while stream.write_all(EVENTS[0].as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            told.send(()).is_ok()
        });
        let (plane, _dir, certified) = plane(&upstream);
        let mut peer = connect(&plane, &Arc::new(certified.trusting()));
        peer.send(&post(CHAT, ASK_STREAM));
        assert!(peer.more());
        if politely {
            peer.stream.conn.send_close_notify();
            peer.stream.conn.complete_io(&mut peer.stream.sock).unwrap();
        }
        drop(peer);
        cut.recv_timeout(PATIENCE).expect("the upstream's connection is closed");
        assert_eq!(plane.usage(1)[0].status, 499);
    }
}

#[test]
fn a_record_that_was_changed_ends_the_connection_and_reaches_nobody() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = connect(&plane, &Arc::new(certified.trusting()));
    peer.stream.conn.complete_io(&mut peer.stream.sock).unwrap();
    let mut sealed = Vec::new();
    peer.stream.conn.writer().write_all(&post(CHAT, ASK)).unwrap();
    peer.stream.conn.write_tls(&mut sealed).unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    peer.stream.sock.write_all(&sealed).unwrap();
    let error = end(&mut peer).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 0);
}

#[test]
fn where_an_authority_for_clients_is_named_only_its_clients_are_served() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (dir, server) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
    let (friend, stranger) = (Certified::of(&["friend"]), Certified::of(&["stranger"]));
    std::fs::write(dir.path().join("ca.pem"), friend.certificate.pem()).unwrap();
    let ca = format!("client_ca_file = '{}'\n", dir.path().join("ca.pem").display());
    let plane = start(vec![deployment(3, upstream.address)], &(server.write(dir.path(), "server") + &ca));
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut peer = connect(&plane, &Arc::new(server.client(&versions, Some(&friend))));
    peer.send(&post(CHAT, ASK));
    assert_eq!(peer.answer().status, 200);
    for shown in [None, Some(&stranger)] {
        let mut peer = connect(&plane, &Arc::new(server.client(&versions, shown)));
        peer.send(&post(CHAT, ASK));
        assert!(!peer.more(), "no answer");
    }
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 1);
}

#[test]
fn changed_files_are_used_on_sighup_and_broken_ones_are_not() {
    let upstream = Upstream::fixed("");
    let (plane, dir, old) = plane(&upstream);
    let served = |certified: &Certified| {
        shown(&plane, &Arc::new(certified.trusting()), "localhost") == Some(certified.der())
    };
    assert!(served(&old));
    let new = Certified::of(&["localhost"]);
    new.write(dir.path(), "server");
    plane.signal("-HUP");
    assert!(becomes(|| served(&new)));
    std::fs::write(dir.path().join("server.pem"), old.certificate.pem()).unwrap();
    plane.signal("-HUP");
    std::thread::sleep(Duration::from_millis(200));
    assert!(served(&new), "a certificate without its key is not used");
    old.write(dir.path(), "server");
    plane.signal("-HUP");
    assert!(becomes(|| served(&old)));
}

fn started_with(tls: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("dataplane.toml");
    let text = format!("data_dir = '/nowhere'\n[control]\nsocket = '/nowhere/s'\n[http.tls]\n{tls}");
    std::fs::write(&config, text).unwrap();
    let program = env!("CARGO_BIN_EXE_liutong-dataplane");
    Command::new(program).args(["--config".as_ref(), config.as_os_str()]).output().unwrap()
}

#[test]
fn a_certificate_that_clients_would_refuse_is_an_error_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let pair = |certificate: &str, key: &str| {
        format!("certificate_file = '{}'\nkey_file = '{}'\n", path(certificate), path(key))
    };
    let year = rcgen::date_time_ymd;
    Certified::of(&["h"]).write(dir.path(), "good");
    Certified::of(&["h"]).write(dir.path(), "other");
    Certified::with(&["h"], |params| params.not_after = year(2020, 1, 1)).write(dir.path(), "expired");
    Certified::with(&["h"], |params| params.not_before = year(3000, 1, 1)).write(dir.path(), "early");
    write_private(&dir.path().join("garbage.pem"), "garbage");
    std::fs::copy(path("good.key"), path("open.key")).unwrap();
    std::fs::set_permissions(path("open.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path("torn.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let cases = [
        (pair("expired.pem", "expired.key"), "certificate_file", "expired.pem: has expired"),
        (pair("early.pem", "early.key"), "certificate_file", "early.pem: is not valid yet"),
        (pair("garbage.pem", "good.key"), "certificate_file", "garbage.pem: has no certificate in PEM"),
        (pair("torn.pem", "good.key"), "certificate_file", "torn.pem: is not a certificate"),
        (pair("none.pem", "good.key"), "certificate_file", "none.pem: No such file"),
        (pair("good.pem", "garbage.pem"), "key_file", "garbage.pem: has nothing of the kind in PEM"),
        (pair("good.pem", "none.key"), "key_file", "none.key: No such file"),
        (pair("good.pem", "open.key"), "key_file", "open.key: others may read or change it (mode 644)"),
        (pair("good.pem", "other.key"), "key_file", "other.key: is not the key of"),
        (
            pair("good.pem", "good.key") + &format!("client_ca_file = '{}'\n", path("garbage.pem")),
            "client_ca_file",
            "garbage.pem: has no certificate in PEM",
        ),
    ];
    for (tls, key, problem) in cases {
        let output = started_with(&tls);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        let expected = format!("dataplane.toml: http.tls.{key}: {}", dir.path().display());
        assert!(said.contains(&expected) && said.contains(problem), "{said}");
    }
}
