//! `liutong administrator`: who may call the admin API, and for which part of the installation.

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::CliError;
use super::admin::Admin;
use super::args::SecretPlace;
use super::key::make;
use super::output::Output;
use super::registry::body;
use super::when::When;

const COLUMNS: [&str; 8] =
    ["id", "name", "role", "organization", "team", "status", "expires_at", "created_at"];

const CREATE_EXAMPLES: &str = "\
Examples:
  liutong administrator create alice --role admin --organization acme --write-secret alice.key
  liutong administrator create grafana --role finance --expires-at 365d --secret-only

Roles: an owner makes administrators, and erases; an admin changes everything else; finance reads usage and whom it
is billed to; an auditor reads everything. With --organization or --team it holds for that part alone.";

const ROTATE_EXAMPLES: &str = "\
Examples:
  liutong administrator rotate alice --overlap 1h --write-secret alice-2.key
  liutong administrator rotate --write-secret mine.key            # one's own";

#[derive(Debug, Subcommand)]
pub(super) enum AdministratorCommand {
    /// Makes an administrator; its key is shown this once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(AdministratorCreate),
    /// Lists the administrators
    #[command(after_help = "Example:\n  liutong administrator list -o csv")]
    List,
    /// Shows one administrator
    #[command(after_help = "Example:\n  liutong administrator show alice")]
    Show {
        /// Its name or id
        administrator: String,
    },
    /// Shows who is calling: whose key this is, and what it may do
    #[command(after_help = "Example:\n  liutong administrator me --profile production")]
    Me,
    /// Changes an administrator; only what is given changes
    #[command(after_help = "Example:\n  liutong administrator update alice --role auditor")]
    Update {
        /// Its name or id
        administrator: String,
        /// Its new name
        #[arg(long)]
        name: Option<String>,
        /// What it may do from now on
        #[arg(long, value_enum)]
        role: Option<RoleName>,
        /// When its key stops working: a time (RFC 3339), a date (UTC), or a span from now such as 90d
        #[arg(long, value_name = "WHEN")]
        expires_at: Option<When>,
        /// Its key works until it is revoked
        #[arg(long, conflicts_with = "expires_at")]
        no_expiry: bool,
    },
    /// Gives an administrator, or oneself, another key; the former works on for a while
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(AdministratorRotate),
    /// Ends an administrator's key, for good
    #[command(after_help = "Example:\n  liutong administrator revoke alice")]
    Revoke {
        /// Its name or id
        administrator: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AdministratorCreate {
    /// Its name; commands take the id where several have the same
    name: String,
    /// What it may do
    #[arg(long, value_enum)]
    role: RoleName,
    /// For this organization alone, by name or id
    #[arg(long, conflicts_with = "team")]
    organization: Option<String>,
    /// For this team alone, by name or id
    #[arg(long)]
    team: Option<String>,
    /// When its key stops working: a time, a date, or a span from now; 90 days without this
    #[arg(long, value_name = "WHEN")]
    expires_at: Option<When>,
    /// Its key works until it is revoked
    #[arg(long, conflicts_with = "expires_at")]
    no_expiry: bool,
    #[command(flatten)]
    place: SecretPlace,
}

#[derive(Debug, Args)]
pub(super) struct AdministratorRotate {
    /// Its name or id; without it one's own key is rotated
    administrator: Option<String>,
    /// How long the former key works on: a span such as 12h, or a time; an hour without this
    #[arg(long, value_name = "WHEN", conflicts_with = "emergency")]
    overlap: Option<When>,
    /// Ends the former key at once: it has leaked
    #[arg(long)]
    emergency: bool,
    /// When the new key stops working: a time, a date, or a span from now; 90 days without this
    #[arg(long, value_name = "WHEN")]
    expires_at: Option<When>,
    #[command(flatten)]
    place: SecretPlace,
}

/// The roles, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleName {
    Owner,
    Admin,
    Finance,
    Auditor,
}

impl RoleName {
    fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Finance => "finance",
            Self::Auditor => "auditor",
        }
    }
}

pub(super) async fn run(admin: &Admin, out: &Output, command: AdministratorCommand) -> Result<(), CliError> {
    match command {
        AdministratorCommand::Create(options) => create(admin, out, options).await,
        AdministratorCommand::List => {
            let listed = admin.list("listing administrators".to_owned(), &["administrators"], &[]).await?;
            out.list(&listed, &COLUMNS)
        }
        AdministratorCommand::Show { administrator } => {
            let action = format!("showing administrator {administrator}");
            out.one(&admin.get(action, &["administrators", &administrator], &[]).await?)
        }
        AdministratorCommand::Me => {
            out.one(&admin.get("showing who is calling".to_owned(), &["administrators", "me"], &[]).await?)
        }
        AdministratorCommand::Update { administrator, name, role, expires_at, no_expiry } => {
            let mut change = body([
                ("name", name),
                ("role", role.map(|role| role.name().to_owned())),
                ("expires_at", end(expires_at)?),
            ]);
            if no_expiry {
                change.insert("expires_at".to_owned(), Value::Null);
            }
            if change.is_empty() {
                let problem = "nothing is to change: `liutong administrator update --help` lists what can";
                return Err(CliError::Usage(problem.to_owned()));
            }
            let action = format!("updating administrator {administrator}");
            out.one(&admin.patch(action, &["administrators", &administrator], &Value::Object(change)).await?)
        }
        AdministratorCommand::Rotate(options) => rotate(admin, out, options).await,
        AdministratorCommand::Revoke { administrator } => {
            let action = format!("revoking administrator {administrator}");
            out.one(&admin.post(action, &["administrators", &administrator, "revoke"], &json!({})).await?)
        }
    }
}

async fn create(admin: &Admin, out: &Output, options: AdministratorCreate) -> Result<(), CliError> {
    let action = format!("making administrator {}", options.name);
    let mut new = body([
        ("name", Some(options.name)),
        ("role", Some(options.role.name().to_owned())),
        ("organization", options.organization),
        ("team", options.team),
        ("expires_at", end(options.expires_at)?),
    ]);
    if options.no_expiry {
        new.insert("expires_at".to_owned(), Value::Null);
    }
    make(admin, out, (action, &["administrators"], Value::Object(new)), &options.place).await
}

async fn rotate(admin: &Admin, out: &Output, options: AdministratorRotate) -> Result<(), CliError> {
    let whose = options.administrator.as_deref().unwrap_or("me");
    let mut wanted = json!({});
    if options.emergency {
        wanted["overlap_seconds"] = json!(0);
    } else if let Some(overlap) = options.overlap {
        wanted["overlap_seconds"] = json!(overlap.seconds_from_now("--overlap")?);
    }
    if let Some(end) = end(options.expires_at)? {
        wanted["expires_at"] = json!(end);
    }
    let action = format!("rotating the key of administrator {whose}");
    make(admin, out, (action, &["administrators", whose, "rotate"], wanted), &options.place).await
}

fn end(when: Option<When>) -> Result<Option<String>, CliError> {
    let end = when.map(|when| when.forward_from(Timestamp::now())).transpose();
    end.map_err(|error| CliError::Usage(format!("--expires-at: {error}")))
}
