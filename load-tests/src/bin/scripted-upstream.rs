//! The scriptable upstream as a program: answers like a model server, takes scripts at `POST /script`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use load_tests::upstream::{Options, Upstream};

/// An OpenAI-shaped upstream for tests and measurements.
#[derive(Parser)]
#[command(name = "liutong-scripted-upstream")]
struct Arguments {
    /// Where to listen; port 0 for any.
    #[arg(long, default_value = "127.0.0.1:18300")]
    listen: SocketAddr,
    /// Threads, each with a ring and a listener of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// What comes before /chat/completions.
    #[arg(long, default_value = "/v1")]
    prefix: String,
    /// A model that /models lists; may be given again.
    #[arg(long = "model", default_value = "scripted")]
    models: Vec<String>,
    /// Milliseconds between the events of a stream.
    #[arg(long, default_value_t = 0)]
    event_interval_ms: u64,
    /// How many of the last requests to keep for GET /received.
    #[arg(long, default_value_t = 0)]
    record: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let upstream = Upstream::start(Options {
        listen: arguments.listen,
        threads: arguments.threads,
        prefix: arguments.prefix,
        models: arguments.models,
        event_interval: Duration::from_millis(arguments.event_interval_ms),
        record: arguments.record,
        ..Options::default()
    })?;
    println!("{}", upstream.base_url());
    upstream.join();
    Ok(())
}
