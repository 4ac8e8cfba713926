//! Keys. The secret is in the answer to `POST /keys` and in no other.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Body, ListParams, Named, Params, list as list_of, parse_time, patch, time};
use super::{Api, ApiError};
use crate::registry::Patch;
use crate::registry::key::{Key, KeyPatch, NewKey};

fn show(key: &Key) -> Value {
    json!({
        "object": "key", "id": key.id, "prefix": key.prefix, "description": key.description,
        "application_id": key.application_id, "application": key.application,
        "team_id": key.team_id, "team": key.team, "organization_id": key.organization_id,
        "status": key.status.name(), "models": key.models, "plan": key.plan, "cost_centre": key.cost_centre,
        "created_at": time(key.created_ms), "expires_at": key.expires_ms.map(time),
        "retiring_until": key.retiring_until_ms.map(time), "revoked_at": key.revoked_ms.map(time),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBody {
    application: String,
    #[serde(default)]
    description: String,
    plan: Option<String>,
    cost_centre: Option<String>,
    models: Option<Vec<String>>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    description: Option<String>,
    application: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    models: Patch<Vec<String>>,
    #[serde(default, deserialize_with = "patch")]
    expires_at: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    retiring_until: Patch<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, ApiError> {
    let page = params.page(&["application", "team"])?;
    let (application, team) = (params.application.as_deref(), params.team.as_deref());
    Ok(list_of(&api.registry.keys(application, team, &page).await?, show))
}

pub(super) async fn one(State(api): State<Api>, Named(id): Named) -> Result<Json<Value>, ApiError> {
    Ok(Json(show(&api.registry.key(&id).await?)))
}

/// Makes a key, and answers once the connected data planes take it (or a bound has passed).
pub(super) async fn create(
    State(api): State<Api>,
    Body(body): Body<KeyBody>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let expires_ms = body.expires_at.map(|text| parse_time("expires_at", &text)).transpose()?;
    let KeyBody { application, description, plan, cost_centre, models, .. } = body;
    let new = NewKey { application, description, plan, cost_centre, models, expires_ms };
    let (key, secret, generation) = api.registry.create_key(new).await?;
    if !api.hub.wait_applied(generation).await {
        tracing::warn!(key = key.id, "not every connected data plane has the new key yet");
    }
    let mut shown = show(&key);
    shown["secret"] = Value::from(secret.reveal());
    Ok((StatusCode::CREATED, Json(shown)))
}

pub(super) async fn update(
    State(api): State<Api>,
    Named(id): Named,
    Body(body): Body<KeyChange>,
) -> Result<Json<Value>, ApiError> {
    let end = |field, given: Patch<String>| -> Result<Patch<i64>, ApiError> {
        given.map(|end| end.map(|text| parse_time(field, &text)).transpose()).transpose()
    };
    let change = KeyPatch {
        description: body.description,
        application: body.application,
        plan: body.plan,
        cost_centre: body.cost_centre,
        models: body.models,
        expires_ms: end("expires_at", body.expires_at)?,
        retiring_until_ms: end("retiring_until", body.retiring_until)?,
    };
    Ok(Json(show(&api.registry.update_key(&id, change).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NothingBody {}

/// Revokes a key; the answer is the receipt.
pub(super) async fn revoke(
    State(api): State<Api>,
    Named(id): Named,
    Body(NothingBody {}): Body<NothingBody>,
) -> Result<Json<Value>, ApiError> {
    // On its own task: a client that leaves must not stop a revocation half-way.
    let hub = api.hub.clone();
    let receipt = tokio::spawn(async move { hub.revoke(&[id]).await });
    let receipt = receipt.await.map_err(|_| ApiError::Broken)??;
    let (id, status) = receipt.keys.first().map(|key| (key.id.as_str(), key.status.name())).unzip();
    let nodes = receipt.nodes.iter();
    let nodes: Vec<Value> =
        nodes.map(|(node, ms)| json!({"node": node.to_string(), "milliseconds": ms})).collect();
    let pending: Vec<String> = receipt.pending.iter().map(ToString::to_string).collect();
    Ok(Json(json!({"id": id, "status": status, "nodes": nodes, "pending": pending})))
}
