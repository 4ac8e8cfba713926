//! Teams: parts of an organization. Applications belong to one; plan and cost centre are inherited from it.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::act::Subject;
use super::role::Scope;
use super::write::{Kind, public_id};
use super::{
    Conn, Db, Listed, Page, Patch, Registry, Result, Row, attribution, check_name, optional_text,
    organization, pick, show, statement, taken,
};

/// A team.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "team")]
pub struct Team {
    #[serde(skip)]
    pub(super) row: i64,
    /// `team_...`
    pub id: String,
    /// Its name, its own in the organization.
    pub name: String,
    /// The organization's id.
    pub organization_id: String,
    /// The organization's name.
    pub organization: String,
    /// What its applications and keys inherit.
    pub plan: Option<String>,
    /// Likewise.
    pub cost_centre: Option<String>,
    /// When it was archived, Unix time in milliseconds: nothing is made in it any more.
    #[serde(rename = "archived_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub archived_ms: Option<i64>,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
}

impl Subject for Team {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.organization_id), Some(&self.id))
    }
}

/// What a new team is to be.
#[derive(Clone, Debug, Default)]
pub struct NewTeam {
    /// Its name.
    pub name: String,
    /// The organization, by id or name.
    pub organization: String,
    /// See `Team`.
    pub plan: Option<String>,
    /// See `Team`.
    pub cost_centre: Option<String>,
}

/// What of a team is to change.
#[derive(Clone, Debug, Default)]
pub struct TeamPatch {
    /// A new name.
    pub name: Option<String>,
    /// Another organization, by id or name.
    pub organization: Option<String>,
    /// Another plan, or none.
    pub plan: Patch<String>,
    /// Another cost centre, or none.
    pub cost_centre: Patch<String>,
}

const SELECT: &str =
    "SELECT t.id, t.public_id, t.name, o.public_id AS organization_id, o.name AS organization,
    t.plan, t.cost_centre, t.created_ms, t.archived_ms FROM teams t JOIN organizations o ON o.id = t.organization";

fn read(row: &Row) -> sqlx::Result<Team> {
    Ok(Team {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        name: row.try_get("name")?,
        organization_id: row.try_get("organization_id")?,
        organization: row.try_get("organization")?,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
        created_ms: row.try_get("created_ms")?,
        archived_ms: row.try_get("archived_ms")?,
    })
}

pub(super) async fn find(conn: &mut Conn, scope: Scope, wanted: &str) -> Result<Team> {
    let tail = "WHERE (t.public_id = $1 OR t.name = $1) AND ($2 IS NULL OR t.organization = $2)
        AND ($3 IS NULL OR t.id = $3) ORDER BY t.id";
    let rows = sqlx::query::<Db>(statement(SELECT, tail))
        .bind(wanted)
        .bind(scope.organization())
        .bind(scope.team())
        .fetch_all(conn)
        .await?;
    let found = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    pick("team", wanted, found, |one: &Team| &one.id, |one| format!("in {}", one.organization))
}

impl Registry {
    /// The team with this id or name.
    pub async fn team(&self, wanted: &str) -> Result<Team> {
        find(&mut *self.pool.acquire().await?, self.scope(), wanted).await
    }

    /// A page of the teams, of one organization or of all.
    pub async fn teams(&self, organization: Option<&str>, page: &Page) -> Result<Listed<Team>> {
        self.teams_also(organization, true, page).await
    }

    /// Likewise, without those that are archived or with them.
    pub async fn teams_also(
        &self,
        organization: Option<&str>,
        archived: bool,
        page: &Page,
    ) -> Result<Listed<Team>> {
        let mut conn = self.pool.acquire().await?;
        let organization = match organization {
            Some(wanted) => Some(organization::find(&mut conn, self.scope(), wanted).await?.row),
            None => None,
        };
        let after = match &page.after {
            Some(after) => find(&mut conn, self.scope(), after).await?.row,
            None => 0,
        };
        let tail = "WHERE t.id > $1 AND ($2 IS NULL OR t.organization = $2)
            AND ($3 IS NULL OR t.organization = $3) AND ($4 IS NULL OR t.id = $4)
            AND ($5 = 1 OR t.archived_ms IS NULL) ORDER BY t.id LIMIT $6";
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(after)
            .bind(organization)
            .bind(self.scope().organization())
            .bind(self.scope().team())
            .bind(i64::from(archived))
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        Ok(Listed::cut(rows.iter().map(read).collect::<sqlx::Result<_>>()?, page.limit()))
    }

    /// Makes a team.
    pub async fn create_team(&self, new: NewTeam) -> Result<Team> {
        check_name("name", &new.name)?;
        let plan = optional_text("plan", new.plan)?;
        let cost_centre = optional_text("cost_centre", new.cost_centre)?;
        let mut write = self.write().await?;
        let organization = organization::find(write.conn(), self.scope(), &new.organization).await?;
        let id = write.next_id("team").await?;
        let (public_id, now_ms) = (public_id("team")?, write.now_ms);
        sqlx::query::<Db>(
            "INSERT INTO teams (id, public_id, organization, name, plan, cost_centre, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id)
        .bind(&public_id)
        .bind(organization.row)
        .bind(&new.name)
        .bind(plan)
        .bind(cost_centre)
        .bind(now_ms)
        .execute(write.conn())
        .await
        .map_err(taken("team", &new.name))?;
        write.change(Kind::Team, id).await?;
        let made = find(write.conn(), Scope::Installation, &public_id).await?;
        write.after(&made);
        write.commit().await?;
        Ok(made)
    }

    /// Changes a team. What is billed from now on follows; what was billed stays.
    pub async fn update_team(&self, wanted: &str, patch: TeamPatch) -> Result<Team> {
        let mut write = self.write().await?;
        let found = find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        let name = patch.name.unwrap_or_else(|| found.name.clone());
        check_name("name", &name)?;
        let plan = optional_text("plan", patch.plan.unwrap_or_else(|| found.plan.clone()))?;
        let cost_centre =
            optional_text("cost_centre", patch.cost_centre.unwrap_or_else(|| found.cost_centre.clone()))?;
        let organization = patch.organization.as_deref().unwrap_or(&found.organization_id);
        let organization = organization::find(write.conn(), self.scope(), organization).await?;
        let same = (&name, &plan, &cost_centre, &organization.id)
            == (&found.name, &found.plan, &found.cost_centre, &found.organization_id);
        if same {
            return write.leave(found).await;
        }
        sqlx::query::<Db>(
            "UPDATE teams SET name = $1, plan = $2, cost_centre = $3, organization = $4 WHERE id = $5",
        )
        .bind(&name)
        .bind(plan)
        .bind(cost_centre)
        .bind(organization.row)
        .bind(found.row)
        .execute(write.conn())
        .await
        .map_err(taken("team", &name))?;
        write.change(Kind::Team, found.row).await?;
        attribution::refresh(&mut write, attribution::Under::Team(found.row)).await?;
        let changed = find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }
}
