//! Aliases (the model names that clients send) and the deployments that serve them.
//!
//! An alias is set as a whole, with its deployments. A deployment that keeps its name keeps its number; one
//! that is left out is removed, and its number is never given to another.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use sqlx::Row as _;
use wire::table::{Dialect, OnDisconnect};

use super::act::Subject;
use super::write::{Kind, Write};
use super::{
    Conn, Db, Listed, Page, Registry, RegistryError, Result, Row, check_name, check_text, not_found, show,
    statement, taken,
};

/// The most deployments that one alias has.
pub(super) const DEPLOYMENTS_MAX: usize = 256;
const WEIGHT_MAX: u32 = 1_000_000;

/// What serves an alias.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// Its name, its own in the installation.
    pub name: String,
    /// The upstream's base URL, with the path prefix: `https://host/v1`.
    pub upstream: String,
    /// What the model is called there; empty sends the alias.
    pub upstream_model: String,
    /// How the upstream speaks.
    #[serde(serialize_with = "show_dialect")]
    #[schemars(with = "String")]
    pub dialect: Dialect,
    /// The name of the credential on the data plane; empty sends none.
    pub credential: String,
    /// `api-version`, for Azure.
    pub api_version: String,
    /// Its share.
    pub weight: u32,
    /// What a client's leaving does.
    #[serde(serialize_with = "show_on_disconnect")]
    #[schemars(with = "String")]
    pub on_disconnect: OnDisconnect,
    /// Whether a request may be sent again though it may have been executed.
    pub replay_safe: bool,
    /// How long connecting may take.
    pub connect_timeout_ms: u32,
    /// How long the answer's head may take.
    pub first_byte_timeout_ms: u32,
    /// How long an answer may pause.
    pub idle_timeout_ms: u32,
}

/// An alias with its deployments.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "model")]
pub struct Model {
    /// The alias once more, as what lists go on from.
    pub id: String,
    /// The name that clients send.
    pub alias: String,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
    /// What serves it.
    pub deployments: Vec<Deployment>,
}

impl Subject for Model {
    fn subject(&self) -> &str {
        &self.alias
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (None, None)
    }
}

const ALIASES: &str = "SELECT id, name, created_ms FROM aliases WHERE removed_ms IS NULL";
pub(super) const DEPLOYMENTS: &str = "SELECT id, alias, name, base_url, upstream_model, dialect, credential,
    api_version, weight, on_disconnect, replay_safe, connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms,
    removed_ms FROM deployments";

/// The words for what a client's leaving does.
pub const ON_DISCONNECT: [(OnDisconnect, &str); 2] =
    [(OnDisconnect::Cancel, "cancel"), (OnDisconnect::Drain, "drain")];

/// The word for what a client's leaving does.
#[must_use]
pub fn on_disconnect_name(value: OnDisconnect) -> &'static str {
    match value {
        OnDisconnect::Cancel => "cancel",
        OnDisconnect::Drain => "drain",
    }
}

fn show_dialect<S: Serializer>(dialect: &Dialect, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(dialect.name())
}

fn show_on_disconnect<S: Serializer>(
    value: &OnDisconnect,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(on_disconnect_name(*value))
}

pub(super) fn read_deployment(row: &Row) -> Result<Deployment> {
    let corrupt = || RegistryError::Corrupt { what: "deployment" };
    let number = |column: &str| -> Result<u32> {
        u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| corrupt())
    };
    let on_disconnect: &str = row.try_get("on_disconnect")?;
    Ok(Deployment {
        name: row.try_get("name")?,
        upstream: row.try_get("base_url")?,
        upstream_model: row.try_get("upstream_model")?,
        dialect: Dialect::parse(row.try_get("dialect")?).ok_or_else(corrupt)?,
        credential: row.try_get("credential")?,
        api_version: row.try_get("api_version")?,
        weight: number("weight")?,
        on_disconnect: ON_DISCONNECT.iter().find(|one| one.1 == on_disconnect).ok_or_else(corrupt)?.0,
        replay_safe: row.try_get::<i64, _>("replay_safe")? != 0,
        connect_timeout_ms: number("connect_timeout_ms")?,
        first_byte_timeout_ms: number("first_byte_timeout_ms")?,
        idle_timeout_ms: number("idle_timeout_ms")?,
    })
}

async fn read_model(conn: &mut Conn, row: &Row) -> Result<Model> {
    let rows =
        sqlx::query::<Db>(statement(DEPLOYMENTS, "WHERE alias = $1 AND removed_ms IS NULL ORDER BY id"))
            .bind(row.try_get::<i64, _>("id")?)
            .fetch_all(conn)
            .await?;
    Ok(Model {
        id: row.try_get("name")?,
        alias: row.try_get("name")?,
        created_ms: row.try_get("created_ms")?,
        deployments: rows.iter().map(read_deployment).collect::<Result<_>>()?,
    })
}

async fn find_alias(conn: &mut Conn, alias: &str) -> Result<Option<Row>> {
    Ok(sqlx::query::<Db>(statement(ALIASES, "AND name = $1")).bind(alias).fetch_optional(conn).await?)
}

fn unknown(alias: &str) -> RegistryError {
    not_found("model", alias)
}

impl Registry {
    /// The model with this alias.
    pub async fn model(&self, alias: &str) -> Result<Model> {
        let mut conn = self.pool.acquire().await?;
        let row = find_alias(&mut conn, alias).await?.ok_or_else(|| unknown(alias))?;
        read_model(&mut conn, &row).await
    }

    /// A page of the models, in the order in which they were made.
    pub async fn models(&self, page: &Page) -> Result<Listed<Model>> {
        let mut conn = self.pool.acquire().await?;
        let after = match &page.after {
            Some(alias) => {
                find_alias(&mut conn, alias).await?.ok_or_else(|| unknown(alias))?.try_get("id")?
            }
            None => 0i64,
        };
        let rows = sqlx::query::<Db>(statement(ALIASES, "AND id > $1 ORDER BY id LIMIT $2"))
            .bind(after)
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        let mut models = Vec::with_capacity(rows.len());
        for row in &rows {
            models.push(read_model(&mut conn, row).await?);
        }
        Ok(Listed::cut(models, page.limit()))
    }

    /// Sets an alias's deployments, and makes the alias if it is not there.
    pub async fn set_model(&self, alias: &str, deployments: &[Deployment]) -> Result<Model> {
        check_alias(alias)?;
        check_deployments(deployments)?;
        let mut write = self.write().await?;
        let id = match find_alias(write.conn(), alias).await? {
            Some(row) => {
                let found = read_model(write.conn(), &row).await?;
                write.before(&found)?;
                if found.deployments == deployments {
                    return write.leave(found).await;
                }
                row.try_get("id")?
            }
            None => {
                write.nothing_before(alias)?;
                insert_alias(&mut write, alias).await?
            }
        };
        let live = live_deployments(&mut write, id).await?;
        for (row, _) in live.iter().filter(|(_, name)| deployments.iter().all(|one| one.name != *name)) {
            remove_deployment(&mut write, *row).await?;
        }
        for deployment in deployments {
            match live.iter().find(|(_, name)| *name == deployment.name) {
                Some((row, _)) => update_deployment(&mut write, *row, deployment).await?,
                None => insert_deployment(&mut write, id, deployment).await?,
            }
        }
        write.change(Kind::Alias, id).await?;
        let row = find_alias(write.conn(), alias).await?.ok_or_else(|| unknown(alias))?;
        let model = read_model(write.conn(), &row).await?;
        write.after(&model);
        write.commit().await?;
        Ok(model)
    }

    /// Removes an alias and its deployments; their numbers go on naming them in what was recorded.
    pub async fn remove_model(&self, alias: &str) -> Result<()> {
        let mut write = self.write().await?;
        let row = find_alias(write.conn(), alias).await?.ok_or_else(|| unknown(alias))?;
        let found = read_model(write.conn(), &row).await?;
        write.before(&found)?;
        let (id, now_ms) = (row.try_get::<i64, _>("id")?, write.now_ms);
        sqlx::query::<Db>("UPDATE aliases SET removed_ms = $1 WHERE id = $2")
            .bind(now_ms)
            .bind(id)
            .execute(write.conn())
            .await?;
        write.change(Kind::Alias, id).await?;
        for (row, _) in live_deployments(&mut write, id).await? {
            remove_deployment(&mut write, row).await?;
        }
        write.commit().await?;
        Ok(())
    }
}

async fn insert_alias(write: &mut Write<'_>, alias: &str) -> Result<i64> {
    let (id, now_ms) = (write.next_id("alias").await?, write.now_ms);
    sqlx::query::<Db>("INSERT INTO aliases (id, name, created_ms) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(alias)
        .bind(now_ms)
        .execute(write.conn())
        .await
        .map_err(taken("model", alias))?;
    Ok(id)
}

async fn live_deployments(write: &mut Write<'_>, alias: i64) -> Result<Vec<(i64, String)>> {
    let rows = sqlx::query::<Db>(statement(DEPLOYMENTS, "WHERE alias = $1 AND removed_ms IS NULL"))
        .bind(alias)
        .fetch_all(write.conn())
        .await?;
    Ok(rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("name")?))).collect::<sqlx::Result<_>>()?)
}

async fn remove_deployment(write: &mut Write<'_>, row: i64) -> Result<()> {
    let now_ms = write.now_ms;
    sqlx::query::<Db>("UPDATE deployments SET removed_ms = $1 WHERE id = $2")
        .bind(now_ms)
        .bind(row)
        .execute(write.conn())
        .await?;
    write.change(Kind::Deployment, row).await
}

async fn insert_deployment(write: &mut Write<'_>, alias: i64, deployment: &Deployment) -> Result<()> {
    let (id, now_ms) = (write.next_id("deployment").await?, write.now_ms);
    sqlx::query::<Db>(
        "INSERT INTO deployments (id, alias, name, base_url, upstream_model, dialect, credential, api_version,
             weight, on_disconnect, replay_safe, connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, created_ms)
         VALUES ($1, $2, $3, '', '', '', '', '', 0, '', 0, 0, 0, 0, $4)",
    )
    .bind(id)
    .bind(alias)
    .bind(&deployment.name)
    .bind(now_ms)
    .execute(write.conn())
    .await
    .map_err(taken("deployment", &deployment.name))?;
    update_deployment(write, id, deployment).await
}

async fn update_deployment(write: &mut Write<'_>, row: i64, deployment: &Deployment) -> Result<()> {
    sqlx::query::<Db>(
        "UPDATE deployments SET base_url = $1, upstream_model = $2, dialect = $3, credential = $4, api_version = $5,
             weight = $6, on_disconnect = $7, replay_safe = $8, connect_timeout_ms = $9, first_byte_timeout_ms = $10,
             idle_timeout_ms = $11 WHERE id = $12",
    )
    .bind(&deployment.upstream)
    .bind(&deployment.upstream_model)
    .bind(deployment.dialect.name())
    .bind(&deployment.credential)
    .bind(&deployment.api_version)
    .bind(i64::from(deployment.weight))
    .bind(on_disconnect_name(deployment.on_disconnect))
    .bind(i64::from(deployment.replay_safe))
    .bind(i64::from(deployment.connect_timeout_ms))
    .bind(i64::from(deployment.first_byte_timeout_ms))
    .bind(i64::from(deployment.idle_timeout_ms))
    .bind(row)
    .execute(write.conn())
    .await?;
    write.change(Kind::Deployment, row).await
}

fn check_alias(alias: &str) -> Result<()> {
    check_name("alias", alias)?;
    if alias == "*" || alias.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '\\')) {
        let message = "no white space, quote or backslash, and not \"*\"".to_owned();
        return Err(RegistryError::Invalid { field: "alias", message });
    }
    Ok(())
}

fn check_deployments(deployments: &[Deployment]) -> Result<()> {
    let invalid = |field, message: String| Err(RegistryError::Invalid { field, message });
    if deployments.is_empty() || deployments.len() > DEPLOYMENTS_MAX {
        return invalid("deployments", format!("1 to {DEPLOYMENTS_MAX} of them"));
    }
    for (at, deployment) in deployments.iter().enumerate() {
        check_name("deployments.name", &deployment.name)?;
        if deployments[..at].iter().any(|one| one.name == deployment.name) {
            return invalid("deployments.name", format!("{:?} stands there twice", deployment.name));
        }
        check_text("deployments.upstream", &deployment.upstream)?;
        check_text("deployments.upstream_model", &deployment.upstream_model)?;
        check_name_or_none("deployments.credential", &deployment.credential)?;
        check_text("deployments.api_version", &deployment.api_version)?;
        if !(1..=WEIGHT_MAX).contains(&deployment.weight) {
            return invalid("deployments.weight", format!("1 to {WEIGHT_MAX}"));
        }
    }
    Ok(())
}

fn check_name_or_none(field: &'static str, name: &str) -> Result<()> {
    if name.is_empty() { Ok(()) } else { check_name(field, name) }
}
