//! The control plane's program: arguments, logs and signals; the rest is `controlplane::run`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use controlplane::clickhouse::engine::{self, EngineArgs};
use controlplane::config::{self, Config};
use controlplane::{keys, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs Liutong's control plane: the registry, the admin API, and ingest of usage into ClickHouse.
#[derive(Parser)]
#[command(
    name = "liutong-controlplane",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    /// The configuration file (TOML)
    #[arg(long, required_unless_present = "new_admin_key")]
    config: Option<PathBuf>,
    /// Prints a new admin key, for the first start, and exits
    #[arg(long)]
    new_admin_key: bool,
    /// Stops in order when stdin ends
    #[arg(long, hide = true)]
    stop_on_stdin_eof: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// The embedded ClickHouse's own process
    #[command(name = "clickhouse-engine", hide = true)]
    ClickhouseEngine(EngineArgs),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // Nothing can be done about a stdout or stderr that is gone.
            let _ = message.print();
            return ExitCode::from(if message.use_stderr() { config::EXIT_STATUS } else { 0 });
        }
    };
    if let Some(Command::ClickhouseEngine(engine)) = &arguments.command {
        // Before anything starts a thread.
        return engine::serve(engine);
    }
    // Before the first secret is read or made.
    if let Err(error) = secret::keep_memory_inside() {
        eprintln!("liutong-controlplane: keeping memory out of core dumps: {error}");
        return ExitCode::FAILURE;
    }
    if arguments.new_admin_key {
        return new_admin_key();
    }
    let config = match Config::load(&arguments.config.unwrap_or_default()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("liutong-controlplane: {error}");
            return ExitCode::from(config::EXIT_STATUS);
        }
    };
    let filter = EnvFilter::try_from_env("LIUTONG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
    match serve(config, arguments.stop_on_stdin_eof) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn new_admin_key() -> ExitCode {
    match keys::new_admin_key() {
        Ok(key) => {
            println!("{}", key.reveal());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("liutong-controlplane: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, stop_on_stdin_eof: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("runtime")?;
    let stop = CancellationToken::new();
    if stop_on_stdin_eof {
        stop_at_stdin_eof(stop.clone());
    }
    let outcome = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let signalled = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            signalled.cancel();
        });
        run::run(config, stop, |_| ()).await.map_err(anyhow::Error::from)
    });
    // What is blocked in a system call must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// On a thread of its own: a read of stdin can't be cancelled.
fn stop_at_stdin_eof(stop: CancellationToken) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.cancel();
    });
}
