//! The process: starts all of the control plane, and stops it in order.
//!
//! The registry comes first, without it there is nothing to serve. ClickHouse is brought up beside: the admin
//! API and the data planes are served while it is away. On stopping, data planes and administrators are let
//! go first, then what writes into ClickHouse, then ClickHouse itself, then the registry.

/// ClickHouse: a server that is reached, or one that is started.
mod usage;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::Api;
use crate::config::Config;
use crate::ingest::store::UsageStore;
use crate::ingest::{Ingest, names};
use crate::keys::Secret;
use crate::publish::Hub;
use crate::registry::admin::Role;
use crate::registry::{Registry, RegistryError};
use crate::sync::{Context, Listener};

const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why the control plane did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// A directory can't be made.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The registry can't be opened.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The admin API's address can't be had.
    #[error("admin.listen {address}: {source}")]
    AdminListen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The socket for data planes can't be had.
    #[error("sync.socket {}: {source}", path.display())]
    SyncSocket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A part of it ended that should run for as long as the whole; whoever supervises it starts it anew.
    #[error("{0} ended by itself")]
    EndedEarly(&'static str),
}

/// Runs the control plane until it is told to stop.
///
/// `ready` is called with the admin API's address once administrators and data planes are served.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    make_private_dir(&config.data_dir)?;
    let registry = Arc::new(Registry::open(&config.data_dir.join("registry.db")).await?);
    first_administrator(&registry, config.bootstrap_key.as_ref()).await?;
    let hub = Arc::new(Hub::new(registry.clone()).await?);
    let (connection, store) = UsageStore::new();
    let ingest = Arc::new(Ingest::new(registry.clone(), store.clone()));

    let admin_listener = TcpListener::bind(config.admin_listen)
        .await
        .map_err(|source| RunError::AdminListen { address: config.admin_listen, source })?;
    let sync_listener = Listener::bind(&config.sync_socket)
        .await
        .map_err(|source| RunError::SyncSocket { path: config.sync_socket.clone(), source })?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|source| RunError::AdminListen { address: config.admin_listen, source })?;

    let clickhouse_stop = CancellationToken::new();
    let mut clickhouse = tokio::spawn(usage::run(config, connection, clickhouse_stop.clone()));
    let api = Api::new(registry.clone(), hub.clone(), store.clone());
    let mut tasks = JoinSet::new();
    let publish = hub.clone();
    tasks.spawn({
        let stop = stop.clone();
        async move { publish.run(stop).await }
    });
    tasks.spawn(names::run(registry.clone(), store, stop.clone()));
    tasks.spawn(sync_listener.serve(Context { hub, ingest }, stop.clone()));
    tasks.spawn(serve_admin(api, admin_listener, stop.clone()));
    tracing::info!(admin = %admin_address, registry = %registry.id(), "control plane ready");
    ready(admin_address);

    let ended_early = tokio::select! {
        () = stop.cancelled() => None,
        _ = tasks.join_next() => Some("a task of the control plane"),
        _ = &mut clickhouse => Some("the task that keeps clickhouse"),
    };
    // Several can be ready at once; after the order to stop, an end is in order.
    let ended_early = ended_early.filter(|_| !stop.is_cancelled());
    stop.cancel();
    tracing::info!("control plane stopping");
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_WAIT_MAX, all).await.is_err() {
        tracing::warn!("not everything ended in time");
        tasks.shutdown().await;
    }
    clickhouse_stop.cancel();
    if !clickhouse.is_finished()
        && let Err(error) = clickhouse.await
    {
        tracing::error!(%error, "the task that keeps clickhouse broke off");
    }
    registry.close().await;
    ended_early.map_or(Ok(()), |what| Err(RunError::EndedEarly(what)))
}

async fn serve_admin(api: Api, listener: TcpListener, stop: CancellationToken) {
    if let Err(error) = api.serve(listener, stop).await {
        tracing::error!(%error, "the admin api ended");
    }
}

/// Makes the directory for us alone; one that is there keeps its mode.
fn make_private_dir(path: &Path) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| RunError::Directory { path: path.to_owned(), source })
}

async fn first_administrator(registry: &Registry, key: Option<&Secret>) -> Result<(), RunError> {
    if let Some(key) = key
        && registry.create_admin("bootstrap", Role::Owner, key.digest()).await?
    {
        tracing::info!("the first administrator's key is taken");
    }
    if !registry.has_admins().await? {
        tracing::warn!(
            "there is no administrator: set {} or admin.bootstrap_key_file",
            crate::config::BOOTSTRAP_KEY_VARIABLE
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
