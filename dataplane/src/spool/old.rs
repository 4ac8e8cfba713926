//! The spool of a process that is gone: its batches are shipped as they are, then it is deleted.
//!
//! Nothing is ever added to its segments. Acks, and the word that its other events live on elsewhere, go to a
//! small segment of their own (an annex), made when the first of them comes.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use wire::id::{BatchSeq, BootId, NodeId};
use wire::record::{self, Record, SegmentHeader};

use super::recovery::Contents;
use super::segment::{ANNEX_BYTES, Segment};
use crate::slots::pool::now_ms;

#[derive(Debug)]
pub(super) struct OldSpool {
    pub(super) spool: BootId,
    pub(super) dir: PathBuf,
    pub(super) contents: Contents,
    node: NodeId,
    annex: Option<Segment>,
    /// Held for as long as this process looks after the spool.
    _lock: File,
}

impl OldSpool {
    pub(super) fn new(spool: BootId, dir: PathBuf, node: NodeId, lock: File, contents: Contents) -> Self {
        Self { spool, dir, contents, node, annex: None, _lock: lock }
    }

    /// Says that what is in no batch here is in the spool of `by`, which has synced it.
    pub(super) fn adopted(&mut self, by: BootId) -> io::Result<()> {
        self.write(&Record::Adopted { by })
    }

    /// A batch is stored. Gives the number of events that its seal had, `None` where it was not waiting.
    pub(super) fn ack(&mut self, batch: BatchSeq) -> io::Result<Option<u32>> {
        if !self.contents.unacked.contains_key(&batch) {
            return Ok(None);
        }
        let acked_ms = now_ms();
        self.write(&Record::Ack { batch, acked_ms })?;
        self.contents.acked_ms = acked_ms;
        Ok(self.contents.unacked.remove(&batch))
    }

    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = Vec::new();
        record::append(&mut bytes, self.contents.next, record);
        let mut annex = match self.annex.take() {
            Some(annex) if annex.has_room(bytes.len(), false) => annex,
            _ => self.make_annex()?,
        };
        // After an error the annex is left as it is, and the next try makes another.
        annex.append(&bytes)?;
        annex.sync()?;
        self.annex = Some(annex);
        Ok(())
    }

    fn make_annex(&mut self) -> io::Result<Segment> {
        let header = SegmentHeader {
            spool: self.spool,
            node: self.node,
            first: self.contents.next,
            created_ms: now_ms(),
        };
        let annex = Segment::create(&self.dir, &header, ANNEX_BYTES)?;
        self.contents.segments += 1;
        self.contents.bytes += ANNEX_BYTES;
        Ok(annex)
    }

    /// Whether everything in it is stored, and was so for `retention`.
    pub(super) fn is_over(&self, now_ms: u64, retention: Duration) -> bool {
        let kept = Duration::from_millis(now_ms.saturating_sub(self.contents.acked_ms));
        self.contents.unacked.is_empty() && kept >= retention
    }

    /// Deletes it; at a crash in the middle the next start goes on.
    pub(super) fn delete(&self) -> io::Result<()> {
        let gone = self.dir.with_extension("deleted");
        fs::rename(&self.dir, &gone)?;
        fs::remove_dir_all(gone)
    }
}
