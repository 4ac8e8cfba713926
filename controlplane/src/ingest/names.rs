//! Name tables in ClickHouse follow the registry: all names at start, then each change.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::id::Generation;

use super::store::{StoreError, UsageStore};
use crate::registry::{Registry, RegistryError};

const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Pushes names until it is told to stop.
pub async fn run(registry: Arc<Registry>, mut store: UsageStore, stop: CancellationToken) {
    let mut changed = registry.subscribe();
    let mut pushed = Generation(0);
    loop {
        changed.mark_unchanged();
        let pending = match push(&registry, &store, &mut pushed).await {
            Ok(()) => false,
            Err(PushError::Store(StoreError::Away)) => true,
            Err(error) => {
                tracing::warn!(%error, "names are not in clickhouse yet, trying again");
                true
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            done = changed.changed() => if done.is_err() { return },
            // Another ClickHouse may not know any of them.
            () = store.changed() => pushed = Generation(0),
            () = tokio::time::sleep(RETRY_AFTER), if pending => {}
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
