//! `liutong`, the administrators' command: the registry, keys, models, usage, spools, and a first try.
//!
//! What is about the registry and usage, backups aside, speaks to the control plane's admin API and to
//! nothing else, so that it runs on any machine that reaches the admin address. Data goes to stdout, messages
//! go to stderr.
//!
//! Invariants:
//!
//!   * a secret is never taken from the command line, where other users of the machine could read it
//!   * the exit status says what kind of failure it was: see `CliError::exit_status`

mod admin;
mod administrator;
mod args;
mod audit;
mod backup;
mod doctor;
mod error;
/// Manual pages and completions.
mod help;
mod key;
mod model;
mod node;
mod output;
mod privacy;
mod profile;
mod progress;
mod registry;
mod spool;
mod support;
mod update;
mod usage;
mod verify;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

pub(crate) use admin::Admin;
pub(crate) use args::DialectName;
pub(crate) use error::CliError;
pub(crate) use output::Format;

use audit::AuditCommand;

use args::{Cli, Command, KeyCommand, ProfileCommand, UsageArgs, UsageCommand};
use output::Output;
use privacy::PrivacyCommand;

use crate::clickhouse::engine;

/// Parses the command line, runs what it asks for, and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints usage errors to stderr and leaves with status 2, and `--help` to stdout with 0.
    let cli = Cli::parse();
    if let Err(error) = dry_run_is_had(&cli) {
        error.print();
        return ExitCode::from(error.exit_status());
    }
    if let Command::ClickhouseEngine(args) = &cli.command {
        // It wants the main thread, and no other thread beside it.
        return engine::serve(args);
    }
    // Before the first secret is read. Its children are kept from core dumps by it too.
    if let Err(error) = secret::keep_memory_inside() {
        eprintln!("liutong: keeping memory out of core dumps: {error}");
        return ExitCode::FAILURE;
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_status())
        }
    }
}

/// Refuses `--dry-run` where nobody would heed it: whoever asks for one must never get the real thing.
fn dry_run_is_had(cli: &Cli) -> Result<(), CliError> {
    let Some(name) = without_dry_run(&cli.command).filter(|_| cli.dry_run) else { return Ok(()) };
    let problem =
        format!("`liutong {name}` has no --dry-run: only changes that the admin API makes have one");
    Err(CliError::Usage(problem))
}

/// The name of a command that can't be tried without doing it. None is left to a wildcard: a new command has
/// to say where it belongs.
fn without_dry_run(command: &Command) -> Option<&'static str> {
    match command {
        // They read files or write them, on this machine, whatever else they ask.
        Command::Key(KeyCommand::Scan(_)) => Some("key scan"),
        Command::Privacy(PrivacyCommand::Export { .. }) => Some("privacy export"),
        Command::Spool(_) => Some("spool"),
        Command::Backup(_) => Some("backup"),
        Command::Restore(_) => Some("restore"),
        Command::Doctor(_) => Some("doctor"),
        Command::Support(_) => Some("support"),
        Command::Profile(_) => Some("profile"),
        Command::Completions { .. } => Some("completions"),
        Command::Man { .. } => Some("man"),
        Command::Quickstart(_) => Some("quickstart"),
        Command::ClickhouseEngine(_) => Some("clickhouse-engine"),
        // All of these go through `Admin`, which asks for a dry run with each change.
        Command::Organization(_)
        | Command::Team(_)
        | Command::Application(_)
        | Command::Key(_)
        | Command::Model(_)
        | Command::Administrator(_)
        | Command::Audit(_)
        | Command::Usage(_)
        | Command::Request(_)
        | Command::Node(_)
        | Command::Hold(_)
        | Command::Privacy(_)
        | Command::Openapi => None,
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Runtime { source })?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result<(), CliError> {
    let format = cli.output.unwrap_or(Format::Table);
    let out = Output::new(format);
    let given = profile::Given { profile: cli.profile.as_deref(), admin_url: cli.admin_url.as_deref() };
    let admin = || Admin::at(given.place(|name| std::env::var(name).ok())?, cli.dry_run);
    match cli.command {
        Command::Organization(command) => registry::organization(&admin()?, &out, command).await,
        Command::Team(command) => registry::team(&admin()?, &out, command).await,
        Command::Application(command) => registry::application(&admin()?, &out, command).await,
        Command::Key(KeyCommand::Scan(options)) => key::scan::run(&out, &options),
        Command::Key(command) => key::run(&admin()?, &out, command).await,
        Command::Model(command) => model::run(&admin()?, &out, command).await,
        Command::Administrator(command) => administrator::run(&admin()?, &out, command).await,
        Command::Audit(AuditCommand::Verify { file: Some(file), expect, .. }) => {
            audit::file::verify(&out, &file, expect.as_deref())
        }
        Command::Audit(command) => audit::run(&admin()?, &out, command).await,
        Command::Openapi => help::openapi(&admin()?).await,
        Command::Usage(UsageArgs { command: Some(UsageCommand::Verify), .. }) => {
            verify::run(&admin()?, &out).await
        }
        Command::Usage(usage) => usage::report(&admin()?, &out, &usage).await,
        Command::Request(command) => usage::request(&admin()?, &out, command).await,
        Command::Node(command) => node::run(&admin()?, &out, command).await,
        Command::Spool(command) => spool::run(&out, command),
        Command::Hold(command) => privacy::hold(&admin()?, &out, command).await,
        Command::Privacy(command) => privacy::privacy(&admin()?, &out, command).await,
        Command::Backup(options) => backup::run(&out, options).await,
        Command::Restore(options) => backup::restore(&out, options).await,
        Command::Doctor(options) => doctor::run(&out, &options, admin()).await,
        Command::Support(command) => support::run(&out, command, admin).await,
        Command::Profile(ProfileCommand::List) => profile::list(&out),
        Command::Completions { shell } => help::completions(shell),
        Command::Man { directory } => help::manual(&directory),
        Command::Quickstart(options) => crate::quickstart::run(options, format).await.map_err(CliError::from),
        // Was served before there was a runtime.
        Command::ClickhouseEngine(_) => Ok(()),
    }
}
