//! A transaction that changes something, and takes generations for it.
//!
//! Each changed entity takes the next generation and one row of `changes`; a transaction that touches several
//! takes several. Data planes hear of them after the commit, never before.

use serde_json::Value;
use sqlx::Row as _;
use wire::id::Generation;

use super::act::{self, Subject};
use super::audit::Touched;
use super::peers::Word;
use super::role::Scope;
use super::{Conn, Db, Registry, RegistryError, Result, Tx, generation, generation_of, now_ms};
use crate::keys;

/// What a record of the audit trail says of a call that changed something.
const DONE: &str = "done";
/// And of one that found it so already.
const UNCHANGED: &str = "unchanged";

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
    Node,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Organization,
        Self::Team,
        Self::Application,
        Self::Key,
        Self::Alias,
        Self::Deployment,
        Self::Admin,
        Self::Node,
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
            Self::Node => "node",
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
    /// What it is about, for the audit trail.
    pub(super) touched: Vec<Touched>,
    /// What the call is answered with, without secrets.
    pub(super) answer: Value,
    /// The last generation that it took.
    generation: Option<Generation>,
}

impl Registry {
    pub(super) async fn write(&self) -> Result<Write<'_>> {
        let tx = self.engine.write(&self.pool).await?;
        let (touched, answer, generation) = (Vec::new(), Value::Null, None);
        let mut write = Write { tx, registry: self, now_ms: now_ms(), touched, answer, generation };
        write.look_for_replay().await?;
        Ok(write)
    }
}

impl Write<'_> {
    pub(super) fn conn(&mut self) -> &mut Conn {
        &mut self.tx
    }

    pub(super) fn registry(&self) -> &Registry {
        self.registry
    }

    /// What may be seen and changed.
    pub(super) fn scope(&self) -> Scope {
        self.registry.scope()
    }

    /// Looks at what is about to be changed, and refuses where the caller knows another state of it.
    pub(super) fn before(&mut self, found: &impl Subject) -> Result<()> {
        self.touched.push(Touched::before(found));
        let Some(if_match) = self.registry.act.as_ref().and_then(|act| act.if_match.as_deref()) else {
            return Ok(());
        };
        let etag = act::etag(found);
        if act::matches(if_match, &etag) {
            return Ok(());
        }
        Err(RegistryError::Precondition { subject: found.subject().to_owned(), etag })
    }

    /// Refuses where the caller takes for granted that there is something already.
    pub(super) fn nothing_before(&mut self, subject: &str) -> Result<()> {
        match &self.registry.act {
            Some(act) if act.if_match.is_some() => {
                Err(RegistryError::Precondition { subject: subject.to_owned(), etag: "none".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Takes the next generation for a change of one entity.
    pub(super) async fn change(&mut self, kind: Kind, entity: i64) -> Result<()> {
        let row = sqlx::query::<Db>(
            "UPDATE meta SET generation = generation + 1 WHERE one = 1 RETURNING generation",
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let taken: i64 = row.try_get("generation")?;
        self.generation = Some(generation(taken));
        sqlx::query::<Db>("INSERT INTO changes (generation, kind, entity, made_ms) VALUES ($1, $2, $3, $4)")
            .bind(taken)
            .bind(kind.name())
            .bind(entity)
            .bind(self.now_ms)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// The next number of a counter; none comes twice, whatever is removed.
    pub(super) async fn next_id(&mut self, counter: &'static str) -> Result<i64> {
        next_id(&mut self.tx, counter).await
    }

    /// Commits, and tells who follows the generations; returns the one now. What was only to be tried is
    /// undone.
    pub(super) async fn commit(mut self) -> Result<Generation> {
        if self.registry.is_dry() {
            self.tx.rollback().await?;
            return self.registry.generation().await;
        }
        self.record(DONE).await?;
        self.keep_for_replay().await?;
        let now = match self.generation {
            Some(taken) => taken,
            None => generation_of(&mut self.tx).await?,
        };
        self.tell(&Word::Generation(now)).await?;
        self.tx.commit().await?;
        self.registry.reached(now);
        Ok(now)
    }

    /// Ends without a change, as what was asked for is so already.
    pub(super) async fn leave<T: Subject>(mut self, found: T) -> Result<T> {
        if self.registry.act.is_some() && !self.registry.is_dry() {
            self.after(&found);
            self.record(UNCHANGED).await?;
            self.keep_for_replay().await?;
            self.tx.commit().await?;
        }
        Ok(found)
    }

    /// Commits what is no change of the registry's entities.
    pub(super) async fn commit_records(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }
}

/// The next number of a counter.
pub(super) async fn next_id(conn: &mut Conn, counter: &'static str) -> Result<i64> {
    let row = sqlx::query::<Db>(
        "INSERT INTO counters (name, last) VALUES ($1, 1)
         ON CONFLICT (name) DO UPDATE SET last = counters.last + 1 RETURNING last",
    )
    .bind(counter)
    .fetch_one(conn)
    .await?;
    Ok(row.try_get("last")?)
}

/// A new public id: the kind's letters and 12 base62 digits.
pub(super) fn public_id(letters: &str) -> Result<String> {
    Ok(format!("{letters}_{}", &*keys::digits(12)?))
}
