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

/// Goes along the chain.
struct Walk {
    found: Verified,
    previous: Vec<u8>,
    known: Option<Known>,
}

impl Registry {
    /// Checks the whole trail.
    pub async fn verify_audit(&self, known: Option<Known>) -> Result<Verified> {
        let mut tx = self.read().await?;
        let mut walk = Walk { found: Verified::default(), previous: BEGINNING.to_vec(), known };
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
                walk.step(row)?;
            }
        }
        let counter = sqlx::query::<Db>("SELECT last FROM counters WHERE name = 'audit'");
        let given = counter.fetch_optional(&mut *tx).await?.map_or(Ok(0), |row| row.try_get("last"))?;
        tx.commit().await?;
        Ok(walk.end(given))
    }
}

impl Walk {
    fn step(&mut self, row: &Row) -> sqlx::Result<()> {
        let seq: i64 = row.try_get("seq")?;
        self.missing(seq);
        let follows = seq == self.found.last_seq + 1;
        let (salt, detail) =
            (row.try_get::<Option<Vec<u8>>, _>("salt")?, row.try_get::<Option<String>, _>("detail")?);
        let said: Vec<u8> = row.try_get("digest")?;
        let hash: Vec<u8> = row.try_get("hash")?;
        let texts = ["actor", "action", "result", "organization", "team", "subjects"];
        let texts: Vec<String> = texts.iter().map(|name| row.try_get(*name)).collect::<sqlx::Result<_>>()?;
        let link = Link {
            seq,
            at_ms: row.try_get("at_ms")?,
            texts: std::array::from_fn(|at| texts[at].as_str()),
            digest: &said,
        };
        let detail_fits = match (&salt, &detail) {
            (Some(salt), Some(detail)) => digest(salt, detail)[..] == said[..],
            (None, None) => {
                self.found.erased += 1;
                true
            }
            _ => false,
        };
        // What stands behind a gap follows a record that is not there.
        let fits = !follows || link.hash(&self.previous)[..] == hash[..];
        if !detail_fits || !fits {
            self.fault(format!("record {seq} is not as it was written, or not where it was"));
        }
        if self.known.as_ref().is_some_and(|known| known.seq == seq && known.hash != hex(&hash)) {
            self.fault(format!("record {seq} has another hash than the one that was kept"));
        }
        self.found.records += 1;
        self.found.last_seq = seq;
        self.found.last_hash = hex(&hash);
        self.previous = hash;
        Ok(())
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

    fn fault(&mut self, fault: String) {
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
