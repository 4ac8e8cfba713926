//! The embedded ClickHouse as one of quickstart's children: this program again, with its hidden subcommand.
//!
//! The library is fetched before anything is started: the first time takes minutes, and no deadline runs
//! meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use super::QuickstartError;
use super::data_dir::{DataDir, replace};
use super::supervisor::Program;
use crate::clickhouse::engine::config::{self, ANALYST, MEMORY_BYTES_MAX_DEFAULT};
use crate::clickhouse::engine::{self, Endpoint, SUBCOMMAND, fetch};

// The engine gives itself 25 s before it ends the hard way.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Fetches the library, writes the engine's configuration, and says what to run and where it will serve.
pub(super) async fn program(
    data: &DataDir,
    address: SocketAddr,
) -> Result<(Program, Endpoint), QuickstartError> {
    let library = tokio::task::spawn_blocking(fetch::fetch)
        .await
        .map_err(|error| QuickstartError::Engine(error.to_string()))?
        .map_err(|error| QuickstartError::Engine(error.to_string()))?;
    let dir = data.file("clickhouse");
    let endpoint = config::write(&dir, address.port(), MEMORY_BYTES_MAX_DEFAULT).map_err(|source| {
        QuickstartError::File { action: "writing the configuration below", path: dir.clone(), source }
    })?;
    replace(&data.clickhouse_password_file(), endpoint.password.as_bytes(), 0o600)?;
    let analyst = &endpoint.analyst_password;
    let headers = format!("X-ClickHouse-User: {ANALYST}\nX-ClickHouse-Key: {analyst}\n");
    replace(&data.clickhouse_headers_file(), headers.as_bytes(), 0o600)?;
    let program = Program {
        name: "clickhouse",
        title: "ClickHouse",
        path: std::env::current_exe().map_err(|source| QuickstartError::OwnPath { source })?,
        args: vec![
            SUBCOMMAND.into(),
            "--dir".into(),
            dir.into(),
            "--http-port".into(),
            address.port().to_string().into(),
            "--library".into(),
            library.into(),
        ],
        env_remove: std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| !engine::inherits(name))
            .collect(),
        log: data.log("clickhouse"),
        stop_deadline: STOP_DEADLINE,
    };
    Ok((program, endpoint))
}
