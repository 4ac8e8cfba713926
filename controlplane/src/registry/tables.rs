//! What data planes get: the whole tables at one generation, or what changed after one.
//!
//! Both come from one read transaction each. A snapshot is read page by page while it is sent, and no change
//! that is committed meanwhile shows in it. A delta holds the *present* state of what changed, so that
//! applying an old one after a new one does no harm.

use std::collections::HashSet;

use sqlx::Row as _;
use tokio::sync::OwnedSemaphorePermit;
use wire::frame::PART_CHANGES;
use wire::id::{AliasId, ApplicationId, DeploymentId, Generation};
use wire::table::{self, Change};
use wire::table_sum::{self, TableSum};

use super::engine::Engine;
use super::write::Kind;
use super::{
    Conn, Db, Registry, RegistryError, Result, Row, Tx, allow, generation, generation_of, model, number,
    statement, stored,
};

/// Keys, one by one or a page at a time.
mod keys;

/// A data plane that is further behind gets a snapshot.
const BEHIND_MAX: u64 = 100_000;

/// What changed from one generation to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The generation it builds on.
    pub from: Generation,
    /// The generation it leads to.
    pub to: Generation,
    /// The changes; none where all of them concern the control plane alone.
    pub changes: Vec<Change>,
    /// Whether a node was enrolled or removed.
    pub nodes_changed: bool,
}

/// What there is after a generation.
#[derive(Debug)]
pub enum Since {
    /// Nothing.
    Current,
    /// This, and perhaps more after it.
    Delta(Delta),
    /// Too much, or a generation that this registry has not reached: a snapshot is called for.
    Unknown,
}

/// The whole tables, read in parts.
pub struct Snapshot {
    engine: Engine,
    tx: Tx,
    _one_of_max: OwnedSemaphorePermit,
    generation: Generation,
    settings: Option<Change>,
    stage: usize,
    after: i64,
}

/// In this order, so that nothing names what has not come yet.
const STAGES: [(Kind, &str); 4] = [
    (Kind::Deployment, "WHERE id > $1 AND removed_ms IS NULL ORDER BY id LIMIT $2"),
    (Kind::Alias, "WHERE id > $1 AND removed_ms IS NULL ORDER BY id LIMIT $2"),
    (Kind::Application, "WHERE id > $1 ORDER BY id LIMIT $2"),
    // By `keys::page`.
    (Kind::Key, ""),
];

const ALIASES: &str = "SELECT id, name, created_ms, removed_ms FROM aliases";
const APPLICATIONS: &str = "SELECT id, allow FROM applications";

impl Registry {
    /// Begins to read the whole tables, once not too many others do.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let permit = self.snapshots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let mut tx = self.read().await?;
        // The first read fixes what the transaction sees.
        let generation = generation_of(&mut tx).await?;
        let settings = Some(Change::Settings(self.settings.clone()));
        Ok(Snapshot {
            engine: self.engine,
            tx,
            _one_of_max: permit,
            generation,
            settings,
            stage: 0,
            after: 0,
        })
    }

    /// What changed after a generation: of at most `PART_CHANGES` generations.
    pub async fn since(&self, from: Generation) -> Result<Since> {
        let mut tx = self.read().await?;
        let now = generation_of(&mut tx).await?;
        if from == now {
            return Ok(Since::Current);
        }
        // Nothing stands at generation 0: the settings, which no delta has, came with the first.
        if from == Generation(0) || from > now || now.0 - from.0 > BEHIND_MAX {
            return Ok(Since::Unknown);
        }
        let rows = sqlx::query::<Db>(
            "SELECT generation, kind, entity FROM changes WHERE generation > $1 ORDER BY generation LIMIT $2",
        )
        .bind(stored(from.0))
        .bind(stored(PART_CHANGES as u64))
        .fetch_all(&mut *tx)
        .await?;
        let (mut to, mut changes, mut seen) = (from, Vec::new(), HashSet::new());
        let mut nodes_changed = false;
        for row in rows {
            to = generation(row.try_get("generation")?);
            let (kind, entity): (String, i64) = (row.try_get("kind")?, row.try_get("entity")?);
            if seen.insert((kind.clone(), entity)) {
                let kind = Kind::parse(&kind).ok_or(RegistryError::Corrupt { what: "kind of a change" })?;
                nodes_changed |= kind == Kind::Node;
                changes.extend(present(&mut tx, kind, entity).await?);
            }
        }
        Ok(Since::Delta(Delta { from, to, changes, nodes_changed }))
    }
}

impl Registry {
    /// The sum over all that data planes hold, and its generation; reads everything.
    pub async fn table_sum(&self) -> Result<(Generation, TableSum)> {
        let mut snapshot = self.snapshot().await?;
        let mut sum = TableSum::default();
        while let Some(part) = snapshot.next_part().await? {
            part.iter().filter_map(table_sum::of).for_each(|hash| sum.add(hash));
        }
        Ok((snapshot.generation, sum))
    }
}

impl Snapshot {
    /// The generation that the tables stand for.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The next part, of at most `PART_CHANGES` changes; `None` after the last.
    pub async fn next_part(&mut self) -> Result<Option<Vec<Change>>> {
        let mut part: Vec<Change> = self.settings.take().into_iter().collect();
        while let Some((kind, tail)) = STAGES.get(self.stage)
            && part.len() < PART_CHANGES
        {
            let room = PART_CHANGES - part.len();
            let (rows, last) = match kind {
                Kind::Key => keys::page(self.engine, &mut self.tx, (self.after, room)).await?,
                _ => self.page(*kind, tail, room).await?,
            };
            (self.stage, self.after) = match rows.len() == room {
                true => (self.stage, last),
                false => (self.stage + 1, 0),
            };
            part.extend(rows);
        }
        Ok((!part.is_empty()).then_some(part))
    }

    /// Changes for at most `limit` entities of a kind above the last, and the number of the last of them.
    async fn page(&mut self, kind: Kind, tail: &'static str, limit: usize) -> Result<(Vec<Change>, i64)> {
        let select = select_of(kind).ok_or(RegistryError::Corrupt { what: "kind of a change" })?;
        let query = sqlx::query::<Db>(statement(select, tail)).bind(self.after).bind(stored(limit as u64));
        let rows = query.fetch_all(&mut *self.tx).await?;
        let last = rows.last().map(|row| row.try_get("id")).transpose()?;
        let mut changes = Vec::with_capacity(rows.len());
        for row in &rows {
            changes.push(change(&mut self.tx, kind, row).await?);
        }
        Ok((changes, last.unwrap_or(self.after)))
    }
}

fn select_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Deployment => Some(model::DEPLOYMENTS),
        Kind::Alias => Some(ALIASES),
        Kind::Application => Some(APPLICATIONS),
        Kind::Key => Some(keys::KEYS),
        Kind::Organization | Kind::Team | Kind::Admin | Kind::Node => None,
    }
}

/// The present state of one entity; `None` where data planes do not hear of its kind.
async fn present(conn: &mut Conn, kind: Kind, entity: i64) -> Result<Option<Change>> {
    let Some(select) = select_of(kind) else { return Ok(None) };
    let row =
        sqlx::query::<Db>(statement(select, "WHERE id = $1")).bind(entity).fetch_one(&mut *conn).await?;
    change(conn, kind, &row).await.map(Some)
}

async fn change(conn: &mut Conn, kind: Kind, row: &Row) -> Result<Change> {
    let id: i64 = row.try_get("id")?;
    match kind {
        Kind::Key => keys::change(row),
        Kind::Application => Ok(Change::Application(table::Application {
            id: ApplicationId(number(id)),
            allow: allow::wire(row.try_get("allow")?)?,
        })),
        Kind::Alias => alias_change(conn, row, id).await,
        Kind::Deployment => deployment_change(row, id),
        Kind::Organization | Kind::Team | Kind::Admin | Kind::Node => {
            Err(RegistryError::Corrupt { what: "kind of a change" })
        }
    }
}

async fn alias_change(conn: &mut Conn, row: &Row, id: i64) -> Result<Change> {
    let wire_id = AliasId(small(id)?);
    if row.try_get::<Option<i64>, _>("removed_ms")?.is_some() {
        return Ok(Change::NoAlias(wire_id));
    }
    let rows =
        sqlx::query::<Db>("SELECT id FROM deployments WHERE alias = $1 AND removed_ms IS NULL ORDER BY id")
            .bind(id)
            .fetch_all(conn)
            .await?;
    let deployments = rows.iter().map(|row| Ok(DeploymentId(small(row.try_get("id")?)?)));
    Ok(Change::Alias(table::Alias {
        id: wire_id,
        name: row.try_get("name")?,
        created_s: number(row.try_get::<i64, _>("created_ms")? / 1000),
        deployments: deployments.collect::<Result<_>>()?,
    }))
}

fn deployment_change(row: &Row, id: i64) -> Result<Change> {
    let id = DeploymentId(small(id)?);
    if row.try_get::<Option<i64>, _>("removed_ms")?.is_some() {
        return Ok(Change::NoDeployment(id));
    }
    let deployment = model::read_deployment(row)?;
    Ok(Change::Deployment(table::Deployment {
        id,
        name: deployment.name,
        base_url: deployment.upstream,
        dialect: deployment.dialect,
        upstream_model: deployment.upstream_model,
        credential: deployment.credential,
        api_version: deployment.api_version,
        weight: deployment.weight,
        on_disconnect: deployment.on_disconnect,
        replay_safe: deployment.replay_safe,
        connect_timeout_ms: deployment.connect_timeout_ms,
        first_byte_timeout_ms: deployment.first_byte_timeout_ms,
        idle_timeout_ms: deployment.idle_timeout_ms,
    }))
}

fn small(id: i64) -> Result<u32> {
    u32::try_from(id).map_err(|_| RegistryError::Corrupt { what: "number of a model" })
}
