//! An upstream in a process of its own: its connections are then no files of the load generator's process.
//!
//! It is this program, started again, on the load generator's core; it is told what to do over its control
//! API, as the upstream is that runs as a program.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use load_tests::client::Connection;
use load_tests::upstream::{Options, Script, Upstream};

use crate::process::{LOAD_CORE, Running};
use crate::subject::free_address;

/// How long it may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running upstream; dropping it ends its process, and with it all of its connections.
pub(super) struct Apart {
    /// Where it listens.
    pub(super) address: SocketAddr,
    _process: Running,
}

impl Apart {
    /// Starts one that answers as `script` says.
    pub(super) fn start(script: &Script) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["upstream", "--listen", &address.to_string()]);
        let mut process = Running::start_on(command, &[LOAD_CORE])?;
        let mut connection = connect(address, &mut process)?;
        let body = serde_json::to_string(script)?;
        let request = format!(
            "POST /script HTTP/1.1\r\nhost: upstream\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let status = connection.exchange(request.as_bytes())?.status();
        ensure!(status == 200, "the upstream answers {status} to its script");
        Ok(Self { address, _process: process })
    }
}

fn connect(address: SocketAddr, process: &mut Running) -> anyhow::Result<Connection> {
    let begun = Instant::now();
    loop {
        match Connection::open(address) {
            Ok(connection) => return Ok(connection),
            Err(error) if begun.elapsed() > START_LIMIT => return Err(error).context("the upstream"),
            Err(_) => {}
        }
        if let Some(status) = process.ended() {
            anyhow::bail!("the upstream ended at once: {status}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Is the upstream; returns only where it can't listen.
pub(crate) fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    Upstream::start(Options { listen, record: 0, ..Options::default() })?.join();
    Ok(())
}
