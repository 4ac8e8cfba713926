//! Legal holds: what must be neither erased nor expire, for as long as someone says so.
//!
//! A hold names an organization, a team, an application or a key, and covers what belongs to it. Retention in
//! ClickHouse heeds it (`clickhouse::retention`), erasure is refused for what it touches in either direction:
//! a team can't be erased while one of its keys is held, nor a key while its team is.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::act::Subject;
use super::role::Scope;
use super::write::Write;
use super::{
    Conn, Db, Registry, RegistryError, Result, Row, Tx, application, check_text, key, not_found,
    organization, show, team,
};

/// What can be held, and erased.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// An organization with all that belongs to it.
    Organization,
    /// A team, likewise.
    Team,
    /// An application, likewise.
    Application,
    /// A key.
    Key,
}

impl SubjectKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Organization, Self::Team, Self::Application, Self::Key];

    /// The word in the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Team => "team",
            Self::Application => "application",
            Self::Key => "key",
        }
    }

    /// The kind of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == word)
    }

    /// The column of usage tables that holds its id.
    #[must_use]
    pub fn column(self) -> &'static str {
        match self {
            Self::Organization => "organization_id",
            Self::Team => "team_id",
            Self::Application => "application_id",
            Self::Key => "key_id",
        }
    }
}

/// Whether a hold holds.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldStatus {
    /// It does.
    Active,
    /// It is over.
    Released,
}

/// A legal hold.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "hold")]
pub struct Hold {
    /// Its number.
    pub id: String,
    /// What kind of thing it names.
    pub kind: SubjectKind,
    /// The thing's id.
    pub subject: String,
    /// Why, for whoever asks later.
    pub reason: String,
    /// Whether it holds.
    pub status: HoldStatus,
    /// Since when, Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub made_ms: i64,
    /// Until when, if it is over.
    #[serde(rename = "released_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub released_ms: Option<i64>,
}

impl Subject for Hold {
    /// What is held: that is what people look for.
    fn subject(&self) -> &str {
        &self.subject
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (None, None)
    }
}

pub(super) const SELECT: &str = "SELECT id, kind, subject, reason, made_ms, released_ms FROM legal_holds";

pub(super) fn read(row: &Row) -> Result<Hold> {
    let kind = SubjectKind::parse(row.try_get("kind")?);
    let released_ms: Option<i64> = row.try_get("released_ms")?;
    Ok(Hold {
        id: row.try_get::<i64, _>("id")?.to_string(),
        kind: kind.ok_or(RegistryError::Corrupt { what: "kind of a hold" })?,
        subject: row.try_get("subject")?,
        reason: row.try_get("reason")?,
        status: if released_ms.is_some() { HoldStatus::Released } else { HoldStatus::Active },
        made_ms: row.try_get("made_ms")?,
        released_ms,
    })
}

async fn numbered(conn: &mut Conn, number: i64) -> Result<Hold> {
    let query = sqlx::query::<Db>(super::statement(SELECT, "WHERE id = $1")).bind(number);
    let row = query.fetch_optional(conn).await?;
    read(&row.ok_or_else(|| not_found("hold", &number.to_string()))?)
}

/// No other control plane removes usage while this lives: what it finds to be held stays held.
pub struct Removing {
    _held: Option<Tx>,
}

impl Registry {
    /// Waits until no other control plane removes usage.
    pub async fn remove_alone(&self) -> Result<Removing> {
        Ok(Removing { _held: self.engine.remove_alone(&self.pool).await? })
    }

    /// Holds a thing, by id or name.
    pub async fn add_hold(&self, kind: SubjectKind, wanted: &str, reason: &str) -> Result<Hold> {
        check_text("reason", reason)?;
        if reason.trim().is_empty() {
            let message = "why it is held: whoever releases it must know".to_owned();
            return Err(RegistryError::Invalid { field: "reason", message });
        }
        let mut write = self.write().await?;
        let scope = write.scope();
        let subject = id_of(write.conn(), scope, kind, wanted).await?;
        let same = "SELECT id FROM legal_holds WHERE kind = $1 AND subject = $2 AND released_ms IS NULL";
        let same = sqlx::query::<Db>(same).bind(kind.name()).bind(&subject);
        if let Some(row) = same.fetch_optional(write.conn()).await? {
            let id: i64 = row.try_get("id")?;
            return Err(RegistryError::Conflict(format!(
                "hold {id} is on {} {subject} already",
                kind.name()
            )));
        }
        let (id, made_ms) = (write.next_id("legal_hold").await?, write.now_ms);
        sqlx::query::<Db>(
            "INSERT INTO legal_holds (id, kind, subject, reason, made_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id)
        .bind(kind.name())
        .bind(&subject)
        .bind(reason)
        .bind(made_ms)
        .execute(write.conn())
        .await?;
        let made = numbered(write.conn(), id).await?;
        write.after(&made);
        write.commit().await?;
        Ok(made)
    }

    /// The holds, the oldest first; those that are over only if they are asked for.
    pub async fn holds(&self, also_released: bool) -> Result<Vec<Hold>> {
        let tail = if also_released { "ORDER BY id" } else { "WHERE released_ms IS NULL ORDER BY id" };
        let rows = sqlx::query::<Db>(super::statement(SELECT, tail)).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// Ends a hold, by its number.
    pub async fn release_hold(&self, id: &str) -> Result<Hold> {
        let number: i64 = id.parse().map_err(|_| not_found("hold", id))?;
        let mut write = self.write().await?;
        let found = numbered(write.conn(), number).await?;
        write.before(&found)?;
        let now_ms = write.now_ms;
        sqlx::query::<Db>("UPDATE legal_holds SET released_ms = $1 WHERE id = $2 AND released_ms IS NULL")
            .bind(now_ms)
            .bind(number)
            .execute(write.conn())
            .await?;
        let released = numbered(write.conn(), number).await?;
        write.after(&released);
        write.commit().await?;
        Ok(released)
    }
}

impl Write<'_> {
    /// Takes out of the holds that are over, what was held and why, where it is one of these ids.
    pub(super) async fn forget_holds(&mut self, ids: &HashSet<&str>) -> Result<()> {
        let over = "SELECT DISTINCT subject FROM legal_holds WHERE released_ms IS NOT NULL";
        for row in sqlx::query::<Db>(over).fetch_all(self.conn()).await? {
            let subject: String = row.try_get("subject")?;
            if ids.contains(subject.as_str()) {
                let forget = "UPDATE legal_holds SET subject = 'erased', reason = ''
                    WHERE subject = $1 AND released_ms IS NOT NULL";
                sqlx::query::<Db>(forget).bind(subject).execute(self.conn()).await?;
            }
        }
        Ok(())
    }
}

/// The id of a thing that is named by id or name.
async fn id_of(conn: &mut Conn, scope: Scope, kind: SubjectKind, wanted: &str) -> Result<String> {
    Ok(match kind {
        SubjectKind::Organization => organization::find(conn, scope, wanted).await?.id,
        SubjectKind::Team => team::find(conn, scope, wanted).await?.id,
        SubjectKind::Application => application::find(conn, scope, wanted).await?.id,
        SubjectKind::Key => key::find(conn, scope, wanted).await?.id,
    })
}

/// Refuses where a hold is on an id that is touched.
pub(super) async fn check(conn: &mut Conn, is_touched: impl Fn(&str) -> bool) -> Result<()> {
    let rows = sqlx::query::<Db>(super::statement(SELECT, "WHERE released_ms IS NULL ORDER BY id"));
    for row in rows.fetch_all(conn).await? {
        let Hold { id, kind, subject, reason, .. } = read(&row)?;
        if is_touched(&subject) {
            let message = format!("hold {id} is on {} {subject}: {reason}", kind.name());
            return Err(RegistryError::Conflict(message));
        }
    }
    Ok(())
}
