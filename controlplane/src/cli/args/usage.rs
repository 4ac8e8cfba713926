//! `liutong usage` and `liutong request`.

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::when::When;

const USAGE_EXAMPLES: &str = "\
Examples:
  liutong usage --by team,model --from 30d --interval day -o csv
  liutong usage --by key --team research --from 2026-11-01 --to 2026-12-01
  liutong usage verify

Times are a time (RFC 3339), a date (UTC), or a span back from now such as 24h or 7d.";

#[derive(Debug, Args)]
#[command(after_help = USAGE_EXAMPLES, args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct UsageArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: Option<UsageCommand>,
    /// What to add up by, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "team,model", value_name = "LIST")]
    pub(in crate::cli) by: Vec<GroupBy>,
    /// From when on [default: 30 days before the end]
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) from: Option<When>,
    /// Until when, exclusive [default: the end of today, UTC]
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) to: Option<When>,
    /// One row for each such interval, or for all of the time
    #[arg(long, value_enum, default_value = "total")]
    pub(in crate::cli) interval: Interval,
    /// Only this team's, by name or id
    #[arg(long)]
    pub(in crate::cli) team: Option<String>,
    /// Only this key's
    #[arg(long)]
    pub(in crate::cli) key: Option<String>,
    /// Only this application's, by name or id
    #[arg(long)]
    pub(in crate::cli) application: Option<String>,
    /// Only this organization's, by name or id
    #[arg(long)]
    pub(in crate::cli) organization: Option<String>,
    /// Only this alias's
    #[arg(long)]
    pub(in crate::cli) model: Option<String>,
    /// Only this endpoint's, such as chat.completions
    #[arg(long)]
    pub(in crate::cli) endpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(in crate::cli) enum UsageCommand {
    /// Accounts for every admitted exchange; the exit status is 1 where one is lost, doubled or out of reach
    #[command(after_help = "Example:\n  liutong usage verify -o json")]
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(in crate::cli) enum GroupBy {
    Team,
    Key,
    Application,
    Organization,
    Model,
    Endpoint,
    Deployment,
    Status,
    Plan,
    CostCentre,
}

impl GroupBy {
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::Key => "key",
            Self::Application => "application",
            Self::Organization => "organization",
            Self::Model => "model",
            Self::Endpoint => "endpoint",
            Self::Deployment => "deployment",
            Self::Status => "status",
            Self::Plan => "plan",
            Self::CostCentre => "cost_centre",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Interval {
    Hour,
    Day,
    Month,
    Total,
}

impl Interval {
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum RequestCommand {
    /// Shows the usage event of one exchange: who, which model, how many tokens, how long
    #[command(after_help = "Example:\n  liutong request show req_3f9c2b7d10a84e65")]
    Show {
        /// The x-request-id that the client got
        id: String,
    },
}
