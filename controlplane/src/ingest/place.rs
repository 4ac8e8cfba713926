//! Where the rows of a batch go: under one token, unless ClickHouse refuses some for what they are.
//!
//! A refused batch is halved until the rows at fault are found; each half has its own token, derived from the
//! whole's, so the same rows have the same token however often and by whichever process the batch is split.
//!
//! Before a batch that may have been sent before goes out again, ClickHouse is asked what it has of it. The
//! tokens in its memory are the second line of defence: they are forgotten in time, and a crash may keep them
//! and lose the rows.
//!
//! Rows are only held to be at fault while the table looks as it should, and unless everything is refused:
//! else it is the table that somebody has changed, and the batch waits.

use std::collections::{HashMap, HashSet};

use super::store::StoreError;
use super::{Batch, Ingest, Row};
use crate::clickhouse::insert::Hex16;

/// When so many rows were refused one by one and none was taken, it is not the rows.
const REFUSED_ALONE_MAX: usize = 32;

/// What ClickHouse has of a batch.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Tokens in the ledger, and the rows that each stands for.
    pub(super) tokens: HashMap<String, usize>,
    /// Rows.
    pub(super) rows: usize,
    /// Their numbers, where they were asked for.
    pub(super) numbers: HashSet<(Hex16, u64)>,
}

struct Part<'a> {
    token: String,
    rows: &'a [Row],
}

enum Placed {
    Stored,
    Refused,
    InPart,
}

impl Part<'_> {
    fn halves(self) -> [Self; 2] {
        let (first, second) = self.rows.split_at(self.rows.len() / 2);
        let token = |half| format!("{}/{half}", self.token);
        [Self { token: token(1), rows: second }, Self { token: token(0), rows: first }]
    }
}

impl Ingest {
    /// Stores rows under `token` or under tokens derived from it; returns the indexes of those that are
    /// refused.
    ///
    /// `is_new` is whether ClickHouse can't have any of them.
    pub(super) async fn place(
        &self,
        batch: &Batch<'_>,
        token: &str,
        rows: &[Row],
        is_new: bool,
    ) -> Result<Vec<u32>, StoreError> {
        let found = if is_new { Found::default() } else { self.store.found(batch, rows.len()).await? };
        let mut is_any_stored = found.rows > 0;
        let mut refused = Vec::new();
        let mut parts = vec![Part { token: token.to_owned(), rows }];
        while let Some(part) = parts.pop() {
            match self.place_part(batch, &part, &found, is_new).await? {
                Placed::Stored => {
                    is_any_stored = true;
                    self.store.mark_dirty(part.rows.iter().map(|row| row.event.ts_ms));
                }
                Placed::Refused if part.rows.len() == 1 => {
                    refused.extend(part.rows.iter().map(|row| row.index));
                    if refused.len() >= REFUSED_ALONE_MAX && !is_any_stored {
                        return Err(StoreError::Altered("it refuses every row".to_owned()));
                    }
                }
                Placed::Refused | Placed::InPart => parts.extend(part.halves()),
            }
        }
        Ok(refused)
    }

    async fn place_part(
        &self,
        batch: &Batch<'_>,
        part: &Part<'_>,
        found: &Found,
        is_new: bool,
    ) -> Result<Placed, StoreError> {
        let Part { token, rows } = part;
        if found.tokens.get(token) == Some(&rows.len()) {
            return Ok(Placed::Stored);
        }
        let there = if found.rows == 0 {
            0
        } else {
            let number =
                |row: &&Row| found.numbers.contains(&(Hex16::new(row.event.boot.0), row.event.seq.0));
            rows.iter().filter(number).count()
        };
        if there == rows.len() && there > 0 {
            self.store.record(batch, token, rows).await?;
            return Ok(Placed::Stored);
        }
        if there > 0 {
            return Ok(Placed::InPart);
        }
        let permit = self.inserts.acquire().await;
        let inserted = self.store.insert(batch, token, rows, is_new).await;
        drop(permit);
        match inserted {
            Ok(()) => Ok(Placed::Stored),
            Err(StoreError::Refused(error)) => {
                if let Some(drift) = self.store.schema_drift().await? {
                    return Err(StoreError::Altered(drift));
                }
                tracing::warn!(token, rows = rows.len(), %error, "clickhouse refused rows");
                Ok(Placed::Refused)
            }
            Err(error) => Err(error),
        }
    }
}
