//! The flags of `liutong quickstart`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::cli::DialectName;

const EXAMPLES: &str = "\
Examples:
  liutong quickstart
  liutong quickstart --upstream http://127.0.0.1:8000/v1 --upstream-model Qwen/Qwen3-8B --dialect vllm
  OPENAI_API_KEY=... liutong quickstart --upstream https://api.openai.com/v1 --upstream-model gpt-5 \\
      --credential-env OPENAI_API_KEY --alias gpt-5

Without --upstream, a built-in demo upstream streams the prompt's words back.
A later start on the same data directory goes on where the last one was.
With --output json, one line on stdout says where everything is, once all is ready.";

/// How to start.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuickstartOptions {
    /// Where everything is kept [default: $XDG_DATA_HOME/liutong, else ~/.local/share/liutong]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Where clients connect; port 0 takes any free port, here and below
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub(super) http: SocketAddr,
    /// Where the data plane answers /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180", value_parser = address)]
    pub(super) ops: SocketAddr,
    /// Where the control plane serves the admin API
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", value_parser = address)]
    pub(super) admin: SocketAddr,
    /// Where ClickHouse serves HTTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18123", value_parser = loopback)]
    pub(super) clickhouse: SocketAddr,
    /// The upstream's base URL; for most it ends in /v1
    #[arg(long, value_name = "URL", requires = "upstream_model")]
    pub(super) upstream: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "upstream")]
    pub(super) upstream_model: Option<String>,
    /// How the upstream speaks
    #[arg(long, value_enum, value_name = "DIALECT", requires = "upstream")]
    pub(super) dialect: Option<DialectName>,
    /// The environment variable that has the upstream's credential
    #[arg(long, value_name = "VAR", requires = "upstream")]
    pub(super) credential_env: Option<String>,
    /// The model name that clients send [default: demo]
    #[arg(long, value_name = "NAME")]
    pub(super) alias: Option<String>,
    /// How many workers the data plane has [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) workers: Option<u16>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let number = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    number
        .as_deref()
        .unwrap_or(text)
        .parse()
        .map_err(|_| "expected IP:PORT, such as 127.0.0.1:8080 or [::1]:0".to_owned())
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if address.ip() == std::net::Ipv4Addr::LOCALHOST {
        return Ok(address);
    }
    Err("the embedded ClickHouse listens on 127.0.0.1 only".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbers_or_localhost() {
        assert_eq!(address("localhost:80").unwrap(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(address("[::1]:0").unwrap(), "[::1]:0".parse().unwrap());
        for bad in ["8080", "127.0.0.1", "example.com:80", "127.0.0.1:99999"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert!(loopback("0.0.0.0:18123").is_err());
    }
}
