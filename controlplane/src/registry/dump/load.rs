//! Putting a backup in the place of a registry, in one transaction.
//!
//! A restored registry is another history: it gets a new id, so that data planes take all of it anew. Its
//! audit trail goes on with a record of the restore, which says where the replaced trail ended. What the
//! registry that it replaces says of these stays, since a backup must not undo it:
//!
//!   * keys and administrators' credentials that are revoked: their digests go into `tombstones`
//!   * ends of keys, where they are nearer than in the backup
//!   * data planes that were removed, or enrolled anew: their former certificates stay refused
//!   * what was erased: `erasures`
//!   * legal holds: `legal_holds`
//!
//! Whoever opens the registry next applies tombstones and erasures; see there. Tokens for enrolling are not
//! restored: nobody knows which of them are used up.
//!
//! Numbers that were given after the backup may be on their way still: usage events on the disks of data
//! planes carry them. So the counters go on well above where the backup left them.

use std::fs::File;
use std::io::BufRead;

use serde_json::Value;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _};
use wire::id::{Generation, RegistryId};

use super::{Conn, Db, End, Head, Kind, Table, read_head, tables, unhex};
use crate::keys;
use crate::registry::audit::restored::{self, TrailEnd};
use crate::registry::engine::{self, Engine};
use crate::registry::erasure::{self, Erasure};
use crate::registry::{Place, Pool, RegistryError, Result, Tx, now_ms, schema, tombstone};

/// How far the counters go on: more than anybody makes between two backups, and few enough that numbers of 32
/// bits last for tens of thousands of restores.
const NUMBERS_SKIPPED: i64 = 1 << 16;
/// How many rows go into the database in one statement.
const ROWS_AT_ONCE: usize = 50;

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The new history.
    pub registry_id: RegistryId,
    /// The generation that the backup holds.
    pub generation: Generation,
    /// How many rows came from the backup.
    pub rows: u64,
    /// Where the audit trail ended that is replaced, if there was one.
    pub replaced: Option<TrailEnd>,
}

/// What of the registry that is replaced must stay.
#[derive(Default)]
struct Kept {
    /// Where its audit trail ends; this is recorded in the one that is restored.
    trail: Option<TrailEnd>,
    /// Digests.
    revoked: Vec<Vec<u8>>,
    /// Digests, and when the keys end.
    ends: Vec<(Vec<u8>, i64)>,
    /// Nodes, whether each is enrolled, and the number of its last enrolment.
    nodes: Vec<(String, i64, i64)>,
    /// Kind, subject, when, and the text that belongs to it; for each of `LISTS`.
    lists: [Vec<(String, String, i64, String)>; 2],
}

/// A table whose rows are about a subject.
struct List {
    table: &'static str,
    counter: &'static str,
    when: &'static str,
    text: &'static str,
    /// Of which rows alone.
    only: &'static str,
}

const LISTS: [List; 2] = [
    List { table: "erasures", counter: "erasure", when: "erased_ms", text: "what", only: "" },
    List {
        table: "legal_holds",
        counter: "legal_hold",
        when: "made_ms",
        text: "reason",
        only: " AND released_ms IS NULL",
    },
];

/// Replaces the registry at a place by what a file holds, all or nothing. No control plane may be on it.
pub async fn restore(place: &Place, input: &mut (dyn BufRead + Send)) -> Result<Restored> {
    Restoring::begin(place, input, &[]).await?.commit().await
}

/// A registry that is replaced once this is committed; nothing has happened if it is dropped.
pub struct Restoring {
    pool: Pool,
    tx: Tx,
    restored: Restored,
    _alone: Option<File>,
}

impl Restoring {
    /// Loads what a file holds. `erasures` are those that are known of besides.
    pub async fn begin(
        place: &Place,
        input: &mut (dyn BufRead + Send),
        erasures: &[Erasure],
    ) -> Result<Self> {
        let alone = engine::lock(place, true)?;
        let (engine, pool) = engine::open(place).await?;
        let mut tx = engine.write(&pool).await?;
        let restored = load(engine, &mut tx, input).await?;
        for erasure in erasures {
            erasure::note(&mut tx, erasure).await?;
        }
        Ok(Self { pool, tx, restored, _alone: alone })
    }

    /// Puts it in the place of what was there.
    pub async fn commit(self) -> Result<Restored> {
        self.tx.commit().await?;
        self.pool.close().await;
        Ok(self.restored)
    }
}

async fn load(engine: Engine, tx: &mut Tx, input: &mut (dyn BufRead + Send)) -> Result<Restored> {
    if !engine.is_alone(tx).await? {
        return Err(RegistryError::InUse);
    }
    let head = read_head(input)?;
    let kept = Kept::read(engine, tx).await?;
    let there = tables(engine, tx).await?;
    for table in there.iter().rev() {
        execute(tx, format!("DROP TABLE {table}")).await?;
    }
    schema::run(engine, tx, 0, head.schema).await?;
    execute(tx, "DELETE FROM meta".to_owned()).await?;
    let known = tables(engine, tx).await?;
    let rows = Loader { known, line: 1 }.load(tx, input).await?;
    schema::run(engine, tx, head.schema, schema::known()).await?;
    execute(tx, "DELETE FROM enrolments".to_owned()).await?;
    // Usage comes from the same backup, and was read before the registry was.
    execute(tx, "UPDATE erasures SET done_ms = NULL".to_owned()).await?;
    let registry_id = renew(tx, &head).await?;
    // The audit trail has no gaps, and nobody else knows its numbers.
    execute(tx, format!("UPDATE counters SET last = last + {NUMBERS_SKIPPED} WHERE name <> 'audit'")).await?;
    let replaced = kept.trail.clone();
    kept.write(tx).await?;
    let brought = TrailEnd::read(tx, true).await?;
    restored::record(tx, replaced.as_ref(), &brought).await?;
    Ok(Restored { registry_id, generation: Generation(head.generation), rows, replaced })
}

async fn renew(conn: &mut Conn, head: &Head) -> Result<RegistryId> {
    let id = RegistryId(keys::random_u64()?.max(1));
    let renewed = sqlx::query::<Db>("UPDATE meta SET registry_id = $1 WHERE one = 1 AND registry_id = $2")
        .bind(id.to_string())
        .bind(&head.registry_id)
        .execute(conn)
        .await?;
    if renewed.rows_affected() == 1 { Ok(id) } else { Err(RegistryError::NoDump { line: 1 }) }
}

/// Reads tables, line by line.
struct Loader {
    known: Vec<String>,
    line: usize,
}

impl Loader {
    async fn load(&mut self, conn: &mut Conn, input: &mut (dyn BufRead + Send)) -> Result<u64> {
        let (mut table, mut rows, mut total) = (None::<Table>, Vec::new(), 0u64);
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            input.read_line(&mut text)?;
            if text.starts_with('[') {
                rows.push(serde_json::from_str::<Vec<Value>>(&text).map_err(|_| self.wrong())?);
                total += 1;
            }
            if let Some(table) = &table
                && (rows.len() == ROWS_AT_ONCE || !text.starts_with('['))
            {
                self.insert(conn, table, &rows).await?;
                rows.clear();
            }
            if text.starts_with("{\"table\"") {
                let next: Table = serde_json::from_str(&text).map_err(|_| self.wrong())?;
                let is_plain = |(name, _): &(String, Kind)| {
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                };
                if !self.known.contains(&next.table) || !next.columns.iter().all(is_plain) {
                    return Err(self.wrong());
                }
                table = Some(next);
            } else if !text.starts_with('[') {
                let end: End = serde_json::from_str(&text).map_err(|_| self.wrong())?;
                return if end.end == total { Ok(total) } else { Err(self.wrong()) };
            }
        }
    }

    fn wrong(&self) -> RegistryError {
        RegistryError::NoDump { line: self.line }
    }

    async fn insert(&self, conn: &mut Conn, table: &Table, rows: &[Vec<Value>]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let width = table.columns.len();
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
        let row = |at: usize| {
            let places: Vec<String> = (1..=width).map(|n| format!("${}", at * width + n)).collect();
            format!("({})", places.join(", "))
        };
        let places: Vec<String> = (0..rows.len()).map(row).collect();
        let names = names.join(", ");
        let text = format!("INSERT INTO {} ({names}) VALUES {}", table.table, places.join(", "));
        let mut query = sqlx::query::<Db>(AssertSqlSafe(text));
        for row in rows {
            if row.len() != width {
                return Err(self.wrong());
            }
            for (value, (_, kind)) in row.iter().zip(&table.columns) {
                query = bind(query, value, *kind).ok_or_else(|| self.wrong())?;
            }
        }
        query.execute(conn).await?;
        Ok(())
    }
}

fn bind<'q>(
    query: Query<'q, Db, AnyArguments>,
    value: &Value,
    kind: Kind,
) -> Option<Query<'q, Db, AnyArguments>> {
    Some(match (kind, value) {
        (Kind::Number, Value::Null) => query.bind(None::<i64>),
        (Kind::Text, Value::Null) => query.bind(None::<String>),
        (Kind::Bytes, Value::Null) => query.bind(None::<Vec<u8>>),
        (Kind::Number, value) => query.bind(value.as_i64()?),
        (Kind::Text, value) => query.bind(value.as_str()?.to_owned()),
        (Kind::Bytes, value) => query.bind(unhex(value.as_str()?)?),
    })
}

impl Kept {
    /// Nothing, where there was no registry.
    async fn read(engine: Engine, conn: &mut Conn) -> Result<Self> {
        let there = tables(engine, conn).await?;
        let has = |table: &str| there.iter().any(|one| one == table);
        let mut kept = Self::default();
        if !has("meta") {
            return Ok(kept);
        }
        kept.trail = Some(TrailEnd::read(conn, has("audit")).await?);
        for (table, revoked) in [
            ("keys", "SELECT digest FROM keys WHERE status = 'revoked'"),
            ("admins", "SELECT digest FROM admins WHERE revoked_ms IS NOT NULL"),
            ("tombstones", "SELECT digest FROM tombstones"),
        ] {
            if has(table) {
                for row in sqlx::query::<Db>(revoked).fetch_all(&mut *conn).await? {
                    kept.revoked.push(row.try_get("digest")?);
                }
            }
        }
        if has("keys") {
            kept.read_ends(conn).await?;
        }
        // Nodes are numbered since there are tokens.
        if has("enrolments") {
            let nodes = sqlx::query::<Db>("SELECT node, enrolled, enrolment FROM nodes");
            for row in nodes.fetch_all(&mut *conn).await? {
                kept.nodes.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            }
        }
        for (list, rows) in LISTS.iter().zip(&mut kept.lists).filter(|(list, _)| has(list.table)) {
            let List { table, when, text, only, .. } = list;
            let query =
                format!("SELECT kind, subject, {when}, {text} FROM {table} WHERE 1 = 1{only} ORDER BY id");
            for row in sqlx::query::<Db>(AssertSqlSafe(query)).fetch_all(&mut *conn).await? {
                rows.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
            }
        }
        Ok(kept)
    }

    async fn read_ends(&mut self, conn: &mut Conn) -> Result<()> {
        let ending = "SELECT digest, expires_ms, retiring_until_ms FROM keys
            WHERE expires_ms IS NOT NULL OR retiring_until_ms IS NOT NULL";
        for row in sqlx::query::<Db>(ending).fetch_all(conn).await? {
            let ends: [Option<i64>; 2] = [row.try_get("expires_ms")?, row.try_get("retiring_until_ms")?];
            let end = ends.into_iter().flatten().min();
            self.ends.extend(end.map(|end| Ok::<_, sqlx::Error>((row.try_get("digest")?, end))).transpose()?);
        }
        Ok(())
    }

    async fn write(self, conn: &mut Conn) -> Result<()> {
        for digest in self.revoked {
            tombstone::insert(conn, &digest, now_ms()).await?;
        }
        for (digest, end) in self.ends {
            let nearer = "UPDATE keys SET expires_ms = $1
                WHERE digest = $2 AND (expires_ms IS NULL OR expires_ms > $1)";
            sqlx::query::<Db>(nearer).bind(end).bind(digest).execute(&mut *conn).await?;
        }
        for (node, enrolled, enrolment) in self.nodes {
            let later = "UPDATE nodes SET enrolled = CASE WHEN $1 = 0 THEN 0 ELSE enrolled END,
                enrolment = CASE WHEN enrolment < $2 THEN $2 ELSE enrolment END WHERE node = $3";
            let later = sqlx::query::<Db>(later).bind(enrolled).bind(enrolment);
            later.bind(node).execute(&mut *conn).await?;
        }
        for (list, rows) in LISTS.iter().zip(self.lists).filter(|(_, rows)| !rows.is_empty()) {
            let List { table, when, text, only, counter } = list;
            let same = format!("SELECT id FROM {table} WHERE kind = $1 AND subject = $2{only}");
            let insert = format!(
                "INSERT INTO {table} (id, kind, subject, {when}, {text})
                 SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4 FROM {table}"
            );
            for (kind, subject, at, said) in rows {
                let same = sqlx::query::<Db>(AssertSqlSafe(same.clone())).bind(&kind).bind(&subject);
                if same.fetch_optional(&mut *conn).await?.is_none() {
                    let insert = sqlx::query::<Db>(AssertSqlSafe(insert.clone()));
                    insert.bind(kind).bind(subject).bind(at).bind(said).execute(&mut *conn).await?;
                }
            }
            // No number is given twice.
            let counted = format!(
                "INSERT INTO counters (name, last) SELECT '{counter}', COALESCE(MAX(id), 0) FROM {table} WHERE 1 = 1
                 ON CONFLICT (name) DO UPDATE SET last = excluded.last WHERE counters.last < excluded.last"
            );
            execute(conn, counted).await?;
        }
        Ok(())
    }
}

async fn execute(conn: &mut Conn, statement: String) -> Result<()> {
    sqlx::query::<Db>(AssertSqlSafe(statement)).execute(conn).await?;
    Ok(())
}
