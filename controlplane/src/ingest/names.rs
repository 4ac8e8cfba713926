//! Name tables in ClickHouse follow the registry: all names at start, then each change, soon.
//!
//! Nobody waits for a name. So nothing is looked up while ClickHouse is away, and what changes in a row is
//! looked up together, behind what data planes wait for.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::id::Generation;

use super::store::{StoreError, UsageStore};
use crate::registry::{Registry, RegistryError};

const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long after a change it is looked up.
const TOGETHER: Duration = Duration::from_millis(250);

/// Pushes names until it is told to stop.
pub async fn run(registry: Arc<Registry>, mut store: UsageStore, stop: CancellationToken) {
    let mut changed = registry.subscribe();
    let mut pushed = Generation(0);
    loop {
        changed.mark_unchanged();
        let pushed_all = match store.is_ready() {
            true => push(&registry, &store, &mut pushed).await,
            false => Err(StoreError::Away.into()),
        };
        // What is to be waited for: another ClickHouse, and before that a change, a while, or nothing.
        let again = async {
            match pushed_all {
                Ok(()) => {
                    if changed.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    tokio::time::sleep(TOGETHER).await;
                }
                Err(PushError::Store(StoreError::Away)) => std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, "names are not in clickhouse yet, trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = again => {}
            // It may not know any of them.
            () = store.changed() => pushed = Generation(0),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn push(registry: &Registry, store: &UsageStore, pushed: &mut Generation) -> Result<(), PushError> {
    loop {
        let (to, names) = registry.names_since(*pushed).await?;
        if to == *pushed {
            return Ok(());
        }
        if !names.is_empty() {
            store.sync_names(&names).await?;
        }
        *pushed = to;
    }
}
