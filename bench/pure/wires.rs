//! What the planes say to each other: frames written and read.

use std::hint::black_box;

use wire::frame::{Frame, Hello, Role};
use wire::id::{
    ApplicationId, AttributionId, BatchSeq, BootId, Generation, KeyDigest, KeyId, NodeId, RegistryId,
};
use wire::table::{Change, Key};

use crate::records::event;
use crate::{Case, Ready};

const GROUP: &str = "frame";
/// Events of the batch.
const BATCH_EVENTS: usize = 1000;
/// Keys of the snapshot's part.
const PART_KEYS: u64 = 256;

/// A frame that can be made, and what it is called.
type Named = (&'static str, fn() -> Frame);

pub(crate) fn cases() -> Vec<Case> {
    let frames: [Named; 4] = [
        ("hello", hello),
        ("delta of one key", delta),
        ("snapshot's part of 256 keys", part),
        ("batch of 1000 usage events", batch),
    ];
    let pair = |(name, frame): Named| {
        [
            Case::new(GROUP, format!("{name}: encoded"), move || encoded(frame())),
            Case::new(GROUP, format!("{name}: decoded"), move || decoded(&frame())),
        ]
    };
    frames.into_iter().flat_map(pair).collect()
}

fn encoded(frame: Frame) -> Ready {
    let mut out = frame.to_bytes();
    let length = out.len();
    assert_eq!(Frame::decode(&out), Ok(Some((frame.clone(), length))));
    Ready::new(length, move || {
        out.clear();
        black_box(&frame).encode(black_box(&mut out));
    })
}

fn decoded(frame: &Frame) -> Ready {
    let bytes = frame.to_bytes();
    assert!(matches!(Frame::decode(&bytes), Ok(Some(_))));
    Ready::new(bytes.len(), move || {
        black_box(Frame::decode(black_box(&bytes)).is_ok());
    })
}

fn hello() -> Frame {
    Frame::Hello(Hello {
        role: Role::Sync,
        node: NodeId(1),
        boot: BootId(2),
        registry: RegistryId(3),
        generation: Generation(4),
    })
}

fn key(number: u64) -> Change {
    Change::Key(Key {
        digest: KeyDigest([number.to_le_bytes()[0]; 32]),
        id: KeyId(number),
        application: ApplicationId(1),
        attribution: AttributionId(number),
        not_after_ms: 0,
        allow: None,
    })
}

fn delta() -> Frame {
    Frame::Delta { from: Generation(41), to: Generation(42), changes: vec![key(1)] }
}

fn part() -> Frame {
    Frame::SnapshotPart((0..PART_KEYS).map(key).collect())
}

fn batch() -> Frame {
    let events = event().encode().repeat(BATCH_EVENTS);
    Frame::Batch { spool: BootId(1), batch: BatchSeq(2), resent: false, events }
}
