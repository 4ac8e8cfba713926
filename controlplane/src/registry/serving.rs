//! Which control plane serves which data plane, where several share the registry.
//!
//! Each says every few seconds which it serves; what it has not said for a while is no longer so. A single
//! control plane says nothing.

use std::time::Duration;

use sqlx::Row as _;
use wire::id::{Generation, NodeId};

use super::{Db, Registry, RegistryError, Result, generation, now_ms, stored};

/// How often a control plane says whom it serves.
pub const SAY_INTERVAL: Duration = Duration::from_secs(5);
/// For how long that holds. The clocks of their hosts may differ by some of it.
const SAID_HOLDS_MS: i64 = 15_000;

/// A data plane that another control plane serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its node.
    pub node: NodeId,
    /// How far it had come when that was said.
    pub applied: Generation,
    /// When it was said, Unix time in milliseconds.
    pub heard_ms: i64,
}

impl Registry {
    /// Says which data planes this control plane serves, and how far each has come.
    pub async fn say_served(&self, served: &[(NodeId, Generation)]) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        for (node, applied) in served {
            sqlx::query::<Db>(
                "UPDATE nodes SET served_by = $1, served_ms = $2, served_generation = $3 WHERE node = $4",
            )
            .bind(self.own_name())
            .bind(now_ms())
            .bind(stored(applied.0))
            .bind(node.to_string())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Says that this control plane serves a data plane no longer.
    pub async fn say_left(&self, node: NodeId) -> Result<()> {
        if self.is_shared() {
            sqlx::query::<Db>("UPDATE nodes SET served_by = '' WHERE node = $1 AND served_by = $2")
                .bind(node.to_string())
                .bind(self.own_name())
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }

    /// The enrolled data planes that other control planes serve.
    pub async fn served_elsewhere(&self) -> Result<Vec<Elsewhere>> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query::<Db>(
            "SELECT node, served_ms, served_generation FROM nodes
             WHERE enrolled = 1 AND served_by <> '' AND served_by <> $1 AND served_ms > $2",
        )
        .bind(self.own_name())
        .bind(now_ms() - SAID_HOLDS_MS)
        .fetch_all(&self.pool)
        .await?;
        let read = |row: &super::Row| -> Result<Elsewhere> {
            Ok(Elsewhere {
                node: NodeId::parse(row.try_get("node")?)
                    .ok_or(RegistryError::Corrupt { what: "node id" })?,
                applied: generation(row.try_get("served_generation")?),
                heard_ms: row.try_get("served_ms")?,
            })
        };
        rows.iter().map(read).collect()
    }

    fn own_name(&self) -> String {
        format!("{:016x}", self.own_number)
    }
}
