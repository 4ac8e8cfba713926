//! Usage events: slots, records of the spool, ids.

use std::hint::black_box;

use dataplane::slots::{Slots, SlotsConfig};
use wire::event::{EVENT_BYTES, Endpoint, Tokens, UsageEvent, UsageSource};
use wire::id::{AliasId, AttributionId, BootId, DeploymentId, EventSeq, NodeId, Position};
use wire::record::{self, EVENT_RECORD_BYTES, Record, Step};
use wire::request_id::{REQUEST_ID_BYTES, RequestIds};

use crate::{Case, Ready};

const GROUP: &str = "usage event";
/// Slots of the worker.
const SLOTS: u32 = 1024;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(GROUP, "slot opened, written twice, settled, read by the spool thread, freed", slot),
        Case::new(GROUP, "request id", request_id),
        Case::new(GROUP, "encoded", encoded),
        Case::new(GROUP, "decoded", decoded),
        Case::new(GROUP, "record appended to the spool's buffer", appended),
        Case::new(GROUP, "record read back", read_back),
    ]
}

/// The event of an exchange that went well.
pub(crate) fn event() -> UsageEvent {
    UsageEvent {
        ts_ms: 1_793_525_400_123,
        boot: BootId(0x0123_4567_89ab_cdef),
        seq: EventSeq::admitted(1, 42),
        attribution: AttributionId(7),
        alias: AliasId(3),
        deployment: DeploymentId(4),
        status: 200,
        endpoint: Endpoint::ChatCompletions,
        stream: false,
        usage_source: UsageSource::Final,
        attempts: 1,
        tokens: Tokens { prompt: 212, cached: 128, completion: 67, total: 279, ..Tokens::default() },
        latency_ms: 412,
        ttft_ms: 400,
    }
}

fn slot() -> Ready {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let config = SlotsConfig { node: NodeId(1), boot: event().boot, workers: 1, per_worker: SLOTS };
    let (slots, mut pools, mut lanes) = Slots::create(dir.path(), config).expect("slots can be made");
    let (mut pool, lane) = (pools.remove(0), lanes.remove(0));
    let event = event();
    let mut run = move || {
        let slot = pool.open(black_box(&event))?;
        slot.write(&UsageEvent { attempts: 1, ..event });
        slot.write(&UsageEvent { status: 200, ..event });
        slot.settle(&event);
        let index = lane.settled.try_recv().ok()?;
        let settled = slots.event(index).ok()?;
        slots.release(index);
        lane.free.try_send(index).ok()?;
        Some(settled)
    };
    for count in 1..=u64::from(2 * SLOTS) {
        let expected = UsageEvent { seq: EventSeq::admitted(0, count), ..event };
        assert_eq!(run(), Some(expected), "slots come back");
    }
    Ready::new(EVENT_BYTES, move || {
        // The mapped file is in it.
        let _ = &dir;
        black_box(run());
    })
}

fn request_id() -> Ready {
    let (ids, event) = (RequestIds::new(&[7; 16]), event());
    let text = ids.text(event.boot, event.seq);
    assert_eq!(
        std::str::from_utf8(&text).ok().and_then(|text| ids.event(text)),
        Some((event.boot, event.seq))
    );
    Ready::new(REQUEST_ID_BYTES, move || {
        black_box(ids.text(black_box(event.boot), black_box(event.seq)));
    })
}

fn encoded() -> Ready {
    let event = event();
    assert_eq!(UsageEvent::decode(&event.encode()), Ok(event));
    Ready::new(EVENT_BYTES, move || {
        black_box(black_box(&event).encode());
    })
}

fn decoded() -> Ready {
    let bytes = event().encode();
    Ready::new(EVENT_BYTES, move || {
        black_box(UsageEvent::decode(black_box(&bytes)).is_ok());
    })
}

fn record() -> (Record, Vec<u8>) {
    let (record, mut bytes) = (Record::Event(event()), Vec::new());
    record::append(&mut bytes, Position(42), &record);
    let next = EVENT_RECORD_BYTES;
    assert_eq!(record::next(&bytes, 0), Step::Record { position: Position(42), record, next });
    (record, bytes)
}

fn appended() -> Ready {
    let (record, mut out) = record();
    Ready::new(out.len(), move || {
        out.clear();
        record::append(black_box(&mut out), Position(42), black_box(&record));
    })
}

fn read_back() -> Ready {
    let (_, bytes) = record();
    Ready::new(bytes.len(), move || {
        black_box(record::next(black_box(&bytes), 0));
    })
}
