//! A control plane and a ClickHouse, as far as a data plane can tell, and the connections to them.
//!
//! Bytes arrive in pieces, and of a cut connection only those that were delivered. The control plane may not
//! have noticed that a connection is gone, and store what came by it beside what comes by a new one. It does
//! what `ingest` does: a batch that may have been sent before is looked for first; an insert carries the
//! batch's token; ClickHouse may fail before or after it applied one, and forgets tokens in time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::event::{EVENT_BYTES, UsageEvent};
use wire::frame::Frame;
use wire::id::{BatchSeq, BootId, EventSeq};

use super::super::ship::Outlet;
use super::random::Random;
use crate::link::LinkError;

pub(super) type Token = (BootId, BatchSeq);
type Key = (BootId, EventSeq);

#[derive(Debug, Default)]
pub(super) struct Control {
    pub(super) is_away: bool,
    /// How many of ten calls to ClickHouse fail before they are applied, and after.
    pub(super) failing: (u64, u64),
    /// Events whose number this divides can never be stored.
    pub(super) refuses: Option<u64>,
    /// Whatever came by any connection: the data plane must not forget it again.
    pub(super) received: BTreeSet<Key>,
    /// What ClickHouse has, and by which batch.
    pub(super) rows: Vec<(Token, UsageEvent)>,
    batches: BTreeMap<Token, Vec<UsageEvent>>,
    first_sent: BTreeMap<Token, Vec<u8>>,
    tokens: BTreeSet<Token>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

#[derive(Debug, Default)]
struct Connection {
    up: VecDeque<u8>,
    inbox: Vec<u8>,
    job: Option<Job>,
    down: VecDeque<Frame>,
    is_gone: bool,
}

#[derive(Debug)]
struct Job {
    token: Token,
    is_looked_for: bool,
    rows: Vec<UsageEvent>,
    refused: Vec<u32>,
}

impl Control {
    pub(super) fn connect(&mut self) -> Option<u64> {
        if self.is_away {
            return None;
        }
        self.next += 1;
        self.connections.insert(self.next, Connection::default());
        Some(self.next)
    }

    /// The data plane's end is gone; the control plane learns of it later.
    pub(super) fn leave(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_gone = true;
        }
    }

    pub(super) fn restart(&mut self) {
        self.connections.clear();
    }

    /// So many other batches came that ClickHouse does not know the tokens any more.
    pub(super) fn forget_tokens(&mut self) {
        self.connections.retain(|_, connection| !connection.is_gone);
        let is_quiet = |c: &Connection| c.job.is_none() && c.up.is_empty() && c.inbox.is_empty();
        if self.connections.values().all(is_quiet) {
            self.tokens.clear();
        }
    }

    /// An answer that has arrived; fails where the connection is cut.
    pub(super) fn answer(&mut self, id: u64) -> Result<Option<Frame>, LinkError> {
        let connection = self.connections.get_mut(&id).ok_or(LinkError::Closed)?;
        Ok(connection.down.pop_front())
    }

    /// A piece of what is on its way arrives.
    pub(super) fn deliver(&mut self, random: &mut Random) {
        let Some(connection) = self.any(random) else { return };
        let piece = usize::try_from(random.below(2000)).unwrap_or(0).min(connection.up.len());
        connection.inbox.extend(connection.up.drain(..piece));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.connections.values().all(|c| c.is_gone || c.up.is_empty() && c.job.is_none())
    }

    fn any(&mut self, random: &mut Random) -> Option<&mut Connection> {
        let at = usize::try_from(random.below(self.connections.len() as u64)).unwrap_or(0);
        self.connections.values_mut().nth(at)
    }

    /// One step of one connection's handler.
    pub(super) fn work(&mut self, random: &mut Random) {
        let Some((&id, _)) = self
            .connections
            .iter()
            .nth(usize::try_from(random.below(self.connections.len() as u64)).unwrap_or(0))
        else {
            return;
        };
        let Some(mut connection) = self.connections.remove(&id) else { return };
        if connection.is_gone && random.one_in(4) {
            // It is noticed; an insert that is under way may be applied all the same.
            if let Some(job) = connection.job.filter(|job| !job.is_looked_for && random.one_in(2)) {
                self.apply(&job);
            }
            return;
        }
        match connection.job.take() {
            Some(job) => connection.job = self.go_on(job, &mut connection.down, random),
            None => connection.job = self.take(&mut connection.inbox),
        }
        self.connections.insert(id, connection);
    }

    fn take(&mut self, inbox: &mut Vec<u8>) -> Option<Job> {
        let (frame, used) = Frame::decode(inbox).expect("what was sent is a frame")?;
        inbox.drain(..used);
        let Frame::Batch { spool, batch, resent, events } = frame else { panic!("{frame:?}") };
        let first = self.first_sent.entry((spool, batch)).or_insert_with(|| events.clone());
        assert_eq!(*first, events, "batch {spool}:{batch} is the same each time");
        let events: Vec<UsageEvent> =
            events.as_chunks::<EVENT_BYTES>().0.iter().map(|e| UsageEvent::decode(e).unwrap()).collect();
        self.received.extend(events.iter().map(|event| (event.boot, event.seq)));
        let is_refused = |event: &UsageEvent| self.refuses.is_some_and(|by| event.seq.0.is_multiple_of(by));
        let refused = (0..).zip(&events).filter(|(_, event)| is_refused(event)).map(|(at, _)| at).collect();
        let rows = events.iter().filter(|event| !is_refused(event)).copied().collect();
        Some(Job { token: (spool, batch), is_looked_for: resent, rows, refused })
    }

    fn go_on(&mut self, mut job: Job, down: &mut VecDeque<Frame>, random: &mut Random) -> Option<Job> {
        if random.below(10) < self.failing.0 {
            return Some(job);
        }
        if job.is_looked_for {
            job.is_looked_for = false;
            if self.batches.get(&job.token).is_none_or(|there| there.len() != job.rows.len()) {
                return Some(job);
            }
        } else {
            self.apply(&job);
            if random.below(10) < self.failing.1 {
                return Some(job);
            }
        }
        let Job { token: (spool, batch), refused, .. } = job;
        down.push_back(Frame::Stored { spool, batch, refused });
        None
    }

    fn apply(&mut self, job: &Job) {
        if self.tokens.insert(job.token) {
            self.rows.extend(job.rows.iter().map(|row| (job.token, *row)));
            self.batches.entry(job.token).or_default().extend(&job.rows);
        }
    }
}

/// A connection's end in the data plane.
pub(super) struct SimLink<'a> {
    pub(super) id: u64,
    pub(super) control: &'a mut Control,
    pub(super) random: &'a mut Random,
}

impl Outlet for SimLink<'_> {
    fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let connection = self.control.connections.get_mut(&self.id).ok_or(LinkError::Closed)?;
        let bytes = frame.to_bytes();
        let is_cut = self.random.one_in(40);
        let len = if is_cut {
            usize::try_from(self.random.below(bytes.len() as u64)).unwrap_or(0)
        } else {
            bytes.len()
        };
        connection.up.extend(&bytes[..len]);
        if is_cut { Err(LinkError::Closed) } else { Ok(()) }
    }
}
