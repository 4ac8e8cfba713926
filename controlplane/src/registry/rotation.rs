//! Giving a key a successor: the old one works on for a while, or, where it has leaked, ends at once.

use wire::id::{Generation, KeyDigest};

use super::key::{self, Key, KeyStatus, NewKey};
use super::role::Scope;
use super::write::Kind;
use super::{Db, Registry, RegistryError, Result};
use crate::keys::Secret;

/// What becomes of the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// It works for so many milliseconds more.
    Retires(i64),
    /// It is revoked.
    Revoked,
}

/// What rotating did.
#[derive(Debug)]
pub struct Rotation {
    /// The old key, as it is now.
    pub old: Key,
    /// The new one.
    pub new: Key,
    /// Its secret, which is nowhere else.
    pub secret: Secret,
    /// What data planes are told to refuse, where the old key is revoked.
    pub digest: KeyDigest,
    /// The generation that holds both.
    pub generation: Generation,
}

impl Registry {
    /// Makes a key like `wanted` (by id, prefix or description), and ends that one; both or neither.
    ///
    /// A key with an end gets a successor that lasts as long as it did from its beginning.
    pub async fn rotate_key(&self, wanted: &str, old: Old) -> Result<Rotation> {
        let mut write = self.write().await?;
        let found = key::find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        let now_ms = write.now_ms;
        match found.status {
            KeyStatus::Active => {}
            KeyStatus::Retiring if old == Old::Revoked => {}
            KeyStatus::Expired if old == Old::Revoked => {}
            status => {
                let message = format!("{} is {}: it has no successor to get", found.id, status.name());
                return Err(RegistryError::Conflict(message));
            }
        }
        let digest = key::digest_of(write.conn(), found.row).await?;
        let new = NewKey {
            application: found.application_id,
            description: found.description,
            plan: found.plan,
            cost_centre: found.cost_centre,
            models: found.models,
            expires_ms: found.expires_ms.map(|end| now_ms + (end - found.created_ms).max(1)),
        };
        let (new_id, secret) = key::insert(&mut write, new).await?;
        match old {
            Old::Revoked => write.revoke(found.row).await?,
            Old::Retires(after_ms) => {
                sqlx::query::<Db>("UPDATE keys SET retiring_until_ms = $1 WHERE id = $2")
                    .bind(now_ms.saturating_add(after_ms))
                    .bind(found.row)
                    .execute(write.conn())
                    .await?;
                write.change(Kind::Key, found.row).await?;
            }
        }
        let old = key::find(write.conn(), Scope::Installation, &found.id).await?;
        let new = key::find(write.conn(), Scope::Installation, &new_id).await?;
        write.after(&old);
        write.after(&new);
        write.hides("secret");
        write.answer["replaces"] = serde_json::to_value(&old).unwrap_or_default();
        let generation = write.commit().await?;
        Ok(Rotation { old, new, secret, digest, generation })
    }
}
