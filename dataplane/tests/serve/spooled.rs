//! What a data plane has written to its spool.

use std::path::{Path, PathBuf};

use wire::event::UsageEvent;
use wire::record::{Record, SEGMENT_HEADER_BYTES, Step, next};

/// The usage events in the spool of a data directory.
pub(crate) fn spooled(data: &Path) -> Vec<UsageEvent> {
    let mut events = Vec::new();
    for segment in files_below(&data.join("spool")) {
        let Some("seg") = segment.extension().and_then(|e| e.to_str()) else { continue };
        let bytes = std::fs::read(&segment).unwrap();
        let mut at = SEGMENT_HEADER_BYTES;
        while let Step::Record { record, next, .. } = next(&bytes, at) {
            at = next;
            if let Record::Event(event) = record {
                events.push(event);
            }
        }
    }
    events
}

/// Every file below a directory.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files_below(&path),
            path => vec![path],
        })
        .collect()
}
