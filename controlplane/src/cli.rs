//! `liutong`, the administrators' command: the registry, keys, models, usage, spools, and a first try.
//!
//! All of it but `spool` and `quickstart` speaks to the control plane's admin API and to nothing else, so
//! that it runs on any machine that reaches the admin address. Data goes to stdout, messages go to stderr.
//!
//! Invariants:
//!
//!   * a secret is never taken from the command line, where other users of the machine could read it
//!   * the exit status says what kind of failure it was: see `CliError::exit_status`

mod admin;
mod args;
mod error;
mod key;
mod model;
mod node;
mod output;
mod registry;
mod spool;
mod usage;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

pub(crate) use admin::Admin;
pub(crate) use args::DialectName;
pub(crate) use error::CliError;
pub(crate) use output::Format;

use args::{Cli, Command};
use output::Output;

use crate::clickhouse::engine;

/// Parses the command line, runs what it asks for, and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints usage errors to stderr and leaves with status 2, and `--help` to stdout with 0.
    let cli = Cli::parse();
    if let Command::ClickhouseEngine(args) = &cli.command {
        // It wants the main thread, and no other thread beside it.
        return engine::serve(args);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print();
            ExitCode::from(error.exit_status())
        }
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
    let admin = || Admin::from_environment(&cli.admin_url);
    match cli.command {
        Command::Organization(command) => registry::organization(&admin()?, &out, command).await,
        Command::Team(command) => registry::team(&admin()?, &out, command).await,
        Command::Application(command) => registry::application(&admin()?, &out, command).await,
        Command::Key(command) => key::run(&admin()?, &out, command).await,
        Command::Model(command) => model::run(&admin()?, &out, command).await,
        Command::Usage(usage) => usage::report(&admin()?, &out, &usage).await,
        Command::Request(command) => usage::request(&admin()?, &out, command).await,
        Command::Node(command) => node::run(&admin()?, &out, command).await,
        Command::Spool(command) => spool::run(&out, command),
        Command::Quickstart(options) => crate::quickstart::run(options, format).await.map_err(CliError::from),
        // Was served before there was a runtime.
        Command::ClickhouseEngine(_) => Ok(()),
    }
}
