//! The registry as a file, for backups: the same from SQLite and from PostgreSQL, and for either.
//!
//! ```text
//! {"liutong_registry":1,"schema":4,"registry_id":"...","generation":17}
//! {"table":"organizations","columns":[["id","n"],["name","t"],...]}       n number, t text, b bytes
//! [1,"acme",null,...]                                                     bytes as hex
//! ...
//! {"end":1234}                                                            rows in all
//! ```
//!
//! Tables come in the order in which they were made, so that nothing refers to what has not come yet. All of
//! it is one state of the database, whatever is changed meanwhile. `load` reads it.

use std::io::{self, BufRead, Write};

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::AnyTypeInfoKind;
use sqlx::{AssertSqlSafe, Column as _, Row as _, TypeInfo as _, ValueRef as _};
use wire::id::Generation;

use super::engine::Engine;
use super::{Conn, Db, Registry, RegistryError, Result, Row, generation, schema};

/// Reading such a file into a database.
pub mod load;

const FORMAT: u32 = 1;

/// The first line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Head {
    #[serde(rename = "liutong_registry")]
    format: u32,
    schema: i64,
    /// Which history it is of.
    pub registry_id: String,
    /// The generation that it holds.
    pub generation: u64,
}

/// What columns hold.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
enum Kind {
    #[serde(rename = "n")]
    Number,
    #[serde(rename = "t")]
    Text,
    #[serde(rename = "b")]
    Bytes,
}

/// What stands before a table's rows.
#[derive(Deserialize, Serialize)]
struct Table {
    table: String,
    columns: Vec<(String, Kind)>,
}

/// The last line: a file without it is not whole.
#[derive(Deserialize, Serialize)]
struct End {
    end: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub struct Dumped {
    /// The generation that it holds.
    pub generation: Generation,
    /// How many rows.
    pub rows: u64,
}

impl Registry {
    /// Writes the whole registry as it is at one moment.
    pub async fn dump(&self, out: &mut (dyn Write + Send)) -> Result<Dumped> {
        let mut tx = self.read().await?;
        let meta =
            sqlx::query::<Db>("SELECT registry_id, generation, schema_version FROM meta WHERE one = 1")
                .fetch_one(&mut *tx)
                .await?;
        let now = generation(meta.try_get("generation")?);
        let (registry_id, schema) = (meta.try_get("registry_id")?, meta.try_get("schema_version")?);
        line(out, &Head { format: FORMAT, schema, registry_id, generation: now.0 })?;
        let mut rows = 0;
        for table in tables(self.engine, &mut tx).await? {
            rows += dump_table(&mut tx, &table, out).await?;
        }
        line(out, &End { end: rows })?;
        Ok(Dumped { generation: now, rows })
    }
}

/// Our tables, in the order in which they were made.
async fn tables(engine: Engine, conn: &mut Conn) -> Result<Vec<String>> {
    let rows = sqlx::query::<Db>(engine.list_tables()).fetch_all(conn).await?;
    Ok(rows.iter().map(|row| row.try_get("name")).collect::<sqlx::Result<_>>()?)
}

async fn dump_table(conn: &mut Conn, table: &str, out: &mut (dyn Write + Send)) -> Result<u64> {
    let query = AssertSqlSafe(format!("SELECT * FROM {table}"));
    let mut rows = sqlx::query::<Db>(query).fetch(conn);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        if count == 0 {
            let columns = row.columns().iter().map(|column| {
                let kind =
                    kind_of(column.type_info().kind()).ok_or(RegistryError::Corrupt { what: "column" })?;
                Ok((column.name().to_owned(), kind))
            });
            line(out, &Table { table: table.to_owned(), columns: columns.collect::<Result<_>>()? })?;
        }
        let values = (0..row.columns().len()).map(|at| value(&row, at));
        line(out, &values.collect::<sqlx::Result<Vec<Value>>>()?)?;
        count += 1;
    }
    Ok(count)
}

fn kind_of(kind: AnyTypeInfoKind) -> Option<Kind> {
    match kind {
        AnyTypeInfoKind::BigInt | AnyTypeInfoKind::Integer => Some(Kind::Number),
        AnyTypeInfoKind::Text => Some(Kind::Text),
        AnyTypeInfoKind::Blob => Some(Kind::Bytes),
        _ => None,
    }
}

fn value(row: &Row, at: usize) -> sqlx::Result<Value> {
    let raw = row.try_get_raw(at)?;
    if raw.is_null() || raw.type_info().is_null() {
        return Ok(Value::Null);
    }
    Ok(match raw.type_info().kind() {
        AnyTypeInfoKind::Blob => hex(row.try_get::<&[u8], _>(at)?).into(),
        AnyTypeInfoKind::Text => row.try_get::<&str, _>(at)?.into(),
        _ => row.try_get::<i64, _>(at)?.into(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn line(out: &mut (dyn Write + Send), value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Reads the first line of a file.
pub fn read_head(input: &mut dyn BufRead) -> Result<Head> {
    let mut text = String::new();
    input.read_line(&mut text)?;
    let head: Head = serde_json::from_str(&text).map_err(|_| RegistryError::NoDump { line: 1 })?;
    if head.format != FORMAT {
        return Err(RegistryError::NoDump { line: 1 });
    }
    let known = schema::known();
    if head.schema > known {
        return Err(RegistryError::Newer { found: head.schema, known });
    }
    Ok(head)
}
