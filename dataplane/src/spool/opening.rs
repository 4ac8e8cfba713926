//! The start of a spool: what earlier processes left is taken over, step by step.
//!
//! Where the disk has no room the spool thread tries again, from the step that failed on, while requests are
//! refused: no slot is taken before this is done. Batches that earlier processes sealed are shipped
//! meanwhile, under their own numbers; that makes room. `start.lock` is held all the time.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crossbeam_channel::Sender;
use wire::event::UsageEvent;
use wire::id::{BatchSeq, BootId};

use super::figures::{add, take};
use super::host::{Host, Os};
use super::old::OldSpool;
use super::reader::BatchReader;
use super::recovery::{Adoption, Contents, Places, delete_unused, find};
use super::ship::Source;
use super::thread::SpoolThread;
use super::writer::Spool;

/// How far the start has come.
#[derive(Debug)]
pub(super) struct Opening<H: Host = Os> {
    pub(super) spools: PathBuf,
    pub(super) set_aside: PathBuf,
    pub(super) runtime: PathBuf,
    pub(super) own: Spool,
    pub(super) sources: Sender<Vec<Source<H>>>,
    /// `start.lock`.
    pub(super) _starting: H::Lock,
    pub(super) adoption: Option<Adoption>,
    /// How many of its events are in this process's spool.
    appended: usize,
}

impl<H: Host> Opening<H> {
    pub(super) fn new(
        (spools, set_aside, runtime): (PathBuf, PathBuf, PathBuf),
        own: Spool,
        sources: Sender<Vec<Source<H>>>,
        starting: H::Lock,
    ) -> Self {
        Self { spools, set_aside, runtime, own, sources, _starting: starting, adoption: None, appended: 0 }
    }
}

impl<H: Host> SpoolThread<H> {
    /// Goes on with the start; after an error it is to be called again.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let Some(mut opening) = self.opening.take() else { return Ok(()) };
        let opened = self.open_by(&mut opening);
        if opened.is_err() {
            self.opening = Some(opening);
        }
        opened
    }

    fn open_by(&mut self, opening: &mut Opening<H>) -> io::Result<()> {
        if opening.adoption.is_none() {
            let adoption = self.find_old(opening)?;
            add(&self.shared.counters.to_adopt, adoption.events.len() as u64);
            opening.adoption = Some(adoption);
        }
        if self.own_lock.is_none() {
            self.own_lock = Some(make_own(&self.host, &opening.own)?);
        }
        self.writer.prepare()?;
        let Some(adoption) = &opening.adoption else { return Ok(()) };
        self.append_adopted(&adoption.events, &mut opening.appended)?;
        for old in &mut self.old {
            old.adopted(self.spool)?;
        }
        for leftover in &adoption.leftovers {
            match std::fs::remove_file(&leftover.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.old.iter_mut().for_each(|old| old.witness = None);
        let (dir, set_aside) = (opening.own.dir.clone(), opening.set_aside.clone());
        let own = Source::own(self.spool, BatchReader::new(self.host.clone(), dir, set_aside));
        // Never full: it has room for both. Where the ship thread is gone, so is the process.
        let _ = opening.sources.try_send(vec![own]);
        Ok(())
    }

    /// Finds what there is, counts it, and has its batches shipped.
    fn find_old(&mut self, opening: &Opening<H>) -> io::Result<Adoption> {
        let Opening { spools, set_aside, runtime, own, sources, .. } = opening;
        let places = Places { spools, set_aside, runtime };
        let (mut old, adoption) = find(&self.host, places, (own.node, own.id))?;
        // Before anything is written: it may be all the space there is.
        delete_unused(&mut old)?;
        let counters = &self.shared.counters;
        for OldSpool { contents, .. } in &old {
            let found: u64 = contents.unacked.values().map(|waiting| u64::from(waiting.count)).sum();
            add(&counters.found, found + contents.lost);
            add(&counters.pending, found);
            add(&counters.lost, contents.lost);
            add(&counters.damaged, contents.damaged_bytes);
        }
        for leftover in &adoption.leftovers {
            add(&counters.found, leftover.unreadable);
            add(&counters.lost, leftover.unreadable);
        }
        let source = |old: &OldSpool<H>| {
            let (first, _) = old.contents.unacked.first_key_value()?;
            let reader = BatchReader::new(self.host.clone(), old.dir.clone(), set_aside.clone());
            Some(Source::old(old.spool, reader, (*first, &old.contents)))
        };
        let _ = sources.try_send(old.iter().filter_map(source).collect());
        self.old = old;
        Ok(adoption)
    }

    /// Appends events of other processes from `appended` on, and waits until the disk has them.
    fn append_adopted(&mut self, events: &[UsageEvent], appended: &mut usize) -> io::Result<()> {
        let now = self.host.now();
        self.write_seals()?;
        while *appended < events.len() {
            let some = &events[*appended..];
            let room = self.range.room() as usize;
            let written = self.write_events(&some[..some.len().min(room).min(1000)], now)?;
            *appended += written;
            add(&self.shared.counters.adopted, written as u64);
            take(&self.shared.counters.to_adopt, written as u64);
            if self.range.room() == 0 {
                self.seal_if_due(now, true)?;
            }
        }
        self.sync()
    }
}

/// Makes this process's directory, and locks it.
fn make_own<H: Host>(host: &H, own: &Spool) -> io::Result<H::Lock> {
    match host.create_dir(&own.dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let taken = || io::Error::other("the lock of this process's own spool is taken");
    let lock = host.lock(&own.dir.join("lock"))?.ok_or_else(taken)?;
    own.dir.parent().map_or(Ok(()), |spools| host.sync_dir(spools))?;
    Ok(lock)
}

impl<H: Host> Source<H> {
    /// The batches that an earlier process sealed, from the first that is not acknowledged.
    fn old(spool: BootId, reader: BatchReader<H>, (next, contents): (BatchSeq, &Contents)) -> Self {
        let (from, sealed) = (BatchSeq(0), contents.sealed);
        Self {
            spool,
            reader,
            from,
            next,
            acked: contents.acked_ahead(),
            sent: sealed.last,
            sealed: Some(sealed),
        }
    }

    /// The batches that this process seals.
    fn own(spool: BootId, reader: BatchReader<H>) -> Self {
        let (from, next, sent) = (BatchSeq(1), BatchSeq(1), BatchSeq(0));
        Self { spool, reader, from, next, acked: BTreeSet::new(), sent, sealed: None }
    }
}
