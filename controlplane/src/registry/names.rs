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
        let changed = sqlx::query::<Db>(
            "SELECT c.kind, c.generation, COALESCE(o.public_id, t.public_id, a.public_id, k.public_id) AS public_id,
                 COALESCE(o.name, t.name, a.name, NULLIF(k.description, ''), k.prefix) AS name
             FROM (SELECT kind, entity, MAX(generation) AS generation FROM
                     (SELECT kind, entity, generation FROM changes WHERE generation > $1
                      ORDER BY generation LIMIT $2) x
                 GROUP BY kind, entity) c
             LEFT JOIN organizations o ON c.kind = 'organization' AND o.id = c.entity
             LEFT JOIN teams t ON c.kind = 'team' AND t.id = c.entity
             LEFT JOIN applications a ON c.kind = 'application' AND a.id = c.entity
             LEFT JOIN keys k ON c.kind = 'key' AND k.id = c.entity",
        )
        .bind(stored(from.0))
        .bind(GENERATIONS_MAX)
        .fetch_all(&self.pool)
        .await?;
        let (mut to, mut names) = (from, Vec::new());
        for row in changed {
            to = to.max(generation(row.try_get("generation")?));
            let kind = Kind::parse(row.try_get("kind")?)
                .ok_or(RegistryError::Corrupt { what: "kind of a change" })?;
            // Not everything that changes has a name there.
            if let Some(id) = row.try_get("public_id")? {
                names.push(Name { kind: kind.name(), id, name: row.try_get("name")? });
            }
        }
        Ok((to, names))
    }
}
