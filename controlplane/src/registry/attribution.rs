//! Who is billed: organization, team, application, key, plan, cost centre, under one number, in rows that
//! never change.
//!
//! Data planes know the number alone. When a key moves, or a plan or cost centre that it inherits changes, it
//! gets a new row; events that carry the old number go on meaning what they meant.

use sqlx::Row as _;
use wire::id::{AliasId, AttributionId, DeploymentId};

use super::write::{Kind, Write};
use super::{Db, Registry, Result, Row, statement, stored};

/// What an attribution's number stands for, as usage events name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribution {
    /// `org_...`
    pub organization_id: String,
    /// `team_...`
    pub team_id: String,
    /// `app_...`
    pub application_id: String,
    /// `key_...`
    pub key_id: String,
    /// Empty where there is none.
    pub plan: String,
    /// Empty where there is none.
    pub cost_centre: String,
}

/// Whose keys may be billed otherwise from now on.
pub(super) enum Under {
    Organization(i64),
    Team(i64),
    Application(i64),
    Key(i64),
}

/// A key, and what its attribution should say.
pub(super) struct Due {
    pub(super) key: i64,
    pub(super) organization: i64,
    pub(super) team: i64,
    pub(super) application: i64,
    pub(super) plan: String,
    pub(super) cost_centre: String,
}

const DUE: &str = "SELECT k.id AS key_id, a.id AS application, t.id AS team, t.organization,
        COALESCE(k.plan, a.plan, t.plan, o.plan, '') AS plan,
        COALESCE(k.cost_centre, a.cost_centre, t.cost_centre, o.cost_centre, '') AS cost_centre
    FROM keys k
    JOIN applications a ON a.id = k.application
    JOIN teams t ON t.id = a.team
    JOIN organizations o ON o.id = t.organization
    JOIN attributions b ON b.id = k.attribution
    WHERE k.status <> 'revoked'
      AND (b.organization <> t.organization OR b.team <> t.id OR b.application <> a.id
           OR b.plan <> COALESCE(k.plan, a.plan, t.plan, o.plan, '')
           OR b.cost_centre <> COALESCE(k.cost_centre, a.cost_centre, t.cost_centre, o.cost_centre, ''))";

/// Gives each key whose billing changed a new attribution, and takes a generation for it.
pub(super) async fn refresh(write: &mut Write<'_>, under: Under) -> Result<()> {
    let (tail, id) = match under {
        Under::Organization(id) => ("AND t.organization = $1", id),
        Under::Team(id) => ("AND a.team = $1", id),
        Under::Application(id) => ("AND k.application = $1", id),
        Under::Key(id) => ("AND k.id = $1", id),
    };
    let rows = sqlx::query::<Db>(statement(DUE, tail)).bind(id).fetch_all(write.conn()).await?;
    for due in rows.iter().map(read_due).collect::<sqlx::Result<Vec<_>>>()? {
        let attribution = insert(write, &due).await?;
        sqlx::query::<Db>("UPDATE keys SET attribution = $1 WHERE id = $2")
            .bind(attribution)
            .bind(due.key)
            .execute(write.conn())
            .await?;
        write.change(Kind::Key, due.key).await?;
    }
    Ok(())
}

fn read_due(row: &Row) -> sqlx::Result<Due> {
    Ok(Due {
        key: row.try_get("key_id")?,
        organization: row.try_get("organization")?,
        team: row.try_get("team")?,
        application: row.try_get("application")?,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
    })
}

/// Writes a new row and returns its number.
pub(super) async fn insert(write: &mut Write<'_>, due: &Due) -> Result<i64> {
    let id = write.next_id("attribution").await?;
    let now_ms = write.now_ms;
    sqlx::query::<Db>(
        "INSERT INTO attributions (id, organization, team, application, key_id, plan, cost_centre, created_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(id)
    .bind(due.organization)
    .bind(due.team)
    .bind(due.application)
    .bind(due.key)
    .bind(&due.plan)
    .bind(&due.cost_centre)
    .bind(now_ms)
    .execute(write.conn())
    .await?;
    Ok(id)
}

impl Registry {
    /// What an attribution's number stands for; `None` where it stands for nothing.
    pub async fn attribution(&self, id: AttributionId) -> Result<Option<Attribution>> {
        let row = sqlx::query::<Db>(
            "SELECT o.public_id AS organization_id, t.public_id AS team_id, a.public_id AS application_id,
                 k.public_id AS key_id, b.plan, b.cost_centre
             FROM attributions b
             JOIN organizations o ON o.id = b.organization
             JOIN teams t ON t.id = b.team
             JOIN applications a ON a.id = b.application
             JOIN keys k ON k.id = b.key_id
             WHERE b.id = $1",
        )
        .bind(stored(id.0))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Attribution {
            organization_id: row.try_get("organization_id")?,
            team_id: row.try_get("team_id")?,
            application_id: row.try_get("application_id")?,
            key_id: row.try_get("key_id")?,
            plan: row.try_get("plan")?,
            cost_centre: row.try_get("cost_centre")?,
        }))
    }

    /// The name of an alias, also of one that was removed.
    pub async fn alias_name(&self, id: AliasId) -> Result<Option<String>> {
        let row = sqlx::query::<Db>("SELECT name FROM aliases WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get("name")).transpose()?)
    }

    /// The name of a deployment, also of one that was removed.
    pub async fn deployment_name(&self, id: DeploymentId) -> Result<Option<String>> {
        let row = sqlx::query::<Db>("SELECT name FROM deployments WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.map(|row| row.try_get("name")).transpose()?)
    }
}
