//! Slots in real files: opened, settled, dropped, used up, and read by the process that comes after.

use std::collections::BTreeSet;

use tempfile::TempDir;
use wire::event::{Tokens, UsageSource};
use wire::id::EventSeq;

use super::adopt::leftovers;
use super::*;

const NODE: NodeId = NodeId(5);
const BOOT: BootId = BootId(9);

fn create(dir: &TempDir, workers: u16, per_worker: u32) -> (Arc<Slots>, Vec<SlotPool>, Vec<Lane>) {
    let config = SlotsConfig { node: NODE, boot: BOOT, workers, per_worker };
    Slots::create(dir.path(), config).unwrap()
}

fn began(ts_ms: u64) -> UsageEvent {
    UsageEvent { ts_ms, ..UsageEvent::default() }
}

#[test]
fn without_a_free_slot_nothing_is_admitted_and_no_number_is_used_up() {
    let dir = TempDir::new().unwrap();
    let (slots, mut pools, lanes) = create(&dir, 2, 3);
    let open: Vec<_> = (0..3).map(|_| pools[1].open(&began(1)).unwrap()).collect();
    let next = pools[1].next_seq();
    assert!(pools[1].open(&began(1)).is_none());
    assert_eq!((pools[1].next_seq(), slots.admitted()), (next, 3));
    assert!(pools[0].open(&began(1)).is_some(), "another worker's slots are its own");

    drop(open);
    let index = lanes[1].settled.try_recv().unwrap();
    assert!(pools[1].open(&began(1)).is_none(), "settled is not free");
    slots.release(index);
    lanes[1].free.try_send(index).unwrap();
    assert_eq!(pools[1].open(&began(1)).unwrap().seq(), next);
}

#[test]
fn every_settled_slot_arrives_with_its_final_event_and_its_own_number() {
    let dir = TempDir::new().unwrap();
    let (slots, mut pools, lanes) = create(&dir, 1, 4);
    let mut seen = BTreeSet::new();
    for round in 0..100 {
        let slot = pools[0].open(&began(round)).unwrap();
        let tokens = Tokens { total: 7, ..Tokens::default() };
        // The number is the pool's to give, and stays.
        slot.settle(&UsageEvent { ts_ms: round, tokens, seq: EventSeq(77), ..UsageEvent::default() });
        let index = lanes[0].settled.try_recv().unwrap();
        let event = slots.event(index).unwrap();
        assert_eq!((event.ts_ms, event.boot, event.tokens, event.latency_ms), (round, BOOT, tokens, 0));
        assert!(seen.insert(event.seq));
        slots.release(index);
        lanes[0].free.try_send(index).unwrap();
    }
    assert_eq!(seen.last(), Some(&EventSeq::admitted(0, 100)));
    assert_eq!((slots.admitted(), slots.settled()), (100, 100));
    assert!(slots.remove_if_free().unwrap());
}

#[test]
fn a_dropped_slot_is_settled_with_what_it_had() {
    let dir = TempDir::new().unwrap();
    let (slots, mut pools, lanes) = create(&dir, 1, 2);
    let slot = pools[0].open(&began(1000)).unwrap();
    let tokens = Tokens { prompt: 3, ..Tokens::default() };
    slot.write(&UsageEvent {
        ts_ms: 1500,
        latency_ms: 500,
        tokens,
        usage_source: UsageSource::Partial,
        ..began(0)
    });
    drop(slot);
    let event = slots.event(lanes[0].settled.try_recv().unwrap()).unwrap();
    assert_eq!((event.tokens, event.usage_source, event.status), (tokens, UsageSource::Partial, 499));
    assert!(event.ts_ms > 1500, "it ended now");
    assert!(!slots.all_free());
}

#[test]
fn a_dead_process_leaves_settled_slots_as_they_are_and_open_ones_as_cut() {
    let dir = TempDir::new().unwrap();
    let (slots, mut pools, _lanes) = create(&dir, 2, 4);
    slots.alive(9000);
    let settled = UsageEvent { status: 200, usage_source: UsageSource::Final, ..began(4000) };
    pools[0].open(&began(3000)).unwrap().settle(&settled);
    let silent = pools[1].open(&began(5000)).unwrap();
    let streaming = pools[1].open(&began(6000)).unwrap();
    let half = UsageEvent {
        ts_ms: 6500,
        latency_ms: 500,
        status: 200,
        ttft_ms: 20,
        usage_source: UsageSource::None,
        ..began(0)
    };
    streaming.write(&half);
    let told = pools[1].open(&began(6000)).unwrap();
    told.write(&UsageEvent { usage_source: UsageSource::Final, ..half });

    assert!(leftovers(dir.path(), NODE, |_| false).unwrap().is_empty(), "a living process is left alone");
    assert!(leftovers(dir.path(), NodeId(6), |_| true).unwrap().is_empty(), "so is another node");
    let [left] = &leftovers(dir.path(), NODE, |boot| boot == BOOT).unwrap()[..] else { panic!("one file") };
    let expected = [
        UsageEvent { boot: BOOT, seq: EventSeq::admitted(0, 1), ..settled },
        UsageEvent {
            boot: BOOT,
            seq: EventSeq::admitted(1, 1),
            status: 499,
            latency_ms: 4000,
            ..began(9000)
        },
        UsageEvent {
            boot: BOOT,
            seq: EventSeq::admitted(1, 2),
            ts_ms: 9000,
            latency_ms: 3000,
            usage_source: UsageSource::Partial,
            ..half
        },
        UsageEvent {
            boot: BOOT,
            seq: EventSeq::admitted(1, 3),
            ts_ms: 9000,
            latency_ms: 3000,
            usage_source: UsageSource::Final,
            ..half
        },
    ];
    for event in expected {
        assert!(left.events.contains(&event), "{event:?} in {:?}", left.events);
    }
    assert_eq!((left.events.len(), left.unreadable), (4, 0));
    drop((silent, streaming, told));
}

#[test]
fn slots_from_before_the_machines_last_start_are_set_aside() {
    let dir = TempDir::new().unwrap();
    let (slots, mut pools, _lanes) = create(&dir, 1, 4);
    drop(pools[0].open(&began(1)));
    slots.words()[4].fetch_xor(1, Ordering::Relaxed);
    assert!(leftovers(dir.path(), NODE, |_| true).unwrap().is_empty());
    assert!(dir.path().join(format!("{BOOT}.slots.bad")).exists());
}

#[test]
fn a_cut_or_garbled_slots_file_never_panics() {
    let dir = TempDir::new().unwrap();
    let (_slots, mut pools, _lanes) = create(&dir, 1, 4);
    drop(pools[0].open(&began(1)));
    let path = dir.path().join(format!("{BOOT}.slots"));
    let whole = fs::read(&path).unwrap();
    for len in [0, 8, 63, 72, 4095, 4096, 8191, 8192, 8200, 8300, whole.len()] {
        fs::write(&path, &whole[..len]).unwrap();
        let found = leftovers(dir.path(), NODE, |_| true).unwrap();
        assert!(found.iter().map(|left| left.events.len()).sum::<usize>() <= 1, "{len}");
    }
    let mut bad = whole;
    bad[48..64].fill(0xff);
    bad[8192..].fill(2);
    fs::write(&path, &bad).unwrap();
    leftovers(dir.path(), NODE, |_| true).unwrap();
}
