//! What workers know of the registry: keys, applications, aliases, deployments.
//!
//! One thread writes (`TableWriter`, on the sync thread), all workers read. A worker keeps what it has looked
//! up, and keeps it only while `revision` stands still: one atomic load for each request.
//!
//! Invariants:
//!
//!   * a writer changes the tables first, then `revision`, and only then confirms the change to anyone
//!   * a reader loads `revision` before it looks anything up; what it found is good for that revision only
//!   * a revoked key is in no table, and no later change brings it back

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use wire::id::{AliasId, ApplicationId, AttributionId, KeyDigest};
use wire::request_id::RequestIds;
use wire::table::{Allow, Key};
use wire::table_sum;

use crate::body::rewrite::ModelText;
use crate::tables::cuts::Cuts;
use crate::tables::delta_times::DeltaTimes;
use crate::tables::freshness::Freshness;
use crate::upstream::target::Upstream;

/// Keys whose exchanges end at once.
pub mod cuts;
/// How long deltas take.
pub mod delta_times;
/// The copy on disk: snapshot and delta log.
pub mod disk;
/// How long ago the tables were the control plane's.
pub mod freshness;
/// Applying snapshots, deltas and revocations.
pub mod writer;

pub use writer::TableWriter;

/// A digest is its own hash: SHA-256 has mixed it already.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length that comes before an array's bytes says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Builds `DigestHasher`s.
pub type BuildDigestHasher = BuildHasherDefault<DigestHasher>;

/// A key, as its entry in the table.
#[derive(Clone)]
struct KeyEntry {
    application: ApplicationId,
    attribution: AttributionId,
    not_after_ms: u64,
    allow: Option<Arc<Allow>>,
}

/// How a key is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// This node has seen it revoked: a tombstone, whatever a registry says later.
    ForGood,
    /// The registry had it revoked before this node came to it, and is to know that itself.
    AsTheRegistrySays,
}

type Keys = DashMap<KeyDigest, KeyEntry, BuildDigestHasher>;

/// What a key stands for; good for one revision.
#[derive(Clone)]
pub struct Caller {
    /// Who is billed.
    pub attribution: AttributionId,
    /// From when on the key is refused, Unix time in milliseconds; 0 is never.
    pub not_after_ms: u64,
    /// The aliases that may be used: the key's own list, or its application's.
    pub allow: Arc<Allow>,
}

impl Caller {
    /// Whoever comes, where keys are not checked (`prices`).
    pub(crate) fn unchecked() -> Self {
        Self { attribution: AttributionId(1), not_after_ms: 0, allow: Arc::new(Allow::All) }
    }
}

/// An alias and what serves it.
pub struct AliasRoute {
    /// Its number.
    pub id: AliasId,
    /// Its name.
    pub name: String,
    /// What names it in a body.
    pub model_text: ModelText,
    /// When it was made, Unix time in seconds.
    pub created_s: u64,
    /// The deployments that can be used.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// What a request is routed by. Replaced whole.
pub struct Routes {
    /// By name. Its keys are the administrators', so nobody can choose them to collide.
    pub aliases: HashMap<String, Arc<AliasRoute>, RandomState>,
    /// The permutation behind `x-request-id`.
    pub request_ids: RequestIds,
}

/// The tables that workers read.
pub struct Tables {
    keys: ArcSwap<Keys>,
    applications: DashMap<ApplicationId, Arc<Allow>>,
    /// Keys that were revoked: those that never come back, and those of which only the snapshot says so.
    revoked: DashMap<KeyDigest, Gone, BuildDigestHasher>,
    routes: ArcSwap<Routes>,
    revision: AtomicU64,
    ready: AtomicBool,
    generation: AtomicU64,
    key_count: AtomicUsize,
    /// Keys whose exchanges end at once.
    pub cuts: Cuts,
    /// How old the tables are.
    pub freshness: Freshness,
    /// How long deltas took.
    pub delta_times: DeltaTimes,
}

impl Tables {
    /// Empty tables, which refuse everything until a snapshot has been applied.
    #[must_use]
    pub fn new() -> Self {
        Self::with_stale_limit(None)
    }

    /// The same; they also refuse everything once they were not confirmed for so long.
    #[must_use]
    pub fn with_stale_limit(limit: Option<Duration>) -> Self {
        let mut key = [0; 16];
        // Only requests that are refused before the first snapshot see ids under this key.
        let _ = getrandom::fill(&mut key);
        let routes = Routes { aliases: HashMap::default(), request_ids: RequestIds::new(&key) };
        Self {
            keys: ArcSwap::default(),
            applications: DashMap::new(),
            revoked: DashMap::default(),
            routes: ArcSwap::from_pointee(routes),
            revision: AtomicU64::new(1),
            ready: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            key_count: AtomicUsize::new(0),
            cuts: Cuts::default(),
            freshness: Freshness::new(limit),
            delta_times: DeltaTimes::default(),
        }
    }

    /// Changes whenever anything in the tables does.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Whether a snapshot has been applied.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The registry's generation that the tables stand for.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.key_count.load(Ordering::Relaxed)
    }

    /// Who `digest` is the key of.
    pub fn caller(&self, digest: &KeyDigest) -> Option<Caller> {
        let entry = self.keys.load().get(digest)?.clone();
        let inherited = || self.applications.get(&entry.application).map(|allow| allow.clone());
        Some(Caller {
            attribution: entry.attribution,
            not_after_ms: entry.not_after_ms,
            allow: entry.allow.or_else(inherited).unwrap_or_default(),
        })
    }

    /// Whether `digest` is that of a key that was revoked.
    pub fn is_revoked(&self, digest: &KeyDigest) -> bool {
        self.revoked.contains_key(digest)
    }

    /// What requests are routed by, now.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyEntry {
    /// What it adds to the sum of the tables.
    fn hash(&self, digest: &KeyDigest) -> u64 {
        let of = (self.application, self.attribution);
        table_sum::key(digest, of, self.not_after_ms, self.allow.as_deref())
    }
}

impl From<&Key> for KeyEntry {
    fn from(key: &Key) -> Self {
        Self {
            application: key.application,
            attribution: key.attribution,
            not_after_ms: key.not_after_ms,
            allow: key.allow.clone().map(Arc::new),
        }
    }
}
