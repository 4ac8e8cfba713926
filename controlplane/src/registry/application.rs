//! Applications: what keys belong to. An application says which aliases its keys may use.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use wire::id::Generation;

use super::act::Subject;
use super::archive::check_live;
use super::key::{self, Key, NewKey};
use super::role::Scope;
use super::write::{Kind, Write, public_id};
use super::{
    Conn, Db, Listed, Page, Patch, Registry, Result, Row, allow, attribution, check_name, optional_text,
    pick, show, statement, taken, team,
};
use crate::keys::Secret;

/// An application.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "application")]
pub struct Application {
    #[serde(skip)]
    pub(super) row: i64,
    /// `app_...`
    pub id: String,
    /// Its name, its own in the team.
    pub name: String,
    /// The team's id.
    pub team_id: String,
    /// The team's name.
    pub team: String,
    /// The organization's id.
    pub organization_id: String,
    /// The organization's name.
    pub organization: String,
    /// What its keys inherit; its team's where it is none.
    pub plan: Option<String>,
    /// Likewise.
    pub cost_centre: Option<String>,
    /// The aliases that its keys may use; `["*"]` is every one.
    pub models: Vec<String>,
    /// When it was archived, Unix time in milliseconds: nothing is made in it any more.
    #[serde(rename = "archived_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub archived_ms: Option<i64>,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
}

impl Subject for Application {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.organization_id), Some(&self.team_id))
    }
}

/// What a new application is to be.
#[derive(Clone, Debug, Default)]
pub struct NewApplication {
    /// Its name.
    pub name: String,
    /// The team, by id or name.
    pub team: String,
    /// See `Application`.
    pub plan: Option<String>,
    /// See `Application`.
    pub cost_centre: Option<String>,
    /// See `Application`.
    pub models: Vec<String>,
}

/// What of an application is to change.
#[derive(Clone, Debug, Default)]
pub struct ApplicationPatch {
    /// A new name.
    pub name: Option<String>,
    /// Another team, by id or name.
    pub team: Option<String>,
    /// Another plan, or none of its own.
    pub plan: Patch<String>,
    /// Another cost centre, or none of its own.
    pub cost_centre: Patch<String>,
    /// Other aliases.
    pub models: Option<Vec<String>>,
}

const SELECT: &str = "SELECT a.id, a.public_id, a.name, t.public_id AS team_id, t.name AS team,
    o.public_id AS organization_id, o.name AS organization, a.plan, a.cost_centre, a.allow, a.created_ms,
    COALESCE(a.archived_ms, t.archived_ms) AS archived_ms
    FROM applications a JOIN teams t ON t.id = a.team JOIN organizations o ON o.id = t.organization";

async fn read(conn: &mut Conn, row: &Row) -> Result<Application> {
    Ok(Application {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        name: row.try_get("name")?,
        team_id: row.try_get("team_id")?,
        team: row.try_get("team")?,
        organization_id: row.try_get("organization_id")?,
        organization: row.try_get("organization")?,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
        models: allow::names(conn, row.try_get("allow")?).await?,
        created_ms: row.try_get("created_ms")?,
        archived_ms: row.try_get("archived_ms")?,
    })
}

async fn read_all(conn: &mut Conn, rows: Vec<Row>) -> Result<Vec<Application>> {
    let mut all = Vec::with_capacity(rows.len());
    for row in &rows {
        all.push(read(conn, row).await?);
    }
    Ok(all)
}

pub(super) async fn find(conn: &mut Conn, scope: Scope, wanted: &str) -> Result<Application> {
    let tail = "WHERE (a.public_id = $1 OR a.name = $1) AND ($2 IS NULL OR t.organization = $2)
        AND ($3 IS NULL OR t.id = $3) ORDER BY a.id";
    let rows = sqlx::query::<Db>(statement(SELECT, tail))
        .bind(wanted)
        .bind(scope.organization())
        .bind(scope.team())
        .fetch_all(&mut *conn)
        .await?;
    let found = read_all(conn, rows).await?;
    let place = |one: &Application| format!("in {} / {}", one.organization, one.team);
    pick("application", wanted, found, |one: &Application| &one.id, place)
}

impl Registry {
    /// The application with this id or name.
    pub async fn application(&self, wanted: &str) -> Result<Application> {
        find(&mut *self.pool.acquire().await?, self.scope(), wanted).await
    }

    /// A page of the applications, of one team or of all.
    pub async fn applications(&self, team: Option<&str>, page: &Page) -> Result<Listed<Application>> {
        self.applications_also(team, true, page).await
    }

    /// Likewise, without those that are archived or with them.
    pub async fn applications_also(
        &self,
        team: Option<&str>,
        archived: bool,
        page: &Page,
    ) -> Result<Listed<Application>> {
        let mut conn = self.pool.acquire().await?;
        let team = match team {
            Some(wanted) => Some(team::find(&mut conn, self.scope(), wanted).await?.row),
            None => None,
        };
        let after = match &page.after {
            Some(after) => find(&mut conn, self.scope(), after).await?.row,
            None => 0,
        };
        let tail = "WHERE a.id > $1 AND ($2 IS NULL OR a.team = $2) AND ($3 IS NULL OR t.organization = $3)
            AND ($4 IS NULL OR t.id = $4)
            AND ($5 = 1 OR COALESCE(a.archived_ms, t.archived_ms) IS NULL) ORDER BY a.id LIMIT $6";
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(after)
            .bind(team)
            .bind(self.scope().organization())
            .bind(self.scope().team())
            .bind(i64::from(archived))
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        Ok(Listed::cut(read_all(&mut conn, rows).await?, page.limit()))
    }

    /// Makes an application.
    pub async fn create_application(&self, new: NewApplication) -> Result<Application> {
        let mut write = self.write().await?;
        let id = insert(&mut write, new).await?;
        let made = find(write.conn(), Scope::Installation, &id).await?;
        write.after(&made);
        write.commit().await?;
        Ok(made)
    }

    /// Makes an application and its first key, both or neither.
    pub async fn create_application_with_key(
        &self,
        new: NewApplication,
        first: NewKey,
    ) -> Result<(Application, Key, Secret, Generation)> {
        let mut write = self.write().await?;
        let id = insert(&mut write, new).await?;
        let (key, secret) = key::insert(&mut write, NewKey { application: id.clone(), ..first }).await?;
        let made = find(write.conn(), Scope::Installation, &id).await?;
        let key = key::find(write.conn(), Scope::Installation, &key).await?;
        write.after(&made);
        write.after(&key);
        let generation = write.commit().await?;
        Ok((made, key, secret, generation))
    }

    /// Changes an application. What is billed from now on follows; what was billed stays.
    pub async fn update_application(&self, wanted: &str, patch: ApplicationPatch) -> Result<Application> {
        let mut write = self.write().await?;
        let found = find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        let name = patch.name.unwrap_or_else(|| found.name.clone());
        check_name("name", &name)?;
        let plan = optional_text("plan", patch.plan.unwrap_or_else(|| found.plan.clone()))?;
        let cost_centre =
            optional_text("cost_centre", patch.cost_centre.unwrap_or_else(|| found.cost_centre.clone()))?;
        let models = patch.models.unwrap_or_else(|| found.models.clone());
        let team = patch.team.as_deref().unwrap_or(&found.team_id);
        let team = team::find(write.conn(), self.scope(), team).await?;
        if team.id != found.team_id {
            check_live(&team.id, team.archived_ms)?;
        }
        let same = (&name, &plan, &cost_centre, &models, &team.id)
            == (&found.name, &found.plan, &found.cost_centre, &found.models, &found.team_id);
        if same {
            return write.leave(found).await;
        }
        let allow = allow::store(write.conn(), &models).await?;
        sqlx::query::<Db>(
            "UPDATE applications SET name = $1, plan = $2, cost_centre = $3, allow = $4, team = $5 WHERE id = $6",
        )
        .bind(&name)
        .bind(plan)
        .bind(cost_centre)
        .bind(allow)
        .bind(team.row)
        .bind(found.row)
        .execute(write.conn())
        .await
        .map_err(taken("application", &name))?;
        write.change(Kind::Application, found.row).await?;
        attribution::refresh(&mut write, attribution::Under::Application(found.row)).await?;
        let changed = find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }
}

async fn insert(write: &mut Write<'_>, new: NewApplication) -> Result<String> {
    check_name("name", &new.name)?;
    let plan = optional_text("plan", new.plan)?;
    let cost_centre = optional_text("cost_centre", new.cost_centre)?;
    let scope = write.scope();
    let team = team::find(write.conn(), scope, &new.team).await?;
    check_live(&team.id, team.archived_ms)?;
    let allow = allow::store(write.conn(), &new.models).await?;
    let id = write.next_id("application").await?;
    let (public_id, now_ms) = (public_id("app")?, write.now_ms);
    sqlx::query::<Db>(
        "INSERT INTO applications (id, public_id, team, name, plan, cost_centre, allow, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id)
    .bind(&public_id)
    .bind(team.row)
    .bind(&new.name)
    .bind(plan)
    .bind(cost_centre)
    .bind(allow)
    .bind(now_ms)
    .execute(write.conn())
    .await
    .map_err(taken("application", &new.name))?;
    write.change(Kind::Application, id).await?;
    Ok(public_id)
}
