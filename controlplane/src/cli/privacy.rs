//! `liutong hold` and `liutong privacy`: what must stay, what must go, what there is.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use super::CliError;
use super::admin::Admin;
use super::key::revoke::warn_of_pending;
use super::output::{Format, Output};

pub(super) const HOLD_EXAMPLES: &str = "\
Examples:
  liutong hold add --team research --reason 'case 2026-17, legal@acme'
  liutong hold list
  liutong hold release 3";

pub(super) const PRIVACY_EXAMPLES: &str = "\
Examples:
  liutong privacy report
  liutong privacy export --team research > research.jsonl
  liutong privacy erase --team research --yes

Erasing can't be undone: names, ids and single events go, and the keys are revoked. Sums by month stay under
a random name. Backups hold it to their end, and a restore erases it again.";

const HOLD_COLUMNS: [&str; 7] = ["id", "kind", "subject", "reason", "status", "created_at", "in_force"];
const STORED_COLUMNS: [&str; 6] = ["place", "name", "what", "kept", "rows", "bytes"];

#[derive(Debug, Subcommand)]
pub(super) enum HoldCommand {
    /// Keeps something from being erased, and its usage from expiring
    #[command(
        after_help = "Example:\n  liutong hold add --team research --reason 'case 2026-17, legal@acme'"
    )]
    Add(HoldArgs),
    /// Lists the holds
    #[command(after_help = "Example:\n  liutong hold list --released")]
    List {
        /// Also those that are over
        #[arg(long)]
        released: bool,
    },
    /// Ends a hold
    #[command(after_help = "Example:\n  liutong hold release 3")]
    #[command(alias = "remove")]
    Release {
        /// Its number
        hold: String,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("held").required(true)))]
pub(super) struct HoldArgs {
    /// An organization, by name or id
    #[arg(long, group = "held")]
    organization: Option<String>,
    /// A team
    #[arg(long, group = "held")]
    team: Option<String>,
    /// An application
    #[arg(long, group = "held")]
    application: Option<String>,
    /// A key
    #[arg(long, group = "held")]
    key: Option<String>,
    /// Why, for whoever releases it
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum PrivacyCommand {
    /// Says what is stored where, and for how long
    #[command(after_help = "Example:\n  liutong privacy report")]
    Report,
    /// Writes everything that is stored about a team or a key, as JSON lines
    #[command(after_help = "Example:\n  liutong privacy export --team research > research.jsonl")]
    Export {
        #[command(flatten)]
        subject: Subject,
        /// A new file for it, 0600, instead of stdout
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Erases a team or a key, for good
    #[command(after_help = "Example:\n  liutong privacy erase --team research --yes")]
    Erase {
        #[command(flatten)]
        subject: Subject,
        /// Also ends what is under way with its keys
        #[arg(long)]
        cut_streams: bool,
        /// Does it; without it nothing happens
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Subject {
    /// A team, by name or id
    #[arg(long)]
    team: Option<String>,
    /// A key, by id, prefix or description
    #[arg(long)]
    key: Option<String>,
}

impl Subject {
    fn named(&self) -> (&'static str, &str) {
        match (&self.team, &self.key) {
            (Some(team), _) => ("team", team),
            (None, key) => ("key", key.as_deref().unwrap_or_default()),
        }
    }
}

pub(super) async fn hold(admin: &Admin, out: &Output, command: HoldCommand) -> Result<(), CliError> {
    match command {
        HoldCommand::Add(HoldArgs { organization, team, application, key, reason }) => {
            let named = [
                ("organization", organization),
                ("team", team),
                ("application", application),
                ("key", key),
                ("reason", Some(reason)),
            ];
            let body = Value::Object(super::registry::body(named));
            let hold = admin.post("adding a hold".to_owned(), &["holds"], &body).await?;
            warn_of_force(admin, &hold);
            out.one(&hold)
        }
        HoldCommand::List { released } => {
            let query: &[(&str, &str)] = if released { &[("released", "true")] } else { &[] };
            let holds = admin.get("listing holds".to_owned(), &["holds"], query).await?;
            out.list(holds["data"].as_array().map_or(&[], Vec::as_slice), &HOLD_COLUMNS)
        }
        HoldCommand::Release { hold } => {
            let released = admin.delete(format!("releasing hold {hold}"), &["holds", &hold], &[]).await?;
            warn_of_force(admin, &released);
            out.one(&released)
        }
    }
}

/// Writes page after page, a line for each thing: to a new file for its owner alone, or to stdout.
async fn export(admin: &Admin, (kind, name): (&str, &str), to: Option<&Path>) -> Result<(), CliError> {
    let failed = |source| match to {
        Some(path) => CliError::File { action: "writing", path: path.to_owned(), source },
        None => CliError::Stdout { source },
    };
    let mut out: Box<dyn Write> = match to {
        Some(path) => {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(BufWriter::new(made.map_err(failed)?))
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let mut after: Option<String> = None;
    loop {
        let mut query = vec![(kind, name)];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page = admin.get(format!("exporting {kind} {name}"), &["privacy", "export"], &query).await?;
        for one in page["data"].as_array().into_iter().flatten() {
            writeln!(out, "{one}").map_err(failed)?;
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            return out.flush().map_err(failed);
        }
    }
}

fn warn_of_force(admin: &Admin, hold: &Value) {
    if hold["in_force"] == false && !admin.is_dry() {
        eprintln!(
            "liutong: warning: ClickHouse is away and does not heed it yet; it will once the control plane \
             reaches it"
        );
    }
}

pub(super) async fn privacy(admin: &Admin, out: &Output, command: PrivacyCommand) -> Result<(), CliError> {
    match command {
        PrivacyCommand::Report => {
            let report = admin.get("reporting".to_owned(), &["privacy", "report"], &[]).await?;
            match out.format() {
                Format::Json | Format::Jsonl => out.one(&report),
                _ => out.list(report["data"].as_array().map_or(&[], Vec::as_slice), &STORED_COLUMNS),
            }
        }
        PrivacyCommand::Export { subject, to } => export(admin, subject.named(), to.as_deref()).await,
        PrivacyCommand::Erase { subject, cut_streams, yes } => {
            let (kind, name) = subject.named();
            if !yes {
                let problem = format!("erasing {kind} {name} can't be undone: add --yes to do it");
                return Err(CliError::Usage(problem));
            }
            let body = json!({kind: name, "cut_streams": cut_streams});
            let erased = admin.post(format!("erasing {kind} {name}"), &["privacy", "erase"], &body).await?;
            warn_of_pending(&erased);
            if erased["usage"] == "pending" && !admin.is_dry() {
                eprintln!(
                    "liutong: warning: its usage is not gone yet: ClickHouse is away, or usage is on its way \
                     there; it goes by itself"
                );
            }
            out.one(&erased)
        }
    }
}
