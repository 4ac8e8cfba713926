//! Event streams beside a naive reader, which splits the whole stream into lines first.

use crate::sse::{self, Data, EventScan, event_data};

/// An event stream: where its events end, and what their data is.
pub fn events(data: &[u8]) {
    sse::fuzz(data);
    let mut scan = EventScan::default();
    let (mut at, mut joined) = (0, Vec::new());
    for (end, expected) in naive(data) {
        assert_eq!(scan.next_end(&data[at..]), Some(end - at));
        let event = &data[at..end];
        let found = match event_data(event, &mut joined) {
            Data::None => None,
            Data::Line(range) => Some(event[range].to_vec()),
            Data::Joined => Some(joined.clone()),
        };
        assert_eq!(found, expected);
        at = end;
    }
    assert_eq!(scan.next_end(&data[at..]), None);
}

/// The end of each event, and its data (HTML standard §9.2.6).
fn naive(stream: &[u8]) -> Vec<(usize, Option<Vec<u8>>)> {
    let (mut events, mut data, mut at) = (Vec::new(), None, 0);
    while let Some(len) = stream[at..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = &stream[at..at + len];
        at += len + if stream[at + len..].starts_with(b"\r\n") { 2 } else { 1 };
        if line.is_empty() {
            events.push((at, data.take()));
            continue;
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        if name == b"data" {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            data = Some(data.map_or_else(|| value.to_vec(), |before: Vec<u8>| [&before, value].join(&b'\n')));
        }
    }
    events
}
