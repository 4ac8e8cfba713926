//! Answers: events told apart, chunks decoded, and the usage read out.

use std::hint::black_box;

use dataplane::http::framing::{BodyDecoder, BodyFraming};
use dataplane::meter::stream::{StreamMeter, StreamMode};
use dataplane::meter::usage::Usage;
use dataplane::meter::whole::WholeMeter;
use dataplane::sse::EventScan;

use crate::texts::{self, USAGE};
use crate::{Case, Ready};

const GROUP: &str = "answer";
/// How many events a full read has.
const EVENTS_AT_ONCE: usize = 64;

pub(crate) fn cases() -> Vec<Case> {
    let event = || texts::event(texts::EVENT_BYTES, "");
    let with_null = || texts::event(texts::EVENT_BYTES, r#","usage":null"#);
    vec![
        Case::new(GROUP, "an event of 250 B: its end found", move || split(&event(), 1)),
        Case::new(GROUP, "64 events of 250 B in one read: their ends found", move || {
            split(&event().repeat(EVENTS_AT_ONCE), EVENTS_AT_ONCE)
        }),
        Case::new(GROUP, "a chunk with an event of 250 B decoded", move || chunk(&event())),
        Case::new(GROUP, "an event of 250 B without usage: metered", move || passing(&event())),
        Case::new(GROUP, "an event of 250 B with usage null: metered", move || passing(&with_null())),
        Case::new(GROUP, "64 events of 250 B in one read: metered", move || {
            passing(&event().repeat(EVENTS_AT_ONCE))
        }),
        Case::new(GROUP, "the usage event: metered and taken out", removed),
        Case::new(GROUP, "a whole answer of 600 B: usage read", whole),
    ]
}

fn split(events: &str, count: usize) -> Ready {
    let bytes = events.as_bytes().to_owned();
    let run = |bytes: &[u8]| {
        let (mut scan, mut at, mut ends) = (EventScan::default(), 0, 0);
        while let Some(length) = scan.next_end(&bytes[at..]) {
            at += length;
            ends += 1;
        }
        (ends, at)
    };
    assert_eq!(run(&bytes), (count, bytes.len()));
    Ready::new(bytes.len(), move || {
        black_box(run(black_box(&bytes)));
    })
}

fn chunk(event: &str) -> Ready {
    let mut bytes = format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
    let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
    let decoded = decoder.decode(&mut bytes).expect("the chunk is a good one");
    assert_eq!((&bytes[decoded.data], decoded.consumed), (event.as_bytes(), bytes.len()));
    // A single chunk is found where it is: the bytes stay as they are.
    Ready::new(bytes.len(), move || {
        black_box(decoder.decode(black_box(&mut bytes)).is_ok());
    })
}

fn passing(events: &str) -> Ready {
    let mut bytes = events.as_bytes().to_owned();
    let mut meter = StreamMeter::new(StreamMode::Remove);
    let passed = meter.observe(&mut bytes);
    assert_eq!((passed.forward, meter.usage()), (bytes.len(), None));
    assert_eq!(bytes, events.as_bytes());
    Ready::new(bytes.len(), move || {
        black_box(meter.observe(black_box(&mut bytes)));
    })
}

fn removed() -> Ready {
    let event = texts::usage_event().into_bytes();
    let mut meter = StreamMeter::new(StreamMode::Remove);
    let mut bytes = event.clone();
    assert_eq!(meter.observe(&mut bytes).forward, 0);
    assert_eq!(meter.usage(), Some(usage()));
    Ready::new(event.len(), move || {
        bytes.copy_from_slice(&event);
        black_box(meter.observe(black_box(&mut bytes)));
    })
}

fn whole() -> Ready {
    let answer = texts::whole_answer().into_bytes();
    let mut meter = WholeMeter::default();
    let mut run = move |answer: &[u8]| {
        meter.start(false);
        meter.observe(answer);
        meter.usage()
    };
    assert_eq!(run(&answer), Some(usage()));
    Ready::new(answer.len(), move || {
        black_box(run(black_box(&answer)));
    })
}

/// What [`USAGE`] says.
fn usage() -> Usage {
    debug_assert!(USAGE.contains(r#""total_tokens":279"#));
    Usage { prompt: 212, cached: 128, completion: 67, total: 279, ..Usage::default() }
}
