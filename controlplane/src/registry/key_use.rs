//! Whose the keys are that data planes tell of: by digest where they were refused, by id where they are
//! shown.
//!
//! A digest that is no key's, and that of a key which was erased, are nobody's: nothing is kept of them.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Row as _};
use wire::id::KeyDigest;

use super::key::{self, Key};
use super::{Db, Registry, Result};

/// How many are asked for at once: a statement takes a bounded number of parameters.
const AT_ONCE: usize = 200;

/// Where a key belongs, by ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The key's id.
    pub key_id: String,
    /// Its application's.
    pub application_id: String,
    /// Its team's.
    pub team_id: String,
    /// Its organization's.
    pub organization_id: String,
}

/// `$first, ..` for so many parameters.
fn places(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

impl Registry {
    /// Where the keys of these digests belong.
    pub async fn key_places(&self, digests: &[KeyDigest]) -> Result<HashMap<KeyDigest, KeyPlace>> {
        let mut found = HashMap::new();
        for some in digests.chunks(AT_ONCE) {
            // An erased key has no prefix any more.
            let sql = format!(
                "SELECT k.digest, k.public_id, a.public_id AS application_id, t.public_id AS team_id,
                     o.public_id AS organization_id
                 FROM keys k JOIN applications a ON a.id = k.application JOIN teams t ON t.id = a.team
                 JOIN organizations o ON o.id = t.organization
                 WHERE k.prefix <> '' AND k.digest IN ({})",
                places(1, some.len())
            );
            let query = sqlx::query::<Db>(AssertSqlSafe(sql));
            let query = some.iter().fold(query, |query, digest| query.bind(digest.0.to_vec()));
            for row in query.fetch_all(&self.pool).await? {
                let place = KeyPlace {
                    key_id: row.try_get("public_id")?,
                    application_id: row.try_get("application_id")?,
                    team_id: row.try_get("team_id")?,
                    organization_id: row.try_get("organization_id")?,
                };
                found.insert(key::digest(&row)?, place);
            }
        }
        Ok(found)
    }

    /// Those of the keys with these ids that are there to be seen.
    pub async fn keys_with_ids(&self, ids: &[&str]) -> Result<HashMap<String, Key>> {
        let mut conn = self.pool.acquire().await?;
        let mut found = HashMap::new();
        for some in ids.chunks(AT_ONCE) {
            let tail = format!(
                "WHERE ($1 IS NULL OR t.organization = $1) AND ($2 IS NULL OR t.id = $2)
                 AND k.public_id IN ({})",
                places(3, some.len())
            );
            let query = sqlx::query::<Db>(AssertSqlSafe(format!("{} {tail}", key::SELECT)));
            let query = query.bind(self.scope().organization()).bind(self.scope().team());
            let query = some.iter().fold(query, |query, id| query.bind((*id).to_owned()));
            for row in query.fetch_all(&mut *conn).await? {
                let key = key::read(&mut conn, &row).await?;
                found.insert(key.id.clone(), key);
            }
        }
        Ok(found)
    }
}
