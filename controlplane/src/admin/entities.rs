//! Organizations, teams and applications.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Body, ListParams, Named, Params, list, patch, time};
use super::{Api, ApiError};
use crate::registry::Patch;
use crate::registry::application::{Application, ApplicationPatch, NewApplication};
use crate::registry::organization::{NewOrganization, Organization, OrganizationPatch};
use crate::registry::team::{NewTeam, Team, TeamPatch};

type Answer = Result<Json<Value>, ApiError>;
type Created = Result<(StatusCode, Json<Value>), ApiError>;

fn show_organization(one: &Organization) -> Value {
    json!({
        "object": "organization", "id": one.id, "name": one.name, "plan": one.plan,
        "cost_centre": one.cost_centre, "created_at": time(one.created_ms),
    })
}

fn show_team(one: &Team) -> Value {
    json!({
        "object": "team", "id": one.id, "name": one.name, "organization_id": one.organization_id,
        "organization": one.organization, "plan": one.plan, "cost_centre": one.cost_centre,
        "created_at": time(one.created_ms),
    })
}

fn show_application(one: &Application) -> Value {
    json!({
        "object": "application", "id": one.id, "name": one.name, "team_id": one.team_id, "team": one.team,
        "organization_id": one.organization_id, "organization": one.organization, "models": one.models,
        "plan": one.plan, "cost_centre": one.cost_centre, "created_at": time(one.created_ms),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationBody {
    name: String,
    plan: Option<String>,
    cost_centre: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationChange {
    name: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
}

pub(super) async fn organizations(State(api): State<Api>, Params(params): Params<ListParams>) -> Answer {
    let page = params.page(&[])?;
    Ok(list(&api.registry.organizations(&page).await?, show_organization))
}

pub(super) async fn organization(State(api): State<Api>, Named(id): Named) -> Answer {
    Ok(Json(show_organization(&api.registry.organization(&id).await?)))
}

pub(super) async fn create_organization(
    State(api): State<Api>,
    Body(body): Body<OrganizationBody>,
) -> Created {
    let OrganizationBody { name, plan, cost_centre } = body;
    let made = api.registry.create_organization(NewOrganization { name, plan, cost_centre }).await?;
    Ok((StatusCode::CREATED, Json(show_organization(&made))))
}

pub(super) async fn update_organization(
    State(api): State<Api>,
    Named(id): Named,
    Body(body): Body<OrganizationChange>,
) -> Answer {
    let OrganizationChange { name, plan, cost_centre } = body;
    let change = OrganizationPatch { name, plan, cost_centre };
    Ok(Json(show_organization(&api.registry.update_organization(&id, change).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamBody {
    name: String,
    organization: String,
    plan: Option<String>,
    cost_centre: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TeamChange {
    name: Option<String>,
    organization: Option<String>,
    #[serde(default, deserialize_with = "patch")]
    plan: Patch<String>,
    #[serde(default, deserialize_with = "patch")]
    cost_centre: Patch<String>,
}

pub(super) async fn teams(State(api): State<Api>, Params(params): Params<ListParams>) -> Answer {
    let page = params.page(&["organization"])?;
    Ok(list(&api.registry.teams(params.organization.as_deref(), &page).await?, show_team))
}

pub(super) async fn team(State(api): State<Api>, Named(id): Named) -> Answer {
    Ok(Json(show_team(&api.registry.team(&id).await?)))
}

pub(super) async fn create_team(State(api): State<Api>, Body(body): Body<TeamBody>) -> Created {
    let TeamBody { name, organization, plan, cost_centre } = body;
    let made = api.registry.create_team(NewTeam { name, organization, plan, cost_centre }).await?;
    Ok((StatusCode::CREATED, Json(show_team(&made))))
}

pub(super) async fn update_team(
    State(api): State<Api>,
    Named(id): Named,
    Body(body): Body<TeamChange>,
) -> Answer {
    let TeamChange { name, organization, plan, cost_centre } = body;
    let change = TeamPatch { name, organization, plan, cost_centre };
    Ok(Json(show_team(&api.registry.update_team(&id, change).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplicationBody {
    name: String,
    team: String,
    plan: Option<String>,
    cost_centre: Option<String>,
    /// Nothing said: every alias. An empty list: none.
    models: Option<Vec<String>>,
}

#[derive(Deserialize)]
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

pub(super) async fn applications(State(api): State<Api>, Params(params): Params<ListParams>) -> Answer {
    let page = params.page(&["team"])?;
    Ok(list(&api.registry.applications(params.team.as_deref(), &page).await?, show_application))
}

pub(super) async fn application(State(api): State<Api>, Named(id): Named) -> Answer {
    Ok(Json(show_application(&api.registry.application(&id).await?)))
}

pub(super) async fn create_application(State(api): State<Api>, Body(body): Body<ApplicationBody>) -> Created {
    let ApplicationBody { name, team, plan, cost_centre, models } = body;
    let models = models.unwrap_or_else(|| vec!["*".to_owned()]);
    let made =
        api.registry.create_application(NewApplication { name, team, plan, cost_centre, models }).await?;
    Ok((StatusCode::CREATED, Json(show_application(&made))))
}

pub(super) async fn update_application(
    State(api): State<Api>,
    Named(id): Named,
    Body(body): Body<ApplicationChange>,
) -> Answer {
    let ApplicationChange { name, team, plan, cost_centre, models } = body;
    let change = ApplicationPatch { name, team, plan, cost_centre, models };
    Ok(Json(show_application(&api.registry.update_application(&id, change).await?)))
}
