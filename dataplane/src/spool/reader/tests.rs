//! Batches read back from hand-made segments: order, rereading, records that appear twice, seals that are
//! gone.

use std::fs;

use tempfile::TempDir;
use wire::event::DAY_MS;
use wire::id::{BootId, NodeId};
use wire::record::SegmentHeader;

use super::*;
use crate::spool::segment::{ANNEX_BYTES, Segment};

fn event(position: u64, day: u64) -> (Position, Record) {
    let event = UsageEvent { ts_ms: day * DAY_MS + position, ..UsageEvent::default() };
    (Position(position), Record::Event(event))
}

fn seal(batch: u64, first: u64, last: u64, day: u32, count: u32) -> (Position, Record) {
    let seal = Seal { batch: BatchSeq(batch), first: Position(first), last: Position(last), day, count };
    (Position(last + 1), Record::Seal(seal))
}

fn write(dir: &TempDir, first: u64, records: &[(Position, Record)]) -> std::path::PathBuf {
    let header = SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(first), created_ms: 3 };
    let mut segment = Segment::create(&Os, dir.path(), &header, 16 * ANNEX_BYTES).unwrap();
    let mut bytes = Vec::new();
    records.iter().for_each(|(position, record)| record::append(&mut bytes, *position, record));
    segment.append(&bytes).unwrap();
    segment.path.clone()
}

fn positions(batch: &Batch) -> Vec<u64> {
    let events = batch.events.as_chunks::<EVENT_BYTES>().0;
    events.iter().map(|event| UsageEvent::decode(event).unwrap().ts_ms % DAY_MS).collect()
}

const SEALED: Sealed = Sealed { last: BatchSeq(4), end: Position(9) };

/// Two batches, a range of two days, and an event in no batch.
fn sample() -> Vec<(Position, Record)> {
    vec![
        event(0, 1),
        event(1, 1),
        seal(1, 0, 1, 1, 2),
        event(2, 1),
        event(3, 2),
        event(4, 1),
        seal(2, 2, 4, 1, 2),
        seal(3, 2, 4, 2, 1),
        (Position(5), Record::Ack { batch: BatchSeq(1), acked_ms: 1 }),
        event(5, 2),
        event(6, 2),
        event(7, 2),
        event(8, 2),
        seal(4, 5, 8, 2, 4),
        event(9, 2),
    ]
}

const EXPECTED: [&[u64]; 4] = [&[0, 1], &[2, 4], &[3], &[5, 6, 7, 8]];

fn read_all(dir: &TempDir) -> Vec<Batch> {
    let mut reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
    (1..5).map(|batch| reader.read(BatchSeq(batch), SEALED).unwrap()).collect()
}

#[test]
fn batches_are_read_across_segments_wherever_they_are_cut() {
    let sample = sample();
    for cut in 0..=sample.len() {
        let dir = TempDir::new().unwrap();
        write(&dir, 0, &sample[..cut]);
        write(&dir, sample.get(cut).map_or(9, |record| record.0.0), &sample[cut..]);
        let batches = read_all(&dir);
        assert!(batches.iter().map(positions).eq(EXPECTED.map(<[u64]>::to_vec)), "{cut} {batches:?}");
        assert!(batches.iter().all(|batch| batch.lost == 0));
    }
}

#[test]
fn a_batch_read_again_is_the_same_whichever_one_it_is() {
    let dir = TempDir::new().unwrap();
    write(&dir, 0, &sample());
    let batches = read_all(&dir);
    for from in 0..4 {
        let mut reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
        reader.seek(batches[from].cursor).unwrap();
        for batch in &batches[from..] {
            assert_eq!(&reader.read(batch.seal.batch, SEALED).unwrap(), batch);
        }
    }
}

#[test]
fn records_that_were_written_anew_are_taken_once() {
    let sample = sample();
    for from in 0..sample.len() {
        for to in from..=sample.len() {
            let dir = TempDir::new().unwrap();
            write(&dir, 0, &sample[..to]);
            write(&dir, sample[from].0.0, &sample[from..]);
            let batches = read_all(&dir);
            assert!(
                batches.iter().map(positions).eq(EXPECTED.map(<[u64]>::to_vec)),
                "{from} {to} {batches:?}"
            );
        }
    }
}

#[test]
fn what_is_written_after_a_read_is_found_by_the_next() {
    let dir = TempDir::new().unwrap();
    let header = SegmentHeader { spool: BootId(1), node: NodeId(2), first: Position(0), created_ms: 3 };
    let mut segment = Segment::create(&Os, dir.path(), &header, ANNEX_BYTES).unwrap();
    let mut reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
    for batch in 1..20 {
        let mut bytes = Vec::new();
        for (position, record) in [event(batch - 1, 1), seal(batch, batch - 1, batch - 1, 1, 1)] {
            record::append(&mut bytes, position, &record);
        }
        segment.append(&bytes).unwrap();
        let sealed = Sealed { last: BatchSeq(batch), end: Position(batch) };
        assert_eq!(positions(&reader.read(BatchSeq(batch), sealed).unwrap()), [batch - 1]);
    }
}

#[test]
fn a_batch_whose_seal_is_gone_is_what_its_neighbours_leave() {
    let sample = sample();
    for (gone, known) in [(2, true), (6, true), (7, true), (13, true)] {
        let dir = TempDir::new().unwrap();
        let mut records = sample.clone();
        records.remove(gone);
        write(&dir, 0, &records);
        let batches = read_all(&dir);
        assert!(
            batches.iter().map(positions).eq(EXPECTED.map(<[u64]>::to_vec)) == known,
            "{gone} {batches:?}"
        );
    }
}

#[test]
fn where_it_is_not_clear_which_batch_had_them_events_are_lost_and_counted() {
    let dir = TempDir::new().unwrap();
    let mut records = sample();
    // Batches 1, 2 and 3 were, but there are events of two days only.
    for gone in [7, 6, 2] {
        records.remove(gone);
    }
    write(&dir, 0, &records);
    let batches = read_all(&dir);
    assert!(batches[..3].iter().all(|batch| batch.events.is_empty()));
    assert_eq!(batches.iter().map(|batch| batch.lost).sum::<u64>(), 5);
    assert_eq!(positions(&batches[3]), [5, 6, 7, 8]);
}

#[test]
fn damage_in_a_large_segment_costs_the_events_it_hit() {
    let dir = TempDir::new().unwrap();
    let mut records: Vec<_> = (0..5000).map(|position| event(position, 1)).collect();
    records.push(seal(1, 0, 4999, 1, 5000));
    let path = write(&dir, 0, &records);
    let mut bytes = fs::read(&path).unwrap();
    bytes[300_000..301_000].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
    let batch = reader.read(BatchSeq(1), Sealed { last: BatchSeq(1), end: Position(5000) }).unwrap();
    assert_eq!(positions(&batch).len() as u64 + batch.lost, 5000);
    assert!((10..=12).contains(&batch.lost), "{}", batch.lost);
}

#[test]
fn a_batch_that_an_error_of_the_disk_damaged_is_whole_in_its_copy() {
    let dir = TempDir::new().unwrap();
    // The disk failed to sync event 1; it and its seal were written anew.
    write(&dir, 0, &[event(0, 1), seal(1, 0, 1, 1, 2)]);
    write(&dir, 1, &[event(1, 1), seal(1, 0, 1, 1, 2), event(2, 1), seal(2, 2, 2, 1, 1)]);
    let mut reader = BatchReader::new(Os, dir.path().to_owned(), PathBuf::new());
    let sealed = Sealed { last: BatchSeq(2), end: Position(3) };
    let first = reader.read(BatchSeq(1), sealed).unwrap();
    assert_eq!((positions(&first), first.lost), (vec![0, 1], 0));
    let second = reader.read(BatchSeq(2), sealed).unwrap();
    assert_eq!((positions(&second), second.lost), (vec![2], 0));
}
