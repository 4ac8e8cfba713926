//! Uses of keys that were refused though they are known, on their way into ClickHouse: digests become ids.

use std::collections::HashSet;

use wire::id::{BootId, KeyDigest, NodeId};
use wire::key_use::KeyUse;

use super::store::{StoreError, UsageStore};
use crate::clickhouse::insert::Hex16;
use crate::clickhouse::key_uses::KeyUseRow;
use crate::registry::{Registry, RegistryError};

/// Why they were not kept; the data plane tells them again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyUsesError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps what a run of a data plane tells, as far as the registry knows the keys.
pub(crate) async fn keep(
    registry: &Registry,
    store: &UsageStore,
    (node, boot): (NodeId, BootId),
    uses: &[KeyUse],
) -> Result<(), KeyUsesError> {
    let digests: HashSet<KeyDigest> = uses.iter().map(|one| one.of.digest).collect();
    let digests: Vec<KeyDigest> = digests.into_iter().collect();
    let places = registry.key_places(&digests).await?;
    let (node, boot) = (Hex16::new(node.0), Hex16::new(boot.0));
    let row = |one: &KeyUse| {
        let place = places.get(&one.of.digest)?;
        Some(KeyUseRow {
            // A clock that is beyond what the column holds is no clock.
            minute: one.of.minute.checked_mul(60)?,
            organization_id: &place.organization_id,
            team_id: &place.team_id,
            application_id: &place.application_id,
            key_id: &place.key_id,
            reason: one.of.reason.name(),
            node,
            boot,
            uses: one.uses,
        })
    };
    let rows: Vec<KeyUseRow<'_>> = uses.iter().filter_map(row).collect();
    if rows.is_empty() { Ok(()) } else { Ok(store.insert_key_uses(&rows).await?) }
}
