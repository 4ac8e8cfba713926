//! Which batches are sent to the control plane, and what its answers mean. `fresh.rs` has the order.
//!
//! At most `IN_FLIGHT_MAX` are on their way. Their bytes are not kept: after a lost connection they are read
//! from the segments again, and are the same. The spool thread learns of each answer over a bounded channel;
//! while that is full nothing more is sent. `session.rs` has the connection.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use thiserror::Error;
use wire::event::{EVENT_BYTES, UsageEvent};
use wire::frame::Frame;
use wire::id::{BatchSeq, BootId};
use wire::record::Seal;

use super::Shared;
use super::figures::add;
use super::fresh::Turns;
use super::host::{Host, Os};
use super::reader::{Batch, BatchReader, Cursor, Sealed};
use crate::link::{Link, LinkError};

/// How many batches may wait for an answer.
const IN_FLIGHT_MAX: usize = 4;

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

/// A spool to be shipped, or a part of one.
#[derive(Debug)]
pub(super) struct Source<H: Host = Os> {
    pub(super) spool: BootId,
    pub(super) reader: BatchReader<H>,
    /// The first batch of the part.
    pub(super) from: BatchSeq,
    /// The next batch to send.
    pub(super) next: BatchSeq,
    /// Acknowledged ahead of `next`.
    pub(super) acked: BTreeSet<BatchSeq>,
    /// The newest batch that may have been sent before.
    pub(super) sent: BatchSeq,
    /// How far it is sealed, or the part reaches; `None` for the newest part of the spool that this process
    /// writes.
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
pub(super) enum ShipError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("spool: {0}")]
    Read(#[from] std::io::Error),
}

/// Where frames go.
pub(super) trait Outlet {
    /// Sends a frame whole.
    fn send(&mut self, frame: &Frame) -> Result<(), LinkError>;
}

impl Outlet for Link {
    fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        Self::send(self, frame)
    }
}

/// What is to be shipped, what is on its way, and what has come back.
#[derive(Debug)]
pub(super) struct Shipper<H: Host = Os> {
    host: H,
    answer_timeout: Duration,
    /// Oldest spool first, and its parts.
    pub(super) sources: Vec<Source<H>>,
    pub(super) turns: Turns,
    /// More of them, once they may be shipped.
    found: Receiver<Vec<Source<H>>>,
    acks: Sender<Acked>,
    /// Answers that the spool thread has not taken.
    outbox: VecDeque<Acked>,
    pub(super) shared: Arc<Shared>,
    in_flight: VecDeque<InFlight>,
    answered: Instant,
}

impl<H: Host> Shipper<H> {
    pub(super) fn new(
        host: H,
        answer_timeout: Duration,
        (found, acks): (Receiver<Vec<Source<H>>>, Sender<Acked>),
        shared: Arc<Shared>,
    ) -> Self {
        let answered = host.now();
        Self {
            host,
            answer_timeout,
            sources: Vec::new(),
            turns: Turns::default(),
            found,
            acks,
            outbox: VecDeque::new(),
            shared,
            in_flight: VecDeque::new(),
            answered,
        }
    }

    /// Goes back to the oldest batch of each spool that was not answered: the connection is a new one.
    pub(super) fn rewind(&mut self) -> Result<(), ShipError> {
        while let Some(last) = self.in_flight.back() {
            let (spool, batch, cursor) = (last.spool, last.seal.batch, last.cursor);
            if let Some(source) = self.sources.iter_mut().find(|source| source.has(spool, batch)) {
                source.reader.seek(cursor)?;
                source.next = batch;
            }
            self.in_flight.pop_back();
        }
        Ok(())
    }

    /// Which batches are waited for.
    pub(super) fn in_flight(&self) -> Vec<(BootId, BatchSeq)> {
        self.in_flight.iter().map(|f| (f.spool, f.seal.batch)).collect()
    }

    /// Whether answers are waited for, rather than batches.
    pub(super) fn has_sent(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether the spool thread is waited for.
    pub(super) fn is_held_up(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Fails where the control plane has owed an answer for too long.
    pub(super) fn check_patience(&self) -> Result<(), ShipError> {
        let owed = |oldest: &InFlight| self.host.now().duration_since(oldest.since.max(self.answered));
        match self.in_flight.front().map(owed) {
            Some(owed) if owed > self.answer_timeout => Err(LinkError::Stalled(self.answer_timeout).into()),
            _ => Ok(()),
        }
    }

    /// Hands answers on, and sends what may be sent.
    pub(super) fn fill(&mut self, link: &mut impl Outlet) -> Result<(), ShipError> {
        self.sources.extend(self.found.try_iter().flatten());
        while self.hand_on()? && self.in_flight.len() < IN_FLIGHT_MAX {
            let live = self.shared.sealed();
            let Some(source) = self.next_source(live) else { break };
            let batch = source.reader.read(source.next, source.sealed.unwrap_or(live))?;
            let sent_before = batch.seal.batch <= source.sent;
            source.next = BatchSeq(batch.seal.batch.0 + 1);
            let spool = source.spool;
            if batch.events.is_empty() {
                // All of it is lost to damage: there is nothing to store, and it must not be waited for.
                let Batch { seal, lost, .. } = batch;
                self.outbox.push_back(Acked { spool, seal, sent: 0, refused: vec![], lost });
                continue;
            }
            source.sent = source.sent.max(batch.seal.batch);
            self.send(link, spool, batch, sent_before)?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        link: &mut impl Outlet,
        spool: BootId,
        batch: Batch,
        resent: bool,
    ) -> Result<(), ShipError> {
        let Batch { seal, events, lost, cursor } = batch;
        let (sent, since) = ((events.len() / EVENT_BYTES) as u64, self.host.now());
        // In flight before it is sent: after half of it went out it is sent again.
        self.in_flight.push_back(InFlight { spool, seal, cursor, sent, lost, since });
        add(&self.shared.counters.resent, u64::from(resent));
        link.send(&Frame::Batch { spool, batch: seal.batch, resent, events })?;
        Ok(())
    }

    /// Takes a frame of the control plane's; says whether it was an answer.
    pub(super) fn hear(&mut self, frame: Frame, link: &mut impl Outlet) -> Result<bool, ShipError> {
        match frame {
            Frame::Stored { spool, batch, refused } => self.stored(spool, batch, &refused).map(|()| true),
            Frame::Ping => Ok(link.send(&Frame::Pong).map(|()| false)?),
            _ => Err(LinkError::Unexpected.into()),
        }
    }

    fn stored(&mut self, spool: BootId, batch: BatchSeq, refused: &[u32]) -> Result<(), ShipError> {
        self.answered = self.host.now();
        let Some(at) = self.in_flight.iter().position(|f| f.spool == spool && f.seal.batch == batch) else {
            // Of an earlier connection's sending; the batch was answered since, or will be.
            return Ok(());
        };
        let refused = self.read_refused(at, refused)?;
        let Some(InFlight { seal, sent, lost, .. }) = self.in_flight.remove(at) else { return Ok(()) };
        if let Some(source) = self.sources.iter_mut().find(|source| source.has(spool, batch)) {
            source.acked.insert(batch);
            let of_source = |f: &&InFlight| source.has(f.spool, f.seal.batch);
            let oldest = self.in_flight.iter().filter(of_source).map(|f| f.seal.batch).min();
            source.acked = source.acked.split_off(&oldest.unwrap_or(source.next));
        }
        self.outbox.push_back(Acked { spool, seal, sent, refused, lost });
        self.hand_on().map(|_| ())
    }

    /// The events that can't be stored, read once more, since nobody kept them.
    fn read_refused(&self, at: usize, refused: &[u32]) -> Result<Vec<UsageEvent>, ShipError> {
        let InFlight { spool, seal, cursor, .. } = &self.in_flight[at];
        let is_of = |source: &&Source<H>| source.has(*spool, seal.batch) && !refused.is_empty();
        let Some(source) = self.sources.iter().find(is_of) else { return Ok(Vec::new()) };
        let mut reader = source.reader.beside();
        reader.seek(*cursor)?;
        let batch = reader.read(seal.batch, source.sealed.unwrap_or(self.shared.sealed()))?;
        let events = batch.events.as_chunks::<EVENT_BYTES>().0;
        let indexes: BTreeSet<u32> = refused.iter().copied().collect();
        let refused = indexes.into_iter().filter_map(|index| events.get(index as usize));
        Ok(refused.filter_map(|event| UsageEvent::decode(event).ok()).collect())
    }

    /// Whether the spool thread has all answers. Without its note a batch is sent again later.
    fn hand_on(&mut self) -> Result<bool, ShipError> {
        while let Some(acked) = self.outbox.pop_front() {
            match self.acks.try_send(acked) {
                Ok(()) => {}
                Err(TrySendError::Full(back)) => {
                    self.outbox.push_front(back);
                    return Ok(false);
                }
                Err(TrySendError::Disconnected(_)) => return Err(LinkError::Stopped.into()),
            }
        }
        Ok(true)
    }
}

impl<H: Host> Source<H> {
    /// Whether a batch is one of its own.
    pub(super) fn has(&self, spool: BootId, batch: BatchSeq) -> bool {
        self.spool == spool && batch >= self.from && self.sealed.is_none_or(|sealed| batch <= sealed.last)
    }

    /// Itself, where it has batches to be sent.
    pub(super) fn behind(&mut self, live: Sealed) -> Option<&mut Self> {
        // They stay noted until no older one is in flight: a lost connection leads back behind them.
        while self.acked.contains(&self.next) {
            self.next.0 += 1;
        }
        (self.next <= self.sealed.unwrap_or(live).last).then_some(self)
    }
}
