//! Organizations: the customers of an installation. Teams belong to one; plan and cost centre are inherited
//! from it.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::act::Subject;
use super::role::Scope;
use super::write::{Kind, public_id};
use super::{
    Conn, Db, Listed, Page, Patch, Registry, Result, Row, attribution, check_name, optional_text, pick, show,
    statement, taken,
};

/// An organization.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "organization")]
pub struct Organization {
    #[serde(skip)]
    pub(super) row: i64,
    /// `org_...`
    pub id: String,
    /// Its name, its own in the installation.
    pub name: String,
    /// What its teams inherit.
    pub plan: Option<String>,
    /// Likewise.
    pub cost_centre: Option<String>,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
}

impl Subject for Organization {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (Some(&self.id), None)
    }
}

/// What a new organization is to be.
#[derive(Clone, Debug, Default)]
pub struct NewOrganization {
    /// Its name.
    pub name: String,
    /// See `Organization`.
    pub plan: Option<String>,
    /// See `Organization`.
    pub cost_centre: Option<String>,
}

/// What of an organization is to change.
#[derive(Clone, Debug, Default)]
pub struct OrganizationPatch {
    /// A new name.
    pub name: Option<String>,
    /// Another plan, or none.
    pub plan: Patch<String>,
    /// Another cost centre, or none.
    pub cost_centre: Patch<String>,
}

const SELECT: &str = "SELECT id, public_id, name, plan, cost_centre, created_ms FROM organizations";

fn read(row: &Row) -> sqlx::Result<Organization> {
    Ok(Organization {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        name: row.try_get("name")?,
        plan: row.try_get("plan")?,
        cost_centre: row.try_get("cost_centre")?,
        created_ms: row.try_get("created_ms")?,
    })
}

pub(super) async fn find(conn: &mut Conn, scope: Scope, wanted: &str) -> Result<Organization> {
    let tail = "WHERE (public_id = $1 OR name = $1) AND ($2 IS NULL OR id = $2)
        AND ($3 IS NULL OR id = (SELECT organization FROM teams WHERE id = $3))";
    let rows = sqlx::query::<Db>(statement(SELECT, tail))
        .bind(wanted)
        .bind(scope.organization())
        .bind(scope.team())
        .fetch_all(conn)
        .await?;
    let found = rows.iter().map(read).collect::<sqlx::Result<_>>()?;
    pick("organization", wanted, found, |one: &Organization| &one.id, |one| one.name.clone())
}

impl Registry {
    /// The organization with this id or name.
    pub async fn organization(&self, wanted: &str) -> Result<Organization> {
        find(&mut *self.pool.acquire().await?, self.scope(), wanted).await
    }

    /// The caller's scope, or what of it is in an organization. Whoever is limited to one, or to a team of
    /// it, has no less by naming it.
    pub async fn scope_within(&self, wanted: &str) -> Result<Scope> {
        let found = self.organization(wanted).await?;
        Ok(match self.scope() {
            Scope::Installation => Scope::Organization(found.row),
            narrower => narrower,
        })
    }

    /// A page of the organizations, in the order in which they were made.
    pub async fn organizations(&self, page: &Page) -> Result<Listed<Organization>> {
        let mut conn = self.pool.acquire().await?;
        let after = match &page.after {
            Some(after) => find(&mut conn, self.scope(), after).await?.row,
            None => 0,
        };
        let tail = "WHERE id > $1 AND ($2 IS NULL OR id = $2)
            AND ($3 IS NULL OR id = (SELECT organization FROM teams WHERE id = $3)) ORDER BY id LIMIT $4";
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(after)
            .bind(self.scope().organization())
            .bind(self.scope().team())
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        Ok(Listed::cut(rows.iter().map(read).collect::<sqlx::Result<_>>()?, page.limit()))
    }

    /// Makes an organization.
    pub async fn create_organization(&self, new: NewOrganization) -> Result<Organization> {
        check_name("name", &new.name)?;
        let plan = optional_text("plan", new.plan)?;
        let cost_centre = optional_text("cost_centre", new.cost_centre)?;
        let mut write = self.write().await?;
        let id = write.next_id("organization").await?;
        let (public_id, now_ms) = (public_id("org")?, write.now_ms);
        sqlx::query::<Db>(
            "INSERT INTO organizations (id, public_id, name, plan, cost_centre, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(&public_id)
        .bind(&new.name)
        .bind(plan)
        .bind(cost_centre)
        .bind(now_ms)
        .execute(write.conn())
        .await
        .map_err(taken("organization", &new.name))?;
        write.change(Kind::Organization, id).await?;
        let made = find(write.conn(), Scope::Installation, &public_id).await?;
        write.after(&made);
        write.commit().await?;
        Ok(made)
    }

    /// Changes an organization. What is billed from now on follows; what was billed stays.
    pub async fn update_organization(&self, wanted: &str, patch: OrganizationPatch) -> Result<Organization> {
        let mut write = self.write().await?;
        let found = find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        let name = patch.name.unwrap_or_else(|| found.name.clone());
        check_name("name", &name)?;
        let plan = optional_text("plan", patch.plan.unwrap_or_else(|| found.plan.clone()))?;
        let cost_centre =
            optional_text("cost_centre", patch.cost_centre.unwrap_or_else(|| found.cost_centre.clone()))?;
        if (&name, &plan, &cost_centre) == (&found.name, &found.plan, &found.cost_centre) {
            return write.leave(found).await;
        }
        sqlx::query::<Db>("UPDATE organizations SET name = $1, plan = $2, cost_centre = $3 WHERE id = $4")
            .bind(&name)
            .bind(plan)
            .bind(cost_centre)
            .bind(found.row)
            .execute(write.conn())
            .await
            .map_err(taken("organization", &name))?;
        write.change(Kind::Organization, found.row).await?;
        attribution::refresh(&mut write, attribution::Under::Organization(found.row)).await?;
        let changed = find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }
}
