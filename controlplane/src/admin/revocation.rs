//! Ending keys: revocation with its receipt, and rotation; and who may be a data plane.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::input::Nothing;
use super::route::{Answer, Call};
use crate::publish::receipt::Receipt;
use crate::registry::RegistryError;
use crate::registry::enrolment::TOKEN_LIFE_MS_MAX;
use crate::registry::key::Key;
use crate::registry::node::Node;
use crate::registry::revocation::Which;
use crate::registry::rotation::Old;
use crate::registry::show::{Rfc3339, time};

/// How long an old key works on, unless another time is asked for.
const OVERLAP_SECONDS: u32 = 24 * 60 * 60;
/// How long a token for a node is good, likewise.
const TOKEN_SECONDS: i64 = 60 * 60;
const OVERLAP_SECONDS_MAX: u32 = 365 * 24 * 60 * 60;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RevokeBody {
    cut_streams: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkBody {
    keys: Option<Vec<String>>,
    application: Option<String>,
    team: Option<String>,
    #[serde(default)]
    cut_streams: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    overlap_seconds: Option<u32>,
    #[serde(default)]
    emergency: bool,
    #[serde(default)]
    cut_streams: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveParams {
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrollBody {
    name: String,
    expires_in_seconds: Option<i64>,
}

/// Which data planes refuse what was revoked, durably.
#[derive(JsonSchema, Serialize)]
pub(super) struct Nodes {
    /// Those that do.
    nodes: Vec<Confirmed>,
    /// Those that have not said so.
    pending: Vec<Pending>,
}

#[derive(JsonSchema, Serialize)]
struct Confirmed {
    node: String,
    /// How long after the call it had said so.
    milliseconds: u64,
}

#[derive(JsonSchema, Serialize)]
struct Pending {
    node: String,
    name: String,
    #[schemars(with = "Rfc3339")]
    last_seen: String,
}

/// What revoking one key came to.
#[derive(JsonSchema, Serialize)]
pub(super) struct KeyReceipt {
    id: Option<String>,
    status: &'static str,
    #[serde(flatten)]
    nodes: Nodes,
}

/// What revoking many keys came to.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "revocation")]
pub(super) struct BulkReceipt {
    /// How many keys are revoked now.
    revoked: usize,
    /// What was asked for, and is no key's name.
    unknown: Vec<String>,
    #[serde(flatten)]
    nodes: Nodes,
    /// The keys' ids.
    keys: Vec<String>,
}

/// A key's successor.
#[derive(JsonSchema, Serialize)]
pub(super) struct Successor {
    #[serde(flatten)]
    key: Key,
    /// The key itself, in this answer alone; not in that of a dry run.
    secret: Option<String>,
    replaces: Replaced,
}

#[derive(JsonSchema, Serialize)]
struct Replaced {
    #[serde(flatten)]
    key: Key,
    /// In an emergency.
    #[serde(flatten)]
    nodes: Option<Nodes>,
}

/// A token for a data plane.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "enrolment")]
pub(super) struct Enrolment {
    name: String,
    /// The token itself, in this answer alone; not in that of a dry run.
    token: Option<String>,
    #[schemars(with = "Rfc3339")]
    expires_at: String,
}

/// A data plane that is one no longer.
#[derive(JsonSchema, Serialize)]
pub(super) struct Removed {
    #[serde(flatten)]
    node: Node,
    status: &'static str,
}

/// Revokes a key; the answer is the receipt.
pub(super) async fn revoke(call: Call, _: Nothing, body: RevokeBody) -> Answer<KeyReceipt> {
    let which = Which::Key(call.name().to_owned());
    let receipt = revoked(&call, which, body.cut_streams).await?;
    let nodes = Nodes::of(&receipt);
    Ok(KeyReceipt { id: receipt.keys.into_iter().next(), status: "revoked", nodes }.into())
}

/// Revokes many keys: a list, an application's, or a team's.
pub(super) async fn revoke_many(call: Call, _: Nothing, body: BulkBody) -> Answer<BulkReceipt> {
    let which = match (body.keys, body.application, body.team) {
        (Some(keys), None, None) => Which::Listed(keys),
        (None, Some(application), None) => Which::Application(application),
        (None, None, Some(team)) => Which::Team(team),
        _ => return Err(ApiError::Invalid("body: one of keys, application and team".to_owned())),
    };
    let receipt = revoked(&call, which, body.cut_streams).await?;
    let nodes = Nodes::of(&receipt);
    let Receipt { keys, unknown, .. } = receipt;
    Ok(BulkReceipt { revoked: keys.len(), unknown, nodes, keys }.into())
}

/// Revokes keys for a caller, and waits for the data planes.
pub(super) async fn revoked(call: &Call, which: Which, cut_streams: bool) -> Result<Receipt, ApiError> {
    // On its own task: a client that leaves must not stop a revocation half-way.
    let (hub, registry) = (call.api.hub.clone(), call.registry.clone());
    let receipt = tokio::spawn(async move { hub.revoke_as(&registry, which, cut_streams).await });
    Ok(receipt.await.map_err(|_| ApiError::Broken)??)
}

impl Nodes {
    pub(super) fn of(receipt: &Receipt) -> Self {
        let nodes = receipt.nodes.iter();
        let pending = receipt.pending.iter();
        Self {
            nodes: nodes.map(|(node, ms)| Confirmed { node: node.to_string(), milliseconds: *ms }).collect(),
            pending: pending
                .map(|one| Pending {
                    node: one.node.to_string(),
                    name: one.name.clone(),
                    last_seen: time(one.last_seen_ms),
                })
                .collect(),
        }
    }
}

/// Gives a key a successor. The old one works on for the overlap; in an emergency it is revoked first.
pub(super) async fn rotate(call: Call, _: Nothing, body: RotateBody) -> Answer<Successor> {
    let (old, cut_streams, is_dry) = (old(&body)?, body.cut_streams, call.registry.is_dry());
    // On its own task, as above: the secret exists only here.
    let rotated = tokio::spawn(async move {
        let (hub, registry) = (&call.api.hub, &call.registry);
        let rotation = registry.rotate_key(call.name(), old).await?;
        if registry.is_dry() {
            return Ok::<_, RegistryError>((rotation, None));
        }
        let receipt = match old {
            Old::Revoked => {
                let digests = vec![rotation.digest];
                // It is done, and the secret is here alone: an error now must not take it along.
                let told = hub.tell_revoked(rotation.generation, digests, cut_streams).await;
                told.inspect_err(|error| {
                    tracing::warn!(key = rotation.old.id, %error, "which data planes refuse it is not known");
                })
                .ok()
            }
            Old::Retires(_) => None,
        };
        if !hub.wait_applied(rotation.generation).await {
            tracing::warn!(key = rotation.new.id, "not every connected data plane has the new key yet");
        }
        Ok((rotation, receipt))
    });
    let (rotation, receipt) = rotated.await.map_err(|_| ApiError::Broken)??;
    let secret = (!is_dry).then(|| rotation.secret.reveal().to_owned());
    let replaces = Replaced { key: rotation.old, nodes: receipt.as_ref().map(Nodes::of) };
    Ok(Successor { key: rotation.new, secret, replaces }.into())
}

/// What is to become of the old key.
fn old(body: &RotateBody) -> Result<Old, ApiError> {
    match (body.emergency, body.overlap_seconds) {
        (true, Some(_)) => Err(ApiError::Invalid("body: an emergency has no overlap_seconds".to_owned())),
        (true, None) => Ok(Old::Revoked),
        (false, _) if body.cut_streams => {
            Err(ApiError::Invalid("body: cut_streams is for an emergency".to_owned()))
        }
        (false, seconds) => match seconds.unwrap_or(OVERLAP_SECONDS) {
            seconds @ 1..=OVERLAP_SECONDS_MAX => Ok(Old::Retires(i64::from(seconds) * 1000)),
            _ => {
                let allowed = format!("overlap_seconds: 1 to {OVERLAP_SECONDS_MAX}; 0 is an emergency");
                Err(ApiError::Invalid(allowed))
            }
        },
    }
}

/// Makes a token with which a data plane on another host gets its certificate, once.
pub(super) async fn enroll(call: Call, _: Nothing, body: EnrollBody) -> Answer<Enrolment> {
    let Some(authority) = call.api.hub.authority() else {
        let message =
            "nodes on other hosts are not served: set sync.listen in the control plane's configuration";
        return Err(RegistryError::Conflict(message.to_owned()).into());
    };
    let seconds = body.expires_in_seconds.unwrap_or(TOKEN_SECONDS);
    if !(1..=TOKEN_LIFE_MS_MAX / 1000).contains(&seconds) {
        let most = TOKEN_LIFE_MS_MAX / 1000;
        return Err(ApiError::Invalid(format!("expires_in_seconds: 1 to {most}")));
    }
    let (secret, expires_ms) = call.registry.create_enrolment(&body.name, seconds * 1000).await?;
    let token = wire::identity::token(&authority.fingerprint(), secret.reveal());
    let token = (!call.registry.is_dry()).then(|| token.to_string());
    Ok(Enrolment { name: body.name, token, expires_at: time(expires_ms) }.into())
}

/// Removes a data plane: it gets nothing any more, and no receipt names it.
pub(super) async fn remove_node(call: Call, params: RemoveParams) -> Answer<Removed> {
    let node = call.registry.node(call.name()).await?;
    let connected = call.api.hub.connected().iter().any(|one| one.node == node.node);
    if connected && !params.force {
        let message = format!(
            "node {} is connected, and its tables would stay as they are: stop it first, or force it",
            node.node
        );
        return Err(RegistryError::Conflict(message).into());
    }
    let node = call.registry.remove_node(call.name()).await?;
    Ok(Removed { node, status: "removed" }.into())
}
