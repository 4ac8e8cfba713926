//! A transaction that changes something, and takes generations for it.
//!
//! Each changed entity takes the next generation and one row of `changes`; a transaction that touches several
//! takes several. Data planes hear of them after the commit, never before.

use sqlx::Row as _;
use wire::id::Generation;

use super::{Conn, Db, Registry, Result, Tx, generation, now_ms};
use crate::keys;

/// What a change is about; the names stand in `changes.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Organization,
    Team,
    Application,
    Key,
    Alias,
    Deployment,
    Admin,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Organization,
        Self::Team,
        Self::Application,
        Self::Key,
        Self::Alias,
        Self::Deployment,
        Self::Admin,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Team => "team",
            Self::Application => "application",
            Self::Key => "key",
            Self::Alias => "alias",
            Self::Deployment => "deployment",
            Self::Admin => "admin",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A transaction that holds the right to write from its first statement on.
pub(super) struct Write<'r> {
    tx: Tx,
    registry: &'r Registry,
    /// The time of all changes in it.
    pub(super) now_ms: i64,
}

impl Registry {
    pub(super) async fn write(&self) -> Result<Write<'_>> {
        let tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write { tx, registry: self, now_ms: now_ms() })
    }
}

impl Write<'_> {
    pub(super) fn conn(&mut self) -> &mut Conn {
        &mut self.tx
    }

    /// Takes the next generation for a change of one entity.
    pub(super) async fn change(&mut self, kind: Kind, entity: i64) -> Result<()> {
        let row = sqlx::query::<Db>(
            "UPDATE meta SET generation = generation + 1 WHERE one = 1 RETURNING generation",
        )
        .fetch_one(&mut *self.tx)
        .await?;
        sqlx::query::<Db>("INSERT INTO changes (generation, kind, entity, made_ms) VALUES ($1, $2, $3, $4)")
            .bind(row.try_get::<i64, _>("generation")?)
            .bind(kind.name())
            .bind(entity)
            .bind(self.now_ms)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// The next number of a counter; none comes twice, whatever is removed.
    pub(super) async fn next_id(&mut self, counter: &'static str) -> Result<i64> {
        let row = sqlx::query::<Db>(
            "INSERT INTO counters (name, last) VALUES ($1, 1)
             ON CONFLICT (name) DO UPDATE SET last = counters.last + 1 RETURNING last",
        )
        .bind(counter)
        .fetch_one(&mut *self.tx)
        .await?;
        Ok(row.try_get("last")?)
    }

    /// Commits, and tells who follows the generations; returns the one now.
    pub(super) async fn commit(mut self) -> Result<Generation> {
        let row =
            sqlx::query::<Db>("SELECT generation FROM meta WHERE one = 1").fetch_one(&mut *self.tx).await?;
        let now = generation(row.try_get("generation")?);
        self.tx.commit().await?;
        self.registry.changed.send_if_modified(|seen| {
            let newer = now > *seen;
            *seen = now.max(*seen);
            newer
        });
        Ok(now)
    }
}

/// A new public id: the kind's letters and 12 base62 digits.
pub(super) fn public_id(letters: &str) -> Result<String> {
    Ok(format!("{letters}_{}", &*keys::digits(12)?))
}
