//! Chaos as a program: kills, stops and cuts under load, or a plane away for long; then the ledgers.

use std::time::Duration;

use clap::{Parser, Subcommand};
use load_tests::chaos::schedule::{Amounts, Process};
use load_tests::chaos::{self, Options, away};

/// Breaks a running Liutong at random moments under load, and compares what is left with what was seen.
#[derive(Parser)]
#[command(name = "liutong-chaos")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Kills processes and disturbs them; a seed decides when
    Kills {
        /// What decides
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How often the data plane is killed
        #[arg(long, default_value_t = 50)]
        dataplane: u32,
        /// How often the control plane is killed
        #[arg(long, default_value_t = 50)]
        controlplane: u32,
        /// How often ClickHouse is killed
        #[arg(long, default_value_t = 20)]
        clickhouse: u32,
        /// How many other faults there are
        #[arg(long, default_value_t = 120)]
        others: u32,
        /// Exchanges a second
        #[arg(long, default_value_t = 2600.0)]
        rate: f64,
        /// How many clients send them
        #[arg(long, default_value_t = 64)]
        clients: usize,
    },
    /// Stops the control plane or ClickHouse for long under load
    Away {
        /// Which one
        #[arg(value_parser = ["controlplane", "clickhouse"])]
        process: String,
        /// For how long
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Exchanges a second
        #[arg(long, default_value_t = 5000.0)]
        rate: f64,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Kills { seed, dataplane, controlplane, clickhouse, others, rate, clients } => {
            let kills = [dataplane, controlplane, clickhouse];
            let amounts = Amounts { kills, others, has_disk: true };
            let options = Options { seed, amounts, rate, clients, is_loud: true };
            println!("seed {seed}");
            let outcome = chaos::run(&options)?;
            println!("{outcome}");
            chaos::check(&options, &outcome)
        }
        What::Away { process, minutes, rate } => {
            let process = if process == "clickhouse" { Process::ClickHouse } else { Process::ControlPlane };
            let options = away::Options { process, lasts: Duration::from_secs_f64(60.0 * minutes), rate };
            let outcome = away::run(&options)?;
            println!("{outcome}");
            away::check(&outcome)
        }
    }
}
