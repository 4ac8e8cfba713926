//! Numbers to ids and names. What a number stands for never changes, unless it is erased, so whatever was
//! found once is kept.
//!
//! It may be another control plane that erases. So the last erasure's number is looked at before each batch,
//! and what was looked up before a new one is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, Ordering};
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
    /// The erasure since which the attributions were looked up.
    erasure: AtomicI64,
    aliases: Cache<AliasId, Arc<str>>,
    deployments: Cache<DeploymentId, Arc<str>>,
}

impl Resolver {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let aliases = Cache::with(AliasId(0), Arc::from(""));
        let deployments = Cache::with(DeploymentId(0), Arc::from(""));
        let attributions = Cache(Mutex::default());
        Self { registry, attributions, erasure: AtomicI64::new(0), aliases, deployments }
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

    /// Looks all attributions up anew where something was erased since.
    pub(super) async fn keep_up(&self) -> Result<()> {
        let last = self.registry.last_erasure().await?;
        if self.erasure.swap(last, Ordering::AcqRel) != last {
            self.forget();
        }
        Ok(())
    }

    /// Looks all attributions up anew.
    pub(super) fn forget(&self) {
        self.attributions.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn attribution(&self, id: AttributionId) -> Result<Option<Arc<Attribution>>> {
        if let Some(found) = self.attributions.find(id) {
            return Ok(Some(found));
        }
        let before = self.erasure.load(Ordering::Acquire);
        let found = self.registry.attribution(id).await?.map(Arc::new);
        // An erasure may have come in between: what was found before it must not be kept behind it.
        let is_current = || self.erasure.load(Ordering::Acquire) == before;
        Ok(self.attributions.keep_if(id, found, is_current))
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
        self.keep_if(key, value, || true)
    }

    fn keep_if(&self, key: K, value: Option<V>, is_current: impl Fn() -> bool) -> Option<V> {
        let value = value?;
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_current() {
            return Some(value);
        }
        if cached.len() >= CACHED_MAX {
            cached.clear();
        }
        cached.insert(key, value.clone());
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::application::NewApplication;
    use crate::registry::hold::SubjectKind;
    use crate::registry::key::NewKey;
    use crate::registry::organization::NewOrganization;
    use crate::registry::place;
    use crate::registry::team::NewTeam;

    #[tokio::test]
    async fn what_another_control_plane_erased_is_not_billed_to_the_old_ids() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let one = Registry::open(&place).await.unwrap();
        let other = Arc::new(Registry::open(&place).await.unwrap());
        let name = || "demo".to_owned();
        one.create_organization(NewOrganization { name: name(), ..Default::default() }).await.unwrap();
        let team = NewTeam { name: name(), organization: name(), ..Default::default() };
        let team = one.create_team(team).await.unwrap();
        let application = NewApplication { name: name(), team: name(), ..Default::default() };
        one.create_application(application).await.unwrap();
        one.create_key(NewKey { application: name(), ..Default::default() }).await.unwrap();
        let resolver = Resolver::new(other);
        let event = UsageEvent { attribution: AttributionId(1), ..UsageEvent::default() };
        let billed = async || {
            resolver.keep_up().await.unwrap();
            resolver.resolve(&event).await.unwrap().unwrap().attribution.team_id.clone()
        };
        assert_eq!(billed().await, team.id);
        one.erase(SubjectKind::Team, "demo").await.unwrap();
        let after = billed().await;
        assert!(after != team.id && after.starts_with("team_"), "{after}");
        assert_eq!(billed().await, after);
    }
}
