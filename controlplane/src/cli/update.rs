//! `liutong organization|team|application|key update`: changes what was said when it was made.
//!
//! Only what is given changes. A change of who pays holds from now on: what was used before stays with whom
//! it was billed to.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::CliError;
use super::admin::Admin;
use super::output::Output;
use super::registry::aliases;
use super::when::When;

pub(super) const ORGANIZATION_EXAMPLES: &str = "\
Examples:
  liutong organization update acme --plan platinum
  liutong organization update acme --name acme-europe --no-cost-centre";

pub(super) const TEAM_EXAMPLES: &str = "\
Examples:
  liutong team update research --cost-centre 4712      # from now on; earlier usage stays with the old one
  liutong team update research --organization acme-europe";

pub(super) const APPLICATION_EXAMPLES: &str = "\
Examples:
  liutong application update chatbot --models small,large
  liutong application update chatbot --team support --no-plan";

pub(super) const KEY_EXAMPLES: &str = "\
Examples:
  liutong key update key_Abcd1234 --description 'nightly batch' --expires-at 90d
  liutong key update key_Abcd1234 --application lab --inherit-models";

/// Who pays, which every level may say for itself.
#[derive(Debug, Args)]
pub(super) struct Billing {
    /// The plan it is on
    #[arg(long)]
    plan: Option<String>,
    /// Without a plan of its own: that of the level above
    #[arg(long, conflicts_with = "plan")]
    no_plan: bool,
    /// The cost centre that pays from now on
    #[arg(long)]
    cost_centre: Option<String>,
    /// Without a cost centre of its own: that of the level above pays
    #[arg(long, conflicts_with = "cost_centre")]
    no_cost_centre: bool,
}

#[derive(Debug, Args)]
pub(super) struct OrganizationUpdate {
    /// Its name or id
    organization: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    billing: Billing,
}

#[derive(Debug, Args)]
pub(super) struct TeamUpdate {
    /// Its name or id
    team: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// The organization that it moves to, by name or id
    #[arg(long)]
    organization: Option<String>,
    #[command(flatten)]
    billing: Billing,
}

#[derive(Debug, Args)]
pub(super) struct ApplicationUpdate {
    /// Its name or id
    application: String,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// The team that it moves to, by name or id
    #[arg(long)]
    team: Option<String>,
    /// The aliases that its keys may use, separated by commas; '*' is every alias, also those made later
    #[arg(long, value_name = "ALIASES")]
    models: Option<String>,
    #[command(flatten)]
    billing: Billing,
}

#[derive(Debug, Args)]
pub(super) struct KeyUpdate {
    /// Its id, prefix or description
    key: String,
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// The application that it moves to, by name or id
    #[arg(long)]
    application: Option<String>,
    /// The aliases it may use, separated by commas
    #[arg(long, value_name = "ALIASES")]
    models: Option<String>,
    /// Without a list of its own: it may use what its application may
    #[arg(long, conflicts_with = "models")]
    inherit_models: bool,
    /// When it stops working: a time (RFC 3339), a date (UTC), or a span from now such as 12h or 90d
    #[arg(long, value_name = "WHEN")]
    expires_at: Option<When>,
    /// It works until it is revoked
    #[arg(long, conflicts_with = "expires_at")]
    no_expiry: bool,
    #[command(flatten)]
    billing: Billing,
}

/// What is to change: absent members stay, null ones are unset.
#[derive(Default)]
struct Change(Map<String, Value>);

impl Change {
    fn set(mut self, member: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.0.insert(member.to_owned(), value.into());
        }
        self
    }

    fn unset(mut self, member: &str, wanted: bool) -> Self {
        if wanted {
            self.0.insert(member.to_owned(), Value::Null);
        }
        self
    }

    fn billing(self, billing: Billing) -> Self {
        let Billing { plan, no_plan, cost_centre, no_cost_centre } = billing;
        self.set("plan", plan)
            .unset("plan", no_plan)
            .set("cost_centre", cost_centre)
            .unset("cost_centre", no_cost_centre)
    }

    async fn make(self, admin: &Admin, out: &Output, (kind, name): (&str, &str)) -> Result<(), CliError> {
        if self.0.is_empty() {
            let problem = format!("nothing is to change: `liutong {kind} update --help` lists what can");
            return Err(CliError::Usage(problem));
        }
        let (action, collection) = (format!("updating {kind} {name}"), format!("{kind}s"));
        out.one(&admin.patch(action, &[&collection, name], &Value::Object(self.0)).await?)
    }
}

pub(super) async fn organization(
    admin: &Admin,
    out: &Output,
    update: OrganizationUpdate,
) -> Result<(), CliError> {
    let change = Change::default().set("name", update.name).billing(update.billing);
    change.make(admin, out, ("organization", &update.organization)).await
}

pub(super) async fn team(admin: &Admin, out: &Output, update: TeamUpdate) -> Result<(), CliError> {
    let change = Change::default().set("name", update.name).set("organization", update.organization);
    change.billing(update.billing).make(admin, out, ("team", &update.team)).await
}

pub(super) async fn application(
    admin: &Admin,
    out: &Output,
    update: ApplicationUpdate,
) -> Result<(), CliError> {
    let change = Change::default()
        .set("name", update.name)
        .set("team", update.team)
        .set("models", update.models.as_deref().map(aliases))
        .billing(update.billing);
    change.make(admin, out, ("application", &update.application)).await
}

pub(super) async fn key(admin: &Admin, out: &Output, update: KeyUpdate) -> Result<(), CliError> {
    let ends = update.expires_at.map(|when| when.forward_from(Timestamp::now())).transpose();
    let ends = ends.map_err(|error| CliError::Usage(format!("--expires-at: {error}")))?;
    let change = Change::default()
        .set("description", update.description)
        .set("application", update.application)
        .set("models", update.models.as_deref().map(aliases))
        .unset("models", update.inherit_models)
        .set("expires_at", ends)
        .unset("expires_at", update.no_expiry)
        .billing(update.billing);
    change.make(admin, out, ("key", &update.key)).await
}
