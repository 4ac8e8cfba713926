//! A byte forwarder on the data plane's runtime: accept, connect, copy both ways. It looks at nothing.
//!
//! It is this program, started again, so that it has a process, a core and CPU time of its own.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use dataplane::runtime;
use monoio::io::{
    AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable,
};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};

use super::{Name, Setting, Subject, free_address};
use crate::process::Running;

/// Bytes of a read at most.
const READ_BYTES: usize = 16 * 1024;

/// Starts a forwarder.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Subject> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["forward", "--listen", &address.to_string(), "--to", &setting.upstream.to_string()]);
    let about = "bytes only, no HTTP".to_owned();
    Ok(Subject::process(Name::Forwarder, about, address, Running::start(command)?, Vec::new()))
}

/// Is the forwarder; never returns but for an error.
pub(crate) fn serve(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    runtime::block_on(async move {
        let options = ListenerOpts::new().reuse_port(false).backlog(4096);
        let listener = TcpListener::bind_with_config(listen, &options)?;
        loop {
            let (client, _) = listener.accept().await?;
            drop(monoio::spawn(async move {
                // An error is one of the two ends; both are closed.
                let _ = connection(client, upstream).await;
            }));
        }
    })?
}

async fn connection(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_addr(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let requests = monoio::spawn(copy(from_client, to_server));
    copy(from_server, to_client).await?;
    requests.await
}

async fn copy(mut from: OwnedReadHalf<TcpStream>, mut to: OwnedWriteHalf<TcpStream>) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES);
    loop {
        let (result, read) = from.read(buffer).await;
        if result? == 0 {
            return to.shutdown().await;
        }
        let (result, written) = to.write_all(read).await;
        result?;
        buffer = written;
        buffer.clear();
    }
}
