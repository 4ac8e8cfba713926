//! Fresh events before a backlog.
//!
//! After a long absence of the control plane the spool of the running process has hours of batches to ship,
//! and what is admitted now would stand behind all of them. So a spool that is far behind is shipped in
//! parts: the backlog up to some batch, and what was sealed from there on, by a reader of its own that begins
//! in the newest segment. Each second batch that is sent is a fresh one, as long as there are any; the others
//! are the oldest there are. Batches are stored in any order; each is the same batch whenever it is sent.
//!
//! Invariant: the parts of a spool cover all of its batches, each once.

use std::io;

use wire::id::BatchSeq;
use wire::record::{Record, SEGMENT_HEADER_BYTES, Seal};

use super::host::Host;
use super::reader::{BatchReader, Cursor, Sealed};
use super::segment::list;
use super::ship::{Shipper, Source};

/// A spool that is behind by fewer batches is shipped in order: they are as good as fresh.
const BACKLOG_MIN: u64 = 6;
/// How many parts a spool is shipped in at most. One is added when the newest has become a backlog itself.
const PARTS_MAX: usize = 4;
/// How many of the newest segments are looked into for its beginning.
const SEGMENTS_LOOKED_AT: usize = 3;
/// So many more batches must be sealed before another part is looked for.
const LOOK_AFTER: u64 = 4;

/// Which source is next, and when parts were looked for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    is_fresh: bool,
    looked_at: BatchSeq,
}

impl<H: Host> Shipper<H> {
    /// The source whose batch is to be sent next, fresh and old ones in turn.
    pub(super) fn next_source(&mut self, live: Sealed) -> Option<&mut Source<H>> {
        self.part(live);
        self.turns.is_fresh = !self.turns.is_fresh;
        let is_behind = |source: &mut Source<H>| source.behind(live).is_some();
        let fresh = self.turns.is_fresh.then(|| self.sources.iter().rposition(|s| s.sealed.is_none()));
        let at = match fresh.flatten().filter(|at| is_behind(&mut self.sources[*at])) {
            Some(at) => at,
            None => self.sources.iter_mut().position(is_behind)?,
        };
        self.sources.get_mut(at)
    }

    /// Makes another part where the running spool is far behind.
    fn part(&mut self, live: Sealed) {
        let Some(newest) = self.sources.iter().rfind(|source| source.sealed.is_none()) else { return };
        let (spool, next) = (newest.spool, newest.next);
        let is_due =
            live.last.0 >= next.0 + BACKLOG_MIN && live.last.0 >= self.turns.looked_at.0 + LOOK_AFTER;
        if !is_due {
            return;
        }
        self.turns.looked_at = live.last;
        self.forget_done();
        if self.sources.iter().filter(|source| source.spool == spool).count() >= PARTS_MAX {
            return;
        }
        let Some(old) = self.sources.iter_mut().rfind(|source| source.sealed.is_none()) else { return };
        // What can't be read now is shipped in order.
        let Ok(Some((seal, reader))) = old.reader.fresh(live.last) else { return };
        if seal.batch.0 < next.0 + BACKLOG_MIN {
            return;
        }
        old.sealed = Some(Sealed { last: BatchSeq(seal.batch.0 - 1), end: seal.first });
        let acked = old.acked.split_off(&seal.batch);
        let fresh =
            Source { spool, reader, from: seal.batch, next: seal.batch, acked, sent: old.sent, sealed: None };
        self.sources.push(fresh);
    }

    /// Forgets parts of which everything is answered.
    fn forget_done(&mut self) {
        let in_flight = self.in_flight();
        let of_running =
            self.sources.iter().find(|source| source.sealed.is_none()).map(|source| source.spool);
        self.sources.retain(|source| {
            let is_waiting = in_flight.iter().any(|(spool, batch)| source.has(*spool, *batch));
            let is_sent = source.sealed.is_some_and(|sealed| source.next > sealed.last);
            Some(source.spool) != of_running || is_waiting || !is_sent
        });
    }
}

impl<H: Host> BatchReader<H> {
    /// The first batch that begins in the newest segment with a whole one up to `last`, and a reader that
    /// stands there.
    fn fresh(&self, last: BatchSeq) -> io::Result<Option<(Seal, Self)>> {
        for name in list(&self.host, &self.dir)?.into_iter().rev().take(SEGMENTS_LOOKED_AT) {
            let begin = Some(Cursor::new(name, SEGMENT_HEADER_BYTES as u64));
            let mut reader = self.beside();
            reader.seek(begin)?;
            while let Some((_, record)) = reader.step()? {
                match record {
                    // The first seal of its range, so that no day of it is left to the part before.
                    Record::Seal(seal) if seal.first >= name.first && seal.batch <= last => {
                        reader.seek(begin)?;
                        return Ok(Some((seal, reader)));
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
