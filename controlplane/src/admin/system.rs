//! Health, and the data planes.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::Api;
use super::input::{List, ListParams};
use super::route::{Answer, Call};
use crate::registry::Listed;
use crate::registry::node::Node;

/// A data plane, and how far it has come.
#[derive(JsonSchema, Serialize)]
pub(super) struct NodeState {
    #[serde(flatten)]
    known: Node,
    /// Its id once more.
    node: String,
    /// `connected` or `away`.
    status: &'static str,
    connected: bool,
    /// The generation that it holds, durably.
    generation: Option<u64>,
    /// The sum of its tables there, 16 hex digits: the same on every data plane that holds the same.
    tables: Option<String>,
    /// How many generations it lacks.
    behind: Option<u64>,
}

/// Says that the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether administrators and data planes can be served; ClickHouse may be away meanwhile.
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, &'static str) {
    match api.registry.generation().await {
        Ok(_) if api.store.is_ready() => (StatusCode::OK, "ready\n"),
        Ok(_) => (StatusCode::OK, "ready, clickhouse is away\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the registry does not answer\n"),
    }
}

/// The enrolled data planes, and which are connected.
pub(super) async fn nodes(call: Call, params: ListParams) -> Answer<List<NodeState>> {
    let page = params.page()?;
    let connected = call.api.hub.connected();
    let generation = call.registry.generation().await?;
    let Listed { rows, has_more } = call.registry.nodes_page(&page).await?;
    let rows = rows.into_iter().map(|mut known| {
        let session = connected.iter().find(|one| one.node == known.node);
        known.last_seen_ms = session.map_or(0, |one| one.heard_ms).max(known.last_seen_ms);
        NodeState {
            node: known.id.clone(),
            known,
            status: if session.is_some() { "connected" } else { "away" },
            connected: session.is_some(),
            generation: session.map(|one| one.applied.0),
            tables: session.and_then(|one| one.sum).map(|sum| sum.to_string()),
            behind: session.map(|one| generation.0.saturating_sub(one.applied.0)),
        }
    });
    Ok(List::new(Listed { rows: rows.collect(), has_more }, |one| &one.node).into())
}
