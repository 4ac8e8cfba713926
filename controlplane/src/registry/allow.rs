//! Which aliases an application or a key may use: as administrators write it, and as the registry keeps it.
//!
//! Administrators write names, `["*"]` for every alias; the registry keeps numbers (`*`, or `3,17,20`), so
//! that an alias made later under the name of a removed one is not allowed by what was said of that one.

use sqlx::Row as _;
use wire::id::AliasId;
use wire::table::Allow;

use super::{Conn, Db, RegistryError, Result};

const ALL: &str = "*";
/// The most aliases in one list: a frame must hold `PART_CHANGES` keys with such lists.
pub(super) const MODELS_MAX: usize = 400;

/// Turns names into what is kept.
pub(super) async fn store(conn: &mut Conn, models: &[String]) -> Result<String> {
    if models.iter().any(|name| name == ALL) {
        if models.len() > 1 {
            let message = "\"*\" stands alone, or there are names".to_owned();
            return Err(RegistryError::Invalid { field: "models", message });
        }
        return Ok(ALL.to_owned());
    }
    if models.len() > MODELS_MAX {
        let message = format!("at most {MODELS_MAX} aliases, or \"*\" for all");
        return Err(RegistryError::Invalid { field: "models", message });
    }
    let mut ids = Vec::with_capacity(models.len());
    for name in models {
        let row = sqlx::query::<Db>("SELECT id FROM aliases WHERE name = $1 AND removed_ms IS NULL")
            .bind(name)
            .fetch_optional(&mut *conn)
            .await?;
        let row = row.ok_or_else(|| RegistryError::Invalid {
            field: "models",
            message: format!("there is no model with the alias {name:?}"),
        })?;
        ids.push(row.try_get::<i64, _>("id")?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.iter().map(i64::to_string).collect::<Vec<_>>().join(","))
}

/// Turns what is kept into names, without those of aliases that were removed.
pub(super) async fn names(conn: &mut Conn, kept: &str) -> Result<Vec<String>> {
    if kept == ALL {
        return Ok(vec![ALL.to_owned()]);
    }
    let mut names = Vec::new();
    for id in ids(kept)? {
        let row = sqlx::query::<Db>("SELECT name FROM aliases WHERE id = $1 AND removed_ms IS NULL")
            .bind(i64::from(id))
            .fetch_optional(&mut *conn)
            .await?;
        names.extend(row.map(|row| row.try_get("name")).transpose()?);
    }
    Ok(names)
}

/// Turns what is kept into what data planes get.
pub(super) fn wire(kept: &str) -> Result<Allow> {
    if kept == ALL {
        return Ok(Allow::All);
    }
    let mut ids: Vec<AliasId> = ids(kept)?.into_iter().map(AliasId).collect();
    ids.sort_unstable();
    Ok(if ids.is_empty() { Allow::Nothing } else { Allow::Only(ids) })
}

fn ids(kept: &str) -> Result<Vec<u32>> {
    let ids = kept.split(',').filter(|id| !id.is_empty()).map(str::parse);
    ids.collect::<std::result::Result<_, _>>()
        .map_err(|_: std::num::ParseIntError| RegistryError::Corrupt { what: "list of models" })
}
