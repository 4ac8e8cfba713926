//! The registry's tables, and how an older registry gets them.
//!
//! A migration is a list of statements that run in one transaction; `meta.schema_version` counts those that
//! ran. Types are BIGINT, TEXT and BLOB alone, so that every database takes the same statements but for the
//! name of BLOB.

use sqlx::{AssertSqlSafe, Row as _};

use super::engine::Engine;
use super::{Conn, Db, Pool, RegistryError, Result, now_ms};
use crate::keys;

/// All migrations in order. One that has been released is never edited.
const MIGRATIONS: &[&[&str]] =
    &[FIRST, NODES, TOMBSTONES, HOLDS, SERVED, ADMINS, ERASURES, AUDIT, ARCHIVED, BILLED];

/// Nodes have names, prove who they are, and can be removed for good.
const NODES: &[&str] = &[
    "ALTER TABLE nodes ADD COLUMN name TEXT NOT NULL DEFAULT ''",
    // Counts the enrolments of the node: only certificates of the last one are good.
    "ALTER TABLE nodes ADD COLUMN enrolment BIGINT NOT NULL DEFAULT 0",
    "CREATE TABLE enrolments (
        digest BLOB PRIMARY KEY,
        name TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL,
        used_ms BIGINT)",
];

const FIRST: &[&str] = &[
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
];

/// Keys that no backup brings back.
const TOMBSTONES: &[&str] = &["CREATE TABLE tombstones (digest BLOB PRIMARY KEY, since_ms BIGINT NOT NULL)"];

/// Which control plane serves which node.
const SERVED: &[&str] = &[
    "ALTER TABLE nodes ADD COLUMN served_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE nodes ADD COLUMN served_ms BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE nodes ADD COLUMN served_generation BIGINT NOT NULL DEFAULT 0",
];

/// Administrators' credentials are replaced, with an overlap.
const ADMINS: &[&str] = &[
    "ALTER TABLE admins ADD COLUMN former_digest BLOB",
    "ALTER TABLE admins ADD COLUMN former_until_ms BIGINT",
    "CREATE UNIQUE INDEX admins_by_former_digest ON admins (former_digest)",
];

/// Teams and applications in which nothing is made any more.
const ARCHIVED: &[&str] = &[
    "ALTER TABLE teams ADD COLUMN archived_ms BIGINT",
    "ALTER TABLE applications ADD COLUMN archived_ms BIGINT",
];

/// What is erased is looked for in what is billed, key by key.
const BILLED: &[&str] = &[
    "CREATE INDEX attributions_by_team ON attributions (team)",
    "CREATE INDEX attributions_by_application ON attributions (application)",
    "CREATE INDEX attributions_by_key ON attributions (key_id)",
];

/// Who changed what, and which calls were answered already.
const AUDIT: &[&str] = &[
    "CREATE TABLE audit (
        seq BIGINT PRIMARY KEY,
        at_ms BIGINT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        result TEXT NOT NULL,
        organization TEXT NOT NULL,
        team TEXT NOT NULL,
        subjects TEXT NOT NULL,
        salt BLOB,
        detail TEXT,
        digest BLOB NOT NULL,
        hash BLOB NOT NULL)",
    "CREATE INDEX audit_by_organization ON audit (organization, seq)",
    "CREATE TABLE answers (
        actor TEXT NOT NULL,
        key_digest BLOB NOT NULL,
        request_digest BLOB NOT NULL,
        answer TEXT NOT NULL,
        made_ms BIGINT NOT NULL,
        PRIMARY KEY (actor, key_digest))",
    "CREATE INDEX answers_by_age ON answers (made_ms)",
];

/// What must be neither erased nor expire.
const HOLDS: &[&str] = &[
    "CREATE TABLE legal_holds (
        id BIGINT PRIMARY KEY,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL,
        made_ms BIGINT NOT NULL,
        released_ms BIGINT)",
    "CREATE UNIQUE INDEX legal_holds_by_subject ON legal_holds (kind, subject) WHERE released_ms IS NULL",
];

/// What was erased, so that no backup brings it back.
const ERASURES: &[&str] = &[
    "CREATE TABLE erasures (
        id BIGINT PRIMARY KEY,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        erased_ms BIGINT NOT NULL,
        what TEXT NOT NULL,
        done_ms BIGINT)",
    "CREATE INDEX erasures_by_subject ON erasures (kind, subject)",
];

/// Runs what has not run yet; of several processes that start at once, one does.
pub(super) async fn migrate(engine: Engine, pool: &Pool) -> Result<()> {
    let mut tx = engine.write(pool).await?;
    let known = known();
    let found = version(engine, &mut tx).await?;
    if found > known {
        return Err(RegistryError::Newer { found, known });
    }
    run(engine, &mut tx, found, known).await?;
    tx.commit().await?;
    Ok(())
}

/// The last schema that this program knows.
pub(super) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Leads from one schema to a later one.
pub(super) async fn run(engine: Engine, conn: &mut Conn, from: i64, to: i64) -> Result<()> {
    let between = |number: &i64| *number > from && *number <= to;
    for (migration, number) in MIGRATIONS.iter().zip(1i64..).filter(|(_, number)| between(number)) {
        for statement in *migration {
            sqlx::query::<Db>(AssertSqlSafe(engine.dialect(statement))).execute(&mut *conn).await?;
        }
        if number == 1 {
            begin_history(conn).await?;
        }
        sqlx::query::<Db>("UPDATE meta SET schema_version = $1 WHERE one = 1")
            .bind(number)
            .execute(&mut *conn)
            .await?;
        tracing::info!(schema = number, at_ms = now_ms(), "registry migrated");
    }
    Ok(())
}

async fn version(engine: Engine, conn: &mut Conn) -> Result<i64> {
    let table = sqlx::query::<Db>(engine.find_table()).bind("meta").fetch_optional(&mut *conn).await?;
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
