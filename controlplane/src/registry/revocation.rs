//! Revoking keys: one, a list of them, or all of an application or a team.
//!
//! Many are revoked some at a time, each time in a transaction of its own, so that nobody waits long for the
//! right to write, and the first ones are refused while the last are still being looked for. Who asks for all
//! of a team gets also those that are made meanwhile.

use std::collections::VecDeque;

use serde::Serialize;
use wire::id::{Generation, KeyDigest};

use super::act::Subject;
use super::key::{self, KeyStatus};
use super::write::{Kind, Write};
use super::{Db, Registry, RegistryError, Result, application, not_found, statement, stored, team};

/// How many keys one transaction revokes.
pub const REVOKED_AT_ONCE_MAX: usize = 500;
/// How a key is named by the SHA-256 of its whole text, in hex: whoever finds a key need not send it around.
pub const BY_DIGEST: &str = "sha256:";

/// How much is told of what names no key.
const SHOWN_BYTES_MAX: usize = 100;

/// Which keys are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// One, by id, prefix or description.
    Key(String),
    /// Several, each by id, prefix or SHA-256; what is none of ours is named in the receipt.
    Listed(Vec<String>),
    /// All of an application, by id or name.
    Application(String),
    /// All of a team, by id or name.
    Team(String),
}

/// What is still to be revoked.
#[derive(Debug)]
pub enum Selection {
    /// One key, by id, prefix or description.
    One(String),
    /// Keys by id, prefix or SHA-256.
    Named(VecDeque<String>),
    /// An application's or a team's.
    Of {
        /// Which of the two.
        owner: Owner,
        /// Its row.
        row: i64,
        /// The last key that a dry run came to: it leaves the keys as they are.
        after: i64,
    },
}

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An application's.
    Application,
    /// A team's.
    Team,
}

/// What one transaction did.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// The keys' ids, also of those that were revoked before.
    pub keys: Vec<String>,
    /// What data planes are told to refuse.
    pub digests: Vec<KeyDigest>,
    /// What no key has as its name.
    pub unknown: Vec<String>,
    /// The generation that holds it.
    pub generation: Generation,
}

/// A key that is to be revoked. What the audit trail says of it is its status.
#[derive(Clone, Serialize)]
struct Found {
    #[serde(skip)]
    row: i64,
    #[serde(skip)]
    id: String,
    #[serde(skip)]
    digest: KeyDigest,
    #[serde(skip)]
    organization_id: String,
    #[serde(skip)]
    team_id: String,
    status: String,
}

impl Subject for Found {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.organization_id), Some(&self.team_id))
    }
}

const SELECT: &str = "SELECT k.id, k.public_id, k.digest, k.status, t.public_id AS team_id,
    o.public_id AS organization_id FROM keys k JOIN applications a ON a.id = k.application
    JOIN teams t ON t.id = a.team JOIN organizations o ON o.id = t.organization";

impl Registry {
    /// Finds out what is meant; an error where anything of it can be no key's name, before any is revoked.
    pub async fn select_keys(&self, which: Which) -> Result<Selection> {
        Ok(match which {
            // Found in the transaction that revokes it: this is the case that should be quick.
            Which::Key(wanted) => Selection::One(wanted),
            Which::Listed(wanted) => {
                wanted.iter().enumerate().try_for_each(|(at, one)| check_named(at, one))?;
                Selection::Named(wanted.into())
            }
            Which::Application(wanted) => {
                let mut conn = self.pool.acquire().await?;
                let row = application::find(&mut conn, self.scope(), &wanted).await?.row;
                Selection::Of { owner: Owner::Application, row, after: 0 }
            }
            Which::Team(wanted) => {
                let mut conn = self.pool.acquire().await?;
                let row = team::find(&mut conn, self.scope(), &wanted).await?.row;
                Selection::Of { owner: Owner::Team, row, after: 0 }
            }
        })
    }

    /// Revokes one key, by id, prefix or description.
    #[cfg(test)]
    pub(crate) async fn revoke_key(&self, wanted: &str) -> Result<Revocation> {
        let mut selection = self.select_keys(Which::Key(wanted.to_owned())).await?;
        Ok(self.revoke_some(&mut selection).await?.expect("the selection has a key"))
    }

    /// Revokes the next keys of a selection; `None` once there are no more.
    pub async fn revoke_some(&self, selection: &mut Selection) -> Result<Option<Revocation>> {
        if matches!(selection, Selection::Named(left) if left.is_empty()) {
            return Ok(None);
        }
        let mut write = self.write().await?;
        let mut unknown = Vec::new();
        let found = match selection {
            Selection::One(wanted) => {
                let wanted = std::mem::take(wanted);
                *selection = Selection::Named(VecDeque::new());
                vec![write.one(&wanted).await?]
            }
            Selection::Named(left) => {
                let count = left.len().min(REVOKED_AT_ONCE_MAX);
                let mut found = Vec::with_capacity(count);
                for wanted in left.drain(..count) {
                    match write.by_name(&wanted).await? {
                        // A list may name a key by more than one of its names.
                        Some(key) if found.iter().any(|one: &Found| one.row == key.row) => {}
                        Some(key) => found.push(key),
                        None => unknown.push(super::unrepeated(&wanted)),
                    }
                }
                found
            }
            Selection::Of { owner, row, after } => {
                let found = write.active(*owner, *row, *after).await?;
                if self.is_dry() {
                    *after = found.last().map_or(*after, |last| last.row);
                }
                found
            }
        };
        if found.is_empty() && unknown.is_empty() {
            return Ok(None);
        }
        let revoked = KeyStatus::Revoked.name();
        for key in &found {
            write.before(key)?;
            if key.status != revoked {
                write.revoke(key.row).await?;
            }
            write.after(&Found { status: revoked.to_owned(), ..key.clone() });
        }
        let generation = write.commit().await?;
        let digests = found.iter().map(|key| key.digest).collect();
        let keys = found.into_iter().map(|key| key.id).collect();
        Ok(Some(Revocation { keys, digests, unknown, generation }))
    }
}

impl Write<'_> {
    /// Revokes one key.
    pub(super) async fn revoke(&mut self, row: i64) -> Result<()> {
        let now_ms = self.now_ms;
        sqlx::query::<Db>("UPDATE keys SET status = 'revoked', revoked_ms = $1 WHERE id = $2")
            .bind(now_ms)
            .bind(row)
            .execute(self.conn())
            .await?;
        self.change(Kind::Key, row).await
    }

    /// The key of an id, a prefix or a description.
    async fn one(&mut self, wanted: &str) -> Result<Found> {
        if let Some(found) = self.by_id(&key::public_id_of(wanted)).await? {
            return Ok(found);
        }
        let scope = self.scope();
        let described = key::find(self.conn(), scope, wanted).await?;
        self.by_id(&described.id).await?.ok_or_else(|| not_found("key", wanted))
    }

    /// The key of an id, a prefix or a digest.
    async fn by_name(&mut self, wanted: &str) -> Result<Option<Found>> {
        let Some(hex) = wanted.strip_prefix(BY_DIGEST) else {
            return self.by_id(&key::public_id_of(wanted)).await;
        };
        let digest = KeyDigest::parse(hex).ok_or(RegistryError::Corrupt { what: "key digest" })?;
        let tail = "WHERE k.digest = $1 AND ($2 IS NULL OR t.organization = $2)
            AND ($3 IS NULL OR t.id = $3)";
        let query = sqlx::query::<Db>(statement(SELECT, tail)).bind(digest.0.to_vec());
        let scope = self.scope();
        let query = query.bind(scope.organization()).bind(scope.team());
        query.fetch_optional(self.conn()).await?.as_ref().map(read).transpose()
    }

    async fn by_id(&mut self, id: &str) -> Result<Option<Found>> {
        let tail = "WHERE k.public_id = $1 AND ($2 IS NULL OR t.organization = $2)
            AND ($3 IS NULL OR t.id = $3)";
        let query = sqlx::query::<Db>(statement(SELECT, tail)).bind(id.to_owned());
        let scope = self.scope();
        let query = query.bind(scope.organization()).bind(scope.team());
        query.fetch_optional(self.conn()).await?.as_ref().map(read).transpose()
    }

    /// The next keys that are not revoked yet.
    async fn active(&mut self, owner: Owner, row: i64, after: i64) -> Result<Vec<Found>> {
        let tail = match owner {
            Owner::Application => {
                "WHERE a.id = $1 AND k.status <> 'revoked' AND k.id > $2 ORDER BY k.id LIMIT $3"
            }
            Owner::Team => "WHERE t.id = $1 AND k.status <> 'revoked' AND k.id > $2 ORDER BY k.id LIMIT $3",
        };
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(row)
            .bind(after)
            .bind(stored(REVOKED_AT_ONCE_MAX as u64))
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read).collect()
    }
}

/// Refuses what can name no key, so that a list which was cut or garbled changes nothing. What has the right
/// form and is no key of ours is told in the receipt.
fn check_named(at: usize, wanted: &str) -> Result<()> {
    let problem = match wanted.strip_prefix(BY_DIGEST) {
        Some(hex) if KeyDigest::parse(hex).is_some() => return Ok(()),
        Some(_) => "is not sha256: and 64 hex digits",
        None if !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_graphic()) => return Ok(()),
        None => "is no id, prefix or sha256:",
    };
    // What was pasted there may be a secret.
    let shown =
        if wanted.contains("sk-") { "a secret, not repeated".to_owned() } else { format!("{wanted:?}") };
    let shown = &shown[..shown.floor_char_boundary(SHOWN_BYTES_MAX)];
    let message = format!("[{at}] ({shown}) {problem}; nothing was revoked");
    Err(RegistryError::Invalid { field: "keys", message })
}

fn read(row: &super::Row) -> Result<Found> {
    use sqlx::Row as _;
    Ok(Found {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        digest: key::digest(row)?,
        organization_id: row.try_get("organization_id")?,
        team_id: row.try_get("team_id")?,
        status: row.try_get("status")?,
    })
}
