//! Administrators: who may call the admin API, as what, and for which part of the installation.
//!
//! Their credentials have a prefix and a table of their own, and are kept as SHA-256, as keys are.

use sqlx::Row as _;
use wire::id::KeyDigest;

use super::write::{Kind, public_id};
use super::{Db, Registry, RegistryError, Result, now_ms};

/// What an administrator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Owner,
    /// Everything but administrators.
    Admin,
    /// Reads usage and what it is billed to.
    Finance,
    /// Reads everything but secrets, which no one reads.
    Auditor,
}

impl Role {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Owner, "owner"),
        (Self::Admin, "admin"),
        (Self::Finance, "finance"),
        (Self::Auditor, "auditor"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The role of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.1 == name).map(|one| one.0)
    }
}

/// For which part a role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Installation,
    /// One organization.
    Organization(i64),
    /// One team.
    Team(i64),
}

/// An administrator whose credential was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `adm_...`
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

impl Registry {
    /// The administrator whose credential has this digest, if it holds now.
    pub async fn admin_by_digest(&self, digest: KeyDigest) -> Result<Option<Admin>> {
        let row = sqlx::query::<Db>(
            "SELECT public_id, name, role, scope_kind, scope_id FROM admins
             WHERE digest = $1 AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > $2)",
        )
        .bind(&digest.0[..])
        .bind(now_ms())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let corrupt = || RegistryError::Corrupt { what: "administrator" };
        let scope_id = row.try_get("scope_id")?;
        Ok(Some(Admin {
            id: row.try_get("public_id")?,
            name: row.try_get("name")?,
            role: Role::parse(row.try_get("role")?).ok_or_else(corrupt)?,
            scope: match row.try_get("scope_kind")? {
                "installation" => Scope::Installation,
                "organization" => Scope::Organization(scope_id),
                "team" => Scope::Team(scope_id),
                _ => return Err(corrupt()),
            },
        }))
    }

    /// Whether there is any administrator.
    pub async fn has_admins(&self) -> Result<bool> {
        let row = sqlx::query::<Db>("SELECT id FROM admins LIMIT 1").fetch_optional(&self.pool).await?;
        Ok(row.is_some())
    }

    /// Makes an administrator for the whole installation, unless the credential is known (be it a revoked
    /// one).
    ///
    /// Returns whether one was made.
    pub async fn create_admin(&self, name: &str, role: Role, digest: KeyDigest) -> Result<bool> {
        let mut write = self.write().await?;
        let known = sqlx::query::<Db>("SELECT id FROM admins WHERE digest = $1")
            .bind(&digest.0[..])
            .fetch_optional(write.conn())
            .await?;
        if known.is_some() {
            return Ok(false);
        }
        let (id, now_ms) = (write.next_id("admin").await?, write.now_ms);
        sqlx::query::<Db>(
            "INSERT INTO admins (id, public_id, name, digest, role, scope_kind, scope_id, created_ms)
             VALUES ($1, $2, $3, $4, $5, 'installation', 0, $6)",
        )
        .bind(id)
        .bind(public_id("adm")?)
        .bind(name)
        .bind(&digest.0[..])
        .bind(role.name())
        .bind(now_ms)
        .execute(write.conn())
        .await?;
        write.change(Kind::Admin, id).await?;
        write.commit().await?;
        Ok(true)
    }
}
