//! Numbers to ids and names. What a number stands for never changes, unless it is erased, so whatever was
//! found once is kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use wire::event::UsageEvent;
use wire::id::{AliasId, AttributionId, DeploymentId};

use crate::registry::attribution::Attribution;
use crate::registry::{Registry, Result};

/// A cache that has grown to this many entries begins anew.
const CACHED_MAX: usize = 1 << 18;

/// What the numbers of one event stand for.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) attribution: Arc<Attribution>,
    /// Empty for no alias that we know.
    pub(crate) alias: Arc<str>,
    /// Empty where none was chosen.
    pub(crate) deployment: Arc<str>,
}

pub(super) struct Resolver {
    registry: Arc<Registry>,
    attributions: Cache<AttributionId, Arc<Attribution>>,
    aliases: Cache<AliasId, Arc<str>>,
    deployments: Cache<DeploymentId, Arc<str>>,
}

impl Resolver {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let aliases = Cache::with(AliasId(0), Arc::from(""));
        let deployments = Cache::with(DeploymentId(0), Arc::from(""));
        Self { registry, attributions: Cache(Mutex::default()), aliases, deployments }
    }

    /// What an event's numbers stand for; `None` where one of them was never given.
    pub(super) async fn resolve(&self, event: &UsageEvent) -> Result<Option<Resolved>> {
        let attribution = self.attribution(event.attribution).await?;
        let alias = self.alias(event.alias).await?;
        let deployment = self.deployment(event.deployment).await?;
        let Some(((attribution, alias), deployment)) = attribution.zip(alias).zip(deployment) else {
            return Ok(None);
        };
        Ok(Some(Resolved { attribution, alias, deployment }))
    }

    /// Looks all attributions up anew.
    pub(super) fn forget(&self) {
        self.attributions.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn attribution(&self, id: AttributionId) -> Result<Option<Arc<Attribution>>> {
        if let Some(found) = self.attributions.find(id) {
            return Ok(Some(found));
        }
        let found = self.registry.attribution(id).await?.map(Arc::new);
        Ok(self.attributions.keep(id, found))
    }

    async fn alias(&self, id: AliasId) -> Result<Option<Arc<str>>> {
        if let Some(found) = self.aliases.find(id) {
            return Ok(Some(found));
        }
        let found = self.registry.alias_name(id).await?.map(Arc::from);
        Ok(self.aliases.keep(id, found))
    }

    async fn deployment(&self, id: DeploymentId) -> Result<Option<Arc<str>>> {
        if let Some(found) = self.deployments.find(id) {
            return Ok(Some(found));
        }
        let found = self.registry.deployment_name(id).await?.map(Arc::from);
        Ok(self.deployments.keep(id, found))
    }
}

struct Cache<K, V>(Mutex<HashMap<K, V>>);

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    fn with(key: K, value: V) -> Self {
        Self(Mutex::new(HashMap::from([(key, value)])))
    }

    fn find(&self, key: K) -> Option<V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn keep(&self, key: K, value: Option<V>) -> Option<V> {
        let value = value?;
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert(key, value.clone());
        Some(value)
    }
}
