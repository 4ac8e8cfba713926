//! What a process that is gone left in its slots, as usage events.
//!
//! A settled slot is its event as it stands. An open one was cut: its counts are partial, or none; its status
//! is the one known, or 499; it ended when its process last gave a sign of life (the header's `alive_ms`,
//! which the spool thread writes every few milliseconds; a file's modification time says nothing of stores to
//! a mapping).
//!
//! A file from before the machine's last start is not trusted: on a disk (tmpfs would be empty) its pages may
//! be of different ages, and an event in it may have been stored long ago. It is set aside as `.bad`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wire::event::{EVENT_BYTES, Tokens, UsageEvent, UsageSource};
use wire::id::{BootId, NodeId};

use super::pool::ended;
use super::{
    ADMITTED_WORD, ALIVE_WORD, EVENT_WORDS, MAGIC, OPEN, PAGE_BYTES, SETTLED, SLOT_BYTES, SLOT_WORDS,
    VERSION, kernel_boot_id,
};

/// What one process left.
#[derive(Debug)]
pub struct Leftover {
    /// The process.
    pub boot: BootId,
    /// Its file, to be removed once the events are safe.
    pub path: PathBuf,
    /// The exchanges that were not free.
    pub events: Vec<UsageEvent>,
    /// How many used slots can't be read.
    pub unreadable: u64,
}

/// Reads the slots of `node`'s other processes; those for which `is_gone` is false are left alone.
pub fn leftovers(dir: &Path, node: NodeId, is_gone: impl Fn(BootId) -> bool) -> io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(boot) = name.strip_suffix(".slots").and_then(BootId::parse) else { continue };
        if is_gone(boot) {
            found.extend(read(&path, node)?);
        }
    }
    Ok(found)
}

/// How many exchanges each worker of `node`'s process `boot` admitted; `None` where its slots are gone, or
/// are of before the machine's last start.
pub fn admitted(dir: &Path, node: NodeId, boot: BootId) -> io::Result<Option<Vec<u64>>> {
    let bytes = match fs::read(dir.join(format!("{boot}.slots"))) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes).collect();
    let [MAGIC, VERSION, of, is, high, low, _, workers, ..] = words[..] else { return Ok(None) };
    if of != node.0 || is != boot.0 || (high, low) != kernel_boot_id()? {
        return Ok(None);
    }
    let lines = words.get(PAGE_BYTES / 8..).unwrap_or_default().as_chunks::<SLOT_WORDS>().0;
    let workers = usize::try_from(workers).unwrap_or(usize::MAX);
    Ok(Some(lines.iter().take(workers).map(|line| line[ADMITTED_WORD]).collect()))
}

fn read(path: &Path, node: NodeId) -> io::Result<Option<Leftover>> {
    let bytes = fs::read(path)?;
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes).collect();
    let [MAGIC, VERSION, of, boot, high, low, slots, workers, alive_ms] =
        words[..words.len().min(ALIVE_WORD + 1)]
    else {
        return set_aside(path).map(|()| None);
    };
    if of != node.0 {
        // Another node's, in a runtime directory that both use.
        return Ok(None);
    }
    if (high, low) != kernel_boot_id()? {
        return set_aside(path).map(|()| None);
    }
    let mut leftover =
        Leftover { boot: BootId(boot), path: path.to_owned(), events: Vec::new(), unreadable: 0 };
    let lines = usize::try_from(workers).unwrap_or(usize::MAX).saturating_mul(SLOT_BYTES);
    let first = (PAGE_BYTES + lines.min(words.len() * 8).next_multiple_of(PAGE_BYTES)) / 8;
    let slots_words = words.get(first..).unwrap_or_default().as_chunks::<SLOT_WORDS>().0;
    for slot in slots_words.iter().take(usize::try_from(slots).unwrap_or(usize::MAX)) {
        match (slot[0], event(slot)) {
            (SETTLED, Some(event)) => leftover.events.push(event),
            (OPEN, Some(event)) => leftover.events.push(cut(event, alive_ms)),
            (SETTLED | OPEN, None) => leftover.unreadable += 1,
            _ => {}
        }
    }
    Ok(Some(leftover))
}

fn event(slot: &[u64; SLOT_WORDS]) -> Option<UsageEvent> {
    let mut bytes = [0; EVENT_BYTES];
    for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&slot[1..=EVENT_WORDS]) {
        *chunk = word.to_le_bytes();
    }
    UsageEvent::decode(&bytes).ok()
}

fn cut(event: UsageEvent, alive_ms: u64) -> UsageEvent {
    let seen = event.tokens != Tokens::default() || event.ttft_ms != 0;
    let usage_source = match event.usage_source {
        // The upstream had said all of it; only the end of the answer's framing was missing.
        UsageSource::Final => UsageSource::Final,
        _ if seen => UsageSource::Partial,
        _ => UsageSource::None,
    };
    ended(UsageEvent { usage_source, ..event }, alive_ms)
}

fn set_aside(path: &Path) -> io::Result<()> {
    fs::rename(path, path.with_extension("slots.bad"))
}
