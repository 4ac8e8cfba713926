//! Keeping the tables as the control plane has them: a thread that receives snapshots, deltas and
//! revocations.
//!
//! What arrives is applied, made durable, and only then confirmed. While the control plane is away the tables
//! stay as they are and the data plane serves on; on reconnecting it says which generation it has and gets
//! what it missed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wire::frame::{Frame, Hello, PART_CHANGES, Role};
use wire::id::{BootId, Generation, NodeId, RegistryId};

use crate::auth::unix_ms;
use crate::guard;
use crate::link::{Address, Link, LinkError};
use crate::log::{self, Entry};
use crate::tables::disk::{SnapshotFile, TableStore};
use crate::tables::writer::Incoming;
use crate::tables::{TableWriter, Tables};

/// The control plane pings every 10 s; silence for so long means that it is gone, whatever the socket says.
const SILENCE_MAX: Duration = Duration::from_secs(35);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the thread needs to know.
pub struct SyncConfig {
    /// Where the control plane is.
    pub control: Address,
    /// This node.
    pub node: NodeId,
    /// This process.
    pub boot: BootId,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The tables can't be made durable: nothing may be confirmed.
    #[error("the tables can't be kept on disk: {0}")]
    Store(#[from] io::Error),
    #[error("a change is missing; asking for the whole tables")]
    Gap,
    #[error("the snapshot is incomplete")]
    Incomplete,
    #[error("no word for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

/// Starts the thread. It ends soon after `stop` is raised.
pub fn start(
    config: SyncConfig,
    writer: TableWriter,
    store: TableStore,
    tables: Arc<Tables>,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    let sync =
        Sync { config, writer, store, tables, stop, whole_wanted: false, incoming: None, unnoted: false };
    guard::spawn("sync", move || sync.run())
}

struct Sync {
    config: SyncConfig,
    writer: TableWriter,
    store: TableStore,
    tables: Arc<Tables>,
    stop: Arc<AtomicBool>,
    /// What is on disk can't be built upon: ask for a snapshot.
    whole_wanted: bool,
    incoming: Option<(Incoming, SnapshotFile)>,
    /// That they are current can't be noted: it was told.
    unnoted: bool,
}

impl Sync {
    fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut told = false;
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let Err(error) = self.session() else { return };
            self.incoming = None;
            if matches!(error, SessionError::Gap | SessionError::Store(_) | SessionError::Incomplete) {
                self.whole_wanted = true;
            }
            if began.elapsed() > BACKOFF_MAX {
                (backoff, told) = (BACKOFF_MIN, false);
            }
            if !told && !self.stop.load(Ordering::Relaxed) {
                told = true;
                log::log(&match &error {
                    SessionError::Store(error) => Entry::TablesNotKept(error),
                    other => Entry::ControlAway(other),
                });
            }
            std::thread::sleep(backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn session(&mut self) -> Result<(), SessionError> {
        let mut link = Link::connect(&self.config.control, self.stop.clone())?;
        let (registry, generation) =
            if self.whole_wanted { (RegistryId(0), Generation(0)) } else { self.writer.position() };
        let (node, boot) = (self.config.node, self.config.boot);
        let (welcomed, _) = link.greet(Hello { role: Role::Sync, node, boot, registry, generation })?;
        if welcomed == registry {
            link.send(&self.applied())?;
        } else {
            self.tell_buried(&mut link)?;
        }
        let mut heard = Instant::now();
        loop {
            let frame = link.receive(SILENCE_MAX)?.ok_or(SessionError::Silent)?;
            // A process that was stopped finds pings that were true when they were sent, and says nothing of
            // now.
            heard = heard_again(heard, Instant::now())?;
            if let Some(answer) = self.take(frame)? {
                link.send(&answer)?;
            }
        }
    }

    /// Acts on a frame; what is returned confirms it.
    fn take(&mut self, frame: Frame) -> Result<Option<Frame>, SessionError> {
        match frame {
            Frame::Ping => {
                self.tables.freshness.confirm();
                self.note_current();
                Ok(Some(Frame::Pong))
            }
            Frame::Revoke { revocation, cut_streams, ref digests } => {
                self.writer.revoke(digests, cut_streams);
                self.store.append(&frame)?;
                Ok(Some(Frame::Revoked { revocation }))
            }
            Frame::Delta { from, to, ref changes } => {
                let came = Instant::now();
                if !self.writer.apply(from, to, changes.clone()) {
                    return Err(SessionError::Gap);
                }
                let applied = came.elapsed();
                self.store.append(&frame)?;
                self.tables.delta_times.add(applied, came.elapsed());
                if self.store.is_long() {
                    self.whole_wanted = true;
                }
                Ok(Some(self.applied()))
            }
            Frame::SnapshotBegin { registry, generation } => {
                let mut file = self.store.begin()?;
                // First of all what must hold also where the rest of the file is damaged.
                self.add_tombstones(&mut file)?;
                file.add(&frame)?;
                self.incoming = Some((Incoming::new(registry, generation), file));
                Ok(None)
            }
            Frame::SnapshotPart(_) => {
                let (incoming, file) = self.incoming.as_mut().ok_or(SessionError::Incomplete)?;
                file.add(&frame)?;
                if let Frame::SnapshotPart(changes) = frame {
                    incoming.add(changes);
                }
                Ok(None)
            }
            Frame::SnapshotEnd { changes, .. } => {
                let (incoming, file) = self.incoming.take().ok_or(SessionError::Incomplete)?;
                if incoming.changes() != changes {
                    return Err(SessionError::Incomplete);
                }
                self.replace(incoming, file, &frame)?;
                Ok(Some(self.applied()))
            }
            _ => Err(LinkError::Unexpected.into()),
        }
    }

    /// Where it can't be noted the tables look older than they are after the next start. That is no reason to
    /// leave the control plane, whose changes and revocations go on coming.
    fn note_current(&mut self) {
        let noted = self.store.note_current(unix_ms(), self.writer.position());
        if let Err(error) = &noted
            && !self.unnoted
        {
            log::log(&Entry::FreshnessNotKept(error));
        }
        self.unnoted = noted.is_err();
    }

    fn replace(
        &mut self,
        incoming: Incoming,
        mut file: SnapshotFile,
        end: &Frame,
    ) -> Result<(), SessionError> {
        self.writer.replace(incoming);
        file.add(end)?;
        // Once more: keys may have been revoked while the snapshot came.
        self.add_tombstones(&mut file)?;
        self.store.finish(file)?;
        self.whole_wanted = false;
        let (_, generation) = self.writer.position();
        log::log(&Entry::Synced { generation, keys: self.tables.key_count() });
        Ok(())
    }

    /// In frames of a bounded length, however many there are.
    fn add_tombstones(&self, file: &mut SnapshotFile) -> io::Result<()> {
        let digests: Vec<_> = self.writer.tombstones().collect();
        digests.chunks(PART_CHANGES).try_for_each(|part| {
            file.add(&Frame::Revoke { revocation: 0, cut_streams: false, digests: part.to_vec() })
        })
    }

    fn applied(&self) -> Frame {
        let (registry, generation) = self.writer.position();
        Frame::Applied { registry, generation, sum: self.writer.sum() }
    }

    /// A registry that was restored from a backup may not know of these any more.
    fn tell_buried(&self, link: &mut Link) -> Result<(), LinkError> {
        let digests: Vec<_> = self.writer.tombstones().collect();
        digests.chunks(PART_CHANGES).try_for_each(|part| link.send(&Frame::Buried(part.to_vec())))?;
        link.send(&Frame::Buried(Vec::new()))
    }
}

/// When a frame came, unless nothing was heard for so long before that the control plane has given this
/// session up.
fn heard_again(before: Instant, now: Instant) -> Result<Instant, SessionError> {
    if now.duration_since(before) > SILENCE_MAX { Err(SessionError::Silent) } else { Ok(now) }
}

#[cfg(test)]
mod tests;
