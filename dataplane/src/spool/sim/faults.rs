//! What the schedules have found, one small test for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use wire::event::{DAY_MS, EVENT_BYTES, UsageEvent};
use wire::id::{BatchSeq, BootId, EventSeq, NodeId, Position};
use wire::record::{Record, Seal};

use super::super::host::{Host, discard};
use super::super::old::OldSpool;
use super::super::reader::{BatchReader, Sealed};
use super::super::recovery::{Adoption, Places, delete_unused, find};
use super::super::ship::Source;
use super::super::writer::{Spool, Writer};
use super::disk::SimHost;

const NODE: NodeId = NodeId(7);
const SET_ASIDE: &str = "/set_aside";
const EVENTS: u32 = 20;

fn machine(seed: u64) -> SimHost {
    let host = SimHost::new(seed, 0);
    for dir in ["/spool", SET_ASIDE] {
        host.create_dir(Path::new(dir)).unwrap();
    }
    for boot in [1, 2] {
        host.create_dir(&dir_of(boot)).unwrap();
    }
    host.sync_dir(Path::new("/spool")).unwrap();
    host.sync_dir(Path::new("/")).unwrap();
    host
}

fn dir_of(boot: u64) -> PathBuf {
    Path::new("/spool").join(BootId(boot).to_string())
}

fn writer(host: &SimHost, boot: u64) -> Writer<SimHost> {
    let spool = Spool { dir: dir_of(boot), id: BootId(boot), node: NODE, segment_bytes: 8192 };
    Writer::new(host.clone(), spool)
}

fn found(host: &SimHost, by: u64) -> (Vec<OldSpool<SimHost>>, Adoption) {
    let runtime = TempDir::new().unwrap();
    let (spools, set_aside) = (Path::new("/spool"), Path::new(SET_ASIDE));
    find(host, Places { spools, set_aside, runtime: runtime.path() }, (NODE, BootId(by))).unwrap()
}

fn event(seq: u64, day: u64) -> UsageEvent {
    UsageEvent { boot: BootId(1), seq: EventSeq(seq), ts_ms: day * DAY_MS, ..UsageEvent::default() }
}

/// A process whose sync of one batch fails, and that is killed at so manieth operation of what it does then.
fn killed_after_a_failed_sync(host: &SimHost, kill_in: u64) {
    let mut writer = writer(host, 1);
    let event = UsageEvent::default();
    assert_eq!(writer.write_events(&[event; EVENTS as usize]).unwrap(), EVENTS as usize);
    let last = Position(u64::from(EVENTS) - 1);
    let seal = Seal { batch: BatchSeq(1), first: Position(0), last, day: event.day(), count: EVENTS };
    writer.write_records(&[Record::Seal(seal)]).unwrap();
    host.state().failing.0 = 1000;
    assert!(writer.sync().is_err());
    host.state().failing.0 = 0;
    host.state().kill_in = Some(kill_in);
    let _ = catch_unwind(AssertUnwindSafe(|| writer.sync()));
    host.state().unlock_all();
}

#[test]
fn what_a_killed_process_could_not_sync_is_on_the_disk_before_another_one_ships_it() {
    for (seed, kill_in) in (0..20).flat_map(|seed| (1..10).map(move |kill_in| (seed, kill_in))) {
        let host = machine(seed);
        killed_after_a_failed_sync(&host, kill_in);
        let sealed = found(&host, 3).0[0].contents.sealed;
        assert_eq!(sealed.last, BatchSeq(1));
        host.state().cut_power();
        let mut reader = BatchReader::new(host.clone(), dir_of(1), SET_ASIDE.into());
        let batch = reader.read(BatchSeq(1), sealed).unwrap();
        let there = (batch.events.len() / EVENT_BYTES, batch.lost);
        assert_eq!(there, (EVENTS as usize, 0), "seed {seed}, killed at operation {kill_in}");
    }
}

#[test]
fn what_was_taken_over_from_a_half_sealed_range_is_taken_over_once_more() {
    let host = machine(0);
    let mut first = writer(&host, 1);
    assert_eq!(first.write_events(&[event(1, 7), event(2, 8)]).unwrap(), 2);
    // It is killed before it writes the seal of the second day.
    let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(1), day: 7, count: 1 };
    let adopted = Record::Adopted { by: BootId(2) };
    first.write_records(&[Record::Seal(seal), adopted]).unwrap();
    assert_eq!(writer(&host, 2).write_events(&[event(2, 8)]).unwrap(), 1);

    let events = found(&host, 3).1.events;
    assert_eq!(events.iter().map(|event| event.seq.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_reader_of_a_segment_that_was_given_up_finds_the_next_one_that_begins_there() {
    let host = machine(0);
    let (mut writer, mut reader) =
        (writer(&host, 1), BatchReader::new(host.clone(), dir_of(1), SET_ASIDE.into()));
    for batch in [1, 2] {
        let at = Position(batch - 1);
        assert_eq!(writer.write_events(&[event(batch, 7)]).unwrap(), 1);
        writer.sync().unwrap();
        // The seal of the first comes to stand in a segment of its own, without events.
        writer.break_segment();
        let seal = Seal { batch: BatchSeq(batch), first: at, last: at, day: 7, count: 1 };
        writer.write_records(&[Record::Seal(seal)]).unwrap();
        writer.sync().unwrap();

        let read = reader.read(seal.batch, Sealed { last: seal.batch, end: writer.next() }).unwrap();
        assert_eq!((read.seal, read.events), (seal, event(batch, 7).encode().to_vec()));
        writer.give_up();
        for closed in writer.closed.drain(..) {
            discard(&host, &closed.path).unwrap();
        }
    }
}

#[test]
fn events_of_a_segment_that_was_being_deleted_do_not_count_as_lost() {
    let host = machine(0);
    let mut writer = writer(&host, 1);
    assert_eq!(writer.write_events(&[event(1, 7)]).unwrap(), 1);
    let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(0), day: 7, count: 1 };
    writer.write_records(&[Record::Seal(seal)]).unwrap();
    writer.sync().unwrap();
    writer.break_segment();
    assert_eq!(writer.write_events(&[event(2, 7)]).unwrap(), 1);
    // Opened, emptied, and not removed any more.
    host.state().kill_in = Some(3);
    assert!(catch_unwind(AssertUnwindSafe(|| discard(&host, &writer.closed[0].path))).is_err());
    host.state().unlock_all();

    let (old, adoption) = found(&host, 3);
    assert_eq!((old[0].contents.lost, adoption.events), (0, vec![event(2, 7)]));
}

#[test]
fn what_was_acked_ahead_is_not_sent_again_after_a_lost_connection() {
    let reader = BatchReader::new(machine(0), dir_of(1), SET_ASIDE.into());
    let sealed = Sealed { last: BatchSeq(2), end: Position(2) };
    let (acked, sent) = ([BatchSeq(2)].into(), BatchSeq(2));
    let mut source = Source {
        spool: BootId(1),
        reader,
        from: BatchSeq(1),
        next: BatchSeq(1),
        acked,
        sent,
        sealed: Some(sealed),
    };
    for _connection in 0..2 {
        source.next = BatchSeq(1);
        assert!(source.behind(sealed).is_some());
        source.next = BatchSeq(2);
        assert!(source.behind(sealed).is_none());
    }
}

/// So many events of 104 bytes behind a header of 64, the last eleven of them in the second block of their
/// segment, and what `seal` says behind them.
const TWO_BLOCKS: u64 = 50;

fn written_in_two_blocks(host: &SimHost, seal: Option<Seal>) -> PathBuf {
    let mut writer = writer(host, 1);
    let events: Vec<_> = (0..TWO_BLOCKS).map(|seq| event(seq, 7)).collect();
    assert_eq!(writer.write_events(&events).unwrap(), events.len());
    writer.write_records(&seal.map(Record::Seal).into_iter().collect::<Vec<_>>()).unwrap();
    writer.sync().unwrap();
    dir_of(1).join("0000000000000000.seg")
}

fn seqs(events: &[UsageEvent]) -> Vec<u64> {
    events.iter().map(|event| event.seq.0).collect()
}

#[test]
fn what_the_disk_does_not_give_is_lost_alone_and_its_segment_outlives_the_spool() {
    // The first block; all of it, so that nobody knows how many events there were.
    for (blocks, left) in [(&[0][..], 39..TWO_BLOCKS), (&[0, 1], 0..0)] {
        let host = machine(0);
        let path = written_in_two_blocks(&host, None);
        blocks.iter().for_each(|block| host.spoil(&path, block * 4096));

        let (mut old, adoption) = found(&host, 3);
        assert_eq!(seqs(&adoption.events), left.clone().collect::<Vec<_>>());
        delete_unused(&mut old).unwrap();
        let [old] = &mut old[..] else { panic!("it is not unused: {old:?}") };
        assert_eq!(old.contents.lost, if left.is_empty() { 0 } else { left.start });
        assert!(old.contents.damaged_bytes >= 4096);
        old.adopted(BootId(3)).unwrap();
        assert!(old.is_over(u64::MAX, Duration::ZERO));
        old.shrink().unwrap();
        old.delete().unwrap();
        host.mend();
        let kept = host.events_below(Path::new(SET_ASIDE));
        assert_eq!(kept.len() as u64, TWO_BLOCKS, "what may be readable another time is there");
    }
}

#[test]
fn a_spool_whose_unreadable_segment_has_no_second_name_stays() {
    let host = machine(0);
    let path = written_in_two_blocks(&host, None);
    host.spoil(&path, 0);
    // Nothing can be linked to: as where `set_aside` is on another disk.
    host.remove_dir(Path::new(SET_ASIDE)).unwrap();
    let (mut old, _) = found(&host, 3);
    old[0].adopted(BootId(3)).unwrap();
    old[0].shrink().unwrap();
    assert!(!old[0].is_over(u64::MAX, Duration::ZERO));
    assert_eq!(host.events_below(&dir_of(1)).len() as u64, TWO_BLOCKS);
}

#[test]
fn a_place_that_can_not_be_read_holds_up_no_batch() {
    let host = machine(0);
    let seal = Seal { batch: BatchSeq(1), first: Position(0), last: Position(49), day: 7, count: 50 };
    let path = written_in_two_blocks(&host, Some(seal));
    host.spoil(&path, 0);
    let mut reader = BatchReader::new(host.clone(), dir_of(1), SET_ASIDE.into());
    let batch = reader.read(BatchSeq(1), Sealed { last: BatchSeq(1), end: Position(50) }).unwrap();
    assert_eq!((batch.events.len() / EVENT_BYTES, batch.lost), (11, 39));
    // Once it is acknowledged.
    discard(&host, &path).unwrap();
    host.mend();
    assert_eq!(host.events_below(Path::new(SET_ASIDE)).len() as u64, TWO_BLOCKS);
}

#[test]
fn a_spool_that_can_not_be_opened_is_left_as_it_is_until_it_can() {
    let host = machine(0);
    let path = written_in_two_blocks(&host, None);
    host.shut(&path);
    let (old, adoption) = found(&host, 3);
    // Of the second process only the directory is there.
    assert!(old.iter().all(|old| old.spool != BootId(1)) && adoption.events.is_empty());
    host.mend();
    let (old, adoption) = found(&host, 4);
    assert_eq!((seqs(&adoption.events).len() as u64, old[0].contents.lost), (TWO_BLOCKS, 0));
}
