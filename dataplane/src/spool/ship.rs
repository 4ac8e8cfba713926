//! Sends sealed batches to the control plane, oldest first, and hears that they are stored.
//!
//! At most `IN_FLIGHT_MAX` are on their way. Their bytes are not kept: after a lost connection they are read
//! from the segments again, and are the same. The spool thread learns of each answer over a bounded channel
//! and never waits.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use thiserror::Error;
use wire::event::{EVENT_BYTES, UsageEvent};
use wire::frame::{Frame, Hello, Role};
use wire::id::{BatchSeq, BootId, Generation, NodeId, RegistryId};
use wire::record::Seal;

use super::Shared;
use super::figures::add;
use super::reader::{Batch, BatchReader, Cursor, Sealed};
use crate::link::{Address, Link, LinkError};

/// How many batches may wait for an answer.
const IN_FLIGHT_MAX: usize = 4;
/// How long the thread waits for an answer, or for a new batch, before it looks for the other.
const TURN: Duration = Duration::from_millis(20);
/// How often an idle connection is looked at.
const IDLE_LOOK: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A batch that needs no more sending, for the spool thread to note.
#[derive(Debug)]
pub(super) struct Acked {
    pub(super) spool: BootId,
    pub(super) seal: Seal,
    /// How many events were sent.
    pub(super) sent: u64,
    /// Those of them that can never be stored.
    pub(super) refused: Vec<UsageEvent>,
    /// Events of the batch that couldn't be read.
    pub(super) lost: u64,
}

/// A spool to be shipped.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) spool: BootId,
    pub(super) reader: BatchReader,
    /// The next batch to send.
    pub(super) next: BatchSeq,
    /// Acknowledged ahead of `next`.
    pub(super) acked: BTreeSet<BatchSeq>,
    /// The newest batch that may have been sent before.
    pub(super) sent: BatchSeq,
    /// How far it is sealed; `None` for the spool that this process writes.
    pub(super) sealed: Option<Sealed>,
}

#[derive(Debug)]
struct InFlight {
    spool: BootId,
    seal: Seal,
    cursor: Option<Cursor>,
    sent: u64,
    lost: u64,
    since: Instant,
}

#[derive(Debug, Error)]
enum ShipError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("spool: {0}")]
    Read(#[from] std::io::Error),
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Ship {
    pub(super) address: Address,
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) answer_timeout: Duration,
    /// Oldest spool first.
    pub(super) sources: Vec<Source>,
    pub(super) acks: Sender<Acked>,
    /// Something was sealed.
    pub(super) wake: Receiver<()>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) shared: Arc<Shared>,
    in_flight: VecDeque<InFlight>,
    answered: Instant,
}

impl Ship {
    pub(super) fn new(
        (address, node, boot): (Address, NodeId, BootId),
        answer_timeout: Duration,
        sources: Vec<Source>,
        (acks, wake): (Sender<Acked>, Receiver<()>),
        (stop, shared): (Arc<AtomicBool>, Arc<Shared>),
    ) -> Self {
        Self {
            address,
            node,
            boot,
            answer_timeout,
            sources,
            acks,
            wake,
            stop,
            shared,
            in_flight: VecDeque::new(),
            answered: Instant::now(),
        }
    }

    /// Ships until the stop flag is raised.
    pub(super) fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        while !self.stopped() {
            let result = self.session(&mut backoff);
            self.shared.counters.connected.store(false, Relaxed);
            if result.is_err() && !self.stopped() {
                self.rest(jittered(backoff));
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopped() && Instant::now() < until {
            thread::sleep(TURN.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// One connection, from greeting to its end.
    fn session(&mut self, backoff: &mut Duration) -> Result<(), ShipError> {
        self.rewind()?;
        let mut link = Link::connect(&self.address, Arc::clone(&self.stop))?;
        link.greet(Hello {
            role: Role::Ship,
            node: self.node,
            boot: self.boot,
            registry: RegistryId(0),
            generation: Generation(0),
        })?;
        self.shared.counters.connected.store(true, Relaxed);
        let mut looked = Instant::now();
        while !self.stopped() {
            self.fill(&mut link)?;
            let Some(oldest) = self.in_flight.front() else {
                let _ = self.wake.recv_timeout(TURN);
                // A peer that has gone is noticed also while there is nothing to send.
                if looked.elapsed() > IDLE_LOOK {
                    looked = Instant::now();
                    self.hear(&mut link, Duration::from_nanos(1), backoff)?;
                }
                continue;
            };
            if oldest.since.max(self.answered).elapsed() > self.answer_timeout {
                return Err(LinkError::Stalled(self.answer_timeout).into());
            }
            self.hear(&mut link, TURN, backoff)?;
        }
        Ok(())
    }

    fn hear(&mut self, link: &mut Link, timeout: Duration, backoff: &mut Duration) -> Result<(), ShipError> {
        match link.receive(timeout)? {
            Some(Frame::Stored { spool, batch, refused }) => {
                self.stored(spool, batch, &refused)?;
                *backoff = BACKOFF_MIN;
            }
            Some(Frame::Ping) => link.send(&Frame::Pong)?,
            Some(_) => return Err(LinkError::Unexpected.into()),
            None => {}
        }
        Ok(())
    }

    /// Goes back to the oldest batch of each spool that was not answered.
    fn rewind(&mut self) -> Result<(), ShipError> {
        while let Some(last) = self.in_flight.back() {
            let (spool, batch, cursor) = (last.spool, last.seal.batch, last.cursor);
            if let Some(source) = self.sources.iter_mut().find(|source| source.spool == spool) {
                source.reader.seek(cursor)?;
                source.next = batch;
            }
            self.in_flight.pop_back();
        }
        Ok(())
    }

    fn fill(&mut self, link: &mut Link) -> Result<(), ShipError> {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let live = self.shared.sealed();
            let Some(source) = self.sources.iter_mut().find_map(|source| source.behind(live)) else { break };
            let batch = source.reader.read(source.next, source.sealed.unwrap_or(live))?;
            let sent_before = batch.seal.batch <= source.sent;
            source.next = BatchSeq(batch.seal.batch.0 + 1);
            let spool = source.spool;
            if batch.events.is_empty() {
                // All of it is lost to damage: there is nothing to store, and it must not be waited for.
                self.hand_over(Acked {
                    spool,
                    seal: batch.seal,
                    sent: 0,
                    refused: vec![],
                    lost: batch.lost,
                })?;
                continue;
            }
            source.sent = source.sent.max(batch.seal.batch);
            self.send(link, spool, batch, sent_before)?;
        }
        Ok(())
    }

    fn send(&mut self, link: &mut Link, spool: BootId, batch: Batch, resent: bool) -> Result<(), ShipError> {
        let Batch { seal, events, lost, cursor } = batch;
        // In flight before it is sent: after half of it went out it is sent again.
        self.in_flight.push_back(InFlight {
            spool,
            seal,
            cursor,
            sent: (events.len() / EVENT_BYTES) as u64,
            lost,
            since: Instant::now(),
        });
        add(&self.shared.counters.resent, u64::from(resent));
        link.send(&Frame::Batch { spool, batch: seal.batch, resent, events })?;
        Ok(())
    }

    fn stored(&mut self, spool: BootId, batch: BatchSeq, refused: &[u32]) -> Result<(), ShipError> {
        self.answered = Instant::now();
        let Some(at) = self.in_flight.iter().position(|f| f.spool == spool && f.seal.batch == batch) else {
            // Of an earlier connection's sending; the batch was answered since, or will be.
            return Ok(());
        };
        let refused = self.read_refused(at, refused)?;
        let Some(InFlight { seal, sent, lost, .. }) = self.in_flight.remove(at) else { return Ok(()) };
        if let Some(source) = self.sources.iter_mut().find(|source| source.spool == spool) {
            source.acked.insert(batch);
            let oldest = self.in_flight.iter().filter(|f| f.spool == spool).map(|f| f.seal.batch).min();
            source.acked = source.acked.split_off(&oldest.unwrap_or(source.next));
        }
        self.hand_over(Acked { spool, seal, sent, refused, lost })
    }

    /// The events that can't be stored, read once more, since nobody kept them.
    fn read_refused(&self, at: usize, refused: &[u32]) -> Result<Vec<UsageEvent>, ShipError> {
        let InFlight { spool, seal, cursor, .. } = &self.in_flight[at];
        let Some(source) = self.sources.iter().find(|source| source.spool == *spool && !refused.is_empty())
        else {
            return Ok(Vec::new());
        };
        let mut reader = source.reader.beside();
        reader.seek(*cursor)?;
        let batch = reader.read(seal.batch, source.sealed.unwrap_or(self.shared.sealed()))?;
        let events = batch.events.as_chunks::<EVENT_BYTES>().0;
        let indexes: BTreeSet<u32> = refused.iter().copied().collect();
        let refused = indexes.into_iter().filter_map(|index| events.get(index as usize));
        Ok(refused.filter_map(|event| UsageEvent::decode(event).ok()).collect())
    }

    fn hand_over(&self, mut acked: Acked) -> Result<(), ShipError> {
        loop {
            match self.acks.send_timeout(acked, TURN) {
                Ok(()) => return Ok(()),
                // The disk keeps the spool thread from noting acks; without the note the batch is sent again
                // later.
                Err(SendTimeoutError::Timeout(back)) if !self.stopped() => acked = back,
                Err(_) => return Err(LinkError::Stopped.into()),
            }
        }
    }
}

impl Source {
    /// Itself, where it has batches to be sent.
    fn behind(&mut self, live: Sealed) -> Option<&mut Self> {
        while self.acked.remove(&self.next) {
            self.next.0 += 1;
        }
        (self.next <= self.sealed.unwrap_or(live).last).then_some(self)
    }
}

/// Between half of `time` and all of it, so that the nodes of a fleet do not come back at once.
fn jittered(time: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    time / 2 + (time / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
