//! Whether an audit trail that was exported is whole, from what was exported alone.
//!
//! Each record brings its salt, its digest and its hash, so that the chain can be gone along without the
//! registry. What stands before the first record can't be checked, and a trail that ends early looks like a
//! shorter one: that shows only against a hash that was kept elsewhere.

use serde::Serialize;
use serde_json::Value;

use super::verify::{Entry, Walk};
use crate::registry::dump::unhex;

/// What was found in an exported trail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "audit_file_verification")]
pub struct VerifiedExport {
    /// Whether nothing is wrong with it.
    pub is_intact: bool,
    /// How many records there are.
    pub records: u64,
    /// How many of them have had their changes erased, in order.
    pub erased: u64,
    /// What is wrong: the first 20 faults, each with the number of its record.
    pub faults: Vec<String>,
    /// From which number to which it is whole, such as `1-17`; several where it breaks in between.
    pub whole: Vec<String>,
    /// The last record's number.
    pub last_seq: i64,
    /// The last record's hash in hex.
    pub last_hash: String,
    /// What is known of what stands before the first record and behind the last one.
    pub bounds: String,
}

/// Goes along an exported trail.
pub struct Exported {
    walk: Walk,
    entries: u64,
    runs: Vec<(i64, i64)>,
    expected: Option<String>,
    /// The record that has the expected hash.
    found: Option<i64>,
}

impl Exported {
    /// `expected` is the hash, in hex, of a record that it must have.
    #[must_use]
    pub fn new(expected: Option<&str>) -> Self {
        let expected = expected.map(str::to_lowercase);
        Self { walk: Walk::somewhere(), entries: 0, runs: Vec::new(), expected, found: None }
    }

    /// The next record; `None` where there is something that can't be read.
    pub fn step(&mut self, record: Option<&Value>) {
        self.entries += 1;
        let Some(entry) = record.and_then(read) else {
            self.walk.fault(format!("entry {} is no whole record of an exported audit trail", self.entries));
            return;
        };
        let last = self.walk.found.last_seq;
        let is_good = self.walk.step(&entry);
        match self.runs.last_mut() {
            Some(run) if is_good && run.1 == last && entry.seq == last + 1 => run.1 = entry.seq,
            _ if is_good => self.runs.push((entry.seq, entry.seq)),
            _ => {}
        }
        if self.expected.as_ref() == Some(&self.walk.found.last_hash) {
            self.found = Some(entry.seq);
        }
    }

    /// What was found.
    #[must_use]
    pub fn end(mut self) -> VerifiedExport {
        if self.expected.is_some() && self.found.is_none() {
            self.walk
                .fault("no record has the expected hash: the end was cut off, or it is another trail".into());
        }
        let bounds = self.bounds();
        let found = self.walk.found;
        VerifiedExport {
            is_intact: found.faults.is_empty(),
            records: found.records,
            erased: found.erased,
            whole: self.runs.iter().map(|(first, last)| format!("{first}-{last}")).collect(),
            faults: found.faults,
            last_seq: found.last_seq,
            last_hash: found.last_hash,
            bounds,
        }
    }

    fn bounds(&self) -> String {
        let last = self.walk.found.last_seq;
        let before = match self.runs.first() {
            Some((1, _)) => "it begins with the first record".to_owned(),
            Some((first, _)) => format!("what stood before record {first} was not looked at"),
            None => "it has no record".to_owned(),
        };
        let behind = match (self.expected.is_some(), self.found) {
            (_, Some(seq)) if seq == last => format!("its last record, {last}, is the expected one"),
            (_, Some(seq)) => format!("record {seq} is the expected one, and it goes on to {last}"),
            (true, None) => format!("it ends with {last}, and the expected record is not there"),
            (false, None) => {
                format!(
                    "whether more stood behind record {last} shows against a hash that was kept elsewhere"
                )
            }
        };
        format!("{before}; {behind}")
    }
}

fn read(record: &Value) -> Option<Entry> {
    let text = |member: &str| record[member].as_str().map(str::to_owned);
    let is_erased = record["is_erased"].as_bool()?;
    let subjects = record["subjects"].as_array()?;
    let subjects: Vec<&str> = subjects.iter().map(Value::as_str).collect::<Option<_>>()?;
    let at: jiff::Timestamp = record["at"].as_str()?.parse().ok()?;
    Some(Entry {
        seq: record["seq"].as_i64()?,
        at_ms: at.as_millisecond(),
        texts: [
            text("by")?,
            text("action")?,
            text("result")?,
            text("organization_id")?,
            text("team_id")?,
            subjects.join(" "),
        ],
        salt: match record["salt"].as_str() {
            Some(hex) => Some(unhex(hex)?),
            None => None,
        },
        detail: (!is_erased).then(|| record["changes"].to_string()),
        digest: unhex(record["digest"].as_str()?)?,
        hash: unhex(record["hash"].as_str()?)?,
    })
}
