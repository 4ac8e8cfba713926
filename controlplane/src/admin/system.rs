//! Health, and the data planes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::extract::{ListParams, Params, time};
use super::{Api, ApiError};

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
pub(super) async fn nodes(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, ApiError> {
    params.page(&[])?;
    let connected = api.hub.connected();
    let generation = api.registry.generation().await?;
    let nodes = api.registry.nodes().await?;
    let data = nodes.iter().map(|node| {
        let session = connected.iter().find(|one| one.node == node.node);
        json!({
            "object": "node", "id": node.node.to_string(), "node": node.node.to_string(),
            "status": if session.is_some() { "connected" } else { "away" }, "connected": session.is_some(),
            "generation": session.map(|one| one.applied.0),
            "behind": session.map(|one| generation.0.saturating_sub(one.applied.0)),
            "first_seen": time(node.first_seen_ms), "last_seen": time(node.last_seen_ms),
        })
    });
    Ok(Json(json!({"object": "list", "data": data.collect::<Vec<_>>(), "has_more": false})))
}
