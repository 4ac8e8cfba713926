//! Enrolment of nodes on other hosts: a token that is good once, for a while.

use serde::Serialize;
use sqlx::Row as _;
use wire::id::NodeId;
use wire::identity::TOKEN_SECRET_BYTES;

use super::act::{Act, Subject};
use super::node::{entity, find};
use super::write::Kind;
use super::{Db, Registry, RegistryError, Result, check_name, number, show};
use crate::keys::{self, Secret};

/// How long a token may be good.
pub const TOKEN_LIFE_MS_MAX: i64 = 30 * 24 * 60 * 60 * 1000;

/// What is recorded of a token.
#[derive(Serialize)]
#[serde(tag = "object", rename = "enrolment")]
struct Enrolment {
    name: String,
    #[serde(rename = "expires_at", serialize_with = "show::at")]
    expires_ms: i64,
}

impl Subject for Enrolment {
    fn subject(&self) -> &str {
        &self.name
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (None, None)
    }
}

impl Registry {
    /// Makes a token for a node that is to be called `name`; what is kept is its SHA-256. Returns its secret,
    /// and until when it is good.
    pub async fn create_enrolment(&self, name: &str, life_ms: i64) -> Result<(Secret, i64)> {
        check_name("name", name)?;
        let life_ms = life_ms.clamp(1000, TOKEN_LIFE_MS_MAX);
        let secret = Secret::new(keys::digits(TOKEN_SECRET_BYTES)?.to_string());
        let mut write = self.write().await?;
        let now_ms = write.now_ms;
        let taken = sqlx::query::<Db>("SELECT node FROM nodes WHERE name = $1 AND enrolled = 1")
            .bind(name)
            .fetch_optional(write.conn())
            .await?;
        if taken.is_some() {
            return Err(RegistryError::Taken { kind: "node", name: name.to_owned() });
        }
        sqlx::query::<Db>("DELETE FROM enrolments WHERE expires_ms < $1")
            .bind(now_ms)
            .execute(write.conn())
            .await?;
        sqlx::query::<Db>(
            "INSERT INTO enrolments (digest, name, created_ms, expires_ms) VALUES ($1, $2, $3, $4)",
        )
        .bind(secret.digest().0.to_vec())
        .bind(name)
        .bind(now_ms)
        .bind(now_ms + life_ms)
        .execute(write.conn())
        .await?;
        // A token alone changes nothing that others would have to hear of, but takes its place in the
        // history.
        write.change(Kind::Node, 0).await?;
        write.after(&Enrolment { name: name.to_owned(), expires_ms: now_ms + life_ms });
        write.hides("token");
        write.commit().await?;
        Ok((secret, now_ms + life_ms))
    }

    /// Enrols a node by a token, which is used up; also one that was removed. Returns the number of its
    /// enrolment; `None` where the token is unknown, used or too old.
    pub async fn enrol(&self, token: &[u8], node: NodeId) -> Result<Option<u64>> {
        let itself = self.acting(Act::itself("node.enrol"));
        let mut write = itself.write().await?;
        let now_ms = write.now_ms;
        let found = sqlx::query::<Db>(
            "UPDATE enrolments SET used_ms = $1 WHERE digest = $2 AND used_ms IS NULL AND expires_ms > $1
             RETURNING name",
        )
        .bind(now_ms)
        .bind(keys::digest(token).0.to_vec())
        .fetch_optional(write.conn())
        .await?;
        let Some(found) = found else { return Ok(None) };
        let row = sqlx::query::<Db>(
            "INSERT INTO nodes (node, name, first_seen_ms, last_seen_ms, enrolled, enrolment)
             VALUES ($1, $2, $3, $3, 1, 1)
             ON CONFLICT (node) DO UPDATE SET name = excluded.name, last_seen_ms = excluded.last_seen_ms,
                 enrolled = 1, enrolment = nodes.enrolment + 1
             RETURNING enrolment",
        )
        .bind(node.to_string())
        .bind(found.try_get::<String, _>("name")?)
        .bind(now_ms)
        .fetch_one(write.conn())
        .await?;
        let enrolment = number(row.try_get("enrolment")?);
        write.change(Kind::Node, entity(node)).await?;
        let enrolled = find(write.conn(), &node.to_string()).await?;
        write.after(&enrolled);
        write.commit().await?;
        Ok(Some(enrolment))
    }

    /// The number of an enrolled node's last enrolment; `None` where it is not enrolled, or never was by a
    /// token.
    pub async fn enrolment(&self, node: NodeId) -> Result<Option<u64>> {
        let row = sqlx::query::<Db>(
            "SELECT enrolment FROM nodes WHERE node = $1 AND enrolled = 1 AND enrolment > 0",
        )
        .bind(node.to_string())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(number(row.try_get("enrolment")?))).transpose()
    }

    /// Lets every token be too old.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of the sync listener")]
    pub(crate) async fn age_enrolments(&self) {
        sqlx::query::<Db>("UPDATE enrolments SET expires_ms = 1").execute(&self.pool).await.unwrap();
    }
}
