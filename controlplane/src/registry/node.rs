//! Nodes: data planes that have been seen. An enrolled one is named in every receipt until it is removed, and
//! a removed one gets nothing any more.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;
use wire::id::NodeId;

use super::act::Subject;
use super::write::Kind;
use super::{Conn, Db, Listed, Page, Registry, RegistryError, Result, not_found, now_ms, pick, show, stored};

/// A data plane's data directory.
#[derive(Clone, Debug, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(tag = "object", rename = "node")]
pub struct Node {
    /// Its id.
    #[serde(skip)]
    pub node: NodeId,
    /// Its id as text.
    pub id: String,
    /// What people call it; empty where it connected without being asked for a name.
    pub name: String,
    /// Unix time in milliseconds.
    #[serde(rename = "first_seen", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub first_seen_ms: i64,
    /// Likewise.
    #[serde(rename = "last_seen", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    pub last_seen_ms: i64,
}

impl Subject for Node {
    fn subject(&self) -> &str {
        &self.id
    }

    fn owner(&self) -> (Option<&str>, Option<&str>) {
        (None, None)
    }
}

const SELECT: &str = "SELECT node, name, first_seen_ms, last_seen_ms FROM nodes";

impl Registry {
    /// Notes that a node is there, and enrols it if it is new. False where it was removed.
    pub async fn see_node(&self, node: NodeId) -> Result<bool> {
        let seen = sqlx::query::<Db>(
            "INSERT INTO nodes (node, first_seen_ms, last_seen_ms, enrolled) VALUES ($1, $2, $2, 1)
             ON CONFLICT (node) DO UPDATE SET last_seen_ms = excluded.last_seen_ms WHERE nodes.enrolled = 1",
        )
        .bind(node.to_string())
        .bind(now_ms())
        .execute(&self.pool)
        .await?;
        Ok(seen.rows_affected() > 0)
    }

    /// Whether a node is enrolled and was not removed.
    pub async fn is_enrolled(&self, node: NodeId) -> Result<bool> {
        let row = sqlx::query::<Db>("SELECT node FROM nodes WHERE node = $1 AND enrolled = 1")
            .bind(node.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    /// The enrolled nodes, in the order in which they came.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let query = super::statement(SELECT, "WHERE enrolled = 1 ORDER BY first_seen_ms, node");
        let rows = sqlx::query::<Db>(query).fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// A page of them.
    pub async fn nodes_page(&self, page: &Page) -> Result<Listed<Node>> {
        let mut rows = self.nodes().await?;
        if let Some(after) = &page.after {
            let at = rows.iter().position(|one| one.id == *after).ok_or_else(|| not_found("node", after))?;
            rows.drain(..=at);
        }
        Ok(Listed::cut(rows, page.limit()))
    }

    /// The enrolled node with this id or name.
    pub async fn node(&self, wanted: &str) -> Result<Node> {
        find(&mut *self.pool.acquire().await?, wanted).await
    }

    /// Removes a node, by id or name: it gets nothing any more, and no receipt names it.
    pub async fn remove_node(&self, wanted: &str) -> Result<Node> {
        let node = self.node(wanted).await?;
        let mut write = self.write().await?;
        write.before(&node)?;
        let removed = sqlx::query::<Db>("UPDATE nodes SET enrolled = 0 WHERE node = $1 AND enrolled = 1")
            .bind(node.node.to_string())
            .execute(write.conn())
            .await?;
        if removed.rows_affected() == 0 {
            return Err(not_found("node", wanted));
        }
        write.change(Kind::Node, entity(node.node)).await?;
        write.commit().await?;
        Ok(node)
    }
}

pub(super) async fn find(conn: &mut Conn, wanted: &str) -> Result<Node> {
    let query = super::statement(SELECT, "WHERE enrolled = 1 AND (node = $1 OR name = $1) ORDER BY node");
    let rows = sqlx::query::<Db>(query).bind(wanted).fetch_all(conn).await?;
    let found = rows.iter().map(read).collect::<Result<_>>()?;
    pick("node", wanted, found, |one: &Node| &one.id, |one| one.name.clone())
}

/// The number that stands for a node in `changes`.
pub(super) fn entity(node: NodeId) -> i64 {
    // Nodes have no row numbers; this one only tells them apart.
    stored(node.0 >> 1)
}

fn read(row: &super::Row) -> Result<Node> {
    Ok(Node {
        id: row.try_get("node")?,
        node: NodeId::parse(row.try_get("node")?).ok_or(RegistryError::Corrupt { what: "node id" })?,
        name: row.try_get("name")?,
        first_seen_ms: row.try_get("first_seen_ms")?,
        last_seen_ms: row.try_get("last_seen_ms")?,
    })
}
