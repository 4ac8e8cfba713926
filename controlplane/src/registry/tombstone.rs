//! Digests of keys that must never hold again, whatever a backup says.
//!
//! A key that is revoked needs none. They matter where the registry does not know of a revocation any more:
//! it was restored from a backup that is older. Then they come from the registry that was replaced, and from
//! the data planes, which remember every key that they have seen revoked.

use wire::id::KeyDigest;

use super::act::Act;
use super::admin::{Admin, AdminStatus};
use super::key::{Key, KeyStatus};
use super::role::Scope;
use super::write::{Kind, Write};
use super::{Conn, Db, Registry, Result, admin, key, stored};

/// How many keys one transaction revokes.
const AT_ONCE: usize = 500;

pub(super) async fn insert(conn: &mut Conn, digest: &[u8], now_ms: i64) -> Result<()> {
    sqlx::query::<Db>(
        "INSERT INTO tombstones (digest, since_ms) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest)
    .bind(now_ms)
    .execute(conn)
    .await?;
    Ok(())
}

impl Registry {
    /// Notes keys that must not hold, and revokes those that do; returns their digests.
    pub async fn bury(&self, digests: &[KeyDigest]) -> Result<Vec<KeyDigest>> {
        let mut new = false;
        for some in digests.chunks(AT_ONCE) {
            let mut write = self.write().await?;
            let now_ms = write.now_ms;
            for digest in some {
                // Of the keys that are revoked in any case the registry needs no other note.
                let known = sqlx::query::<Db>(
                    "SELECT digest FROM keys WHERE digest = $1 AND status = 'revoked'
                     UNION ALL SELECT digest FROM tombstones WHERE digest = $1",
                );
                if known.bind(&digest.0[..]).fetch_optional(write.conn()).await?.is_none() {
                    insert(write.conn(), &digest.0, now_ms).await?;
                    new = true;
                }
            }
            write.commit().await?;
        }
        if new { self.revoke_buried().await } else { Ok(Vec::new()) }
    }

    /// Revokes keys, and administrators' credentials, that a restored backup has brought back.
    pub async fn revoke_buried(&self) -> Result<Vec<KeyDigest>> {
        let mut revoked = Vec::new();
        let itself = self.acting(Act::itself("key.bury"));
        loop {
            let mut write = itself.write().await?;
            let rows = sqlx::query::<Db>(
                "SELECT k.id, k.public_id, k.digest FROM keys k JOIN tombstones t ON t.digest = k.digest
                 WHERE k.status <> 'revoked' ORDER BY k.id LIMIT $1",
            )
            .bind(stored(AT_ONCE as u64))
            .fetch_all(write.conn())
            .await?;
            let now_ms = write.now_ms;
            for row in &rows {
                let id: i64 = sqlx::Row::try_get(row, "id")?;
                revoked.push(key::digest(row)?);
                let found =
                    key::find(write.conn(), Scope::Installation, sqlx::Row::try_get(row, "public_id")?);
                let found = found.await?;
                write.before(&found)?;
                write.after(&Key { status: KeyStatus::Revoked, revoked_ms: Some(now_ms), ..found });
                sqlx::query::<Db>("UPDATE keys SET status = 'revoked', revoked_ms = $1 WHERE id = $2")
                    .bind(now_ms)
                    .bind(id)
                    .execute(write.conn())
                    .await?;
                write.change(Kind::Key, id).await?;
            }
            write.revoke_buried_admins().await?;
            write.commit().await?;
            if rows.is_empty() {
                return Ok(revoked);
            }
        }
    }
}

impl Write<'_> {
    /// Revokes the administrators whose credentials are not to hold.
    async fn revoke_buried_admins(&mut self) -> Result<()> {
        let rows = sqlx::query::<Db>(
            "SELECT public_id FROM admins
             WHERE revoked_ms IS NULL AND digest IN (SELECT digest FROM tombstones) ORDER BY id",
        )
        .fetch_all(self.conn())
        .await?;
        let now_ms = self.now_ms;
        for row in &rows {
            let id: &str = sqlx::Row::try_get(row, "public_id")?;
            let found = admin::find(self.conn(), Scope::Installation, id).await?;
            self.before(&found)?;
            sqlx::query::<Db>("UPDATE admins SET revoked_ms = $1 WHERE id = $2")
                .bind(now_ms)
                .bind(found.row)
                .execute(self.conn())
                .await?;
            self.change(Kind::Admin, found.row).await?;
            self.after(&Admin { status: AdminStatus::Revoked, revoked_ms: Some(now_ms), ..found });
        }
        Ok(())
    }
}
