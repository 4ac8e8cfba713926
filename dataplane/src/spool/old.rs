//! The spool of a process that is gone: its batches are shipped as they are, then it is deleted.
//!
//! Nothing is ever added to its segments. Acks, and the word that its other events live on elsewhere, go to a
//! small segment of their own (an annex), made when the first of them comes. An ack for which there is no
//! room is kept in memory and noted later: one record says it for all batches up to a number.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use wire::id::{BatchSeq, BootId, NodeId, Position};
use wire::record::{self, Record, SegmentHeader};

use super::host::{Host, Os, discard};
use super::recovery::Contents;
use super::segment::{ANNEX_BYTES, ANNEX_BYTES_MIN, Segment};

#[derive(Debug)]
pub(super) struct OldSpool<H: Host = Os> {
    pub(super) spool: BootId,
    pub(super) dir: PathBuf,
    pub(super) contents: Contents,
    host: H,
    node: NodeId,
    annex: Option<Segment<H>>,
    /// Acknowledged, and not noted on the disk.
    unwritten: BTreeSet<BatchSeq>,
    is_taken_over: bool,
    /// From here on its batches have events that were found elsewhere, too, in slots for instance, and that
    /// only these batches keep from being taken over: they stay until nobody can find them there any more.
    pub(super) witness: Option<Position>,
    /// Held for as long as this process looks after the spool.
    _lock: H::Lock,
}

impl<H: Host> OldSpool<H> {
    pub(super) fn new(
        host: H,
        (spool, dir): (BootId, PathBuf),
        node: NodeId,
        lock: H::Lock,
        contents: Contents,
    ) -> Self {
        let is_taken_over = !contents.has_unsealed();
        let unwritten = BTreeSet::new();
        Self {
            spool,
            dir,
            contents,
            host,
            node,
            annex: None,
            unwritten,
            is_taken_over,
            witness: None,
            _lock: lock,
        }
    }

    /// Says that what is in no batch here is in the spool of `by`, which has synced it.
    pub(super) fn adopted(&mut self, by: BootId) -> io::Result<()> {
        if !self.is_taken_over {
            self.write(&[Record::Adopted { by }])?;
            self.is_taken_over = true;
        }
        Ok(())
    }

    /// A batch is stored. Gives the number of events that its seal had, `None` where it was not waiting.
    pub(super) fn ack(&mut self, batch: BatchSeq) -> Option<u32> {
        let waiting = self.contents.unacked.remove(&batch)?;
        self.contents.acked_ms = self.host.unix_ms();
        self.unwritten.insert(batch);
        Some(waiting.count)
    }

    /// Notes on the disk what is acknowledged.
    pub(super) fn write_acks(&mut self) -> io::Result<()> {
        let Some(last) = self.unwritten.last().copied() else { return Ok(()) };
        let acked_ms = self.contents.acked_ms;
        let to = self.contents.unacked.keys().next().map_or(last, |batch| BatchSeq(batch.0 - 1));
        let ahead = self.unwritten.iter().filter(|batch| **batch > to);
        let mut records: Vec<_> = ahead.map(|batch| Record::Ack { batch: *batch, acked_ms }).collect();
        if self.unwritten.first().is_some_and(|first| *first <= to) {
            records.push(Record::AckedTo { batch: to, acked_ms });
        }
        self.write(&records)?;
        self.unwritten.clear();
        Ok(())
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record::append(&mut bytes, self.contents.next, record));
        let mut annex = match self.annex.take() {
            Some(annex) if annex.room(false) >= bytes.len() as u64 => annex,
            _ => self.make_annex()?,
        };
        // After an error the annex is left as it is, and the next try makes another.
        annex.append(&bytes)?;
        annex.sync()?;
        self.annex = Some(annex);
        Ok(())
    }

    fn make_annex(&mut self) -> io::Result<Segment<H>> {
        let header = SegmentHeader {
            spool: self.spool,
            node: self.node,
            first: self.contents.next,
            created_ms: self.host.unix_ms(),
        };
        let sizes = (ANNEX_BYTES, ANNEX_BYTES_MIN, 0);
        let annex = Segment::create_fitting(&self.host, &self.dir, (&header, &mut 0), sizes)?;
        self.contents.annexes_bytes += annex.size();
        Ok(annex)
    }

    /// Whether everything in it is stored, and was so for `retention`.
    pub(super) fn is_over(&self, now_ms: u64, retention: Duration) -> bool {
        let kept = Duration::from_millis(now_ms.saturating_sub(self.contents.acked_ms));
        let is_stored = self.is_taken_over && self.contents.unacked.is_empty() && kept >= retention;
        is_stored && self.witness.is_none() && !self.contents.is_to_stay
    }

    /// Gives the space of those segments back of which everything is stored; for a disk that is full.
    pub(super) fn shrink(&mut self) -> io::Result<()> {
        if self.contents.is_to_stay {
            return Ok(());
        }
        let end = self.contents.acked_end(self.is_taken_over);
        let end = self.witness.map_or(end, |witness| end.min(witness));
        while let Some(file) = self.contents.files.front().filter(|file| file.end <= end) {
            // The acks first: a seal without ack whose events are gone would count as lost.
            if !self.unwritten.is_empty() {
                return self.write_acks().and_then(|()| self.shrink());
            }
            discard(&self.host, &self.dir.join(file.name.to_string()))?;
            self.contents.files.pop_front();
        }
        Ok(())
    }

    /// Deletes it; at a crash in the middle the next start goes on.
    pub(super) fn delete(&self) -> io::Result<()> {
        let gone = self.dir.with_extension("deleted");
        self.host.rename(&self.dir, &gone)?;
        // All of it is gone, or nothing, also after a power cut: segments without their acks would be
        // neither.
        self.dir.parent().map_or(Ok(()), |spools| self.host.sync_dir(spools))?;
        self.host.remove_dir(&gone)
    }
}
