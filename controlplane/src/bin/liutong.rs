//! The administrators' command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use controlplane::clickhouse::engine::{self, EngineArgs};

#[derive(Parser)]
#[command(name = "liutong", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The embedded ClickHouse's own process, started by quickstart and by the control plane.
    #[command(name = "clickhouse-engine", hide = true)]
    ClickhouseEngine(EngineArgs),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        // Before anything starts a thread.
        Command::ClickhouseEngine(args) => engine::serve(&args),
    }
}
