//! Records of the audit trail, as people see them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row as _;

use crate::registry::{Db, Listed, Registry, RegistryError, Result, Row, show, statement};

/// How ids of records begin.
const PREFIX: &str = "audit_";

/// A record of the audit trail.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "audit_record")]
pub struct Record {
    /// `audit_` and its number.
    pub id: String,
    /// Its number, from 1 on.
    pub seq: i64,
    /// Unix time in milliseconds.
    #[serde(rename = "at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub at_ms: i64,
    /// The administrator's id; `liutong` where the control plane itself did it.
    pub by: String,
    /// What the administrator is called now.
    pub by_name: String,
    /// The operation's id.
    pub action: String,
    /// `done`, `unchanged`, or `refused` and the HTTP status.
    pub result: String,
    /// The organization whose things it touched; empty for those of the installation.
    pub organization_id: String,
    /// The team, likewise.
    pub team_id: String,
    /// The ids of what it touched, or was to touch.
    pub subjects: Vec<String>,
    /// What was changed: for each subject `before` and `after`. Null where it was erased, or nothing was.
    pub changes: Value,
    /// Whether the changes were erased.
    pub is_erased: bool,
    /// What was hashed with the changes, in hex; null where they were erased.
    pub salt: Option<String>,
    /// SHA-256 of the salt and the changes, in hex.
    pub digest: String,
    /// What binds it to all records before it, in hex.
    pub hash: String,
}

/// Which records.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this administrator, by id.
    pub by: Option<String>,
    /// Of this operation.
    pub action: Option<String>,
    /// That touched this, by id.
    pub subject: Option<String>,
    /// With this result.
    pub result: Option<String>,
    /// From this time on, Unix time in milliseconds.
    pub from_ms: Option<i64>,
    /// Before this time.
    pub to_ms: Option<i64>,
    /// The newest first.
    pub is_newest_first: bool,
    /// The id of the record after which the page begins.
    pub after: Option<String>,
    /// How many at most.
    pub limit: i64,
}

const SELECT: &str = "SELECT a.seq, a.at_ms, a.actor, COALESCE(x.name, '') AS actor_name, a.action, a.result,
    a.organization, a.team, a.subjects, a.salt, a.detail, a.digest, a.hash
    FROM audit a LEFT JOIN admins x ON x.public_id = a.actor";
const WHERE: &str = "WHERE ($1 IS NULL OR a.actor = $1) AND ($2 IS NULL OR a.action = $2)
    AND ($3 IS NULL OR ' ' || a.subjects || ' ' LIKE '% ' || $3 || ' %' ESCAPE '!')
    AND ($4 IS NULL OR a.result = $4) AND ($5 IS NULL OR a.at_ms >= $5) AND ($6 IS NULL OR a.at_ms < $6)
    AND ($7 IS NULL OR a.organization = (SELECT public_id FROM organizations WHERE id = $7))
    AND ($8 IS NULL OR a.team = (SELECT public_id FROM teams WHERE id = $8))";

fn read(row: &Row) -> Result<Record> {
    let seq: i64 = row.try_get("seq")?;
    let detail: Option<&str> = row.try_get("detail")?;
    let corrupt = |_| RegistryError::Corrupt { what: "audit record" };
    Ok(Record {
        id: format!("{PREFIX}{seq}"),
        seq,
        at_ms: row.try_get("at_ms")?,
        by: row.try_get("actor")?,
        by_name: row.try_get("actor_name")?,
        action: row.try_get("action")?,
        result: row.try_get("result")?,
        organization_id: row.try_get("organization")?,
        team_id: row.try_get("team")?,
        subjects: row.try_get::<&str, _>("subjects")?.split_whitespace().map(str::to_owned).collect(),
        changes: detail.map(serde_json::from_str).transpose().map_err(corrupt)?.unwrap_or_default(),
        is_erased: detail.is_none(),
        salt: row.try_get::<Option<Vec<u8>>, _>("salt")?.as_deref().map(super::hex),
        digest: super::hex(&row.try_get::<Vec<u8>, _>("digest")?),
        hash: super::hex(&row.try_get::<Vec<u8>, _>("hash")?),
    })
}

impl Registry {
    /// A page of the records that may be seen.
    pub async fn audit(&self, filter: &Filter) -> Result<Listed<Record>> {
        let after = match filter.after.as_deref().map(number) {
            None if filter.is_newest_first => i64::MAX,
            None => 0,
            Some(Some(seq)) => seq,
            Some(None) => {
                let message = "the id of a record, such as audit_17".to_owned();
                return Err(RegistryError::Invalid { field: "after", message });
            }
        };
        let tail = if filter.is_newest_first {
            "AND a.seq < $9 ORDER BY a.seq DESC LIMIT $10"
        } else {
            "AND a.seq > $9 ORDER BY a.seq LIMIT $10"
        };
        let scope = self.scope();
        let rows = sqlx::query::<Db>(sqlx::AssertSqlSafe(format!("{} {tail}", statement(SELECT, WHERE).0)))
            .bind(&filter.by)
            .bind(&filter.action)
            .bind(filter.subject.as_deref().map(literal))
            .bind(&filter.result)
            .bind(filter.from_ms)
            .bind(filter.to_ms)
            .bind(scope.organization())
            .bind(scope.team())
            .bind(after)
            .bind(filter.limit + 1)
            .fetch_all(&self.pool)
            .await?;
        Ok(Listed::cut(rows.iter().map(read).collect::<Result<_>>()?, filter.limit))
    }

    /// The record with this id.
    pub async fn audit_record(&self, id: &str) -> Result<Record> {
        let missing = || crate::registry::not_found("audit record", id);
        let seq = number(id).ok_or_else(missing)?;
        let scope = self.scope();
        let tail = "WHERE a.seq = $1
            AND ($2 IS NULL OR a.organization = (SELECT public_id FROM organizations WHERE id = $2))
            AND ($3 IS NULL OR a.team = (SELECT public_id FROM teams WHERE id = $3))";
        let row = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(seq)
            .bind(scope.organization())
            .bind(scope.team())
            .fetch_optional(&self.pool)
            .await?;
        read(&row.ok_or_else(missing)?)
    }
}

fn number(id: &str) -> Option<i64> {
    id.strip_prefix(PREFIX)?.parse().ok()
}

/// A text that `LIKE` takes as it is.
fn literal(text: &str) -> String {
    let escaped = |c: char| if matches!(c, '%' | '_' | '!') { vec!['!', c] } else { vec![c] };
    text.chars().flat_map(escaped).collect()
}
