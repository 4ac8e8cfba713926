//! HTTP/2 clients that only make work: each kind of flood is ended, cheaply, and costs no other connection.

use std::time::Duration;

use crate::http2_faults::silent;
use crate::http2_peer::{FramePeer, ask, connect, field, frame, head_frame, post, runtime};
use crate::path::{ASK, CHAT, WHOLE, json_answer};
use crate::plane::{PATIENCE, Upstream};
use crate::tls_peer::plane;

/// GOAWAY's code for a client that only makes work (RFC 9113 §7).
const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;

#[test]
fn a_flood_of_resets_ends_the_connection_and_no_other() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    runtime().block_on(async {
        let mut other = connect(&plane, &certified).await;
        let mut peer = FramePeer::connect(&plane, &certified);
        // Not so many that the goodbye is lost with what is unread behind it.
        for number in 0..1_500 {
            let stream = number * 2 + 1;
            if !peer.send(&[head_frame(stream, true), frame(3, 0, stream, &[0, 0, 0, 8])].concat()) {
                break;
            }
        }
        assert_eq!(peer.goodbye(), Some(ENHANCE_YOUR_CALM));
        assert_eq!(ask(&mut other, post(CHAT), ASK).await.status, 200);
    });
    assert_eq!(plane.metric("liutong_http2_floods_total"), 1);
    assert_eq!(plane.metric("liutong_panics_total"), 0);
}

#[test]
fn a_client_that_cancels_one_stream_after_another_is_told_to_stop() {
    let (upstream, asked, heard) = silent();
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    let mut cancelled = 0;
    for number in 0..1_000 {
        let stream = number * 2 + 1;
        if !peer.send(&[head_frame(stream, true), frame(0, 1, stream, ASK.as_bytes())].concat()) {
            break;
        }
        // Either it is taken up, or the connection has been given up, which is counted.
        let is_told = || plane.metric("liutong_http2_floods_total") == 1;
        let mut came = asked.recv_timeout(Duration::from_millis(500)).is_ok();
        while !came && !is_told() {
            came = asked.recv_timeout(Duration::from_millis(500)).is_ok();
        }
        if !came {
            break;
        }
        peer.send(&frame(3, 0, stream, &[0, 0, 0, 8]));
        heard.recv_timeout(PATIENCE).unwrap();
        cancelled += 1;
    }
    assert!((200..210).contains(&cancelled), "{cancelled}");
    assert_eq!(peer.goodbye(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(plane.metric("liutong_http2_floods_total"), 1);
}

#[test]
fn a_flood_of_continuations_ends_the_connection() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    assert!(peer.send(&head_frame(1, false)));
    let piece = frame(9, 0, 1, &field("x", "y").repeat(1_000));
    let mut sent = 0_usize;
    while sent < 64 << 20 && peer.send(&piece) {
        sent += piece.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    assert!(peer.goodbye().is_none_or(|code| code == ENHANCE_YOUR_CALM || code == PROTOCOL_ERROR));
    assert_eq!(plane.metric("liutong_http2_streams_total"), 0);
}

#[test]
fn frames_without_use_are_a_flood() {
    const BATCH: usize = 1_000;
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let (ping, settings, priority) =
        (frame(6, 0, 0, &[7; 8]), frame(4, 0, 0, &[]), frame(2, 0, 1, &[0, 0, 0, 3, 0]));
    for (useless, answers) in [(ping, BATCH), (settings, BATCH), (priority, 0)] {
        let (mut peer, batch) = (FramePeer::connect(&plane, &certified), useless.repeat(BATCH));
        let (mut sent, mut told) = (0, None);
        while sent < 32 << 20 && told.is_none() && peer.send(&batch) {
            sent += batch.len();
            let mut frames = std::iter::from_fn(|| peer.next()).take(answers);
            told = frames.find(|(kind, ..)| *kind == 7).map(|(.., payload)| payload[7].into());
        }
        // What nobody answers comes so fast that the goodbye may be lost.
        let told = told.or_else(|| peer.goodbye());
        assert!(told == Some(ENHANCE_YOUR_CALM) || (answers == 0 && told.is_none()), "{told:?}");
        assert!(sent < 32 << 20, "{sent}");
    }
    assert_eq!(plane.metric("liutong_http2_floods_total"), 3);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_may_be_sent_again() {
    let (upstream, asked, _heard) = silent();
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    for number in 0..129 {
        assert!(peer.send(&head_frame(number * 2 + 1, true)));
    }
    let refused = std::iter::from_fn(|| peer.next()).find(|(kind, ..)| *kind == 3).unwrap();
    assert_eq!((refused.2, refused.3), (257, vec![0, 0, 0, 7]), "REFUSED_STREAM");
    assert!(peer.send(&frame(0, 1, 1, ASK.as_bytes())));
    asked.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn streams_that_a_client_has_us_reset_are_a_flood() {
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let mut peer = FramePeer::connect(&plane, &certified);
    for number in 0..1_000 {
        let stream = number * 2 + 1;
        // A window that overflows is an error of its stream alone (CVE-2025-8671).
        let overflow = frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        if !peer.send(&[head_frame(stream, true), overflow].concat()) {
            break;
        }
    }
    assert_eq!(peer.goodbye(), Some(ENHANCE_YOUR_CALM));
    assert_eq!(plane.metric("liutong_http2_floods_total"), 1);
}

#[test]
fn empty_pieces_of_a_body_and_updates_of_windows_are_a_flood() {
    const BATCH: usize = 1_000;
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    for useless in [frame(0, 0, 1, &[]), frame(8, 0, 1, &[0, 0, 0, 1])] {
        let (mut peer, batch) = (FramePeer::connect(&plane, &certified), useless.repeat(BATCH));
        assert!(peer.send(&head_frame(1, true)));
        let mut sent = 0;
        while sent < 32 << 20 && peer.send(&batch) {
            sent += batch.len();
        }
        assert!(sent < 32 << 20, "{sent} bytes were taken");
        // It comes so fast that the goodbye may be lost.
        assert!(peer.goodbye().is_none_or(|code| code == ENHANCE_YOUR_CALM));
    }
    assert_eq!(plane.metric("liutong_http2_floods_total"), 2);
    assert_eq!(plane.metric("liutong_body_bytes_held"), 0);
}

/// A head of 16 KB that stands for 60 MB: its first field is long and goes to the table of fields, the others
/// are one byte each, which name it (RFC 7541 §6.1, §6.2.1).
fn bomb(stream: u32) -> Vec<u8> {
    let mut block = vec![0x40, 1, b'x', 127, 0xa1, 0x1d];
    block.extend_from_slice(&[b'y'; 3_872]);
    block.resize(16_000, 0x80 | 62);
    frame(1, 4, stream, &block)
}

#[test]
fn a_head_that_is_larger_than_it_looks_ends_its_connection_and_costs_no_more_than_it_looks() {
    const BOMBS: u64 = 50;
    let upstream = Upstream::fixed(json_answer(WHOLE));
    let (plane, _dir, certified) = plane(&upstream);
    let (memory, ticks) = (plane.resident(), plane.cpu_ticks());
    for _ in 0..BOMBS {
        let mut peer = FramePeer::connect(&plane, &certified);
        peer.send(&[bomb(1), bomb(3)].concat());
        assert_eq!(peer.goodbye(), Some(ENHANCE_YOUR_CALM));
    }
    let (more, ticks) = (plane.resident().saturating_sub(memory), plane.cpu_ticks() - ticks);
    println!("{BOMBS} heads of 60 MB: {more} bytes, {ticks} hundredths of a second, handshakes included");
    assert_eq!(plane.metric("liutong_http2_streams_total"), 0, "none of them is taken up");
    assert_eq!(plane.metric("liutong_http2_floods_total"), BOMBS);
    assert!(more < 8 << 20, "{more} bytes");
    assert!(ticks < 2 * BOMBS, "{ticks} hundredths of a second of CPU");
}
