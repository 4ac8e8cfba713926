//! Administrators: who may call the admin API, as what, and for which part of the installation.
//!
//! Their credentials have a prefix and a table of their own, are kept as SHA-256, as keys are, and have an
//! end. A role holds for the installation, an organization or a team. Only owners make administrators, none
//! of them beyond their own scope.
//!
//! Invariant: no call revokes or demotes the last owner of the whole installation. It may expire all the
//! same, or be revoked as a restore is made good; a new bootstrap key is the way back.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use wire::id::KeyDigest;

use super::act::Subject;
use super::role::{Role, Scope};
use super::write::{Kind, Write, public_id};
use super::{
    Conn, Db, Listed, Page, Patch, Registry, RegistryError, Result, Row, check_name, now_ms, organization,
    pick, show, statement, team, tombstone,
};
use crate::keys::{self, Secret};

/// Where an administrator's credential stands.
#[derive(Clone, Copy, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminStatus {
    /// It works.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked, for good.
    Revoked,
}

/// An administrator.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "administrator")]
pub struct Admin {
    #[serde(skip)]
    pub(super) row: i64,
    /// `adm_...`
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where.
    #[serde(skip)]
    pub scope: Scope,
    /// The id of the organization that it is limited to, or that its team is in.
    pub organization_id: Option<String>,
    /// That organization's name.
    pub organization: Option<String>,
    /// The id of the team that it is limited to.
    pub team_id: Option<String>,
    /// That team's name.
    pub team: Option<String>,
    /// Where its credential stands now.
    pub status: AdminStatus,
    /// Unix time in milliseconds.
    #[serde(rename = "created_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub created_ms: i64,
    /// Until when its credential works.
    #[serde(rename = "expires_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub expires_ms: Option<i64>,
    /// Until when the credential works that the present one replaced.
    #[serde(rename = "former_until", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub former_until_ms: Option<i64>,
    /// Whether it came with the credential that the present one replaced.
    #[serde(skip)]
    pub is_former: bool,
    /// When it was revoked.
    #[serde(rename = "revoked_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    pub revoked_ms: Option<i64>,
}

impl Admin {
    /// Whether it owns the whole installation, now.
    fn is_owner_of_all(&self) -> bool {
        self.role == Role::Owner && self.scope == Scope::Installation && self.status == AdminStatus::Active
    }
}

impl Subject for Admin {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (self.organization_id.as_deref(), self.team_id.as_deref())
    }
}

/// What a new administrator is to be.
#[derive(Clone, Debug)]
pub struct NewAdmin {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The organization that it is limited to, by id or name.
    pub organization: Option<String>,
    /// The team that it is limited to, likewise.
    pub team: Option<String>,
    /// Until when its credential works, Unix time in milliseconds.
    pub expires_ms: Option<i64>,
}

/// What of an administrator is to change.
#[derive(Clone, Debug, Default)]
pub struct AdminPatch {
    /// Another name.
    pub name: Option<String>,
    /// Another role.
    pub role: Option<Role>,
    /// Another end, or none.
    pub expires_ms: Patch<i64>,
}

const SELECT: &str =
    "SELECT x.id, x.public_id, x.name, x.digest, x.role, x.scope_kind, x.scope_id, x.created_ms,
    x.expires_ms, x.former_until_ms, x.revoked_ms, o.public_id AS organization_id, o.name AS organization,
    t.public_id AS team_id, t.name AS team
    FROM admins x LEFT JOIN teams t ON x.scope_kind = 'team' AND t.id = x.scope_id
    LEFT JOIN organizations o ON o.id = CASE x.scope_kind WHEN 'organization' THEN x.scope_id
        WHEN 'team' THEN t.organization END";

fn read(row: &Row) -> Result<Admin> {
    let corrupt = || RegistryError::Corrupt { what: "administrator" };
    let scope_id = row.try_get("scope_id")?;
    let (expires_ms, revoked_ms) = (row.try_get::<Option<i64>, _>("expires_ms")?, row.try_get("revoked_ms")?);
    let status = match (revoked_ms, expires_ms) {
        (Some(_), _) => AdminStatus::Revoked,
        (None, Some(end)) if end <= now_ms() => AdminStatus::Expired,
        (None, _) => AdminStatus::Active,
    };
    Ok(Admin {
        row: row.try_get("id")?,
        id: row.try_get("public_id")?,
        name: row.try_get("name")?,
        role: Role::parse(row.try_get("role")?).ok_or_else(corrupt)?,
        scope: match row.try_get("scope_kind")? {
            "installation" => Scope::Installation,
            "organization" => Scope::Organization(scope_id),
            "team" => Scope::Team(scope_id),
            _ => return Err(corrupt()),
        },
        organization_id: row.try_get("organization_id")?,
        organization: row.try_get("organization")?,
        team_id: row.try_get("team_id")?,
        team: row.try_get("team")?,
        status,
        created_ms: row.try_get("created_ms")?,
        expires_ms,
        former_until_ms: row.try_get("former_until_ms")?,
        is_former: false,
        revoked_ms,
    })
}

pub(super) async fn find(conn: &mut Conn, scope: Scope, wanted: &str) -> Result<Admin> {
    let tail = "WHERE (x.public_id = $1 OR x.name = $1) AND ($2 IS NULL OR o.id = $2)
        AND ($3 IS NULL OR t.id = $3) ORDER BY x.id";
    let rows = sqlx::query::<Db>(statement(SELECT, tail))
        .bind(wanted)
        .bind(scope.organization())
        .bind(scope.team())
        .fetch_all(conn)
        .await?;
    let found = rows.iter().map(read).collect::<Result<_>>()?;
    pick("administrator", wanted, found, |one: &Admin| &one.id, |one| one.role.name().to_owned())
}

impl Registry {
    /// The administrator whose credential has this digest, if it holds now.
    pub async fn admin_by_digest(&self, digest: KeyDigest) -> Result<Option<Admin>> {
        let tail = "WHERE (x.digest = $1 OR (x.former_digest = $1 AND x.former_until_ms > $2))
            AND x.revoked_ms IS NULL AND (x.expires_ms IS NULL OR x.expires_ms > $2)";
        let row = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(&digest.0[..])
            .bind(now_ms())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let is_former = row.try_get::<&[u8], _>("digest")? != digest.0;
        Ok(Some(Admin { is_former, ..read(&row)? }))
    }

    /// Whether there is any administrator.
    pub async fn has_admins(&self) -> Result<bool> {
        let row = sqlx::query::<Db>("SELECT id FROM admins LIMIT 1").fetch_optional(&self.pool).await?;
        Ok(row.is_some())
    }

    /// Makes an administrator for the whole installation, unless the credential is known (be it a revoked
    /// one, or one that was replaced).
    ///
    /// Returns whether one was made.
    pub async fn create_admin(&self, name: &str, role: Role, digest: KeyDigest) -> Result<bool> {
        let mut write = self.write().await?;
        let known = sqlx::query::<Db>(
            "SELECT digest FROM admins WHERE digest = $1 UNION SELECT digest FROM tombstones WHERE digest = $1",
        )
        .bind(&digest.0[..])
        .fetch_optional(write.conn())
        .await?;
        if known.is_some() {
            return Ok(false);
        }
        let id = insert(&mut write, name, (role, Scope::Installation), digest, None).await?;
        let made = find(write.conn(), Scope::Installation, &id).await?;
        write.after(&made);
        write.commit().await?;
        Ok(true)
    }

    /// The administrator with this id or name.
    pub async fn admin(&self, wanted: &str) -> Result<Admin> {
        find(&mut *self.pool.acquire().await?, self.scope(), wanted).await
    }

    /// A page of the administrators, in the order in which they were made.
    pub async fn admins(&self, page: &Page) -> Result<Listed<Admin>> {
        let mut conn = self.pool.acquire().await?;
        let after = match &page.after {
            Some(after) => find(&mut conn, self.scope(), after).await?.row,
            None => 0,
        };
        let tail = "WHERE x.id > $1 AND ($2 IS NULL OR o.id = $2) AND ($3 IS NULL OR t.id = $3)
            ORDER BY x.id LIMIT $4";
        let rows = sqlx::query::<Db>(statement(SELECT, tail))
            .bind(after)
            .bind(self.scope().organization())
            .bind(self.scope().team())
            .bind(page.limit() + 1)
            .fetch_all(&mut *conn)
            .await?;
        Ok(Listed::cut(rows.iter().map(read).collect::<Result<_>>()?, page.limit()))
    }

    /// Makes an administrator within the caller's scope. The credential is in the answer and nowhere else.
    pub async fn make_admin(&self, new: NewAdmin) -> Result<(Admin, Secret)> {
        check_name("name", &new.name)?;
        check_end(new.expires_ms)?;
        let mut write = self.write().await?;
        let scope = match (&new.organization, &new.team, self.scope()) {
            (None, None, Scope::Installation) => Scope::Installation,
            (None, None, _) => return Err(invalid("organization", "yours, or one of its teams in team")),
            // It can look at the organization that its team is in, and is no owner of it.
            (Some(_), None, Scope::Team(_)) => return Err(invalid("team", "yours, and no organization")),
            (Some(wanted), None, scope) => {
                Scope::Organization(organization::find(write.conn(), scope, wanted).await?.row)
            }
            (None, Some(wanted), scope) => Scope::Team(team::find(write.conn(), scope, wanted).await?.row),
            (Some(_), Some(_), _) => return Err(invalid("team", "either an organization or a team")),
        };
        let secret = keys::new_admin_key()?;
        let (role, digest) = (new.role, secret.digest());
        let id = insert(&mut write, &new.name, (role, scope), digest, new.expires_ms).await?;
        let made = find(write.conn(), Scope::Installation, &id).await?;
        write.after(&made);
        write.hides("secret");
        write.commit().await?;
        Ok((made, secret))
    }

    /// Changes an administrator; what a revoked one is stays.
    pub async fn update_admin(&self, wanted: &str, patch: AdminPatch) -> Result<Admin> {
        let mut write = self.write().await?;
        let found = write.admin(wanted).await?;
        let name = patch.name.unwrap_or_else(|| found.name.clone());
        check_name("name", &name)?;
        check_end(patch.expires_ms.flatten())?;
        sqlx::query::<Db>("UPDATE admins SET name = $1, role = $2, expires_ms = $3 WHERE id = $4")
            .bind(name)
            .bind(patch.role.unwrap_or(found.role).name())
            .bind(patch.expires_ms.unwrap_or(found.expires_ms))
            .bind(found.row)
            .execute(write.conn())
            .await?;
        write.finish(&found, None).await
    }

    /// Ends an administrator's credential, for good.
    pub async fn revoke_admin(&self, wanted: &str) -> Result<Admin> {
        let mut write = self.write().await?;
        let found = find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        if found.status == AdminStatus::Revoked {
            return write.leave(found).await;
        }
        let now_ms = write.now_ms;
        sqlx::query::<Db>("UPDATE admins SET revoked_ms = $1 WHERE id = $2")
            .bind(now_ms)
            .bind(found.row)
            .execute(write.conn())
            .await?;
        write.finish(&found, None).await
    }

    /// Gives an administrator another credential, with another end; the present one works for so many
    /// milliseconds more, and not beyond its own end.
    pub async fn rotate_admin(
        &self,
        wanted: &str,
        overlap_ms: i64,
        expires_ms: Option<i64>,
    ) -> Result<(Admin, Secret)> {
        check_end(expires_ms)?;
        let mut write = self.write().await?;
        let found = write.admin(wanted).await?;
        let (secret, now_ms) = (keys::new_admin_key()?, write.now_ms);
        // A backup that is older must not bring it back.
        let row = sqlx::query::<Db>("SELECT digest FROM admins WHERE id = $1").bind(found.row);
        let former: Vec<u8> = row.fetch_one(write.conn()).await?.try_get("digest")?;
        tombstone::insert(write.conn(), &former, now_ms).await?;
        let former_until = now_ms.saturating_add(overlap_ms).min(found.expires_ms.unwrap_or(i64::MAX));
        sqlx::query::<Db>(
            "UPDATE admins SET former_digest = digest, former_until_ms = $1, digest = $2, expires_ms = $3
             WHERE id = $4",
        )
        .bind(former_until)
        .bind(&secret.digest().0[..])
        .bind(expires_ms)
        .bind(found.row)
        .execute(write.conn())
        .await?;
        Ok((write.finish(&found, Some("secret")).await?, secret))
    }

    /// Lets an administrator's credential be over.
    #[cfg(test)]
    pub(crate) async fn age_admin(&self, id: &str) {
        let aged = sqlx::query::<Db>("UPDATE admins SET expires_ms = 1 WHERE public_id = $1").bind(id);
        aged.execute(&self.pool).await.unwrap();
    }
}

impl Write<'_> {
    /// The administrator that is to be changed, unless it is revoked.
    async fn admin(&mut self, wanted: &str) -> Result<Admin> {
        let scope = self.scope();
        let found = find(self.conn(), scope, wanted).await?;
        self.before(&found)?;
        if found.status == AdminStatus::Revoked {
            return Err(RegistryError::Conflict(format!("{} is revoked, which is for good", found.id)));
        }
        Ok(found)
    }

    /// Commits a change of an administrator, unless it takes the last owner away.
    async fn finish(mut self, found: &Admin, hidden: Option<&str>) -> Result<Admin> {
        if found.is_owner_of_all() && !self.has_owner().await? {
            let message =
                format!("{} is the last owner of the installation: make another one first", found.id);
            return Err(RegistryError::Conflict(message));
        }
        self.change(Kind::Admin, found.row).await?;
        let changed = find(self.conn(), Scope::Installation, &found.id).await?;
        self.after(&changed);
        hidden.into_iter().for_each(|member| self.hides(member));
        self.commit().await?;
        Ok(changed)
    }

    /// Whether the installation has an owner whose credential holds.
    async fn has_owner(&mut self) -> Result<bool> {
        let now_ms = self.now_ms;
        let owner = sqlx::query::<Db>(
            "SELECT id FROM admins WHERE role = 'owner' AND scope_kind = 'installation' AND revoked_ms IS NULL
                 AND (expires_ms IS NULL OR expires_ms > $1) LIMIT 1",
        );
        Ok(owner.bind(now_ms).fetch_optional(self.conn()).await?.is_some())
    }
}

async fn insert(
    write: &mut Write<'_>,
    name: &str,
    (role, scope): (Role, Scope),
    digest: KeyDigest,
    expires_ms: Option<i64>,
) -> Result<String> {
    let (id, now_ms, public_id) = (write.next_id("admin").await?, write.now_ms, public_id("adm")?);
    let (kind, scope_id) = match scope {
        Scope::Installation => ("installation", 0),
        Scope::Organization(row) => ("organization", row),
        Scope::Team(row) => ("team", row),
    };
    sqlx::query::<Db>(
        "INSERT INTO admins (id, public_id, name, digest, role, scope_kind, scope_id, created_ms, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id)
    .bind(&public_id)
    .bind(name)
    .bind(&digest.0[..])
    .bind(role.name())
    .bind(kind)
    .bind(scope_id)
    .bind(now_ms)
    .bind(expires_ms)
    .execute(write.conn())
    .await?;
    write.change(Kind::Admin, id).await?;
    Ok(public_id)
}

fn check_end(end: Option<i64>) -> Result<()> {
    if end.is_some_and(|end| end <= now_ms()) {
        Err(invalid("expires_at", "a time in the future"))
    } else {
        Ok(())
    }
}

fn invalid(field: &'static str, allowed: &str) -> RegistryError {
    RegistryError::Invalid { field, message: allowed.to_owned() }
}
