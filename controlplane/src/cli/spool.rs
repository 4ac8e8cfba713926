//! `liutong spool`: what lies in a data plane's spool, read with the wire crate and nothing else.
//!
//! Reads only, so it may run beside a data plane that writes. A segment is found by its magic, whatever its
//! name. The end of the newest segment may be a record that is still being written: that is a torn tail, not
//! damage.
//!
//! Invariants of an intact spool (`verify`):
//!
//!   * every byte of a segment belongs to its header, to a whole record, or to the unwritten rest
//!   * the positions of a spool's events have no gap; one position has one event, if written twice
//!   * a seal covers positions that exist, and the numbers of seals have no gap

mod numbers;
mod segment;
mod verify;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::numbers::Sealed;
use self::segment::Segment;
use super::CliError;
use super::args::SpoolCommand;
use super::output::Output;

const DEPTH_MAX: usize = 4;
const COLUMNS: [&str; 15] = [
    "file",
    "spool",
    "first_position",
    "last_position",
    "events",
    "numbers",
    "sealed",
    "seals",
    "acks",
    "adopted",
    "unknown",
    "damaged_ranges",
    "damaged_bytes",
    "torn_tail_bytes",
    "fault",
];

pub(super) fn run(out: &Output, command: SpoolCommand) -> Result<(), CliError> {
    match command {
        SpoolCommand::Inspect { directory } => {
            let segments = read(&directory)?;
            let sealed = Sealed::of(&segments);
            let rows: Vec<Value> = segments.iter().map(|segment| row(segment, &sealed)).collect();
            out.list(&rows, &COLUMNS)
        }
        SpoolCommand::Verify { directory } => {
            let segments = read(&directory)?;
            let report = verify::verify(&segments);
            out.list(&report.spools, &verify::COLUMNS)?;
            for fault in &report.faults {
                eprintln!("liutong: {fault}");
            }
            if report.faults.is_empty() {
                return Ok(());
            }
            Err(CliError::Damaged {
                events: report.events_missing,
                faults: report.faults.len() as u64,
                segments: segments.len() as u64,
            })
        }
    }
}

/// Reads every segment below `directory`.
fn read(directory: &Path) -> Result<Vec<Segment>, CliError> {
    let mut files = Vec::new();
    walk(directory, 0, &mut files)?;
    files.sort();
    let mut segments = Vec::new();
    for path in files {
        let name = path.strip_prefix(directory).unwrap_or(&path).display().to_string();
        match std::fs::read(&path) {
            Ok(bytes) => segments.extend(segment::parse(name, &bytes)),
            // A segment may be deleted while this runs: everything in it was stored.
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(CliError::File { action: "reading", path, source }),
        }
    }
    if segments.is_empty() {
        return Err(CliError::NoSegments { path: directory.to_owned() });
    }
    Ok(segments)
}

fn walk(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let failed =
        |source| CliError::File { action: "reading the directory", path: directory.to_owned(), source };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && depth < DEPTH_MAX {
            walk(&entry.path(), depth + 1, files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn row(segment: &Segment, sealed: &Sealed) -> Value {
    let header = segment.header.as_ref().ok();
    let positions = segment.positions();
    json!({
        "file": segment.file,
        "spool": header.map(|h| h.spool.to_string()),
        "node": header.map(|h| h.node.to_string()),
        "created_at": header.and_then(|h| time(h.created_ms)),
        "header_position": header.map(|h| h.first.0),
        "first_position": positions.map(|(first, _)| first),
        "last_position": positions.map(|(_, last)| last),
        "events": segment.events.len(),
        "numbers": numbers::given(segment),
        "sealed": sealed.count(segment),
        "seals": segment.seals.len(),
        "acks": segment.acks.len(),
        "adopted": segment.adopted.len(),
        "unknown": segment.unknown,
        "damaged_ranges": segment.damage.len(),
        "damaged_bytes": segment.damage.iter().map(std::ops::Range::len).sum::<usize>(),
        "torn_tail_bytes": segment.torn_tail_bytes,
        "bytes": segment.bytes,
        "fault": segment.header.as_ref().err(),
    })
}

fn time(ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(at.to_string())
}
