//! Applying snapshots, deltas and revocations; the only writer of the tables.
//!
//! It owns what the tables are derived from. A snapshot is built beside them and swapped in. Tombstones
//! (digests of keys that are gone) outlive everything, also a registry that was restored from a backup.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wire::id::{AliasId, ApplicationId, DeploymentId, Generation, KeyDigest, RegistryId};
use wire::request_id::RequestIds;
use wire::table::{Alias, Allow, Application, Change, Deployment, Settings};
use wire::table_sum::{self, TableSum};

use crate::body::rewrite::ModelText;
use crate::config::Credential;
use crate::log::{self, Entry};
use crate::tables::{AliasRoute, Gone, KeyEntry, Keys, Routes, Tables};
use crate::upstream::target::Upstream;

/// How long new routes wait for the names of their upstreams.
const LOOK_UP_PATIENCE: Duration = Duration::from_millis(200);

/// Writes the tables.
pub struct TableWriter {
    tables: Arc<Tables>,
    credentials: HashMap<String, Credential>,
    source: Source,
    upstreams: HashMap<DeploymentId, Arc<Upstream>>,
    registry: RegistryId,
    generation: Generation,
    /// Of keys and applications.
    sum: TableSum,
}

/// What the routes are derived from, and, while a snapshot is being received, its keys.
#[derive(Default)]
struct Source {
    settings: Option<Settings>,
    aliases: BTreeMap<AliasId, Alias>,
    deployments: BTreeMap<DeploymentId, Deployment>,
}

/// A snapshot on its way.
pub struct Incoming {
    registry: RegistryId,
    generation: Generation,
    keys: Keys,
    applications: Vec<Application>,
    revoked: Vec<KeyDigest>,
    source: Source,
    changes: u64,
    sum: TableSum,
}

impl Incoming {
    /// Begins a snapshot.
    #[must_use]
    pub fn new(registry: RegistryId, generation: Generation) -> Self {
        Self {
            registry,
            generation,
            keys: Keys::default(),
            applications: Vec::new(),
            revoked: Vec::new(),
            source: Source::default(),
            changes: 0,
            sum: TableSum::default(),
        }
    }

    /// Adds a part.
    pub fn add(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.changes += 1;
            match change {
                Change::Key(key) => {
                    let entry = KeyEntry::from(&key);
                    self.sum.add(entry.hash(&key.digest));
                    if let Some(before) = self.keys.insert(key.digest, entry) {
                        self.sum.remove(before.hash(&key.digest));
                    }
                }
                Change::NoKey(digest) => self.revoked.push(digest),
                Change::Application(application) => self.applications.push(application),
                other => self.source.apply(other),
            }
        }
    }

    fn remove(&mut self, digest: &KeyDigest) {
        if let Some((_, before)) = self.keys.remove(digest) {
            self.sum.remove(before.hash(digest));
        }
    }

    /// How many changes there were.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

impl TableWriter {
    /// Writes `tables`, which are empty.
    #[must_use]
    pub fn new(tables: Arc<Tables>, credentials: HashMap<String, Credential>) -> Self {
        Self {
            tables,
            credentials,
            source: Source::default(),
            upstreams: HashMap::new(),
            registry: RegistryId(0),
            generation: Generation(0),
            sum: TableSum::default(),
        }
    }

    /// The registry and the generation that the tables stand for.
    #[must_use]
    pub fn position(&self) -> (RegistryId, Generation) {
        (self.registry, self.generation)
    }

    /// The sum of all that the tables hold.
    #[must_use]
    pub fn sum(&self) -> TableSum {
        let mut sum = self.sum;
        let Source { aliases, deployments, .. } = &self.source;
        let aliases = aliases.values().cloned().map(Change::Alias);
        let entries = aliases.chain(deployments.values().cloned().map(Change::Deployment));
        entries.filter_map(|entry| table_sum::of(&entry)).for_each(|hash| sum.add(hash));
        sum
    }

    /// The keys that can never come back.
    pub fn tombstones(&self) -> impl Iterator<Item = KeyDigest> + '_ {
        let for_good = self.tables.revoked.iter().filter(|entry| *entry.value() == Gone::ForGood);
        for_good.map(|entry| *entry.key())
    }

    fn is_buried(&self, digest: &KeyDigest) -> bool {
        self.tables.revoked.get(digest).is_some_and(|gone| *gone == Gone::ForGood)
    }

    /// Puts a complete snapshot in the place of everything.
    pub fn replace(&mut self, mut incoming: Incoming) {
        let revoked = std::mem::take(&mut incoming.revoked);
        revoked.iter().for_each(|digest| incoming.remove(digest));
        self.tables.revoked.retain(|_, gone| *gone == Gone::ForGood);
        self.tombstones().for_each(|digest| incoming.remove(&digest));
        for digest in revoked {
            self.tables.revoked.entry(digest).or_insert(Gone::AsTheRegistrySays);
        }
        self.tables.key_count.store(incoming.keys.len(), Ordering::Relaxed);
        self.sum = incoming.sum;
        incoming.applications.iter().for_each(|one| self.sum.add(table_sum::application(one)));
        self.tables.keys.store(Arc::new(incoming.keys));
        let kept: HashSet<_> = incoming.applications.iter().map(|application| application.id).collect();
        for application in incoming.applications {
            self.tables.applications.insert(application.id, Arc::new(application.allow));
        }
        self.tables.applications.retain(|id, _| kept.contains(id));
        self.source = incoming.source;
        self.rebuild_routes();
        self.stand_at(incoming.registry, incoming.generation);
        self.tables.ready.store(true, Ordering::Release);
    }

    /// Applies a delta. False where it builds on a generation that is not here yet: changes are missing.
    pub fn apply(&mut self, from: Generation, to: Generation, changes: Vec<Change>) -> bool {
        if from > self.generation {
            return false;
        }
        if to <= self.generation {
            return true;
        }
        let mut routes_changed = false;
        for change in changes {
            routes_changed |= self.apply_one(change);
        }
        if routes_changed {
            self.rebuild_routes();
        }
        self.stand_at(self.registry, to);
        true
    }

    /// True where the routes must be built anew.
    fn apply_one(&mut self, change: Change) -> bool {
        match change {
            Change::Key(key) if self.is_buried(&key.digest) => false,
            Change::Key(key) => {
                let (keys, entry) = (self.tables.keys.load(), KeyEntry::from(&key));
                self.sum.add(entry.hash(&key.digest));
                if let Some(before) = keys.insert(key.digest, entry) {
                    self.sum.remove(before.hash(&key.digest));
                }
                self.tables.key_count.store(keys.len(), Ordering::Relaxed);
                false
            }
            Change::NoKey(digest) => {
                self.bury(digest);
                false
            }
            Change::Application(application) => {
                self.sum.add(table_sum::application(&application));
                let before = self.tables.applications.insert(application.id, Arc::new(application.allow));
                self.forget(application.id, before);
                false
            }
            Change::NoApplication(id) => {
                let before = self.tables.applications.remove(&id);
                self.forget(id, before.map(|(_, allow)| allow));
                false
            }
            other => {
                self.source.apply(other);
                true
            }
        }
    }

    /// Makes keys unusable, for ever; where `cut_streams`, also for what is under way.
    pub fn revoke(&mut self, digests: &[KeyDigest], cut_streams: bool) {
        digests.iter().for_each(|digest| self.bury(*digest));
        self.tables.revision.fetch_add(1, Ordering::Release);
        if cut_streams {
            self.tables.cuts.add(digests);
        }
    }

    fn bury(&mut self, digest: KeyDigest) {
        self.tables.revoked.insert(digest, Gone::ForGood);
        let keys = self.tables.keys.load();
        if let Some((_, before)) = keys.remove(&digest) {
            self.sum.remove(before.hash(&digest));
        }
        self.tables.key_count.store(keys.len(), Ordering::Relaxed);
    }

    /// Takes what an application was out of the sum.
    fn forget(&mut self, id: ApplicationId, before: Option<Arc<Allow>>) {
        if let Some(allow) = before {
            let before = Application { id, allow: (*allow).clone() };
            self.sum.remove(table_sum::application(&before));
        }
    }

    fn stand_at(&mut self, registry: RegistryId, generation: Generation) {
        (self.registry, self.generation) = (registry, generation);
        self.tables.generation.store(generation.0, Ordering::Relaxed);
        self.tables.revision.fetch_add(1, Ordering::Release);
    }

    fn rebuild_routes(&mut self) {
        let mut upstreams = HashMap::new();
        let mut lookups = Vec::new();
        for (id, spec) in &self.source.deployments {
            let before = self.upstreams.get(id);
            if let Some(same) = before.filter(|before| before.spec == *spec) {
                upstreams.insert(*id, same.clone());
                continue;
            }
            let credential = self.credentials.get(&spec.credential);
            match Upstream::new(spec.clone(), credential, before.map(AsRef::as_ref)) {
                Ok(upstream) => {
                    lookups.extend(upstream.target.look_up_soon());
                    upstreams.insert(*id, Arc::new(upstream));
                }
                Err(problem) => log::log(&Entry::Deployment { name: &spec.name, problem: &problem }),
            }
        }
        // A name that resolves at once is known before the first request comes; a slow one holds up nothing
        // for long.
        let patience = Instant::now() + LOOK_UP_PATIENCE;
        for done in lookups {
            let _ = done.recv_deadline(patience);
        }
        self.upstreams = upstreams;
        let route = |alias: &Alias| AliasRoute {
            id: alias.id,
            name: alias.name.clone(),
            model_text: ModelText::new(&alias.name),
            created_s: alias.created_s,
            upstreams: alias.deployments.iter().filter_map(|id| self.upstreams.get(id).cloned()).collect(),
        };
        let aliases =
            self.source.aliases.values().map(|alias| (alias.name.clone(), Arc::new(route(alias)))).collect();
        let request_ids = match &self.source.settings {
            Some(settings) => RequestIds::new(&settings.request_id_key),
            None => self.tables.routes().request_ids.clone(),
        };
        self.tables.routes.store(Arc::new(Routes { aliases, request_ids }));
    }
}

impl Source {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Settings(settings) => self.settings = Some(settings),
            Change::Alias(alias) => {
                self.aliases.insert(alias.id, alias);
            }
            Change::NoAlias(id) => {
                self.aliases.remove(&id);
            }
            Change::Deployment(deployment) => {
                self.deployments.insert(deployment.id, deployment);
            }
            Change::NoDeployment(id) => {
                self.deployments.remove(&id);
            }
            Change::Key(_) | Change::NoKey(_) | Change::Application(_) | Change::NoApplication(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
