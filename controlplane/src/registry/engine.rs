//! The SQL database below the registry: a file of SQLite's, or a PostgreSQL that several control planes
//! share.
//!
//! Statements are the same for both. What differs is here: how a connection is made, how a transaction
//! begins, and what a blob is called. On either, whoever changes something holds the right to write from its
//! first statement to its commit, so that generations come in the order of commits, none is skipped, and
//! whoever sees one sees all before it.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{ConnectOptions as _, Executor as _, Row as _};

use super::{Conn, Db, Pool, RegistryError, Result, Tx};
use crate::keys::Secret;

const CONNECTIONS_MAX: u32 = 8;
/// How long a call may wait for one of them.
const ACQUIRE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a statement waits for SQLite's locks.
const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 10000";
/// At how many pages of 4 KiB a commit itself brings SQLite's journal into the file, which takes some ten
/// milliseconds. `keep_journal_short` does it long before.
const JOURNAL_PAGES_MAX: &str = "PRAGMA wal_autocheckpoint = 16384";

/// Where a registry is.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a file of this machine.
    File(PathBuf),
    /// In a PostgreSQL database, by `postgres://` URL, whose password makes it a secret.
    Postgres(Secret),
}

impl From<&Path> for Place {
    fn from(file: &Path) -> Self {
        Self::File(file.to_owned())
    }
}

impl From<&PathBuf> for Place {
    fn from(file: &PathBuf) -> Self {
        Self::File(file.clone())
    }
}

impl From<&Self> for Place {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// Opens the database, and makes it where it is a file that is not there.
pub(super) async fn open(place: &Place) -> Result<(Engine, Pool)> {
    sqlx::any::install_default_drivers();
    let (engine, url) = match place {
        Place::File(file) => (Engine::Sqlite, url_of(file)?),
        Place::Postgres(url) => (Engine::Postgres, Url::parse(url.reveal()).map_err(|_| RegistryError::Url)?),
    };
    let pool = AnyPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_WAIT_MAX)
        // A server may have gone meanwhile, a file has not: asking costs two changes of threads.
        .test_before_acquire(engine == Engine::Postgres)
        .after_connect(move |conn, _| Box::pin(engine.prepare(conn)))
        .connect_with(AnyConnectOptions::from_url(&url)?)
        .await?;
    Ok((engine, pool))
}

impl Engine {
    /// A transaction that sees one state of the database, that of its first statement.
    pub(super) async fn read(self, pool: &Pool) -> sqlx::Result<Tx> {
        let begin = match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        pool.begin_with(begin).await
    }

    /// A transaction that alone may write.
    pub(super) async fn write(self, pool: &Pool) -> sqlx::Result<Tx> {
        match self {
            Self::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await,
            Self::Postgres => {
                let mut tx = pool.begin().await?;
                // Held until all see the commit; the number is ours in this database.
                tx.execute("SELECT pg_advisory_xact_lock(7811887)").await?;
                Ok(tx)
            }
        }
    }

    /// Waits for the right to remove usage, which one control plane has at a time, for as long as the
    /// transaction lasts. On one file there is one control plane, and none waits.
    pub(super) async fn remove_alone(self, pool: &Pool) -> sqlx::Result<Option<Tx>> {
        match self {
            Self::Sqlite => Ok(None),
            Self::Postgres => {
                let mut tx = pool.begin().await?;
                tx.execute("SELECT pg_advisory_xact_lock(7811889)").await?;
                Ok(Some(tx))
            }
        }
    }

    /// The statement as this database has it.
    pub(super) fn dialect(self, statement: &str) -> String {
        match self {
            Self::Sqlite => statement.to_owned(),
            Self::Postgres => statement.replace(" BLOB", " BYTEA"),
        }
    }

    /// The statement that finds a table by name.
    pub(super) fn find_table(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name = $1",
            Self::Postgres => {
                "SELECT CAST(tablename AS TEXT) AS name FROM pg_tables
                 WHERE schemaname = current_schema() AND tablename = $1"
            }
        }
    }

    /// The statement that lists all tables in the order in which they were made.
    pub(super) fn list_tables(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid"
            }
            Self::Postgres => {
                "SELECT CAST(c.relname AS TEXT) AS name FROM pg_class c
                 WHERE c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace) ORDER BY c.oid"
            }
        }
    }

    /// Whether no control plane is on this PostgreSQL, for as long as the transaction lasts.
    pub(super) async fn is_alone(self, tx: &mut Tx) -> sqlx::Result<bool> {
        if self == Self::Sqlite {
            // Held by way of a file, see `alone`.
            return Ok(true);
        }
        let row = sqlx::query::<Db>(
            "SELECT CAST(CAST(pg_try_advisory_xact_lock(7811888) AS INT4) AS INT8) AS alone",
        );
        Ok(row.fetch_one(&mut **tx).await?.try_get::<i64, _>("alone")? != 0)
    }

    /// Has the database forget what rows held that have been changed since; what its own backups and logs
    /// hold is not ours.
    ///
    /// False where a reader keeps SQLite's journal from being emptied.
    pub(super) async fn scrub(self, pool: &Pool) -> sqlx::Result<bool> {
        let mut conn = pool.acquire().await?;
        match self {
            Self::Sqlite => {
                // Where someone reads it gives up at once: it keeps all from writing while it waits.
                conn.execute("PRAGMA busy_timeout = 0").await?;
                let row = conn.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await;
                conn.execute(BUSY_TIMEOUT).await?;
                // A row of three: whether it was busy, and how much there was and is done.
                Ok(row?.try_get::<i64, _>(0)? == 0)
            }
            Self::Postgres => {
                for table in ["teams", "applications", "keys", "attributions", "audit", "answers"] {
                    conn.execute(sqlx::AssertSqlSafe(format!("VACUUM {table}"))).await?;
                }
                Ok(true)
            }
        }
    }

    /// Brings what SQLite's journal holds into the file, as far as no reader is in the way; keeps nobody from
    /// reading or writing meanwhile.
    pub(super) async fn checkpoint(self, pool: &Pool) -> sqlx::Result<()> {
        if self == Self::Sqlite {
            pool.acquire().await?.execute("PRAGMA wal_checkpoint(PASSIVE)").await?;
        }
        Ok(())
    }

    async fn prepare(self, conn: &mut Conn) -> sqlx::Result<()> {
        match self {
            Self::Sqlite => {
                // In this order: the first change of the journal's mode may find the file in use.
                for pragma in [
                    BUSY_TIMEOUT,
                    "PRAGMA journal_mode = WAL",
                    JOURNAL_PAGES_MAX,
                    "PRAGMA synchronous = FULL",
                    "PRAGMA foreign_keys = ON",
                    // What is erased is not to be found in free pages.
                    "PRAGMA secure_delete = ON",
                ] {
                    conn.execute(pragma).await?;
                }
            }
            // Whatever the server's own setting: what was acknowledged is on its disk.
            Self::Postgres => {
                let set = "SELECT set_config('synchronous_commit', 'on', false)
                    WHERE current_setting('synchronous_commit') = 'off'";
                conn.execute(set).await?;
            }
        }
        Ok(())
    }
}

/// A place for one test: its own database, of the kind that the tests are run on.
#[cfg(test)]
pub(crate) fn place(directory: &Path) -> Place {
    match load_tests::postgres::database_if_chosen() {
        Some(url) => Place::Postgres(Secret::new(url)),
        None => Place::File(directory.join("registry.db")),
    }
}

/// What a control plane runs on a connection that it keeps, to be known by `is_alone`.
pub(super) const PRESENT: &str = "SELECT pg_advisory_lock_shared(7811888)";

/// Takes a file of SQLite's for this process alone, or as one that serves from it, until it is dropped.
///
/// The lock is on a file beside it: SQLite would lose its own locks with any descriptor that is closed.
pub(super) fn lock(place: &Place, is_alone: bool) -> Result<Option<File>> {
    let Place::File(file) = place else { return Ok(None) };
    let beside = file.with_extension("lock");
    let failed = |source| RegistryError::File { file: beside.clone(), source };
    let locked = OpenOptions::new().append(true).create(true).mode(0o600).open(&beside).map_err(failed)?;
    let taken = if is_alone { locked.try_lock() } else { locked.try_lock_shared() };
    match taken {
        Ok(()) => Ok(Some(locked)),
        Err(TryLockError::WouldBlock) => Err(RegistryError::InUse),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Makes the file where it is not there, for us alone whatever the directory's mode: SQLite gives its other
/// files the mode of this one.
fn url_of(file: &Path) -> Result<Url> {
    let failed = |source| RegistryError::File { file: file.to_owned(), source };
    OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(failed)?;
    let absolute = std::path::absolute(file).map_err(failed)?;
    let url = Url::from_file_path(&absolute)
        .ok()
        .and_then(|url| Url::parse(&format!("sqlite://{}", url.path())).ok());
    url.ok_or_else(|| failed(std::io::ErrorKind::InvalidFilename.into()))
}
