//! Whether the audit trail is as it was written: no record removed, changed, or put elsewhere.
//!
//! Whoever can write into the database could forge all of it, hashes included. So `verify` names the last
//! record's hash, to be kept elsewhere, and can be told of one that was kept.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::{BEGINNING, Link, digest, hex};
use crate::registry::{Db, Registry, Result, Row};

/// How many records are read at once.
const ROWS_AT_ONCE: i64 = 1000;
/// How many faults are named.
const FAULTS_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "audit_verification")]
pub struct Verified {
    /// Whether all is as it was written.
    pub is_intact: bool,
    /// How many records there are.
    pub records: u64,
    /// How many of them have had their changes erased, in order.
    pub erased: u64,
    /// What is wrong: the first 20 faults.
    pub faults: Vec<String>,
    /// The last record's number.
    pub last_seq: i64,
    /// The last record's hash in hex: worth keeping elsewhere.
    pub last_hash: String,
}

/// A hash that was kept elsewhere.
#[derive(Clone, Debug)]
pub struct Known {
    /// The record's number.
    pub seq: i64,
    /// Its hash in hex.
    pub hash: String,
}

/// A record as it is checked, wherever it comes from.
pub(super) struct Entry {
    pub(super) seq: i64,
    pub(super) at_ms: i64,
    /// By, action, result, organization, team, subjects.
    pub(super) texts: [String; 6],
    pub(super) salt: Option<Vec<u8>>,
    pub(super) detail: Option<String>,
    pub(super) digest: Vec<u8>,
    pub(super) hash: Vec<u8>,
}

impl Entry {
    fn of(row: &Row) -> sqlx::Result<Self> {
        Ok(Self {
            seq: row.try_get("seq")?,
            at_ms: row.try_get("at_ms")?,
            texts: [
                row.try_get("actor")?,
                row.try_get("action")?,
                row.try_get("result")?,
                row.try_get("organization")?,
                row.try_get("team")?,
                row.try_get("subjects")?,
            ],
            salt: row.try_get("salt")?,
            detail: row.try_get("detail")?,
            digest: row.try_get("digest")?,
            hash: row.try_get("hash")?,
        })
    }

    /// Whether the detail is the one that the digest is of, or was erased with its salt.
    fn has_its_detail(&self) -> bool {
        match (&self.salt, &self.detail) {
            (Some(salt), Some(detail)) => digest(salt, detail)[..] == self.digest[..],
            (None, None) => true,
            _ => false,
        }
    }
}

/// Goes along the chain.
pub(super) struct Walk {
    pub(super) found: Verified,
    /// The hash of the record before; none where that one is not known.
    previous: Option<Vec<u8>>,
    known: Option<Known>,
}

impl Registry {
    /// Checks the whole trail.
    pub async fn verify_audit(&self, known: Option<Known>) -> Result<Verified> {
        let mut tx = self.read().await?;
        let mut walk = Walk { found: Verified::default(), previous: Some(BEGINNING.to_vec()), known };
        loop {
            let rows = sqlx::query::<Db>("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(walk.found.last_seq)
                .bind(ROWS_AT_ONCE)
                .fetch_all(&mut *tx)
                .await?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                walk.step(&Entry::of(row)?);
            }
        }
        let counter = sqlx::query::<Db>("SELECT last FROM counters WHERE name = 'audit'");
        let given = counter.fetch_optional(&mut *tx).await?.map_or(Ok(0), |row| row.try_get("last"))?;
        tx.commit().await?;
        Ok(walk.end(given))
    }
}

impl Walk {
    /// Along a part of a trail, from whatever record it begins with.
    pub(super) fn somewhere() -> Self {
        Self { found: Verified::default(), previous: None, known: None }
    }

    /// Goes on to a record; says whether nothing is wrong with it.
    pub(super) fn step(&mut self, entry: &Entry) -> bool {
        let (seq, is_first) = (entry.seq, self.found.records == 0);
        if is_first && self.previous.is_none() {
            // What it follows is not known, unless it is the first of all.
            self.found.last_seq = seq - 1;
            self.previous = (seq == 1).then(|| BEGINNING.to_vec());
        }
        self.missing(seq);
        let follows = seq == self.found.last_seq + 1;
        let link = Link {
            seq,
            at_ms: entry.at_ms,
            texts: std::array::from_fn(|at| entry.texts[at].as_str()),
            digest: &entry.digest,
        };
        // What stands behind a gap follows a record that is not there.
        let previous = self.previous.as_ref().filter(|_| follows);
        let fits = previous.is_none_or(|previous| link.hash(previous)[..] == entry.hash[..]);
        let is_good = seq > self.found.last_seq && fits && entry.has_its_detail();
        if !is_good {
            self.fault(format!("record {seq} is not as it was written, or not where it was"));
        }
        if self.known.as_ref().is_some_and(|known| known.seq == seq && known.hash != hex(&entry.hash)) {
            self.fault(format!("record {seq} has another hash than the one that was kept"));
        }
        self.found.records += 1;
        self.found.erased += u64::from(entry.detail.is_none() && is_good);
        self.found.last_seq = seq;
        self.found.last_hash = hex(&entry.hash);
        self.previous = Some(entry.hash.clone());
        is_good
    }

    /// Names the records between the last one and this one.
    fn missing(&mut self, seq: i64) {
        let (first, last) = (self.found.last_seq + 1, seq - 1);
        match last - first {
            ..0 => {}
            0 => self.fault(format!("record {first} is missing")),
            _ => self.fault(format!("records {first} to {last} are missing")),
        }
    }

    pub(super) fn fault(&mut self, fault: String) {
        if self.found.faults.len() < FAULTS_MAX {
            self.found.faults.push(fault);
        }
    }

    fn end(mut self, given: i64) -> Verified {
        self.missing(given + 1);
        if let Some(known) = self.known.clone().filter(|known| known.seq > self.found.last_seq) {
            self.fault(format!("record {}, whose hash was kept, is not there", known.seq));
        }
        self.found.is_intact = self.found.faults.is_empty();
        self.found
    }
}
