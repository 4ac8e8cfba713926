//! What ids are called, for the name tables in ClickHouse in which finance people read names instead of ids.

use sqlx::Row as _;
use wire::id::Generation;

use super::write::Kind;
use super::{Db, Registry, RegistryError, Result, generation, stored};

/// How many generations one read covers.
const GENERATIONS_MAX: i64 = 10_000;

/// What one id is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `organization`, `team`, `application` or `key`.
    pub kind: &'static str,
    /// The public id.
    pub id: String,
    /// What it is called; a key without a description is called by its prefix.
    pub name: String,
}

impl Registry {
    /// The present names of what changed after a generation, and the generation that this leads to.
    ///
    /// Called again from there until it leads no further; from 0 it goes through all names.
    pub async fn names_since(&self, from: Generation) -> Result<(Generation, Vec<Name>)> {
        let mut tx = self.read().await?;
        let changes = sqlx::query::<Db>(
            "SELECT kind, entity, MAX(generation) AS generation FROM
                 (SELECT kind, entity, generation FROM changes WHERE generation > $1 ORDER BY generation LIMIT $2) c
             GROUP BY kind, entity",
        )
        .bind(stored(from.0))
        .bind(GENERATIONS_MAX)
        .fetch_all(&mut *tx)
        .await?;
        let (mut to, mut names) = (from, Vec::new());
        for change in changes {
            to = to.max(generation(change.try_get("generation")?));
            let kind = Kind::parse(change.try_get("kind")?)
                .ok_or(RegistryError::Corrupt { what: "kind of a change" })?;
            let Some(statement) = statement_of(kind) else { continue };
            let row = sqlx::query::<Db>(statement)
                .bind(change.try_get::<i64, _>("entity")?)
                .fetch_one(&mut *tx)
                .await?;
            names.push(Name { kind: kind.name(), id: row.try_get("public_id")?, name: row.try_get("name")? });
        }
        tx.commit().await?;
        Ok((to, names))
    }
}

fn statement_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Organization => Some("SELECT public_id, name FROM organizations WHERE id = $1"),
        Kind::Team => Some("SELECT public_id, name FROM teams WHERE id = $1"),
        Kind::Application => Some("SELECT public_id, name FROM applications WHERE id = $1"),
        Kind::Key => Some(
            "SELECT public_id, CASE WHEN description = '' THEN prefix ELSE description END AS name
             FROM keys WHERE id = $1",
        ),
        Kind::Alias | Kind::Deployment | Kind::Admin | Kind::Node => None,
    }
}
