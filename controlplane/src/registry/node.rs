//! Nodes: data planes that have been seen. An enrolled one is named in every receipt until it is removed.

use sqlx::Row as _;
use wire::id::NodeId;

use super::{Db, Registry, RegistryError, Result, now_ms};

/// A data plane's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub node: NodeId,
    /// Unix time in milliseconds.
    pub first_seen_ms: i64,
    /// Likewise.
    pub last_seen_ms: i64,
}

impl Registry {
    /// Notes that a node is there, and enrols it if it is new.
    pub async fn see_node(&self, node: NodeId) -> Result<()> {
        sqlx::query::<Db>(
            "INSERT INTO nodes (node, first_seen_ms, last_seen_ms, enrolled) VALUES ($1, $2, $2, 1)
             ON CONFLICT (node) DO UPDATE SET last_seen_ms = excluded.last_seen_ms, enrolled = 1",
        )
        .bind(node.to_string())
        .bind(now_ms())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The enrolled nodes, in the order in which they came.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let rows = sqlx::query::<Db>(
            "SELECT node, first_seen_ms, last_seen_ms FROM nodes WHERE enrolled = 1 ORDER BY first_seen_ms, node",
        )
        .fetch_all(&self.pool)
        .await?;
        let corrupt = RegistryError::Corrupt { what: "node id" };
        let read = |row: &super::Row| -> Result<Option<Node>> {
            let node = NodeId::parse(row.try_get("node")?);
            let (first_seen_ms, last_seen_ms) = (row.try_get("first_seen_ms")?, row.try_get("last_seen_ms")?);
            Ok(node.map(|node| Node { node, first_seen_ms, last_seen_ms }))
        };
        rows.iter().map(read).collect::<Result<Option<_>>>()?.ok_or(corrupt)
    }
}
