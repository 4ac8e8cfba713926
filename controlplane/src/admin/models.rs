//! Aliases and deployments. An alias is put as a whole; what is left out of a deployment has the default
//! below.

use schemars::JsonSchema;
use serde::Deserialize;
use wire::table::{Dialect, OnDisconnect};

use super::ApiError;
use super::input::{List, ListParams, Nothing};
use super::route::{Answer, Call, Reply};
use crate::config::plain_url;
use crate::registry::model::{Deployment, Model, ON_DISCONNECT};

const CONNECT_TIMEOUT_MS: u32 = 5_000;
const FIRST_BYTE_TIMEOUT_MS: u32 = 600_000;
const IDLE_TIMEOUT_MS: u32 = 300_000;
const TIMEOUT_MS_MAX: u32 = 3_600_000;
const CREDENTIAL_BYTES_MAX: usize = 128;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelBody {
    deployments: Vec<DeploymentBody>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeploymentBody {
    name: Option<String>,
    upstream: String,
    upstream_model: Option<String>,
    dialect: Option<String>,
    credential: Option<String>,
    api_version: Option<String>,
    weight: Option<u32>,
    on_disconnect: Option<String>,
    replay_safe: Option<bool>,
    connect_timeout_ms: Option<u32>,
    first_byte_timeout_ms: Option<u32>,
    idle_timeout_ms: Option<u32>,
}

pub(super) async fn list(call: Call, params: ListParams) -> Answer<List<Model>> {
    let listed = call.registry.models(&params.page()?).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn one(call: Call, _: Nothing) -> Answer<Model> {
    Ok(Reply::one(call.registry.model(call.name()).await?))
}

pub(super) async fn set(call: Call, _: Nothing, body: ModelBody) -> Answer<Model> {
    let alias = call.name();
    let single = body.deployments.len() == 1;
    let deployments = body.deployments.into_iter().zip(1usize..).map(|(one, number)| {
        let name = if single { alias.to_owned() } else { format!("{alias}-{number}") };
        deployment(one, name)
    });
    let deployments = deployments.collect::<Result<Vec<_>, _>>()?;
    let model = call.registry.set_model(alias, &deployments).await?;
    call.api.hub.wait_applied(call.registry.generation().await?).await;
    Ok(Reply::one(model))
}

pub(super) async fn remove(call: Call, _: Nothing) -> Answer<()> {
    call.registry.remove_model(call.name()).await?;
    call.api.hub.wait_applied(call.registry.generation().await?).await;
    Ok(().into())
}

fn deployment(body: DeploymentBody, name: String) -> Result<Deployment, ApiError> {
    let invalid = |field: &str, allowed: String| ApiError::Invalid(format!("deployments.{field}: {allowed}"));
    let upstream = plain_url(&body.upstream).map_err(|allowed| invalid("upstream", allowed))?;
    let dialect = body.dialect.as_deref().unwrap_or(Dialect::Openai.name());
    let dialect = Dialect::parse(dialect)
        .ok_or_else(|| invalid("dialect", one_of(&Dialect::ALL.map(|(_, name)| name))))?;
    let on_disconnect = body.on_disconnect.as_deref().unwrap_or("cancel");
    let on_disconnect: OnDisconnect = ON_DISCONNECT
        .iter()
        .find(|(_, name)| *name == on_disconnect)
        .ok_or_else(|| invalid("on_disconnect", one_of(&ON_DISCONNECT.map(|(_, name)| name))))?
        .0;
    let timeout = |field: &str, given: Option<u32>, default: u32| match given.unwrap_or(default) {
        ms if (1..=TIMEOUT_MS_MAX).contains(&ms) => Ok(ms),
        _ => Err(invalid(field, format!("1 to {TIMEOUT_MS_MAX}"))),
    };
    Ok(Deployment {
        name: body.name.unwrap_or(name),
        upstream,
        upstream_model: body.upstream_model.unwrap_or_default(),
        dialect,
        credential: credential(body.credential.unwrap_or_default())?,
        api_version: body.api_version.unwrap_or_default(),
        weight: body.weight.unwrap_or(1),
        on_disconnect,
        replay_safe: body.replay_safe.unwrap_or(false),
        connect_timeout_ms: timeout("connect_timeout_ms", body.connect_timeout_ms, CONNECT_TIMEOUT_MS)?,
        first_byte_timeout_ms: timeout(
            "first_byte_timeout_ms",
            body.first_byte_timeout_ms,
            FIRST_BYTE_TIMEOUT_MS,
        )?,
        idle_timeout_ms: timeout("idle_timeout_ms", body.idle_timeout_ms, IDLE_TIMEOUT_MS)?,
    })
}

/// Takes the name of a credential, and refuses what looks like the credential itself without repeating it.
fn credential(name: String) -> Result<String, ApiError> {
    let fits = name.len() <= CREDENTIAL_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits && !name.starts_with("sk-") {
        return Ok(name);
    }
    Err(ApiError::Invalid(format!(
        "deployments.credential: the name that it has on the data planes, not the secret itself; letters, digits, \
         '_', '-' and '.', at most {CREDENTIAL_BYTES_MAX}"
    )))
}

fn one_of(names: &[&str]) -> String {
    format!("one of {}", names.join(", "))
}
