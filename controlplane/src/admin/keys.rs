//! Keys. The secret is in the answer to `POST /keys` and in no other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::input::{List, Nothing, page, parse_time, patch};
use super::key_uses::{Activities, KeyState};
use super::route::{Answer, Call, Reply};
use crate::registry::act::etag;
use crate::registry::key::{Key, KeyPatch, NewKey};
use crate::registry::{Listed, Patch};

/// The parameters of a list of keys.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
    /// Only those of this team, by id or name.
    team: Option<String>,
    /// Only those of this application, by id or name.
    application: Option<String>,
}

/// A key with its secret.
#[derive(JsonSchema, Serialize)]
pub(super) struct MadeKey {
    #[serde(flatten)]
    pub(super) key: Key,
    /// The key itself, in this answer alone; not in that of a dry run.
    pub(super) secret: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
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

#[derive(Deserialize, JsonSchema)]
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

pub(super) async fn list(call: Call, params: KeyParams) -> Answer<List<KeyState>> {
    let page = page(params.after, params.limit)?;
    let (application, team) = (params.application.as_deref(), params.team.as_deref());
    let listed = call.registry.keys(application, team, &page).await?;
    let activities = Activities::of(&call, &listed.rows).await;
    let rows = listed.rows.into_iter().map(|key| activities.beside(key)).collect();
    let listed = Listed { rows, has_more: listed.has_more };
    Ok(List::new(listed, |one| &one.key.id).into())
}

/// Its entity tag is the key's alone: using a key does not change it.
pub(super) async fn one(call: Call, _: Nothing) -> Answer<KeyState> {
    let key = call.registry.key(call.name()).await?;
    let (etag, activities) = (etag(&key), Activities::of(&call, std::slice::from_ref(&key)).await);
    Ok(Reply::tagged(activities.beside(key), etag))
}

/// Makes a key, and answers once the connected data planes take it (or a bound has passed).
pub(super) async fn create(call: Call, _: Nothing, body: KeyBody) -> Answer<MadeKey> {
    let expires_ms = body.expires_at.map(|text| parse_time("expires_at", &text)).transpose()?;
    let KeyBody { application, description, plan, cost_centre, models, .. } = body;
    let new = NewKey { application, description, plan, cost_centre, models, expires_ms };
    let (key, secret, generation) = call.registry.create_key(new).await?;
    if call.registry.is_dry() {
        return Ok(MadeKey { key, secret: None }.into());
    }
    if !call.api.hub.wait_applied(generation).await {
        tracing::warn!(key = key.id, "not every connected data plane has the new key yet");
    }
    Ok(MadeKey { key, secret: Some(secret.reveal().to_owned()) }.into())
}

pub(super) async fn update(call: Call, _: Nothing, body: KeyChange) -> Answer<Key> {
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
    Ok(Reply::one(call.registry.update_key(call.name(), change).await?))
}
