//! Administrators: who may call this API. A credential is in the answer that makes it, and in no other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiError;
use super::input::{List, ListParams, Nothing, parse_time, patch};
use super::route::{Answer, Call, Reply};
use crate::registry::admin::{Admin, AdminPatch, NewAdmin};
use crate::registry::role::Role;
use crate::registry::{Patch, RegistryError, now_ms};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a credential lasts that is made without an end.
const LIFE_MS: i64 = 90 * DAY_MS;
/// How long a former credential works on, unless another time is asked for.
const OVERLAP_SECONDS: u32 = 60 * 60;
const OVERLAP_SECONDS_MAX: u32 = 30 * 24 * 60 * 60;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminBody {
    name: String,
    role: Role,
    /// For this organization alone, by id or name.
    organization: Option<String>,
    /// For this team alone, by id or name.
    team: Option<String>,
    /// Until when its credential works; 90 days without this, null for no end.
    #[serde(default, deserialize_with = "patch")]
    expires_at: Patch<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminChange {
    name: Option<String>,
    role: Option<Role>,
    #[serde(default, deserialize_with = "patch")]
    expires_at: Patch<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// For how long the former credential works on; an hour without this, 0 ends it at once.
    overlap_seconds: Option<u32>,
    /// As for a new administrator; one that rotates its own gets no more time by it, unless it is an owner.
    #[serde(default, deserialize_with = "patch")]
    expires_at: Patch<String>,
}

/// An administrator with its credential.
#[derive(JsonSchema, Serialize)]
pub(super) struct MadeAdmin {
    #[serde(flatten)]
    admin: Admin,
    /// The credential itself, in this answer alone; not in that of a dry run.
    secret: Option<String>,
}

pub(super) async fn list(call: Call, params: ListParams) -> Answer<List<Admin>> {
    let listed = call.registry.admins(&params.page()?).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn one(call: Call, _: Nothing) -> Answer<Admin> {
    Ok(Reply::one(call.registry.admin(call.name()).await?))
}

pub(super) async fn me(call: Call, _: Nothing) -> Answer<Admin> {
    Ok(Reply::one(call.admin))
}

pub(super) async fn create(call: Call, _: Nothing, body: AdminBody) -> Answer<MadeAdmin> {
    let expires_ms = end(body.expires_at)?;
    let AdminBody { name, role, organization, team, .. } = body;
    let (admin, secret) =
        call.registry.make_admin(NewAdmin { name, role, organization, team, expires_ms }).await?;
    let secret = (!call.registry.is_dry()).then(|| secret.reveal().to_owned());
    Ok(MadeAdmin { admin, secret }.into())
}

pub(super) async fn update(call: Call, _: Nothing, body: AdminChange) -> Answer<Admin> {
    let expires_ms = body.expires_at.map(|end| end.map(|text| parse_time("expires_at", &text)).transpose());
    let change = AdminPatch { name: body.name, role: body.role, expires_ms: expires_ms.transpose()? };
    Ok(Reply::one(call.registry.update_admin(call.name(), change).await?))
}

pub(super) async fn revoke(call: Call, _: Nothing, _: Nothing) -> Answer<Admin> {
    Ok(Reply::one(call.registry.revoke_admin(call.name()).await?))
}

pub(super) async fn rotate(call: Call, _: Nothing, body: RotateBody) -> Answer<MadeAdmin> {
    let (wanted, end) = (call.name().to_owned(), end(body.expires_at)?);
    rotated(call, &wanted, body.overlap_seconds, end).await
}

/// Whoever is no owner gets no more time by it: owners decide for how long someone is an administrator.
pub(super) async fn rotate_own(call: Call, _: Nothing, body: RotateBody) -> Answer<MadeAdmin> {
    let (own, end) = (call.admin.id.clone(), end(body.expires_at)?);
    let end = match call.admin.expires_ms.filter(|_| call.admin.role != Role::Owner) {
        Some(limit) => Some(end.map_or(limit, |end| end.min(limit))),
        None => end,
    };
    rotated(call, &own, body.overlap_seconds, end).await
}

async fn rotated(
    call: Call,
    wanted: &str,
    overlap_seconds: Option<u32>,
    end: Option<i64>,
) -> Answer<MadeAdmin> {
    if call.admin.is_former && call.registry.admin(wanted).await?.id == call.admin.id {
        // Else whoever found it could put an end to the one that replaced it.
        let message = "this credential was replaced; the one that replaced it can be rotated";
        return Err(RegistryError::Conflict(message.to_owned()).into());
    }
    let seconds = overlap_seconds.unwrap_or(OVERLAP_SECONDS);
    if seconds > OVERLAP_SECONDS_MAX {
        return Err(ApiError::Invalid(format!("overlap_seconds: 0 to {OVERLAP_SECONDS_MAX}")));
    }
    let overlap_ms = i64::from(seconds) * 1000;
    let (admin, secret) = call.registry.rotate_admin(wanted, overlap_ms, end).await?;
    let secret = (!call.registry.is_dry()).then(|| secret.reveal().to_owned());
    Ok(MadeAdmin { admin, secret }.into())
}

fn end(given: Patch<String>) -> Result<Option<i64>, ApiError> {
    match given {
        None => Ok(Some(now_ms() + LIFE_MS)),
        Some(end) => end.map(|text| parse_time("expires_at", &text)).transpose(),
    }
}
