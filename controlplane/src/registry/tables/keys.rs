//! Keys as data planes get them, one by one or a page at a time.
//!
//! The driver makes an object of every value of every row, and hands each row from thread to thread: for a
//! million keys that took twice as long as all else together. So the database writes a page of keys as one
//! text, a JSON array with an array for each key.

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Row as _};
use wire::id::{ApplicationId, AttributionId, KeyDigest, KeyId};
use wire::table::{self, Change};

use super::super::engine::Engine;
use super::super::{Conn, Db, RegistryError, Result, Row, allow, key, number, stored};

/// What is read of a key.
pub(super) const KEYS: &str =
    "SELECT id, application, attribution, digest, status, allow, retiring_until_ms, expires_ms FROM keys";

/// What is kept of a key.
#[derive(Deserialize)]
struct Kept<'a> {
    id: i64,
    application: i64,
    attribution: i64,
    digest: &'a str,
    status: &'a str,
    allow: Option<&'a str>,
    retiring_until_ms: Option<i64>,
    expires_ms: Option<i64>,
}

/// Changes for at most `limit` keys above the number `after`, and the number of the last.
pub(super) async fn page(
    engine: Engine,
    conn: &mut Conn,
    (after, limit): (i64, usize),
) -> Result<(Vec<Change>, i64)> {
    let select = match engine {
        Engine::Sqlite => {
            "SELECT CAST(json_group_array(json_array(id, application, attribution, lower(hex(digest)), status,
                 allow, retiring_until_ms, expires_ms)) AS TEXT) AS page"
        }
        Engine::Postgres => {
            "SELECT COALESCE(CAST(json_agg(json_build_array(id, application, attribution, encode(digest, 'hex'),
                 status, allow, retiring_until_ms, expires_ms)) AS TEXT), '[]') AS page"
        }
    };
    let text = format!("{select} FROM ({KEYS} WHERE id > $1 ORDER BY id LIMIT $2) AS page");
    let query = sqlx::query::<Db>(AssertSqlSafe(text)).bind(after).bind(stored(limit as u64));
    let row = query.fetch_one(conn).await?;
    let page: Vec<Kept<'_>> = serde_json::from_str(row.try_get("page")?)
        .map_err(|_| RegistryError::Corrupt { what: "page of keys" })?;
    let last = page.iter().map(|key| key.id).max().unwrap_or(after);
    Ok((page.into_iter().map(Kept::change).collect::<Result<_>>()?, last))
}

/// The change for one row of `KEYS`.
pub(super) fn change(row: &Row) -> Result<Change> {
    let digest = key::digest(row)?.to_string();
    let kept = Kept {
        id: row.try_get("id")?,
        application: row.try_get("application")?,
        attribution: row.try_get("attribution")?,
        digest: &digest,
        status: row.try_get("status")?,
        allow: row.try_get("allow")?,
        retiring_until_ms: row.try_get("retiring_until_ms")?,
        expires_ms: row.try_get("expires_ms")?,
    };
    kept.change()
}

impl Kept<'_> {
    fn change(self) -> Result<Change> {
        let digest = KeyDigest::parse(self.digest).ok_or(RegistryError::Corrupt { what: "digest" })?;
        if self.status == "revoked" {
            return Ok(Change::NoKey(digest));
        }
        let ends = [self.retiring_until_ms, self.expires_ms];
        Ok(Change::Key(table::Key {
            digest,
            id: KeyId(number(self.id)),
            application: ApplicationId(number(self.application)),
            attribution: AttributionId(number(self.attribution)),
            // 0 is no end at all: an end before 1970 must not become that.
            not_after_ms: ends.into_iter().flatten().min().map_or(0, |end| number(end).max(1)),
            allow: self.allow.map(allow::wire).transpose()?,
        }))
    }
}
