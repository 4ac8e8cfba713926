//! `liutong organization|team|application`: the levels above keys.

use serde_json::{Map, Value, json};

use super::CliError;
use super::admin::Admin;
use super::args::{ApplicationCommand, OrganizationCommand, TeamCommand};
use super::output::Output;
use super::update;

const ORGANIZATION_COLUMNS: [&str; 6] = ["id", "name", "plan", "cost_centre", "status", "created_at"];
const TEAM_COLUMNS: [&str; 7] = ["id", "name", "organization", "plan", "cost_centre", "status", "created_at"];
const APPLICATION_COLUMNS: [&str; 8] =
    ["id", "name", "team", "models", "plan", "cost_centre", "status", "created_at"];

pub(super) async fn organization(
    admin: &Admin,
    out: &Output,
    command: OrganizationCommand,
) -> Result<(), CliError> {
    let level = Level { kind: "organization", path: "organizations", columns: &ORGANIZATION_COLUMNS };
    match command {
        OrganizationCommand::Create { name, plan, cost_centre } => {
            let body = body([("name", Some(name)), ("plan", plan), ("cost_centre", cost_centre)]);
            level.create(admin, out, body).await
        }
        OrganizationCommand::List => level.list(admin, out, &[]).await,
        OrganizationCommand::Update(change) => update::organization(admin, out, change).await,
        OrganizationCommand::Show { organization } => level.show(admin, out, &organization).await,
    }
}

pub(super) async fn team(admin: &Admin, out: &Output, command: TeamCommand) -> Result<(), CliError> {
    let level = Level { kind: "team", path: "teams", columns: &TEAM_COLUMNS };
    match command {
        TeamCommand::Create { name, organization, plan, cost_centre } => {
            let body = body([
                ("name", Some(name)),
                ("organization", Some(organization)),
                ("plan", plan),
                ("cost_centre", cost_centre),
            ]);
            level.create(admin, out, body).await
        }
        TeamCommand::List { organization } => {
            level.list(admin, out, &query(&[("organization", &organization)])).await
        }
        TeamCommand::Archive { team } => level.archive(admin, out, &team).await,
        TeamCommand::Update(change) => update::team(admin, out, change).await,
        TeamCommand::Show { team } => level.show(admin, out, &team).await,
    }
}

pub(super) async fn application(
    admin: &Admin,
    out: &Output,
    command: ApplicationCommand,
) -> Result<(), CliError> {
    let level = Level { kind: "application", path: "applications", columns: &APPLICATION_COLUMNS };
    match command {
        ApplicationCommand::Create { name, team, models, plan, cost_centre } => {
            let mut body = body([
                ("name", Some(name)),
                ("team", Some(team)),
                ("plan", plan),
                ("cost_centre", cost_centre),
            ]);
            if let Some(models) = models {
                body.insert("models".to_owned(), aliases(&models));
            }
            level.create(admin, out, body).await
        }
        ApplicationCommand::List { team } => level.list(admin, out, &query(&[("team", &team)])).await,
        ApplicationCommand::Archive { application } => level.archive(admin, out, &application).await,
        ApplicationCommand::Update(change) => update::application(admin, out, change).await,
        ApplicationCommand::Show { application } => level.show(admin, out, &application).await,
    }
}

struct Level {
    kind: &'static str,
    path: &'static str,
    columns: &'static [&'static str],
}

impl Level {
    async fn create(&self, admin: &Admin, out: &Output, body: Map<String, Value>) -> Result<(), CliError> {
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        let action = format!("creating {} {name}", self.kind);
        out.one(&admin.post(action, &[self.path], &Value::Object(body)).await?)
    }

    async fn archive(&self, admin: &Admin, out: &Output, name: &str) -> Result<(), CliError> {
        let action = format!("archiving {} {name}", self.kind);
        out.one(&admin.post(action, &[self.path, name, "archive"], &json!({})).await?)
    }

    async fn list(&self, admin: &Admin, out: &Output, query: &[(&str, &str)]) -> Result<(), CliError> {
        let rows = admin.list(format!("listing {}", self.path), &[self.path], query).await?;
        out.list(&rows, self.columns)
    }

    async fn show(&self, admin: &Admin, out: &Output, name: &str) -> Result<(), CliError> {
        out.one(&admin.get(format!("showing {} {name}", self.kind), &[self.path, name], &[]).await?)
    }
}

/// The members that were given.
pub(super) fn body<const N: usize>(members: [(&str, Option<String>); N]) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect()
}

/// The filters that were given.
pub(super) fn query<'a>(filters: &[(&'a str, &'a Option<String>)]) -> Vec<(&'a str, &'a str)> {
    filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect()
}

/// The list of aliases in `a,b`; nothing is the empty list, which allows nothing.
pub(super) fn aliases(list: &str) -> Value {
    json!(list.split(',').map(str::trim).filter(|alias| !alias.is_empty()).collect::<Vec<_>>())
}
