//! What ids are called.
//!
//! ClickHouse holds opaque ids in usage events, and beside them one small table of names that the control
//! plane keeps from its registry: people who read SQL see names, a renamed team is renamed in all of its
//! history, and erasing a name erases it everywhere. A name is never changed in place: the row of the highest
//! version counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::client::{ClickHouseError, Client, DATABASE};

/// How many names one question is about: its parameters go in a URL.
const LOOKED_UP: usize = 1000;

/// What a name is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// `org_…`
    Organization,
    /// `team_…`
    Team,
    /// `app_…`
    Application,
    /// `key_…`: its description, or its prefix when it has none.
    Key,
}

impl NameKind {
    /// The value of column `kind`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Team => "team",
            Self::Application => "application",
            Self::Key => "key",
        }
    }
}

/// An id and what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// What it names.
    pub kind: NameKind,
    /// The id.
    pub id: &'a str,
    /// The name.
    pub name: &'a str,
}

#[derive(Row, Serialize)]
struct NameRow<'a> {
    kind: &'a str,
    id: &'a str,
    name: &'a str,
    version: u64,
}

#[derive(Row, Deserialize)]
struct StoredName {
    kind: String,
    id: String,
    name: String,
}

impl Client {
    /// Brings the table up to the registry's names, writing only what differs; returns how many did.
    ///
    /// # Errors
    /// When the server cannot be reached; to be tried again.
    pub async fn sync_names(&self, names: &[Name<'_>]) -> Result<usize, ClickHouseError> {
        let mut changed = Vec::new();
        for names in names.chunks(LOOKED_UP) {
            let ids: Vec<&str> = names.iter().map(|name| name.id).collect();
            let sql = "SELECT toString(kind) AS kind, id, name FROM liutong.names FINAL
                 WHERE id IN {ids:Array(String)}";
            let stored: Vec<StoredName> = self.query(sql).param("ids", &ids).fetch_all().await?;
            let stored: HashMap<(&str, &str), &str> =
                stored.iter().map(|row| ((row.kind.as_str(), row.id.as_str()), row.name.as_str())).collect();
            let differ = |name: &&Name<'_>| stored.get(&(name.kind.as_str(), name.id)) != Some(&name.name);
            changed.extend(names.iter().filter(differ));
        }
        if !changed.is_empty() {
            self.insert_names(&changed).await?;
        }
        Ok(changed.len())
    }

    async fn insert_names(&self, names: &[Name<'_>]) -> Result<(), ClickHouseError> {
        let version = next_version();
        let client = self.inner().clone().with_database(DATABASE).with_setting("async_insert", "0");
        let mut insert = client.insert::<NameRow<'_>>("names").await?;
        for Name { kind, id, name } in names {
            insert.write(&NameRow { kind: kind.as_str(), id, name, version }).await?;
        }
        Ok(insert.end().await?)
    }
}

/// Microseconds since 1970, but higher than any before in this process, should the clock stand still or go
/// back.
fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clock = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let next = |last: u64| clock.max(last.saturating_add(1));
    match LAST.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| Some(next(last))) {
        Ok(last) | Err(last) => next(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_rise() {
        let versions: Vec<u64> = (0..1000).map(|_| next_version()).collect();
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
