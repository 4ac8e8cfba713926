//! Keys: what an application's programs show to the data plane.
//!
//! ```text
//! active -> revoked
//! active -> retiring until T (still active, refused from T on) -> revoked
//! active -> expired (a matter of time, not of a change)
//! ```
//!
//! The secret is returned once, by `create_key`; what stays is its SHA-256.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use wire::id::{Generation, KeyDigest};
use wire::key_format::{DISPLAY_BYTES, PREFIX};

use super::act::Subject;
use super::archive::check_live;
use super::attribution::{self, Due};
use super::role::Scope;
use super::write::{Kind, Write};
use super::{
    Conn, Db, Listed, Page, Patch, Registry, RegistryError, Result, Row, allow, application, check_text,
    not_found, now_ms, optional_text, pick, show, statement, team,
};
use crate::keys::{self, Secret};

/// Where a key stands.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It works.
    Active,
    /// It works until a time that has been set.
    Retiring,
    /// Its time is over.
    Expired,
    /// It was revoked, for good.
    Revoked,
}

impl KeyStatus {
    /// The word in the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A key, as people see it.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "key")]
pub struct Key {
    #[serde(skip)]
    pub(super) row: i64,
    /// `key_` and the public id.
    pub id: String,
    /// `sk-lt-` and the public id: how the key begins.
    pub prefix: String,
    /// What people call it.
    pub description: String,
    /// The application's id.
    pub application_id: String,
    /// The application's name.
    pub application: String,
    /// The team's id.
    pub team_id: String,
    /// The team's name.
    pub team: String,
    /// The organization's id.
    pub organization_id: String,
    /// Its own plan; its application's where it is none.
    pub plan: Option<String>,
    /// Its own cost centre, likewise.
    pub cost_centre: Option<String>,
    /// Its own list of aliases; its application's where it is none.
    pub models: Option<Vec<String>>,
    /// Where it stands now.
    pub status: KeyStatus,
    /// From when on it is refused because it has a successor.
    #[serde(rename = "retiring_until", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub retiring_until_ms: Option<i64>,
    /// From when on it is refused anyway.
    #[serde(rename = "expires_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub expires_ms: Option<i64>,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
    /// When it was revoked.
    #[serde(rename = "revoked_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub revoked_ms: Option<i64>,
}

impl Subject for Key {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.organization_id), Some(&self.team_id))
    }
}

/// What a new key is to be.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// The application, by id or name.
    pub application: String,
    /// What people call it.
    pub description: String,
    /// See `Key`.
    pub plan: Option<String>,
    /// See `Key`.
    pub cost_centre: Option<String>,
    /// See `Key`.
    pub models: Option<Vec<String>>,
    /// See `Key`.
    pub expires_ms: Option<i64>,
}

/// What of a key is to change.
#[derive(Clone, Debug, Default)]
pub struct KeyPatch {
    /// Another description.
    pub description: Option<String>,
    /// Another application, by id or name.
    pub application: Option<String>,
    /// Another plan, or none of its own.
    pub plan: Patch<String>,
    /// Another cost centre, or none of its own.
    pub cost_centre: Patch<String>,
    /// Other aliases, or its application's.
    pub models: Patch<Vec<String>>,
    /// Another end, or none.
    pub expires_ms: Patch<i64>,
    /// When it gives way to its successor, or that it does not.
    pub retiring_until_ms: Patch<i64>,
}

pub(super) const SELECT: &str = "SELECT k.id, k.public_id, k.prefix, k.digest, k.description,
    a.public_id AS application_id, a.name AS application, t.public_id AS team_id, t.name AS team,
    o.public_id AS organization_id, k.plan, k.cost_centre, k.allow, k.status, k.retiring_until_ms, k.expires_ms,
    k.created_ms, k.revoked_ms
    FROM keys k JOIN applications a ON a.id = k.application JOIN teams t ON t.id = a.team
    JOIN organizations o ON o.id = t.organization";

pub(super) async fn read(conn: &mut Conn, row: &Row) -> Result<Key> {
    let (retiring, expires) = (row.try_get("retiring_until_ms")?, row.try_get("expires_ms")?);
    let models = match row.try_get::<Option<String>, _>("allow")? {
        Some(kept) => Some(allow::names(conn, &kept).await?),
        None => None,
    };
    Ok(Key {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        prefix: row.try_get("prefix")?,
        description: row.try_get("description")?,
        application_id: row.try_get("application_id")?,
        application: row.try_get("application")?,
        team_id: row.try_get("team_id")?,
        team: row.try_get("team")?,
        organization_id: row.try_get("organization_id")?,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
        models,
        status: status(row.try_get("status")?, retiring, expires)?,
        retiring_until_ms: retiring,
        expires_ms: expires,
        created_ms: row.try_get("created_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}

fn status(kept: &str, retiring: Option<i64>, expires: Option<i64>) -> Result<KeyStatus> {
    let now = now_ms();
    match kept {
        "revoked" => Ok(KeyStatus::Revoked),
        "active" if [retiring, expires].into_iter().flatten().any(|end| end <= now) => Ok(KeyStatus::Expired),
        "active" if retiring.is_some() => Ok(KeyStatus::Retiring),
        "active" => Ok(KeyStatus::Active),
        _ => Err(RegistryError::Corrupt { what: "status of a key" }),
    }
}

/// The id that a prefix stands for; anything else is taken for an id.
pub(super) fn public_id_of(wanted: &str) -> String {
    let prefix = std::str::from_utf8(PREFIX).expect("the prefix is ASCII");
    match wanted.strip_prefix(prefix) {
        Some(public_id) if wanted.len() == DISPLAY_BYTES => format!("key_{public_id}"),
        _ => wanted.to_owned(),
    }
}

/// The key of an id, a prefix or a description.
pub(super) async fn find(conn: &mut Conn, scope: Scope, wanted: &str) -> Result<Key> {
    for (tail, name) in [
        (
            "WHERE k.public_id = $1 AND ($2 IS NULL OR t.organization = $2) AND ($3 IS NULL OR t.id = $3)",
            public_id_of(wanted),
        ),
        (
            "WHERE k.description = $1 AND k.description <> '' AND ($2 IS NULL OR t.organization = $2)
          AND ($3 IS NULL OR t.id = $3) ORDER BY k.id",
            wanted.to_owned(),
        ),
    ] {
        let query = sqlx::query::<Db>(statement(SELECT, tail));
        let query = query.bind(name).bind(scope.organization()).bind(scope.team());
        let rows = query.fetch_all(&mut *conn).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push(read(conn, row).await?);
        }
        if !found.is_empty() {
            let place = |one: &Key| format!("of {}, {}", one.application, one.status.name());
            return pick("key", wanted, found, |one: &Key| &one.id, place);
        }
    }
    Err(not_found("key", wanted))
}

impl Registry {
    /// The key with this id, prefix or description.
    pub async fn key(&self, wanted: &str) -> Result<Key> {
        find(&mut *self.pool.acquire().await?, self.scope(), wanted).await
    }

    /// A page of the keys, of one application, of one team, or of all.
    pub async fn keys(
        &self,
        application: Option<&str>,
        team: Option<&str>,
        page: &Page,
    ) -> Result<Listed<Key>> {
        self.keys_also(application, team, true, page).await
    }

    /// Likewise, without those that are revoked or with them.
    pub async fn keys_also(
        &self,
        application: Option<&str>,
        team: Option<&str>,
        revoked: bool,
        page: &Page,
    ) -> Result<Listed<Key>> {
        let mut conn = self.pool.acquire().await?;
        let team = match team {
            Some(wanted) => Some(team::find(&mut conn, self.scope(), wanted).await?.row),
            None => None,
        };
        let application = match application {
            Some(wanted) => Some(application::find(&mut conn, self.scope(), wanted).await?.row),
            None => None,
        };
        let after = match &page.after {
            Some(after) => find(&mut conn, self.scope(), after).await?.row,
            None => 0,
        };
        let tail = "WHERE k.id > $1 AND ($2 IS NULL OR k.application = $2) AND ($3 IS NULL OR a.team = $3)
            AND ($4 IS NULL OR t.organization = $4) AND ($5 IS NULL OR t.id = $5)
            AND ($6 = 1 OR k.status <> 'revoked') ORDER BY k.id LIMIT $7";
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(after)
            .bind(application)
            .bind(team)
            .bind(self.scope().organization())
            .bind(self.scope().team())
            .bind(i64::from(revoked))
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            keys.push(read(&mut conn, row).await?);
        }
        Ok(Listed::cut(keys, page.limit()))
    }

    /// Makes a key. The secret is in the answer and nowhere else.
    pub async fn create_key(&self, new: NewKey) -> Result<(Key, Secret, Generation)> {
        let mut write = self.write().await?;
        let (id, secret) = insert(&mut write, new).await?;
        let key = find(write.conn(), Scope::Installation, &id).await?;
        write.after(&key);
        write.hides("secret");
        let generation = write.commit().await?;
        Ok((key, secret, generation))
    }

    /// Changes a key; what a revoked one is stays.
    pub async fn update_key(&self, wanted: &str, patch: KeyPatch) -> Result<Key> {
        let mut write = self.write().await?;
        let found = find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        if found.status == KeyStatus::Revoked {
            return Err(RegistryError::Conflict(format!("{} is revoked, which is for good", found.id)));
        }
        let description = patch.description.unwrap_or(found.description);
        check_text("description", &description)?;
        let plan = optional_text("plan", patch.plan.unwrap_or(found.plan))?;
        let cost_centre = optional_text("cost_centre", patch.cost_centre.unwrap_or(found.cost_centre))?;
        let application = patch.application.as_deref().unwrap_or(&found.application_id);
        let application = application::find(write.conn(), self.scope(), application).await?;
        if application.id != found.application_id {
            check_live(&application.id, application.archived_ms)?;
        }
        let allow = store_models(&mut write, patch.models.unwrap_or(found.models)).await?;
        sqlx::query::<Db>(
            "UPDATE keys SET description = $1, plan = $2, cost_centre = $3, application = $4, allow = $5,
                 expires_ms = $6, retiring_until_ms = $7 WHERE id = $8",
        )
        .bind(description)
        .bind(plan)
        .bind(cost_centre)
        .bind(application.row)
        .bind(allow)
        .bind(patch.expires_ms.unwrap_or(found.expires_ms))
        .bind(patch.retiring_until_ms.unwrap_or(found.retiring_until_ms))
        .bind(found.row)
        .execute(write.conn())
        .await?;
        write.change(Kind::Key, found.row).await?;
        attribution::refresh(&mut write, attribution::Under::Key(found.row)).await?;
        let changed = find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }
}

/// Makes a key within a transaction; gives its id, and its secret.
pub(super) async fn insert(write: &mut Write<'_>, new: NewKey) -> Result<(String, Secret)> {
    check_text("description", &new.description)?;
    check_time("expires_at", new.expires_ms)?;
    let plan = optional_text("plan", new.plan)?;
    let cost_centre = optional_text("cost_centre", new.cost_centre)?;
    let (public_id, secret) = keys::new_key()?;
    let scope = write.scope();
    let application = application::find(write.conn(), scope, &new.application).await?;
    check_live(&application.id, application.archived_ms)?;
    let allow = store_models(write, new.models).await?;
    let id = write.next_id("key").await?;
    let attribution = attribute_new(write, id, application.row, &plan, &cost_centre).await?;
    let now_ms = write.now_ms;
    sqlx::query::<Db>(
        "INSERT INTO keys (id, public_id, application, attribution, prefix, digest, description, plan,
             cost_centre, allow, status, expires_ms, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'active', $11, $12)",
    )
    .bind(id)
    .bind(format!("key_{public_id}"))
    .bind(application.row)
    .bind(attribution)
    .bind(format!("sk-lt-{public_id}"))
    .bind(&secret.digest().0[..])
    .bind(&new.description)
    .bind(plan)
    .bind(cost_centre)
    .bind(allow)
    .bind(new.expires_ms)
    .bind(now_ms)
    .execute(write.conn())
    .await?;
    write.change(Kind::Key, id).await?;
    Ok((format!("key_{public_id}"), secret))
}

/// What data planes know a key by.
pub(super) async fn digest_of(conn: &mut Conn, row: i64) -> Result<KeyDigest> {
    let row = sqlx::query::<Db>("SELECT digest FROM keys WHERE id = $1").bind(row).fetch_one(conn).await?;
    digest(&row)
}

/// Reads the column `digest`.
pub(super) fn digest(row: &Row) -> Result<KeyDigest> {
    let digest = row.try_get::<&[u8], _>("digest")?.try_into();
    digest.map(KeyDigest).map_err(|_| RegistryError::Corrupt { what: "digest" })
}

async fn store_models(write: &mut Write<'_>, models: Option<Vec<String>>) -> Result<Option<String>> {
    match models {
        Some(models) => Ok(Some(allow::store(write.conn(), &models).await?)),
        None => Ok(None),
    }
}

/// The first attribution of a key.
async fn attribute_new(
    write: &mut Write<'_>,
    key: i64,
    application: i64,
    plan: &Option<String>,
    cost_centre: &Option<String>,
) -> Result<i64> {
    let row = sqlx::query::<Db>(
        "SELECT t.organization, t.id AS team, COALESCE($2, a.plan, t.plan, o.plan, '') AS plan,
             COALESCE($3, a.cost_centre, t.cost_centre, o.cost_centre, '') AS cost_centre
         FROM applications a JOIN teams t ON t.id = a.team JOIN organizations o ON o.id = t.organization
         WHERE a.id = $1",
    )
    .bind(application)
    .bind(plan)
    .bind(cost_centre)
    .fetch_one(write.conn())
    .await?;
    let due = Due {
        key,
        organization: row.try_get("organization")?,
        team: row.try_get("team")?,
        application,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
    };
    attribution::insert(write, &due).await
}

fn check_time(field: &'static str, time: Option<i64>) -> Result<()> {
    match time {
        Some(time) if time <= now_ms() => {
            Err(RegistryError::Invalid { field, message: "a time in the future".to_owned() })
        }
        _ => Ok(()),
    }
}
