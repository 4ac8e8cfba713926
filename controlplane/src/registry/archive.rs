//! Archiving teams and applications: nothing new is made in them, and their keys are revoked. What was
//! recorded of them stays, under their names.

use super::application::{self, Application};
use super::role::Scope;
use super::team::{self, Team};
use super::write::Kind;
use super::{Db, Registry, RegistryError, Result};

impl Registry {
    /// Archives a team; its keys are revoked by whoever calls this, afterwards.
    pub async fn archive_team(&self, wanted: &str) -> Result<Team> {
        let mut write = self.write().await?;
        let found = team::find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        if found.archived_ms.is_some() {
            return write.leave(found).await;
        }
        let now_ms = write.now_ms;
        let archived = sqlx::query::<Db>("UPDATE teams SET archived_ms = $1 WHERE id = $2");
        archived.bind(now_ms).bind(found.row).execute(write.conn()).await?;
        write.change(Kind::Team, found.row).await?;
        let changed = team::find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }

    /// Archives an application, likewise.
    pub async fn archive_application(&self, wanted: &str) -> Result<Application> {
        let mut write = self.write().await?;
        let found = application::find(write.conn(), self.scope(), wanted).await?;
        write.before(&found)?;
        if found.archived_ms.is_some() {
            return write.leave(found).await;
        }
        let now_ms = write.now_ms;
        let archived = sqlx::query::<Db>("UPDATE applications SET archived_ms = $1 WHERE id = $2");
        archived.bind(now_ms).bind(found.row).execute(write.conn()).await?;
        write.change(Kind::Application, found.row).await?;
        let changed = application::find(write.conn(), Scope::Installation, &found.id).await?;
        write.after(&changed);
        write.commit().await?;
        Ok(changed)
    }
}

/// Refuses to make anything in what is archived.
pub(super) fn check_live(id: &str, archived_ms: Option<i64>) -> Result<()> {
    match archived_ms {
        None => Ok(()),
        Some(_) => Err(RegistryError::Conflict(format!("{id} is archived: nothing is made in it any more"))),
    }
}
