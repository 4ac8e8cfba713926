//! Projects, service accounts and API keys: teams, applications and keys in OpenAI's form.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cursor, Deleted, ListParams, end, organization, page, seconds};
use crate::admin::ApiError;
use crate::admin::input::Nothing;
use crate::admin::key_uses::Activities;
use crate::admin::revocation::revoked;
use crate::admin::route::{Answer, Call};
use crate::registry::RegistryError;
use crate::registry::application::{Application, ApplicationPatch, NewApplication};
use crate::registry::key::{Key, NewKey};
use crate::registry::revocation::Which;
use crate::registry::team::{NewTeam, Team, TeamPatch};

const ACCOUNT_KEY: &str = "organization.project.service_account.api_key";

/// A team.
#[derive(JsonSchema, Serialize)]
pub(crate) struct Project {
    id: String,
    object: &'static str,
    name: String,
    created_at: i64,
    archived_at: Option<i64>,
    status: &'static str,
}

/// An application.
#[derive(JsonSchema, Serialize)]
pub(crate) struct ServiceAccount {
    id: String,
    object: &'static str,
    name: String,
    role: &'static str,
    created_at: i64,
    /// Its first key, in the answer that makes it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<AccountKey>,
}

/// A key with its secret.
#[derive(JsonSchema, Serialize)]
pub(crate) struct AccountKey {
    id: String,
    object: &'static str,
    name: String,
    created_at: i64,
    expires_at: Option<i64>,
    /// The key itself; not in the answer of a dry run.
    value: Option<String>,
}

/// A key.
#[derive(JsonSchema, Serialize)]
pub(crate) struct ProjectKey {
    id: String,
    object: &'static str,
    name: String,
    redacted_value: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    owner_project_access: &'static str,
    owner: KeyOwner,
}

#[derive(JsonSchema, Serialize)]
struct KeyOwner {
    r#type: &'static str,
    service_account: KeyAccount,
}

#[derive(JsonSchema, Serialize)]
struct KeyAccount {
    id: String,
    name: String,
    role: &'static str,
    created_at: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<i64>,
    #[serde(default)]
    include_archived: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectBody {
    name: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectChange {
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountBody {
    name: String,
    /// No first key.
    create_service_account_only: Option<bool>,
    expires_in_seconds: Option<i64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyBody {
    #[serde(default)]
    name: String,
    expires_in_seconds: Option<i64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 100))]
    limit: Option<i64>,
    /// Every application has access to its own team: `inactive` is empty.
    #[serde(default)]
    owner_project_access: Access,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Access {
    Active,
    Inactive,
    #[default]
    Any,
}

fn project(one: &Team) -> Project {
    Project {
        id: one.id.clone(),
        object: "organization.project",
        name: one.name.clone(),
        created_at: seconds(one.created_ms),
        archived_at: one.archived_ms.map(seconds),
        status: if one.archived_ms.is_some() { "archived" } else { "active" },
    }
}

fn account(one: &Application) -> ServiceAccount {
    ServiceAccount {
        id: one.id.clone(),
        object: "organization.project.service_account",
        name: one.name.clone(),
        role: "member",
        created_at: seconds(one.created_ms),
        api_key: None,
    }
}

fn account_key(key: &Key, value: Option<String>) -> AccountKey {
    AccountKey {
        id: key.id.clone(),
        object: ACCOUNT_KEY,
        name: key.description.clone(),
        created_at: seconds(key.created_ms),
        expires_at: key.expires_ms.map(seconds),
        value,
    }
}

fn project_key(key: &Key, last_used_ms: Option<i64>) -> ProjectKey {
    ProjectKey {
        id: key.id.clone(),
        object: "organization.project.api_key",
        name: key.description.clone(),
        redacted_value: format!("{}...", key.prefix),
        created_at: seconds(key.created_ms),
        expires_at: key.expires_ms.map(seconds),
        last_used_at: last_used_ms.map(seconds),
        owner_project_access: "active",
        owner: KeyOwner {
            r#type: "service_account",
            service_account: KeyAccount {
                id: key.application_id.clone(),
                name: key.application.clone(),
                role: "member",
                created_at: seconds(key.created_ms),
            },
        },
    }
}

pub(crate) async fn list_projects(call: Call, params: ProjectParams) -> Answer<Cursor<Project>> {
    let page = page(params.after, params.limit)?;
    let listed =
        call.registry.teams_also(call.organization.as_deref(), params.include_archived, &page).await?;
    Ok(Cursor::new(&listed, |one| &one.id, project).into())
}

pub(crate) async fn show_project(call: Call, _: Nothing) -> Answer<Project> {
    Ok(project(&call.registry.team(call.name()).await?).into())
}

pub(crate) async fn create_project(call: Call, _: Nothing, body: ProjectBody) -> Answer<Project> {
    let organization = organization(&call).await?;
    let new = NewTeam { name: body.name, organization, ..NewTeam::default() };
    Ok(project(&call.registry.create_team(new).await?).into())
}

pub(crate) async fn update_project(call: Call, _: Nothing, body: ProjectChange) -> Answer<Project> {
    let change = TeamPatch { name: body.name, ..TeamPatch::default() };
    Ok(project(&call.registry.update_team(call.name(), change).await?).into())
}

pub(crate) async fn archive_project(call: Call, _: Nothing, _: Nothing) -> Answer<Project> {
    let team = call.registry.archive_team(call.name()).await?;
    revoked(&call, Which::Team(team.id.clone()), false).await?;
    Ok(project(&team).into())
}

pub(crate) async fn list_accounts(call: Call, params: ListParams) -> Answer<Cursor<ServiceAccount>> {
    let page = page(params.after, params.limit)?;
    let team = call.registry.team(call.name()).await?;
    let listed = call.registry.applications_also(Some(&team.id), false, &page).await?;
    Ok(Cursor::new(&listed, |one| &one.id, account).into())
}

/// The application that the path names, in the team that it names; one that is archived, too.
async fn any_account(call: &Call) -> Result<Application, ApiError> {
    let team = call.registry.team(call.name()).await?;
    let found = call.registry.application(call.second_name()).await?;
    if found.team_id == team.id { Ok(found) } else { Err(no_account(found)) }
}

/// The same, unless it is archived.
async fn named_account(call: &Call) -> Result<Application, ApiError> {
    let found = any_account(call).await?;
    if found.archived_ms.is_none() { Ok(found) } else { Err(no_account(found)) }
}

fn no_account(found: Application) -> ApiError {
    RegistryError::NotFound { kind: "service account", wanted: found.id }.into()
}

pub(crate) async fn show_account(call: Call, _: Nothing) -> Answer<ServiceAccount> {
    Ok(account(&named_account(&call).await?).into())
}

pub(crate) async fn create_account(call: Call, _: Nothing, body: AccountBody) -> Answer<ServiceAccount> {
    let expires_ms = end(body.expires_in_seconds)?;
    let models = vec!["*".to_owned()];
    let new =
        NewApplication { name: body.name, team: call.name().to_owned(), models, ..NewApplication::default() };
    if body.create_service_account_only == Some(true) {
        if expires_ms.is_some() {
            let message = "expires_in_seconds: of a key, which is not to be made";
            return Err(ApiError::Invalid(message.to_owned()));
        }
        return Ok(account(&call.registry.create_application(new).await?).into());
    }
    let first = NewKey { description: new.name.clone(), expires_ms, ..NewKey::default() };
    let (made, key, secret, generation) = call.registry.create_application_with_key(new, first).await?;
    let value = served(&call, generation).await.then(|| secret.reveal().to_owned());
    Ok(ServiceAccount { api_key: Some(account_key(&key, value)), ..account(&made) }.into())
}

pub(crate) async fn update_account(call: Call, _: Nothing, body: ProjectChange) -> Answer<ServiceAccount> {
    let id = named_account(&call).await?.id;
    let change = ApplicationPatch { name: body.name, ..ApplicationPatch::default() };
    Ok(account(&call.registry.update_application(&id, change).await?).into())
}

pub(crate) async fn delete_account(call: Call, _: Nothing) -> Answer<Deleted> {
    // One that is archived may have been left with its keys.
    let id = any_account(&call).await?.id;
    call.registry.archive_application(&id).await?;
    revoked(&call, Which::Application(id.clone()), false).await?;
    Ok(Deleted { id, object: "organization.project.service_account.deleted", deleted: true }.into())
}

pub(crate) async fn create_key(call: Call, _: Nothing, body: KeyBody) -> Answer<AccountKey> {
    let application = named_account(&call).await?.id;
    let expires_ms = end(body.expires_in_seconds)?;
    let new = NewKey { application, description: body.name, expires_ms, ..NewKey::default() };
    let (key, secret, generation) = call.registry.create_key(new).await?;
    let value = served(&call, generation).await.then(|| secret.reveal().to_owned());
    Ok(account_key(&key, value).into())
}

/// Waits until the connected data planes have a new key; false where it was only tried.
async fn served(call: &Call, generation: wire::id::Generation) -> bool {
    if call.registry.is_dry() {
        return false;
    }
    if !call.api.hub.wait_applied(generation).await {
        tracing::warn!("not every connected data plane has a new key yet");
    }
    true
}

pub(crate) async fn list_keys(call: Call, params: KeyParams) -> Answer<Cursor<ProjectKey>> {
    let page = page(params.after, params.limit)?;
    let team = call.registry.team(call.name()).await?;
    let mut listed = call.registry.keys_also(None, Some(&team.id), false, &page).await?;
    if params.owner_project_access == Access::Inactive {
        listed.rows.clear();
        listed.has_more = false;
    }
    let activities = Activities::of(&call, &listed.rows).await;
    let show = |key: &Key| project_key(key, activities.last_used_ms(key));
    Ok(Cursor::new(&listed, |one| &one.id, show).into())
}

/// The key that the path names, in the team that it names.
async fn named_key(call: &Call) -> Result<Key, ApiError> {
    let team = call.registry.team(call.name()).await?;
    let found = call.registry.key(call.second_name()).await?;
    if found.team_id == team.id {
        return Ok(found);
    }
    Err(RegistryError::NotFound { kind: "api key", wanted: found.id }.into())
}

pub(crate) async fn show_key(call: Call, _: Nothing) -> Answer<ProjectKey> {
    let key = named_key(&call).await?;
    let activities = Activities::of(&call, std::slice::from_ref(&key)).await;
    Ok(project_key(&key, activities.last_used_ms(&key)).into())
}

pub(crate) async fn delete_key(call: Call, _: Nothing) -> Answer<Deleted> {
    let id = named_key(&call).await?.id;
    revoked(&call, Which::Key(id.clone()), false).await?;
    Ok(Deleted { id, object: "organization.project.api_key.deleted", deleted: true }.into())
}
