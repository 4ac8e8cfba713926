//! The command line as people write it.
//!
//! Names and ids are the same kind of argument everywhere: the admin API takes either. No argument takes a
//! secret.

mod key;
mod model;
mod usage;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(super) use key::{KeyCommand, KeyCreate, SecretPlace};
pub(crate) use model::DialectName;
pub(super) use model::{ModelCommand, ModelSet};
pub(super) use usage::{GroupBy, Interval, RequestCommand, UsageArgs, UsageCommand};

use super::administrator::AdministratorCommand;
use super::audit::AuditCommand;
use super::backup::{BACKUP_EXAMPLES, BackupArgs, RESTORE_EXAMPLES, RestoreArgs};
use super::doctor::DoctorArgs;
use super::output::Format;
use super::privacy::{HOLD_EXAMPLES, HoldCommand, PRIVACY_EXAMPLES, PrivacyCommand};
use super::support::SupportCommand;
use super::update::{self, ApplicationUpdate, OrganizationUpdate, TeamUpdate};
use super::when::When;
use crate::clickhouse::engine::EngineArgs;
use crate::quickstart::QuickstartOptions;

const EXAMPLES: &str = "\
Environment, where no --profile is given:
  LIUTONG_ADMIN_URL       the admin API, without a path (default http://127.0.0.1:8090)
  LIUTONG_ADMIN_KEY       the administrator's key
  LIUTONG_ADMIN_KEY_FILE  a file that holds it, instead
  LIUTONG_PROFILE         the profile to use, where none of these is set
  LIUTONG_CONFIG          the file with profiles (default ~/.config/liutong/config.toml)

Exit status:
  0 done   1 error   2 usage   3 not found   4 not authorized   5 conflict   6 not reached, try again

Examples:
  liutong quickstart
  liutong team list --profile production
  liutong model remove small --dry-run
  liutong team create research --organization acme --cost-centre 4711
  liutong key create --application chatbot -o json
  liutong usage --by team,model --from 7d --interval day";

const PROFILE_EXAMPLES: &str = "\
Such a file, ~/.config/liutong/config.toml, says where each control plane is and where the key for it; a key
itself never stands in it:

  default = \"production\"
  [profiles.production]
  admin_url = \"https://liutong-admin.example\"
  key_file = \"/home/me/.config/liutong/production-key\"   # or key_env, or key_systemd_credential

Examples:
  liutong profile list
  liutong team list --profile production";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  liutong completions bash > /etc/bash_completion.d/liutong
  liutong completions zsh > ~/.zfunc/_liutong
  liutong completions fish > ~/.config/fish/completions/liutong.fish";

const APPLICATION_EXAMPLES: &str = "\
Examples:
  liutong application create chatbot --team research --models small,large
  liutong application create lab --team research --models '*'";

const ENROLL_EXAMPLES: &str = "\
Examples:
  liutong node enroll berlin-1 | ssh berlin-1 liutong-dataplane --config /etc/liutong/dataplane.toml --enroll
  liutong node enroll berlin-1 --expires-at 10m -o json";

/// Administers Liutong: who may use which models, and what they used.
#[derive(Debug, Parser)]
#[command(name = "liutong", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Cli {
    /// What to print on stdout
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
    /// The admin API, without a path [default: LIUTONG_ADMIN_URL, else http://127.0.0.1:8090]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) admin_url: Option<String>,
    /// The profile that says where the admin API is, and where the key for it
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Checks a change of the admin API's, and does not make it; commands without such a change refuse this
    #[arg(long, global = true)]
    pub(super) dry_run: bool,
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
    /// Administrators: who may call the admin API, as what, and for which part
    #[command(subcommand)]
    Administrator(AdministratorCommand),
    /// The audit trail: who changed what
    #[command(subcommand)]
    Audit(AuditCommand),
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
    /// Legal holds: what must be neither erased nor expire
    #[command(subcommand, after_help = HOLD_EXAMPLES)]
    Hold(HoldCommand),
    /// What is stored, about whom, for how long; and erasing it
    #[command(subcommand, after_help = PRIVACY_EXAMPLES)]
    Privacy(PrivacyCommand),
    /// Backs up the registry and usage, on the control plane's host (needs no control plane)
    #[command(after_help = BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Puts a backup in the place of an empty installation, or of one that is to be replaced
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Looks at the installation on this machine, and says how to mend what it finds
    Doctor(DoctorArgs),
    /// What a maintainer needs to help
    #[command(subcommand)]
    Support(SupportCommand),
    /// Prints the admin API's OpenAPI document
    #[command(after_help = "Example:\n  liutong openapi > openapi.json")]
    Openapi,
    /// Profiles: which control plane to speak to, and where the key for it is
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Prints what a shell needs to complete what is typed
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages, one for each command
    #[command(after_help = "Example:\n  liutong man /usr/local/share/man/man1")]
    Man {
        /// The directory
        directory: PathBuf,
    },
    /// Starts all of Liutong on this machine for a first try
    Quickstart(QuickstartOptions),
    /// Serves the embedded ClickHouse
    #[command(hide = true)]
    ClickhouseEngine(EngineArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum ProfileCommand {
    /// Lists the profiles, and where each has its key
    #[command(after_help = PROFILE_EXAMPLES)]
    List,
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
    #[command(after_help = "Example:\n  liutong organization list -o csv")]
    List,
    /// Changes an organization; only what is given changes
    #[command(after_help = update::ORGANIZATION_EXAMPLES)]
    Update(OrganizationUpdate),
    /// Shows one organization
    #[command(after_help = "Example:\n  liutong organization show acme")]
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
        /// Its name, unique in its organization
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
    #[command(after_help = "Example:\n  liutong team list --organization acme")]
    List {
        /// Only this organization's
        #[arg(long)]
        organization: Option<String>,
    },
    /// Changes a team; only what is given changes
    #[command(after_help = update::TEAM_EXAMPLES)]
    Update(TeamUpdate),
    /// Ends a team, for good: all of its keys are revoked; what it used stays
    #[command(after_help = "Example:\n  liutong team archive research")]
    Archive {
        /// Its name or id
        team: String,
    },
    /// Shows one team
    #[command(after_help = "Example:\n  liutong team show research -o json")]
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
        /// Its name, unique in its team
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
    #[command(after_help = "Example:\n  liutong application list --team research")]
    List {
        /// Only this team's
        #[arg(long)]
        team: Option<String>,
    },
    /// Changes an application; only what is given changes
    #[command(after_help = update::APPLICATION_EXAMPLES)]
    Update(ApplicationUpdate),
    /// Ends an application, for good: all of its keys are revoked; what it used stays
    #[command(after_help = "Example:\n  liutong application archive chatbot")]
    Archive {
        /// Its name or id
        application: String,
    },
    /// Shows one application
    #[command(after_help = "Example:\n  liutong application show chatbot")]
    Show {
        /// Its name or id
        application: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Lists the data planes that the control plane knows
    #[command(after_help = "Example:\n  liutong node list")]
    List,
    /// Makes a token with which a data plane on another host gets its certificate, once
    #[command(after_help = ENROLL_EXAMPLES)]
    Enroll {
        /// What the node is to be called
        name: String,
        /// Until when the token is good: a span such as 30m or 2h, or a time; an hour without this
        #[arg(long, value_name = "WHEN")]
        expires_at: Option<When>,
    },
    /// Removes a data plane: it gets nothing any more, and no receipt names it
    #[command(after_help = "Example:\n  liutong node remove berlin-1 --force")]
    Remove {
        /// Its id or name
        node: String,
        /// Also if it is connected
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Shows what each segment below a directory holds
    #[command(after_help = "Example:\n  liutong spool inspect /var/lib/liutong/dataplane/spool")]
    Inspect {
        /// A spool's directory, or one above it
        directory: PathBuf,
    },
    /// Checks every record below a directory; the exit status is 1 where events are damaged or missing
    #[command(after_help = "Example:\n  liutong spool verify /var/lib/liutong/dataplane/spool")]
    Verify {
        /// A spool's directory, or one above it
        directory: PathBuf,
    },
}
