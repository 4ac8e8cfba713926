//! Retention, legal holds and erasure: what is kept for how long, what must stay, what must go.
//!
//! The registry says what is held and what was erased; this carries it out in ClickHouse, at once where it is
//! there, else as soon as it is. An erasure is looked after for two days: usage that was on its way, or hours
//! that were just being derived, may come in behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use crate::clickhouse::erasure::ErasedUsage;
use crate::clickhouse::retention::{HeldUsage, Retention};
use crate::ingest::Ingest;
use crate::ingest::store::StoreError;
use crate::publish::Hub;
use crate::publish::receipt::Receipt;
use crate::registry::erasure::Due;
use crate::registry::hold::{Hold, SubjectKind};
use crate::registry::{Registry, RegistryError, now_ms};

/// What is stored where, and for how long.
pub mod inventory;

/// How often all of it is looked at.
const INTERVAL: Duration = Duration::from_mins(10);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long an erasure waits for batches that were named before it.
const STORED_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long after an erasure usage may still come in that belongs to it.
const LOOKED_AFTER_MS: i64 = 2 * 24 * 60 * 60 * 1000;

/// Why something was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    /// The registry failed, or refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// ClickHouse failed, or is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry's journal still has what was erased, as someone reads.
    #[error("the registry's journal is being read, and still has what was erased")]
    JournalInUse,
    /// Usage that was named before an erasure is not in ClickHouse yet.
    #[error("usage that came before the erasure is still being stored, and goes after that")]
    Storing,
    /// A hold was made before the usage of an erasure was gone.
    #[error("usage of an erasure is under a legal hold on {0}, and stays until that is released")]
    Held(String),
}

/// What erasing came to.
#[derive(Debug)]
pub struct ErasedAll {
    /// What was erased.
    pub due: Due,
    /// Which data planes refuse its keys.
    pub receipt: Receipt,
    /// How many rows of usage went; none where ClickHouse is away, and they go once it is back.
    pub rows: Option<u64>,
}

/// Carries out what the registry says.
pub struct Privacy {
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    ingest: Arc<Ingest>,
    retention: Retention,
    /// Who removes usage holds it from looking at the holds on, so that none is answered to be in force while
    /// something is removed that it holds; `Registry::remove_alone` is the same between control planes.
    removing: Mutex<()>,
    /// An erasure could not be finished by who asked for it.
    unfinished: Notify,
}

impl Privacy {
    /// Over these.
    #[must_use]
    pub fn new(registry: Arc<Registry>, hub: Arc<Hub>, ingest: Arc<Ingest>, retention: Retention) -> Self {
        let (removing, unfinished) = (Mutex::default(), Notify::new());
        Self { registry, hub, ingest, retention, removing, unfinished }
    }

    /// How long usage is kept.
    #[must_use]
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// Looks after retention and erasures until it is told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let mut store = self.ingest.usage().clone();
        loop {
            let answers = self.registry.drop_old_answers().await.map_err(PrivacyError::from);
            let mut again = INTERVAL;
            // None of them waits for another that fails.
            for passed in [answers, self.retain().await, self.finish_erasures().await] {
                match passed {
                    Ok(()) => continue,
                    Err(PrivacyError::Store(StoreError::Away)) => {}
                    Err(PrivacyError::Held(held)) => {
                        tracing::info!(held, "usage of an erasure stays while it is held");
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "retention and erasures are not carried out yet, trying again");
                    }
                }
                again = RETRY_AFTER;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // Another ClickHouse, or the same with what it had before.
                () = store.changed() => {}
                () = self.unfinished.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Holds a thing; says whether ClickHouse heeds it already.
    pub async fn hold(
        &self,
        registry: &Registry,
        (kind, wanted): (SubjectKind, &str),
        reason: &str,
    ) -> Result<(Hold, bool), RegistryError> {
        let hold = registry.add_hold(kind, wanted, reason).await?;
        Ok((hold, !registry.is_dry() && self.is_in_force().await))
    }

    /// Ends a hold, by its number.
    pub async fn release(&self, registry: &Registry, id: &str) -> Result<(Hold, bool), RegistryError> {
        let hold = registry.release_hold(id).await?;
        Ok((hold, !registry.is_dry() && self.is_in_force().await))
    }

    async fn is_in_force(&self) -> bool {
        let retained = self.retain().await;
        if let Err(error) = &retained {
            tracing::warn!(%error, "a change of legal holds is not carried out yet");
        }
        retained.is_ok()
    }

    /// Erases a team or a key: its names at once, its usage as soon as ClickHouse is there.
    pub async fn erase(
        &self,
        registry: &Registry,
        (kind, wanted): (SubjectKind, &str),
        cut_streams: bool,
    ) -> Result<ErasedAll, RegistryError> {
        let erased = registry.erase(kind, wanted).await?;
        if registry.is_dry() {
            return Ok(ErasedAll { due: erased.due, receipt: Receipt::default(), rows: None });
        }
        // Before its usage goes: what comes in from now on is under the new ids.
        self.ingest.forget_names();
        let receipt = self.hub.tell_revoked(erased.generation, erased.digests, cut_streams).await?;
        let rows = match self.erase_usage(&erased.due).await {
            Ok(rows) => {
                if let Err(error) = self.finish_erasure(&erased.due).await {
                    tracing::warn!(%error, "an erasure is not finished yet");
                    self.unfinished.notify_one();
                }
                Some(rows)
            }
            Err(error) => {
                tracing::warn!(%error, "the usage of an erasure is not gone yet");
                self.unfinished.notify_one();
                None
            }
        };
        Ok(ErasedAll { due: erased.due, receipt, rows })
    }

    async fn retain(&self) -> Result<(), PrivacyError> {
        let _removing = self.removing.lock().await;
        let _alone = self.registry.remove_alone().await?;
        let holds = self.registry.holds(false).await?;
        let held: Vec<HeldUsage> = holds
            .into_iter()
            .map(|hold| HeldUsage { column: hold.kind.column(), id: hold.subject })
            .collect();
        Ok(self.ingest.usage().retain(&self.retention, &held).await?)
    }

    /// Goes on with every erasure, whatever becomes of the others; tells of one that failed.
    async fn finish_erasures(&self) -> Result<(), PrivacyError> {
        let mut failed = Ok(());
        for due in self.registry.erasures_due(now_ms() - LOOKED_AFTER_MS).await? {
            let finished = match self.erase_usage(&due).await {
                Ok(_) => self.finish_erasure(&due).await,
                Err(error) => Err(error),
            };
            // It is the same for all of them.
            if matches!(finished, Err(PrivacyError::Store(StoreError::Away) | PrivacyError::Storing)) {
                return finished;
            }
            // What is held is as it should be: it must not hide what is not.
            if failed.is_ok() || matches!(failed, Err(PrivacyError::Held(_))) {
                failed = finished.and(failed);
            }
        }
        failed
    }

    async fn erase_usage(&self, due: &Due) -> Result<u64, PrivacyError> {
        if !self.ingest.usage().is_ready() {
            return Err(StoreError::Away.into());
        }
        // What comes in behind its sums would go unsummed. Waited for before anybody else has to wait.
        if !due.is_done && !self.ingest.named_are_stored(STORED_WAIT_MAX).await {
            return Err(PrivacyError::Storing);
        }
        let _removing = self.removing.lock().await;
        let _alone = self.registry.remove_alone().await?;
        let holds = self.registry.holds(false).await?;
        if let Some(hold) = holds.into_iter().find(|hold| due.gone.touches(&hold.subject)) {
            return Err(PrivacyError::Held(hold.subject));
        }
        let erased = ErasedUsage {
            column: due.kind.column(),
            id: due.subject.clone(),
            pseudonym: due.gone.pseudonym.clone(),
            names: due.gone.ids.clone(),
            is_done: due.is_done,
        };
        Ok(self.ingest.usage().erase(&erased).await?)
    }

    /// Has the registry's own files forget it, and notes that it is done.
    async fn finish_erasure(&self, due: &Due) -> Result<(), PrivacyError> {
        if due.is_done {
            return Ok(());
        }
        if !self.registry.scrub().await? {
            return Err(PrivacyError::JournalInUse);
        }
        Ok(self.registry.erasure_done(due.id).await?)
    }
}
