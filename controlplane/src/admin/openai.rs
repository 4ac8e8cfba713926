//! OpenAI's organization API, so that its SDKs' `admin.organization` works unmodified: a team is a project,
//! an application a service account, a key an API key, an administrator an admin API key.
//!
//! Which organization is meant follows from the administrator, or is named in the header
//! `OpenAI-Organization`, or is the only one. Members that Liutong has no meaning for are refused.

/// The audit trail in this form.
mod audit_logs;
/// Teams, applications and keys in this form.
mod projects;
/// Usage in this form.
mod usage;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::input::Nothing;
use super::route::{Answer, Call};
use crate::registry::admin::{Admin, NewAdmin};
use crate::registry::role::Role;
use crate::registry::{Listed, Page, now_ms};

pub(super) use self::audit_logs::audit_logs;
pub(super) use self::projects::*;
pub(super) use self::usage::{completions, costs, embeddings};

const LIMIT: i64 = 20;
const LIMIT_MAX: i64 = 100;
const SECONDS_MAX: i64 = 10 * 365 * 24 * 60 * 60;

/// The parameters of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<i64>,
}

/// A page of a list.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "{T}_page")]
pub(super) struct Cursor<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> Cursor<T> {
    fn new<S>(listed: &Listed<S>, id: impl Fn(&S) -> &str, show: impl Fn(&S) -> T) -> Self {
        let id = |one: Option<&S>| one.map(|one| id(one).to_owned());
        Self {
            object: "list",
            data: listed.rows.iter().map(show).collect(),
            first_id: id(listed.rows.first()),
            last_id: id(listed.rows.last()),
            has_more: listed.has_more,
        }
    }
}

fn page(after: Option<String>, limit: Option<i64>) -> Result<Page, ApiError> {
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::Invalid(format!("limit: 1 to {LIMIT_MAX}")));
    }
    Ok(Page { after, limit: Some(limit) })
}

/// Unix seconds.
fn seconds(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

/// The end that `expires_in_seconds` means.
fn end(expires_in_seconds: Option<i64>) -> Result<Option<i64>, ApiError> {
    match expires_in_seconds {
        None => Ok(None),
        Some(seconds) if (1..=SECONDS_MAX).contains(&seconds) => Ok(Some(now_ms() + seconds * 1000)),
        Some(_) => Err(ApiError::Invalid(format!("expires_in_seconds: 1 to {SECONDS_MAX}"))),
    }
}

/// The organization that a call is about.
async fn organization(call: &Call) -> Result<String, ApiError> {
    if let Some(wanted) = &call.organization {
        return Ok(call.registry.organization(wanted).await?.id);
    }
    if let Some(own) = &call.admin.organization_id {
        return Ok(own.clone());
    }
    let two = Page { after: None, limit: Some(2) };
    match &call.registry.organizations(&two).await?.rows[..] {
        [only] => Ok(only.id.clone()),
        _ => {
            let how = "name one in the header OpenAI-Organization, or use an administrator of one";
            Err(ApiError::Invalid(format!("there is not just one organization: {how}")))
        }
    }
}

/// An administrator.
#[derive(JsonSchema, Serialize)]
pub(super) struct AdminKey {
    id: String,
    object: &'static str,
    name: String,
    redacted_value: &'static str,
    created_at: i64,
    expires_at: Option<i64>,
    owner: AdminKeyOwner,
    /// The credential itself, in the answer that makes it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(JsonSchema, Serialize)]
struct AdminKeyOwner {
    r#type: &'static str,
    object: &'static str,
    id: String,
    name: String,
    role: Role,
    created_at: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminKeyBody {
    name: String,
    expires_in_seconds: Option<i64>,
}

/// What was deleted.
#[derive(JsonSchema, Serialize)]
pub(super) struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

fn show_admin_as_key(one: &Admin, value: Option<String>) -> AdminKey {
    AdminKey {
        id: one.id.clone(),
        object: "organization.admin_api_key",
        name: one.name.clone(),
        redacted_value: "sk-ltadm-...",
        created_at: seconds(one.created_ms),
        expires_at: one.expires_ms.map(seconds),
        owner: AdminKeyOwner {
            r#type: "user",
            object: "organization.user",
            id: one.id.clone(),
            name: one.name.clone(),
            role: one.role,
            created_at: seconds(one.created_ms),
        },
        value,
    }
}

pub(super) async fn list_admin_keys(call: Call, params: ListParams) -> Answer<Cursor<AdminKey>> {
    let listed = call.registry.admins(&page(params.after, params.limit)?).await?;
    Ok(Cursor::new(&listed, |one| &one.id, |one| show_admin_as_key(one, None)).into())
}

pub(super) async fn show_admin_key(call: Call, _: Nothing) -> Answer<AdminKey> {
    Ok(show_admin_as_key(&call.registry.admin(call.name()).await?, None).into())
}

pub(super) async fn create_admin_key(call: Call, _: Nothing, body: AdminKeyBody) -> Answer<AdminKey> {
    let organization = Some(organization(&call).await?);
    let expires_ms = end(body.expires_in_seconds)?;
    let new = NewAdmin { name: body.name, role: Role::Owner, organization, team: None, expires_ms };
    let (made, secret) = call.registry.make_admin(new).await?;
    let value = (!call.registry.is_dry()).then(|| secret.reveal().to_owned());
    Ok(show_admin_as_key(&made, value).into())
}

pub(super) async fn delete_admin_key(call: Call, _: Nothing) -> Answer<Deleted> {
    let id = call.registry.revoke_admin(call.name()).await?.id;
    Ok(Deleted { id, object: "organization.admin_api_key.deleted", deleted: true }.into())
}
