//! `liutong key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::key::revoke::{REVOKE_EXAMPLES, RevokeArgs};
use crate::cli::key::rotate::{ROTATE_EXAMPLES, RotateArgs};
use crate::cli::key::scan::{SCAN_EXAMPLES, ScanArgs};
use crate::cli::key::uses::{self, UsesArgs};
use crate::cli::update::{self, KeyUpdate};
use crate::cli::when::When;

const KEY_EXAMPLES: &str = "\
Examples:
  liutong key create --application chatbot -o json
  liutong key create --application chatbot --expires-at 90d --write-secret chatbot.key";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Makes a key; its secret is shown this once
    #[command(after_help = KEY_EXAMPLES)]
    Create(KeyCreate),
    /// Lists keys, without their secrets
    #[command(after_help = "Example:\n  liutong key list --application chatbot -o csv")]
    List {
        /// Only this application's
        #[arg(long)]
        application: Option<String>,
        /// Only this team's
        #[arg(long)]
        team: Option<String>,
    },
    /// Changes a key; only what is given changes
    #[command(after_help = update::KEY_EXAMPLES)]
    Update(KeyUpdate),
    /// Shows one key, without its secret
    #[command(after_help = "Example:\n  liutong key show key_Abcd1234")]
    Show {
        /// Its id
        key: String,
    },
    /// Revokes a key; returns once the data planes refuse it, and names those that have not confirmed
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(RevokeArgs),
    /// Gives a key a successor; the old one works on for a while, or is revoked at once
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(RotateArgs),
    /// Shows which revoked or expired keys are used all the same, and when: a leak, or a forgotten client
    #[command(after_help = uses::USES_EXAMPLES)]
    Uses(UsesArgs),
    /// Finds keys in text by their form and checksum, and names each by its public prefix
    #[command(after_help = SCAN_EXAMPLES)]
    Scan(ScanArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyCreate {
    /// The application it belongs to, by name or id
    #[arg(long)]
    pub(in crate::cli) application: String,
    /// What it is for
    #[arg(long)]
    pub(in crate::cli) description: Option<String>,
    /// When it stops working: a time (RFC 3339), a date (UTC), or a span from now such as 12h or 90d
    #[arg(long, value_name = "WHEN")]
    pub(in crate::cli) expires_at: Option<When>,
    /// The aliases it may use, separated by commas; without this it inherits its application's
    #[arg(long, value_name = "ALIASES")]
    pub(in crate::cli) models: Option<String>,
    /// The plan it is on
    #[arg(long)]
    pub(in crate::cli) plan: Option<String>,
    /// The cost centre that pays, unless its application's is to
    #[arg(long)]
    pub(in crate::cli) cost_centre: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) place: SecretPlace,
}

/// Where a new secret goes.
#[derive(Debug, Args)]
pub(in crate::cli) struct SecretPlace {
    /// Prints the secret alone
    #[arg(long, conflicts_with = "write_secret")]
    pub(in crate::cli) secret_only: bool,
    /// Writes the secret to a new file that only you can read, and does not print it
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) write_secret: Option<PathBuf>,
}
