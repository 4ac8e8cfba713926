//! Calls that were answered already: the same call, under the same `Idempotency-Key`, makes nothing twice.
//!
//! The answer is kept in the transaction that it tells of, without secrets: whoever did not get the first
//! answer has lost its secret, and rotates. Of the key and the request only the SHA-256 is kept, for a day.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::Row as _;

use super::audit::names;
use super::write::Write;
use super::{Db, Registry, RegistryError, Result};

/// For how long an answer is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;

impl Registry {
    /// Drops the answers whose day is over.
    pub async fn drop_old_answers(&self) -> Result<()> {
        let mut write = self.write().await?;
        write.drop_old_answers().await?;
        write.commit_records().await
    }
}

impl Write<'_> {
    /// Looks whether this call was answered already.
    pub(super) async fn look_for_replay(&mut self) -> Result<()> {
        let Some((act, known)) = self.call() else { return Ok(()) };
        let since = self.now_ms - KEPT_MS;
        let row = sqlx::query::<Db>(
            "SELECT request_digest, answer FROM answers WHERE actor = $1 AND key_digest = $2 AND made_ms > $3",
        )
        .bind(act)
        .bind(&known.key[..])
        .bind(since)
        .fetch_optional(self.conn())
        .await?;
        match row {
            None => Ok(()),
            Some(row) if row.try_get::<&[u8], _>("request_digest")? == known.request => {
                Err(RegistryError::Replayed { answer: row.try_get("answer")? })
            }
            Some(_) => Err(RegistryError::KeyReused),
        }
    }

    async fn drop_old_answers(&mut self) -> Result<()> {
        let since = self.now_ms - KEPT_MS;
        let old = sqlx::query::<Db>("DELETE FROM answers WHERE made_ms <= $1").bind(since);
        old.execute(self.conn()).await?;
        Ok(())
    }

    /// Keeps the answer of this call.
    pub(super) async fn keep_for_replay(&mut self) -> Result<()> {
        let Some((act, known)) = self.call() else { return Ok(()) };
        let (now_ms, answer) = (self.now_ms, self.answer.to_string());
        self.drop_old_answers().await?;
        sqlx::query::<Db>(
            "INSERT INTO answers (actor, key_digest, request_digest, answer, made_ms)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(act)
        .bind(&known.key[..])
        .bind(&known.request[..])
        .bind(answer)
        .bind(now_ms)
        .execute(self.conn())
        .await?;
        Ok(())
    }

    /// Drops the answers that name one of these ids.
    pub(super) async fn forget_answers(&mut self, ids: &HashSet<&str>) -> Result<()> {
        let rows = sqlx::query::<Db>("SELECT actor, key_digest, answer FROM answers");
        for row in rows.fetch_all(self.conn()).await? {
            let answer: Value = serde_json::from_str(row.try_get("answer")?).unwrap_or_default();
            if names(&answer, ids) {
                sqlx::query::<Db>("DELETE FROM answers WHERE actor = $1 AND key_digest = $2")
                    .bind(row.try_get::<String, _>("actor")?)
                    .bind(row.try_get::<Vec<u8>, _>("key_digest")?)
                    .execute(self.conn())
                    .await?;
            }
        }
        Ok(())
    }

    fn call(&self) -> Option<(String, super::act::Idempotency)> {
        let act = self.registry().act.as_ref()?;
        act.idempotency.filter(|_| !act.dry_run).map(|known| (act.by.clone(), known))
    }
}
