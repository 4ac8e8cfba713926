//! The registry's tables, and how an older registry gets them.
//!
//! A migration is a list of statements that run in one transaction; `meta.schema_version` counts those that
//! ran. Types are BIGINT, TEXT and BLOB alone, so that another database needs no other statements but for the
//! name of BLOB.

use sqlx::{Pool, Row as _};

use super::{Conn, Db, RegistryError, Result, now_ms};
use crate::keys;

/// All migrations in order. One that has been released is never edited.
const MIGRATIONS: &[&[&str]] = &[&[
    "CREATE TABLE meta (
        one BIGINT PRIMARY KEY CHECK (one = 1),
        schema_version BIGINT NOT NULL,
        registry_id TEXT NOT NULL,
        generation BIGINT NOT NULL,
        request_id_key BLOB NOT NULL)",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, last BIGINT NOT NULL)",
    "CREATE TABLE changes (
        generation BIGINT PRIMARY KEY,
        kind TEXT NOT NULL,
        entity BIGINT NOT NULL,
        made_ms BIGINT NOT NULL)",
    "CREATE TABLE organizations (
        id BIGINT PRIMARY KEY,
        public_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        plan TEXT,
        cost_centre TEXT,
        created_ms BIGINT NOT NULL)",
    "CREATE TABLE teams (
        id BIGINT PRIMARY KEY,
        public_id TEXT NOT NULL UNIQUE,
        organization BIGINT NOT NULL REFERENCES organizations (id),
        name TEXT NOT NULL,
        plan TEXT,
        cost_centre TEXT,
        created_ms BIGINT NOT NULL,
        UNIQUE (organization, name))",
    "CREATE INDEX teams_by_name ON teams (name)",
    "CREATE TABLE applications (
        id BIGINT PRIMARY KEY,
        public_id TEXT NOT NULL UNIQUE,
        team BIGINT NOT NULL REFERENCES teams (id),
        name TEXT NOT NULL,
        plan TEXT,
        cost_centre TEXT,
        allow TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        UNIQUE (team, name))",
    "CREATE INDEX applications_by_name ON applications (name)",
    "CREATE TABLE attributions (
        id BIGINT PRIMARY KEY,
        organization BIGINT NOT NULL REFERENCES organizations (id),
        team BIGINT NOT NULL REFERENCES teams (id),
        application BIGINT NOT NULL REFERENCES applications (id),
        key_id BIGINT NOT NULL,
        plan TEXT NOT NULL,
        cost_centre TEXT NOT NULL,
        created_ms BIGINT NOT NULL)",
    "CREATE TABLE keys (
        id BIGINT PRIMARY KEY,
        public_id TEXT NOT NULL UNIQUE,
        application BIGINT NOT NULL REFERENCES applications (id),
        attribution BIGINT NOT NULL REFERENCES attributions (id),
        prefix TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        description TEXT NOT NULL,
        plan TEXT,
        cost_centre TEXT,
        allow TEXT,
        status TEXT NOT NULL,
        retiring_until_ms BIGINT,
        expires_ms BIGINT,
        created_ms BIGINT NOT NULL,
        revoked_ms BIGINT)",
    "CREATE INDEX keys_by_application ON keys (application)",
    "CREATE INDEX keys_by_description ON keys (description)",
    "CREATE TABLE aliases (
        id BIGINT PRIMARY KEY,
        name TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        removed_ms BIGINT)",
    "CREATE UNIQUE INDEX aliases_by_name ON aliases (name) WHERE removed_ms IS NULL",
    "CREATE TABLE deployments (
        id BIGINT PRIMARY KEY,
        alias BIGINT NOT NULL REFERENCES aliases (id),
        name TEXT NOT NULL,
        base_url TEXT NOT NULL,
        upstream_model TEXT NOT NULL,
        dialect TEXT NOT NULL,
        credential TEXT NOT NULL,
        api_version TEXT NOT NULL,
        weight BIGINT NOT NULL,
        on_disconnect TEXT NOT NULL,
        replay_safe BIGINT NOT NULL,
        connect_timeout_ms BIGINT NOT NULL,
        first_byte_timeout_ms BIGINT NOT NULL,
        idle_timeout_ms BIGINT NOT NULL,
        created_ms BIGINT NOT NULL,
        removed_ms BIGINT)",
    "CREATE UNIQUE INDEX deployments_by_name ON deployments (name) WHERE removed_ms IS NULL",
    "CREATE INDEX deployments_by_alias ON deployments (alias)",
    "CREATE TABLE admins (
        id BIGINT PRIMARY KEY,
        public_id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        role TEXT NOT NULL,
        scope_kind TEXT NOT NULL,
        scope_id BIGINT NOT NULL,
        created_ms BIGINT NOT NULL,
        expires_ms BIGINT,
        revoked_ms BIGINT)",
    "CREATE TABLE nodes (
        node TEXT PRIMARY KEY,
        first_seen_ms BIGINT NOT NULL,
        last_seen_ms BIGINT NOT NULL,
        enrolled BIGINT NOT NULL)",
]];

/// Runs what has not run yet; of several processes that start at once, one does.
pub(super) async fn migrate(pool: &Pool<Db>) -> Result<()> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = version(&mut tx).await?;
    if found > known {
        return Err(RegistryError::Newer { found, known });
    }
    for (migration, number) in MIGRATIONS.iter().zip(1i64..).skip_while(|(_, number)| *number <= found) {
        for statement in *migration {
            sqlx::query::<Db>(*statement).execute(&mut *tx).await?;
        }
        if number == 1 {
            begin_history(&mut tx).await?;
        }
        sqlx::query::<Db>("UPDATE meta SET schema_version = $1 WHERE one = 1")
            .bind(number)
            .execute(&mut *tx)
            .await?;
        tracing::info!(schema = number, at_ms = now_ms(), "registry migrated");
    }
    tx.commit().await?;
    Ok(())
}

async fn version(conn: &mut Conn) -> Result<i64> {
    let table = sqlx::query::<Db>("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'meta'")
        .fetch_optional(&mut *conn)
        .await?;
    if table.is_none() {
        return Ok(0);
    }
    let row = sqlx::query::<Db>("SELECT schema_version FROM meta WHERE one = 1").fetch_one(conn).await?;
    Ok(row.try_get("schema_version")?)
}

/// Gives a new registry its id, and the key of its request ids.
async fn begin_history(conn: &mut Conn) -> Result<()> {
    let id = wire::id::RegistryId(keys::random_u64()?.max(1));
    let mut key = [0u8; 16];
    getrandom::fill(&mut key).map_err(keys::RandomError::from)?;
    sqlx::query::<Db>(
        "INSERT INTO meta (one, schema_version, registry_id, generation, request_id_key)
         VALUES (1, 0, $1, 1, $2)",
    )
    .bind(id.to_string())
    .bind(&key[..])
    .execute(conn)
    .await?;
    Ok(())
}
