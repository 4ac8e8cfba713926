//! Every frame reads back; none is taken before it is whole; damage is refused.

use super::codec::WELCOME;
use super::*;
use crate::codec::DecodeError;
use crate::id::{AliasId, NodeId};
use crate::key_use::{Reason, UseOf};

fn use_of() -> UseOf {
    UseOf { minute: 7, digest: KeyDigest([3; 32]), reason: Reason::Revoked }
}

fn samples() -> Vec<Frame> {
    let (registry, generation) = (RegistryId(5), Generation(6));
    let changes = vec![Change::NoAlias(AliasId(1)), Change::NoKey(KeyDigest([1; 32]))];
    vec![
        Frame::Hello(Hello { role: Role::Ship, node: NodeId(1), boot: BootId(2), registry, generation }),
        Frame::Welcome { registry, generation, takes_key_uses: true },
        Frame::SnapshotBegin { registry, generation },
        Frame::SnapshotPart(changes.clone()),
        Frame::SnapshotEnd { generation, changes: 2 },
        Frame::Delta { from: Generation(5), to: generation, changes },
        Frame::Applied { registry, generation, sum: TableSum(9) },
        Frame::Buried(vec![KeyDigest([7; 32])]),
        Frame::Buried(vec![]),
        Frame::Revoke {
            revocation: 3,
            cut_streams: true,
            digests: vec![KeyDigest([7; 32]), KeyDigest([8; 32])],
        },
        Frame::Revoked { revocation: 3 },
        Frame::Ping,
        Frame::Pong,
        Frame::Batch { spool: BootId(2), batch: BatchSeq(1), resent: true, events: vec![9; 160] },
        Frame::Stored { spool: BootId(2), batch: BatchSeq(1), refused: vec![4, 5] },
        Frame::Report(Report { at_ms: 7, ..Report::default() }),
        Frame::Noted { boot: BootId(2) },
        Frame::Pace { interval_ms: 3000 },
        Frame::Recall,
        Frame::Kept { spool: BootId(2), batches: vec![BatchSeq(1), BatchSeq(9)] },
        Frame::Resend { spool: BootId(2), batches: vec![] },
        Frame::KeyUses(vec![KeyUse { of: use_of(), uses: 5 }]),
        Frame::KeyUses(vec![]),
        Frame::KeyUsesKept,
        Frame::Enroll(Enroll { node: NodeId(1), token: b"t".to_vec(), public_key: vec![4; 65] }),
        Frame::Enrolled(Certificates { node: vec![1; 600], authority: vec![2; 500] }),
        Frame::Refused { why: "the node was removed".into() },
    ]
}

#[test]
fn every_frame_reads_back_as_it_was_written() {
    let mut bytes = Vec::new();
    samples().iter().for_each(|frame| frame.encode(&mut bytes));
    let mut rest = &bytes[..];
    for frame in samples() {
        let (found, used) = Frame::decode(rest).unwrap().unwrap();
        assert_eq!(found, frame);
        rest = &rest[used..];
    }
    assert!(rest.is_empty());
}

#[test]
fn the_welcome_of_an_older_control_plane_takes_no_key_uses() {
    let (registry, generation) = (RegistryId(5), Generation(6));
    let begun = Frame::SnapshotBegin { registry, generation }.to_bytes();
    // The same fields, as a welcome had them before.
    let mut older = begun.clone();
    older[9] = WELCOME;
    let crc = crc32c::crc32c(&older[8..]);
    older[4..8].copy_from_slice(&crc.to_le_bytes());
    let welcome = Frame::Welcome { registry, generation, takes_key_uses: false };
    assert_eq!(Frame::decode(&older), Ok(Some((welcome, older.len()))));
}

#[test]
fn a_frame_is_not_taken_before_its_last_byte() {
    for frame in samples() {
        let bytes = frame.to_bytes();
        for len in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..len]), Ok(None), "{frame:?} {len}");
        }
    }
}

#[test]
fn a_flipped_bit_is_refused() {
    for frame in samples() {
        let bytes = frame.to_bytes();
        for at in 4..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Frame::decode(&bad).is_err(), "{frame:?} {at}");
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_at_once() {
    let bytes = u32::MAX.to_le_bytes();
    assert!(matches!(Frame::decode(&bytes), Err(DecodeError::TooLong { .. })));
}

#[test]
fn garbage_never_panics() {
    let bytes: Vec<u8> = samples().iter().flat_map(Frame::to_bytes).collect();
    for at in 0..bytes.len() {
        fuzz(&bytes[at..]);
    }
}
