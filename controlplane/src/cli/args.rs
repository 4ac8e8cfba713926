//! The command line as people write it.
//!
//! Names and ids are the same kind of argument everywhere: the admin API takes either. No argument takes a
//! secret.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::output::Format;
use super::when::When;
use crate::clickhouse::engine::EngineArgs;
use crate::quickstart::QuickstartOptions;

const EXAMPLES: &str = "\
Environment:
  LIUTONG_ADMIN_URL       the admin API, without a path (default http://127.0.0.1:8090)
  LIUTONG_ADMIN_KEY       the administrator's key
  LIUTONG_ADMIN_KEY_FILE  a file that holds it, instead

Exit status:
  0 done   1 error   2 usage   3 not found   4 not authorized   5 conflict

Examples:
  liutong quickstart
  liutong team create research --organization acme --cost-centre 4711
  liutong key create --application chatbot -o json
  liutong usage --by team,model --from 7d --interval day";

const APPLICATION_EXAMPLES: &str = "\
Examples:
  liutong application create chatbot --team research --models small,large
  liutong application create lab --team research --models '*'";

const KEY_EXAMPLES: &str = "\
Examples:
  liutong key create --application chatbot -o json
  liutong key create --application chatbot --expires-at 90d --write-secret chatbot.key";

const MODEL_EXAMPLES: &str = "\
Examples:
  liutong model set small --dialect vllm \\
      --upstream http://10.0.0.7:8000/v1 --upstream-model Qwen/Qwen3-8B
  liutong model set large --upstream https://api.openai.com/v1 --upstream-model gpt-5 --credential OPENAI
  liutong model set large --file deployments.json

Such a file has several deployments: {\"deployments\":[{...},{...}]}, with the members that the flags name.";

const USAGE_EXAMPLES: &str = "\
Examples:
  liutong usage --by team,model --from 30d --interval day -o csv
  liutong usage --by key --team research --from 2026-11-01 --to 2026-12-01

Times are a time (RFC 3339), a date (UTC), or a span back from now such as 24h or 7d.";

/// Administers Liutong: who may use which models, and what they used.
#[derive(Debug, Parser)]
#[command(name = "liutong", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Cli {
    /// What to print on stdout: a table, the admin API's own JSON, or CSV
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// The admin API, without a path
    #[arg(
        long,
        global = true,
        env = "LIUTONG_ADMIN_URL",
        default_value = "http://127.0.0.1:8090",
        value_name = "URL"
    )]
    pub(super) admin_url: String,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Organizations: the topmost level, what a contract is made with
    #[command(subcommand)]
    Organization(OrganizationCommand),
    /// Teams, which belong to an organization
    #[command(subcommand)]
    Team(TeamCommand),
    /// Applications, which belong to a team and have keys
    #[command(subcommand)]
    Application(ApplicationCommand),
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Aliases, the model names that clients send, and the deployments that serve them
    #[command(subcommand)]
    Model(ModelCommand),
    /// Requests and tokens, by team, key, model, ... and time
    Usage(UsageArgs),
    /// One exchange
    #[command(subcommand)]
    Request(RequestCommand),
    /// Data planes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Spools: usage events on a data plane's disk (needs no control plane)
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Starts all of Liutong on this machine for a first try
    Quickstart(QuickstartOptions),
    /// Serves the embedded ClickHouse
    #[command(hide = true)]
    ClickhouseEngine(EngineArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum OrganizationCommand {
    /// Makes an organization
    #[command(after_help = "Example:\n  liutong organization create acme --plan gold")]
    Create {
        /// Its name, unique
        name: String,
        /// The plan it is on
        #[arg(long)]
        plan: Option<String>,
        /// The cost centre that pays, unless a team or an application has its own
        #[arg(long)]
        cost_centre: Option<String>,
    },
    /// Lists the organizations
    List,
    /// Shows one organization
    Show {
        /// Its name or id
        organization: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TeamCommand {
    /// Makes a team
    #[command(after_help = "Example:\n  liutong team create research --organization acme --cost-centre 4711")]
    Create {
        /// Its name, unique
        name: String,
        /// The organization it belongs to, by name or id
        #[arg(long)]
        organization: String,
        /// The plan it is on
        #[arg(long)]
        plan: Option<String>,
        /// The cost centre that pays
        #[arg(long)]
        cost_centre: Option<String>,
    },
    /// Lists the teams
    List {
        /// Only this organization's
        #[arg(long)]
        organization: Option<String>,
    },
    /// Shows one team
    Show {
        /// Its name or id
        team: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum ApplicationCommand {
    /// Makes an application
    #[command(after_help = APPLICATION_EXAMPLES)]
    Create {
        /// Its name, unique
        name: String,
        /// The team it belongs to, by name or id
        #[arg(long)]
        team: String,
        /// The aliases that its keys may use, separated by commas; '*' is every alias, also those made later
        #[arg(long, value_name = "ALIASES")]
        models: Option<String>,
        /// The plan it is on
        #[arg(long)]
        plan: Option<String>,
        /// The cost centre that pays
        #[arg(long)]
        cost_centre: Option<String>,
    },
    /// Lists the applications
    List {
        /// Only this team's
        #[arg(long)]
        team: Option<String>,
    },
    /// Shows one application
    Show {
        /// Its name or id
        application: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Makes a key; its secret is shown this once
    #[command(after_help = KEY_EXAMPLES)]
    Create(KeyCreate),
    /// Lists keys, without their secrets
    List {
        /// Only this application's
        #[arg(long)]
        application: Option<String>,
        /// Only this team's
        #[arg(long)]
        team: Option<String>,
    },
    /// Shows one key, without its secret
    Show {
        /// Its id
        key: String,
    },
    /// Revokes a key; returns once the data planes refuse it, and names those that have not confirmed
    #[command(after_help = "Example:\n  liutong key revoke key_17 -o json")]
    Revoke {
        /// Its id
        key: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct KeyCreate {
    /// The application it belongs to, by name or id
    #[arg(long)]
    pub(super) application: String,
    /// What it is for
    #[arg(long)]
    pub(super) description: Option<String>,
    /// When it stops working: a time (RFC 3339), a date (UTC), or a span from now such as 12h or 90d
    #[arg(long, value_name = "WHEN")]
    pub(super) expires_at: Option<When>,
    /// The aliases it may use, separated by commas; without this it inherits its application's
    #[arg(long, value_name = "ALIASES")]
    pub(super) models: Option<String>,
    /// Prints the secret alone
    #[arg(long, conflicts_with = "write_secret")]
    pub(super) secret_only: bool,
    /// Writes the secret to a new file that only you can read, and does not print it
    #[arg(long, value_name = "FILE")]
    pub(super) write_secret: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// Makes an alias, or replaces the deployments of one
    #[command(after_help = MODEL_EXAMPLES)]
    Set(ModelSet),
    /// Lists the aliases
    List,
    /// Shows one alias and its deployments
    Show {
        /// The alias
        alias: String,
    },
    /// Removes an alias: clients get 404 for it from then on
    Remove {
        /// The alias
        alias: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct ModelSet {
    /// The model name that clients send
    pub(super) alias: String,
    /// A JSON file with the deployments, for several or for what has no flag; - is stdin
    #[arg(long, value_name = "FILE", required_unless_present = "upstream", conflicts_with_all = [
        "upstream", "upstream_model", "dialect", "name", "credential", "weight", "on_disconnect",
        "replay_safe", "connect_timeout_ms", "first_byte_timeout_ms", "idle_timeout_ms", "api_version",
    ])]
    pub(super) file: Option<PathBuf>,
    /// The upstream's base URL; for most it ends in /v1
    #[arg(long, value_name = "URL", requires = "upstream_model")]
    pub(super) upstream: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub(super) upstream_model: Option<String>,
    /// How the upstream speaks
    #[arg(long, value_enum, default_value = "openai", requires = "upstream")]
    pub(super) dialect: DialectName,
    /// A name for the deployment
    #[arg(long)]
    pub(super) name: Option<String>,
    /// The name of the credential to send; the data planes' configuration says what it is
    #[arg(long, value_name = "NAME")]
    pub(super) credential: Option<String>,
    /// Its share among the alias's deployments
    #[arg(long)]
    pub(super) weight: Option<u32>,
    /// What happens to the upstream's answer when the client leaves in the middle of it
    #[arg(long, value_enum)]
    pub(super) on_disconnect: Option<OnDisconnectName>,
    /// The upstream may be sent a request again that it might have executed
    #[arg(long)]
    pub(super) replay_safe: bool,
    /// How long connecting may take
    #[arg(long, value_name = "MS")]
    pub(super) connect_timeout_ms: Option<u32>,
    /// How long the first byte of an answer may take
    #[arg(long, value_name = "MS")]
    pub(super) first_byte_timeout_ms: Option<u32>,
    /// How long the upstream may pause within an answer
    #[arg(long, value_name = "MS")]
    pub(super) idle_timeout_ms: Option<u32>,
    /// Azure's api-version
    #[arg(long, value_name = "VERSION")]
    pub(super) api_version: Option<String>,
}

/// The dialects, as arguments: wire's `Dialect::ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DialectName {
    Openai,
    Azure,
    Vllm,
    Sglang,
    Llamacpp,
    Ollama,
    Tgi,
}

impl DialectName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Azure => "azure",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Llamacpp => "llamacpp",
            Self::Ollama => "ollama",
            Self::Tgi => "tgi",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnDisconnectName {
    /// The upstream is cut off; the usage seen so far is recorded
    Cancel,
    /// The answer is read to its end, bounded in time, so that its usage is known
    Drain,
}

impl OnDisconnectName {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Drain => "drain",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = USAGE_EXAMPLES)]
pub(super) struct UsageArgs {
    /// What to add up by, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "team,model", value_name = "LIST")]
    pub(super) by: Vec<GroupBy>,
    /// From when on [default: 30 days before the end]
    #[arg(long, value_name = "WHEN")]
    pub(super) from: Option<When>,
    /// Until when, exclusive [default: the end of today, UTC]
    #[arg(long, value_name = "WHEN")]
    pub(super) to: Option<When>,
    /// One row for each such interval, or for all of the time
    #[arg(long, value_enum, default_value = "total")]
    pub(super) interval: Interval,
    /// Only this team's, by name or id
    #[arg(long)]
    pub(super) team: Option<String>,
    /// Only this key's
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Only this application's, by name or id
    #[arg(long)]
    pub(super) application: Option<String>,
    /// Only this organization's, by name or id
    #[arg(long)]
    pub(super) organization: Option<String>,
    /// Only this alias's
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Only this endpoint's, such as chat.completions
    #[arg(long)]
    pub(super) endpoint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum GroupBy {
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
    pub(super) fn name(self) -> &'static str {
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
pub(super) enum Interval {
    Hour,
    Day,
    Month,
    Total,
}

impl Interval {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestCommand {
    /// Shows the usage event of one exchange: who, which model, how many tokens, how long
    Show {
        /// The x-request-id that the client got
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Lists the data planes that the control plane knows
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Shows what each segment below a directory holds
    Inspect {
        /// A spool's directory, or one above it
        directory: PathBuf,
    },
    /// Checks every record below a directory; the exit status is 1 where events are damaged or missing
    Verify {
        /// A spool's directory, or one above it
        directory: PathBuf,
    },
}
