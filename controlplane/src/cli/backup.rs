//! `liutong backup` and `liutong restore`: they work on the control plane's own host, by its configuration,
//! and need no control plane.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::CliError;
use super::output::Output;
use super::when::When;
use crate::backup::manifest::{self, Found, Manifest};
use crate::backup::{create, restore};
use crate::config::Config;

pub(super) const BACKUP_EXAMPLES: &str = "\
Examples:
  liutong backup /var/backups/liutong --keep-days 14
  liutong backup list /var/backups/liutong
  liutong backup verify /var/backups/liutong/20261129T080000Z-1a2b3c4d
  liutong backup prune /var/backups/liutong --older-than 30d

It may run while everything else does. Secrets are not in it: keys are kept as SHA-256.";

pub(super) const RESTORE_EXAMPLES: &str = "\
Examples:
  systemctl stop liutong-controlplane
  liutong restore /var/backups/liutong/20261129T080000Z-1a2b3c4d
  systemctl start liutong-controlplane

What was revoked or erased after the backup stays so: as far as this registry, the data planes, and later
backups beside this one know of it.";

const COLUMNS: [&str; 5] = ["id", "made_at", "expires_at", "bytes", "path"];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// Where backups are kept; each has a directory of its own there
    #[arg(required = true)]
    directory: Option<PathBuf>,
    /// The control plane's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/liutong/controlplane.toml")]
    config: PathBuf,
    /// How long it is kept [default: backup.keep_days of the configuration, 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Lists the backups that are kept in a directory
    #[command(after_help = "Example:\n  liutong backup list /var/backups/liutong -o csv")]
    List {
        /// The directory
        directory: PathBuf,
    },
    /// Compares every file of a backup with its checksum
    #[command(
        after_help = "Example:\n  liutong backup verify /var/backups/liutong/20261129T080000Z-1a2b3c4d"
    )]
    Verify {
        /// The backup
        backup: PathBuf,
    },
    /// Removes backups whose end has come, and those that are older than is asked
    #[command(after_help = "Example:\n  liutong backup prune /var/backups/liutong --older-than 30d")]
    Prune {
        /// Where they are kept
        directory: PathBuf,
        /// A span such as 30d, or a time
        #[arg(long, value_name = "WHEN")]
        older_than: Option<When>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup
    backup: PathBuf,
    /// The control plane's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/liutong/controlplane.toml")]
    config: PathBuf,
    /// Throws away the usage that is in ClickHouse; without it, it must be empty
    #[arg(long, conflicts_with = "registry_only")]
    replace: bool,
    /// Leaves ClickHouse alone
    #[arg(long)]
    registry_only: bool,
}

pub(super) async fn run(out: &Output, options: BackupArgs) -> Result<(), CliError> {
    match options.command {
        None => {
            let config = Config::load_for_tools(&options.config).map_err(crate::backup::BackupError::from)?;
            let keep_days = options.keep_days.unwrap_or(config.backup_keep_days);
            let directory = options.directory.unwrap_or_default();
            out.one(&show(&create::create(&config, &directory, keep_days).await?))
        }
        Some(BackupCommand::List { directory }) => {
            let found: Vec<Value> = manifest::list(&directory)?.iter().map(show).collect();
            out.list(&found, &COLUMNS)
        }
        Some(BackupCommand::Verify { backup }) => {
            let manifest = Manifest::read(&backup)?;
            manifest.verify(&backup)?;
            out.one(&show(&Found { path: backup, manifest }))
        }
        Some(BackupCommand::Prune { directory, older_than }) => {
            let older_than = older_than.map(|when| {
                let at = when.back_from(Timestamp::now()).ok().and_then(|text| text.parse().ok());
                at.ok_or_else(|| CliError::Usage("--older-than: a span such as 30d, or a time".to_owned()))
            });
            let removed = manifest::prune(&directory, older_than.transpose()?)?;
            out.list(&removed.iter().map(show).collect::<Vec<_>>(), &COLUMNS)
        }
    }
}

pub(super) async fn restore(out: &Output, options: RestoreArgs) -> Result<(), CliError> {
    let config = Config::load_for_tools(&options.config).map_err(crate::backup::BackupError::from)?;
    let RestoreArgs { backup, replace, registry_only, .. } = options;
    let restored = restore::restore(&config, &backup, restore::Options { replace, registry_only }).await?;
    out.one(&json!({
        "object": "restore", "backup": backup.display().to_string(),
        "registry_id": restored.registry_id.to_string(), "generation": restored.generation.0,
        "registry_rows": restored.rows,
        "replaced_audit_seq": restored.replaced.as_ref().map(|end| end.last_seq),
        "replaced_audit_hash": restored.replaced.as_ref().map(|end| &end.last_hash),
    }))
}

fn show(found: &Found) -> Value {
    let Found { path, manifest } = found;
    let files = manifest.files.len();
    json!({
        "object": "backup", "id": manifest.id, "made_at": manifest.made_at, "expires_at": manifest.expires_at,
        "registry_id": manifest.registry_id, "generation": manifest.generation, "files": files,
        "bytes": manifest.bytes(), "path": path.display().to_string(),
    })
}
