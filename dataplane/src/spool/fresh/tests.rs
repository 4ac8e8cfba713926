//! A spool that is far behind: what is sent first, and that each batch is sent once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use tempfile::TempDir;
use wire::event::{DAY_MS, UsageEvent};
use wire::frame::Frame;
use wire::id::{BootId, NodeId, Position};
use wire::record::{self, SegmentHeader};

use super::*;
use crate::link::LinkError;
use crate::spool::Shared;
use crate::spool::host::Os;
use crate::spool::segment::{ANNEX_BYTES, Segment};
use crate::spool::ship::{Acked, Outlet};

const SPOOL: BootId = BootId(1);
/// Batches of two events; so many of them are in a segment.
const PER_SEGMENT: u64 = 5;

#[derive(Default)]
struct Sent(Vec<(u64, Vec<u8>)>);

impl Outlet for Sent {
    fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        if let Frame::Batch { batch, events, .. } = frame {
            self.0.push((batch.0, events.clone()));
        }
        Ok(())
    }
}

impl Sent {
    fn batches(&self) -> Vec<u64> {
        self.0.iter().map(|(batch, _)| *batch).collect()
    }
}

/// Writes these batches, one segment for each `PER_SEGMENT`.
fn write(dir: &TempDir, batches: std::ops::RangeInclusive<u64>) {
    for first in batches.clone().step_by(usize::try_from(PER_SEGMENT).unwrap()) {
        let at = Position(2 * (first - 1));
        let header = SegmentHeader { spool: SPOOL, node: NodeId(2), first: at, created_ms: 3 };
        let mut segment = Segment::create(&Os, dir.path(), &header, ANNEX_BYTES).unwrap();
        let mut bytes = Vec::new();
        for batch in first..=(first + PER_SEGMENT - 1).min(*batches.end()) {
            let (first, last) = (Position(2 * (batch - 1)), Position(2 * batch - 1));
            for position in [first, last] {
                let event = UsageEvent { ts_ms: DAY_MS + position.0, ..UsageEvent::default() };
                record::append(&mut bytes, position, &Record::Event(event));
            }
            let seal = Seal { batch: BatchSeq(batch), first, last, day: 1, count: 2 };
            record::append(&mut bytes, Position(last.0 + 1), &Record::Seal(seal));
        }
        segment.append(&bytes).unwrap();
    }
}

struct Shipping {
    shipper: Shipper,
    acked: crossbeam_channel::Receiver<Acked>,
}

impl Shipping {
    fn new(dir: &TempDir) -> Self {
        let (sources, found) = bounded(2);
        let (acks, acked) = bounded(256);
        let shared = Arc::new(Shared::new());
        let shipper = Shipper::new(Os, Duration::from_secs(60), (found, acks), shared);
        let reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
        let (from, sent) = (BatchSeq(1), BatchSeq(0));
        let acked_ahead = std::collections::BTreeSet::new();
        let own = Source { spool: SPOOL, reader, from, next: from, acked: acked_ahead, sent, sealed: None };
        sources.try_send(vec![own]).unwrap();
        Self { shipper, acked }
    }

    fn seal_to(&self, last: u64) {
        self.shipper.shared.announce(Sealed { last: BatchSeq(last), end: Position(2 * last) });
    }

    fn answer(&mut self, batch: u64) {
        let frame = Frame::Stored { spool: SPOOL, batch: BatchSeq(batch), refused: Vec::new() };
        self.shipper.hear(frame, &mut Sent::default()).unwrap();
    }

    /// Sends and answers until there is nothing left; gives the order.
    fn drain(&mut self) -> Vec<u64> {
        let mut order = Vec::new();
        loop {
            let mut sent = Sent::default();
            self.shipper.fill(&mut sent).unwrap();
            if sent.0.is_empty() {
                return order;
            }
            order.extend(sent.batches());
            for batch in sent.batches() {
                self.answer(batch);
            }
        }
    }
}

#[test]
fn fresh_batches_pass_a_backlog_and_each_is_sent_once() {
    let dir = TempDir::new().unwrap();
    write(&dir, 1..=30);
    let mut shipping = Shipping::new(&dir);
    shipping.seal_to(30);
    let order = shipping.drain();
    assert_eq!(order[..8], [26, 1, 27, 2, 28, 3, 29, 4]);
    let mut all = order.clone();
    all.sort_unstable();
    assert!(all.iter().copied().eq(1..=30), "{order:?}");
    assert_eq!(shipping.acked.try_iter().count(), 30);
}

#[test]
fn what_is_sealed_while_a_backlog_drains_does_not_wait_for_it() {
    let dir = TempDir::new().unwrap();
    write(&dir, 1..=30);
    let mut shipping = Shipping::new(&dir);
    shipping.seal_to(30);
    let mut sent = Sent::default();
    shipping.shipper.fill(&mut sent).unwrap();
    write(&dir, 31..=32);
    shipping.seal_to(32);
    for batch in sent.batches() {
        shipping.answer(batch);
    }
    let order = shipping.drain();
    let at = |batch| order.iter().position(|sent| *sent == batch).unwrap();
    assert!(at(32) < at(10), "{order:?}");
}

#[test]
fn after_a_lost_connection_each_part_goes_back_to_what_was_not_answered() {
    let dir = TempDir::new().unwrap();
    write(&dir, 1..=30);
    let mut shipping = Shipping::new(&dir);
    shipping.seal_to(30);
    let (mut first, mut again) = (Sent::default(), Sent::default());
    shipping.shipper.fill(&mut first).unwrap();
    assert_eq!(first.batches(), [26, 1, 27, 2]);
    shipping.answer(27);
    shipping.shipper.rewind().unwrap();
    shipping.shipper.fill(&mut again).unwrap();
    let mut resent = again.batches();
    resent.sort_unstable();
    assert_eq!(resent, [1, 2, 26, 28]);
    for (batch, bytes) in &again.0 {
        let before = first.0.iter().find(|(sent, _)| sent == batch);
        assert!(before.is_none_or(|(_, sent)| sent == bytes), "batch {batch} is the same batch");
    }
}

#[test]
fn a_spool_that_is_hardly_behind_is_shipped_in_order() {
    let dir = TempDir::new().unwrap();
    write(&dir, 1..=30);
    let mut shipping = Shipping::new(&dir);
    shipping.seal_to(5);
    assert_eq!(shipping.drain(), [1, 2, 3, 4, 5]);
}

#[test]
fn parts_that_are_stored_are_forgotten() {
    let dir = TempDir::new().unwrap();
    let mut shipping = Shipping::new(&dir);
    for outage in 1..=3 {
        write(&dir, (outage - 1) * 20 + 1..=outage * 20);
        shipping.seal_to(outage * 20);
        assert_eq!(shipping.drain().len(), 20);
        assert_eq!(shipping.shipper.sources.len(), 2);
    }
}

#[test]
fn parts_are_few_however_often_the_control_plane_goes_away() {
    let dir = TempDir::new().unwrap();
    let mut shipping = Shipping::new(&dir);
    for outage in 1..=10 {
        write(&dir, (outage - 1) * 20 + 1..=outage * 20);
        shipping.seal_to(outage * 20);
        shipping.shipper.rewind().unwrap();
        shipping.shipper.fill(&mut Sent::default()).unwrap();
        assert!(shipping.shipper.sources.len() <= PARTS_MAX, "{}", shipping.shipper.sources.len());
    }
    shipping.shipper.rewind().unwrap();
    let mut order = shipping.drain();
    order.sort_unstable();
    assert!(order.iter().copied().eq(1..=200), "{order:?}");
}
