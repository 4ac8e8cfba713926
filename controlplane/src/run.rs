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

use crate::accounts::Accounts;
use crate::admin::Api;
use crate::authority::{Authority, AuthorityError};
use crate::config::Config;
use crate::ingest::store::UsageStore;
use crate::ingest::{Ingest, names};
use crate::keys::Secret;
use crate::privacy::Privacy;
use crate::publish::Hub;
use crate::registry::act::Act;
use crate::registry::role::Role;
use crate::registry::{Registry, RegistryError};
use crate::sync::tls::TlsListener;
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
    /// The address for data planes on other hosts can't be had.
    #[error("sync.listen {address}: {source}")]
    SyncListen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// There is no certificate authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
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
    let registry = Arc::new(Registry::open(&config.registry).await?);
    let _present = registry.be_present()?;
    undo_backup(&registry).await?;
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
    let tls_listener = bind_tls(&config, &hub).await?;
    let admin_address = admin_listener
        .local_addr()
        .map_err(|source| RunError::AdminListen { address: config.admin_listen, source })?;

    let clickhouse_stop = CancellationToken::new();
    let (retention, backup_keep_days) = (config.retention(), config.backup_keep_days);
    let mut clickhouse = tokio::spawn(usage::run(config, connection, clickhouse_stop.clone()));
    let accounts = Arc::new(Accounts::default());
    let privacy = Privacy::new(registry.clone(), hub.clone(), ingest.clone(), retention);
    let privacy = Arc::new(privacy);
    let parts = (ingest.clone(), accounts.clone());
    let api = Api::new(registry.clone(), hub.clone(), parts, (privacy.clone(), backup_keep_days));
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let stop = stop.clone();
        async move { privacy.run(stop).await }
    });
    publish(&mut tasks, &hub, &stop);
    tasks.spawn(registry.clone().follow(stop.clone()));
    tasks.spawn(names::run(registry.clone(), store, stop.clone()));
    let context = Context { hub, ingest, accounts };
    if let Some(listener) = tls_listener {
        tasks.spawn(listener.serve(context.clone(), stop.clone()));
    }
    tasks.spawn(sync_listener.serve(context, stop.clone()));
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

/// Makes good what a restored backup has brought back.
async fn undo_backup(registry: &Registry) -> Result<(), RegistryError> {
    let erased = registry.erase_again().await?;
    if erased > 0 {
        tracing::warn!(erased, "teams and keys that a backup had brought back are erased again");
    }
    let brought_back = registry.revoke_buried().await?;
    if !brought_back.is_empty() {
        tracing::warn!(keys = brought_back.len(), "keys that a backup had brought back are revoked again");
    }
    Ok(())
}

/// Starts all that the hub does by itself.
fn publish(tasks: &mut JoinSet<()>, hub: &Arc<Hub>, stop: &CancellationToken) {
    let (publishing, peers, comparing) = (hub.clone(), hub.clone(), hub.clone());
    let stops = || stop.clone();
    let (first, second, third) = (stops(), stops(), stops());
    tasks.spawn(async move { publishing.run(first).await });
    tasks.spawn(async move { peers.follow_peers(second).await });
    tasks.spawn(async move { comparing.keep_comparing(third).await });
}

/// Binds the listener for data planes on other hosts, where there is to be one.
async fn bind_tls(config: &Config, hub: &Hub) -> Result<Option<TlsListener>, RunError> {
    let Some(address) = config.sync_listen else { return Ok(None) };
    let authority = Arc::new(Authority::open(&config.data_dir, config.certificate_life)?);
    hub.use_authority(authority.clone());
    let listener = TlsListener::bind(address, authority).await;
    let listener = listener.map_err(|source| RunError::SyncListen { address, source })?;
    let address = listener.address().unwrap_or(address);
    tracing::info!(%address, "data planes on other hosts are served");
    Ok(Some(listener))
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
    let itself = registry.acting(Act::itself("administrator.bootstrap"));
    if let Some(key) = key
        && itself.create_admin("bootstrap", Role::Owner, key.digest()).await?
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
