//! Organizations, teams and applications.

use schemars::JsonSchema;
use serde::Deserialize;

use super::input::{List, ListParams, Nothing, page, patch};
use super::revocation::revoked;
use super::route::{Answer, Call, Reply};
use crate::registry::Patch;
use crate::registry::application::{Application, ApplicationPatch, NewApplication};
use crate::registry::organization::{NewOrganization, Organization, OrganizationPatch};
use crate::registry::revocation::Which;
use crate::registry::team::{NewTeam, Team, TeamPatch};

/// The parameters of a list of teams.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
    /// Only those of this organization, by id or name.
    organization: Option<String>,
}

/// The parameters of a list of applications.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationParams {
    after: Option<String>,
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
    /// Only those of this team, by id or name.
    team: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationBody {
    name: String,
    plan: Option<String>,
    cost_centre: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationChange {
    name: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
}

pub(super) async fn organizations(call: Call, params: ListParams) -> Answer<List<Organization>> {
    let listed = call.registry.organizations(&params.page()?).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn organization(call: Call, _: Nothing) -> Answer<Organization> {
    Ok(Reply::one(call.registry.organization(call.name()).await?))
}

pub(super) async fn create_organization(
    call: Call,
    _: Nothing,
    body: OrganizationBody,
) -> Answer<Organization> {
    let OrganizationBody { name, plan, cost_centre } = body;
    let new = NewOrganization { name, plan, cost_centre };
    Ok(Reply::one(call.registry.create_organization(new).await?))
}

pub(super) async fn update_organization(
    call: Call,
    _: Nothing,
    body: OrganizationChange,
) -> Answer<Organization> {
    let OrganizationChange { name, plan, cost_centre } = body;
    let change = OrganizationPatch { name, plan, cost_centre };
    Ok(Reply::one(call.registry.update_organization(call.name(), change).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamBody {
    name: String,
    organization: String,
    plan: Option<String>,
    cost_centre: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamChange {
    name: Option<String>,
    organization: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
}

pub(super) async fn teams(call: Call, params: TeamParams) -> Answer<List<Team>> {
    let page = page(params.after, params.limit)?;
    let listed = call.registry.teams(params.organization.as_deref(), &page).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn team(call: Call, _: Nothing) -> Answer<Team> {
    Ok(Reply::one(call.registry.team(call.name()).await?))
}

pub(super) async fn create_team(call: Call, _: Nothing, body: TeamBody) -> Answer<Team> {
    let TeamBody { name, organization, plan, cost_centre } = body;
    let new = NewTeam { name, organization, plan, cost_centre };
    Ok(Reply::one(call.registry.create_team(new).await?))
}

pub(super) async fn update_team(call: Call, _: Nothing, body: TeamChange) -> Answer<Team> {
    let TeamChange { name, organization, plan, cost_centre } = body;
    let change = TeamPatch { name, organization, plan, cost_centre };
    Ok(Reply::one(call.registry.update_team(call.name(), change).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationBody {
    name: String,
    team: String,
    plan: Option<String>,
    cost_centre: Option<String>,
    /// Nothing said: every alias. An empty list: none.
    models: Option<Vec<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationChange {
    name: Option<String>,
    team: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
    models: Option<Vec<String>>,
}

pub(super) async fn applications(call: Call, params: ApplicationParams) -> Answer<List<Application>> {
    let page = page(params.after, params.limit)?;
    let listed = call.registry.applications(params.team.as_deref(), &page).await?;
    Ok(List::new(listed, |one| &one.id).into())
}

pub(super) async fn application(call: Call, _: Nothing) -> Answer<Application> {
    Ok(Reply::one(call.registry.application(call.name()).await?))
}

pub(super) async fn create_application(call: Call, _: Nothing, body: ApplicationBody) -> Answer<Application> {
    let ApplicationBody { name, team, plan, cost_centre, models } = body;
    let models = models.unwrap_or_else(|| vec!["*".to_owned()]);
    let new = NewApplication { name, team, plan, cost_centre, models };
    Ok(Reply::one(call.registry.create_application(new).await?))
}

pub(super) async fn update_application(
    call: Call,
    _: Nothing,
    body: ApplicationChange,
) -> Answer<Application> {
    let ApplicationChange { name, team, plan, cost_centre, models } = body;
    let change = ApplicationPatch { name, team, plan, cost_centre, models };
    Ok(Reply::one(call.registry.update_application(call.name(), change).await?))
}

/// Archives a team, then revokes its keys: what would be made meanwhile is refused already.
pub(super) async fn archive_team(call: Call, _: Nothing, _: Nothing) -> Answer<Team> {
    let team = call.registry.archive_team(call.name()).await?;
    revoked(&call, Which::Team(team.id.clone()), false).await?;
    Ok(Reply::one(team))
}

/// Archives an application, likewise.
pub(super) async fn archive_application(call: Call, _: Nothing, _: Nothing) -> Answer<Application> {
    let application = call.registry.archive_application(call.name()).await?;
    revoked(&call, Which::Application(application.id.clone()), false).await?;
    Ok(Reply::one(application))
}
