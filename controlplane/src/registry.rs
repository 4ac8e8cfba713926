//! The registry: the control plane's truth about organizations, teams, applications, keys, aliases and
//! deployments.
//!
//! It lives in an SQL database, SQLite or PostgreSQL. Nothing but `engine` knows which: statements keep to
//! `$n` parameters and to columns of BIGINT, TEXT and BLOB, times are Unix milliseconds, and numbers come
//! from a table of counters.
//!
//! Invariants:
//!
//!   * every change takes the next generation in its own transaction, and leaves a row in `changes`
//!   * a number (of a key, an alias, a deployment, an attribution) is never given to anything else later
//!   * rows of `attributions` are never updated
//!   * a key that was revoked never becomes active

/// The database below: SQLite or PostgreSQL.
mod engine;
/// What there is about a team or a key.
mod about;
/// On whose behalf.
pub mod act;
/// Administrators and their credentials.
pub mod admin;
/// Which aliases an application or a key may use.
mod allow;
/// Teams and applications in which nothing is made any more.
mod archive;
/// Who changed what.
pub mod audit;
/// Applications.
pub mod application;
/// Who is billed: rows that never change.
pub mod attribution;
/// The registry as a file, for backups.
pub mod dump;
/// What was erased, also from backups that are restored later.
pub mod erasure;
/// Enrolment of nodes on other hosts.
pub mod enrolment;
/// What must be neither erased nor expire.
pub mod hold;
/// Keys and their lifecycle.
pub mod key;
/// Whose the keys are that data planes tell of.
mod key_use;
/// Aliases and the deployments that serve them.
pub mod model;
/// What ids are called, for ClickHouse.
pub mod names;
/// Data planes that have been seen.
pub mod node;
/// Organizations.
pub mod organization;
/// Calls that were answered already.
mod replay;
/// Other control planes on the same registry.
pub mod peers;
/// Revoking keys.
pub mod revocation;
/// What administrators may do, and for which part.
pub mod role;
/// Giving a key a successor.
pub mod rotation;
/// Tables and their migrations.
mod schema;
/// Which control plane serves which data plane.
pub mod serving;
/// How times are shown.
pub mod show;
/// What data planes get: snapshots and deltas.
pub mod tables;
/// Teams.
pub mod team;
/// Digests that must never hold again.
mod tombstone;
/// A transaction that changes something.
mod write;

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, Row as _};
use thiserror::Error;
use tokio::sync::{Semaphore, broadcast, watch};
use wire::id::{Generation, RegistryId};
use wire::table::Settings;

use crate::keys::{self, RandomError};

pub use engine::Place;
#[cfg(test)]
pub(crate) use engine::place;

type Db = sqlx::Any;
type Pool = sqlx::Pool<Db>;
type Conn = sqlx::AnyConnection;
type Row = sqlx::any::AnyRow;
type Tx = sqlx::Transaction<'static, Db>;

/// The most rows that one page of a list has.
pub const PAGE_ROWS_MAX: i64 = 1000;

/// How many snapshots are read at once. Each holds a connection for as long as its data plane takes to
/// receive it; the rest are for everyone else.
const SNAPSHOTS_MAX: usize = 4;
const NAME_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 512;
/// The longest prefix of a key that is shown: `sk-lt-` and the public id.
const PREFIX_BYTES_MAX: usize = 14;
/// How many of the things that an ambiguous name could mean are told.
const CHOICES_MAX: usize = 8;

/// Why the registry could not answer or change.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The database failed.
    #[error("registry: {0}")]
    Database(#[from] sqlx::Error),
    /// The file can't be opened or made.
    #[error("registry {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The URL is none.
    #[error("registry.url: a URL such as postgres://user@host/database")]
    Url,
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Nothing has this id or name.
    #[error("there is no {kind} with the id or name {wanted:?}")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// The id or name.
        wanted: String,
    },
    /// Several have this name.
    #[error("{wanted:?} is the name of more than one {kind}, name one by its id: {}", .choices.join(", "))]
    Ambiguous {
        /// What was looked for.
        kind: &'static str,
        /// The name.
        wanted: String,
        /// Their ids, and where they belong.
        choices: Vec<String>,
    },
    /// The name is in use.
    #[error("there is a {kind} with the name {name:?} already")]
    Taken {
        /// What was to be made.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A value is not one that the field takes.
    #[error("{field}: {message}")]
    Invalid {
        /// The field, as the admin API calls it.
        field: &'static str,
        /// What is allowed.
        message: String,
    },
    /// What is to be changed is not as the caller knows it.
    #[error("{subject} has changed meanwhile: its entity tag is {etag}")]
    Precondition {
        /// Its id.
        subject: String,
        /// Its entity tag now.
        etag: String,
    },
    /// The same call was answered already; what it made is there.
    #[error("answered already")]
    Replayed {
        /// The answer as JSON, without secrets.
        answer: String,
    },
    /// Another call had the same `Idempotency-Key`.
    #[error("Idempotency-Key: another request had it within the last day, take a new one")]
    KeyReused,
    /// A change that the present state forbids.
    #[error("{0}")]
    Conflict(String),
    /// The database holds something that this program never wrote.
    #[error("the registry holds a {what} that this program can't read")]
    Corrupt {
        /// What it is.
        what: &'static str,
    },
    /// A file of a backup can't be read or written.
    #[error("reading or writing a backup of the registry: {0}")]
    Dump(#[from] std::io::Error),
    /// A file is no backup of a registry, or not a whole one.
    #[error("line {line} is not what a backup of a registry has there")]
    NoDump {
        /// The line.
        line: usize,
    },
    /// A control plane is on it.
    #[error("a control plane is running on this registry: stop all of them first")]
    InUse,
    /// The database was written by a newer program.
    #[error("the registry has schema {found}, this program knows schemas up to {known}")]
    Newer {
        /// The schema found.
        found: i64,
        /// The last schema known.
        known: i64,
    },
}

/// Shorthand for what the registry returns.
pub type Result<T> = std::result::Result<T, RegistryError>;

/// A handle on the registry; all of a process are of the same one, see `acting`.
#[derive(Clone)]
pub struct Registry {
    place: Arc<Place>,
    engine: engine::Engine,
    pool: Pool,
    id: RegistryId,
    settings: Settings,
    changed: watch::Sender<Generation>,
    /// Tells our own words from those of other control planes.
    own_number: u64,
    words: broadcast::Sender<peers::Word>,
    snapshots: Arc<Semaphore>,
    act: Option<Arc<act::Act>>,
}

impl Registry {
    /// Opens the registry, makes it if it is not there, and brings its tables up to date.
    pub async fn open(place: impl Into<Place>) -> Result<Self> {
        let place = Arc::new(place.into());
        let (engine, pool) = engine::open(&place).await?;
        schema::migrate(engine, &pool).await?;
        let row = sqlx::query::<Db>("SELECT registry_id, generation, request_id_key FROM meta WHERE one = 1")
            .fetch_one(&pool)
            .await?;
        let id = RegistryId::parse(row.try_get("registry_id")?)
            .ok_or(RegistryError::Corrupt { what: "registry id" })?;
        let request_id_key = row
            .try_get::<Vec<u8>, _>("request_id_key")?
            .try_into()
            .map_err(|_| RegistryError::Corrupt { what: "request id key" })?;
        let (changed, _) = watch::channel(generation(row.try_get("generation")?));
        let snapshots = Arc::new(Semaphore::new(SNAPSHOTS_MAX));
        Ok(Self {
            place,
            engine,
            pool,
            id,
            settings: Settings { request_id_key },
            changed,
            own_number: keys::random_u64()?,
            words: broadcast::channel(peers::WORDS_MAX).0,
            snapshots,
            act: None,
        })
    }

    /// Which history of the registry this is.
    #[must_use]
    pub fn id(&self) -> RegistryId {
        self.id
    }

    /// What the whole installation shares.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A transaction that sees one state of the registry.
    async fn read(&self) -> Result<Tx> {
        Ok(self.engine.read(&self.pool).await?)
    }

    /// The generation now.
    pub async fn generation(&self) -> Result<Generation> {
        let mut conn = self.pool.acquire().await?;
        generation_of(&mut conn).await
    }

    /// Tells of each new generation after its commit.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Generation> {
        self.changed.subscribe()
    }

    /// Keeps restores away for as long as what is returned lives; none on PostgreSQL, where `follow` does it.
    pub fn be_present(&self) -> Result<Option<std::fs::File>> {
        engine::lock(&self.place, false)
    }

    /// Closes the database in order.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The id after which it begins.
    pub after: Option<String>,
    /// How many rows at most; 1 to `PAGE_ROWS_MAX`.
    pub limit: Option<i64>,
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Whether there are more after them.
    pub has_more: bool,
}

impl<T> Listed<T> {
    /// Makes a page of at most `limit` of rows of which one more was asked for.
    fn cut(mut rows: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self { rows, has_more }
    }
}

impl Page {
    fn limit(&self) -> i64 {
        self.limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX)
    }
}

/// A change of a field that may be unset: left alone, unset, or set.
pub type Patch<T> = Option<Option<T>>;

/// Unix time now, in milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A statement made of constant parts.
fn statement(select: &'static str, tail: &'static str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("{select} {tail}"))
}

async fn generation_of(conn: &mut Conn) -> Result<Generation> {
    let row = sqlx::query::<Db>("SELECT generation FROM meta WHERE one = 1").fetch_one(conn).await?;
    Ok(generation(row.try_get("generation")?))
}

fn generation(stored: i64) -> Generation {
    Generation(number(stored))
}

/// A number as the wire has it; the database never holds a negative one.
fn number(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// A number as the database has it.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Chooses among what bears an id or a name: the one with that id, else the only one with that name.
fn pick<T>(
    kind: &'static str,
    wanted: &str,
    mut found: Vec<T>,
    id: impl Fn(&T) -> &str,
    place: impl Fn(&T) -> String,
) -> Result<T> {
    if let Some(at) = found.iter().position(|one| id(one) == wanted) {
        return Ok(found.swap_remove(at));
    }
    if found.len() > 1 {
        let wanted = wanted.to_owned();
        let choices = found.iter().take(CHOICES_MAX).map(|one| format!("{} ({})", id(one), place(one)));
        return Err(RegistryError::Ambiguous { kind, wanted, choices: choices.collect() });
    }
    found.pop().ok_or_else(|| not_found(kind, wanted))
}

/// Whoever pastes a whole key where an id belongs must not find it in an error or a log.
fn not_found(kind: &'static str, wanted: &str) -> RegistryError {
    RegistryError::NotFound { kind, wanted: unrepeated(wanted) }
}

/// A name as it may be shown: not if it is a whole key.
fn unrepeated(wanted: &str) -> String {
    let is_secret = wanted.starts_with("sk-") && wanted.len() > PREFIX_BYTES_MAX;
    if is_secret { "(a secret, not repeated)".to_owned() } else { wanted.to_owned() }
}

fn check_name(field: &'static str, name: &str) -> Result<()> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.trim() == name;
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let message =
        format!("1 to {NAME_BYTES_MAX} bytes without control characters or white space at its ends");
    Err(RegistryError::Invalid { field, message })
}

fn check_text(field: &'static str, text: &str) -> Result<()> {
    if text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!("at most {TEXT_BYTES_MAX} bytes without control characters");
    Err(RegistryError::Invalid { field, message })
}

/// Checks a text that may be absent; an empty one is one that is absent.
fn optional_text(field: &'static str, text: Option<String>) -> Result<Option<String>> {
    if let Some(text) = &text {
        check_text(field, text)?;
    }
    Ok(text.filter(|text| !text.is_empty()))
}

/// Turns a clash of names into the error that says so.
fn taken(kind: &'static str, name: &str) -> impl FnOnce(sqlx::Error) -> RegistryError {
    let name = name.to_owned();
    move |error| match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => {
            RegistryError::Taken { kind, name }
        }
        _ => RegistryError::Database(error),
    }
}

#[cfg(test)]
mod tests;
