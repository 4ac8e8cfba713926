//! The record that a restore leaves in the trail that it brings: where the replaced trail ended.
//!
//! Records that were made after the backup are gone from the registry. The number and the hash of the last of
//! them are kept here, so that the cut shows, and an exported trail can be held against them.

use serde::Serialize;
use serde_json::json;
use sqlx::Row as _;

use super::{Said, append, hex};
use crate::registry::act::ITSELF;
use crate::registry::{Conn, Db, Result, now_ms};

const ACTION: &str = "backup.restore";

/// Where a trail ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrailEnd {
    /// The history of the registry that it is of.
    pub registry_id: String,
    /// The last record's number; 0 where there is none.
    pub last_seq: i64,
    /// Its hash in hex.
    pub last_hash: String,
}

impl TrailEnd {
    /// Of a registry that has such a table, or has none.
    pub(in crate::registry) async fn read(conn: &mut Conn, has_audit: bool) -> Result<Self> {
        let meta = sqlx::query::<Db>("SELECT registry_id FROM meta WHERE one = 1").fetch_one(&mut *conn);
        let registry_id = meta.await?.try_get("registry_id")?;
        let mut end = Self { registry_id, last_seq: 0, last_hash: String::new() };
        if has_audit {
            let last = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
            if let Some(row) = sqlx::query::<Db>(last).fetch_optional(conn).await? {
                end.last_seq = row.try_get("seq")?;
                end.last_hash = hex(&row.try_get::<Vec<u8>, _>("hash")?);
            }
        }
        Ok(end)
    }
}

/// Records that one trail took the place of another, or of none.
pub(in crate::registry) async fn record(
    conn: &mut Conn,
    replaced: Option<&TrailEnd>,
    brought: &TrailEnd,
) -> Result<()> {
    let subject = &brought.registry_id;
    let said = Said {
        by: ITSELF,
        action: ACTION,
        result: "done",
        organization: "",
        team: "",
        subjects: subject.clone(),
        detail: json!([{"id": subject, "before": replaced, "after": brought}]),
    };
    append(conn, now_ms(), &said).await
}
