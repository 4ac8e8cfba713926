//! Telling the control plane which known keys were refused, how often, in which minute.
//!
//! What is told is the sum of this run so far, so that it can be told again whatever became of it: the
//! largest sum of a run counts. A sum is forgotten once it was kept and its minute is over. While nobody
//! takes them the last `HELD_MAX` sums stay, those of the oldest minutes go first; what a process has not
//! told when it ends, some seconds' worth, is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use wire::key_use::{KEY_USES_MAX, KeyUse, UseOf};

use crate::refused::Uses;

const HELD_MAX: usize = 4096;
/// How often they are told.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// After so long without a word they are told again.
const UNANSWERED_MAX: Duration = Duration::from_secs(30);
/// For how many minutes after its own a sum may still grow.
const OPEN_MINUTES: u32 = 2;

#[derive(Default)]
struct Sum {
    uses: u64,
    /// What of them the control plane is known to have.
    kept: u64,
}

/// The sums that are to be told.
pub(super) struct KeyUses {
    from_workers: Receiver<Uses>,
    sums: BTreeMap<UseOf, Sum>,
    /// What was told last, and when, as long as it is not answered.
    told: Option<(Instant, Vec<KeyUse>)>,
    told_at: Option<Instant>,
}

impl KeyUses {
    pub(super) fn new(from_workers: Receiver<Uses>) -> Self {
        Self { from_workers, sums: BTreeMap::new(), told: None, told_at: None }
    }

    /// Adds what workers have counted.
    pub(super) fn take_over(&mut self) {
        for uses in self.from_workers.try_iter() {
            for (of, uses) in uses {
                self.sums.entry(of).or_default().uses += uses;
            }
            while self.sums.len() > HELD_MAX {
                self.sums.pop_first();
            }
        }
    }

    /// What is to be told now, if anything is.
    pub(super) fn due(&mut self, now: Instant) -> Option<Vec<KeyUse>> {
        let is_before = |at: Instant, after: Duration| now.duration_since(at) < after;
        let is_early = self.told_at.is_some_and(|at| is_before(at, TELL_INTERVAL));
        if is_early || self.told.as_ref().is_some_and(|(at, _)| is_before(*at, UNANSWERED_MAX)) {
            return None;
        }
        let news = self.sums.iter().filter(|(_, sum)| sum.uses > sum.kept);
        let news = news.map(|(of, sum)| KeyUse { of: *of, uses: sum.uses });
        let news: Vec<KeyUse> = news.take(KEY_USES_MAX).collect();
        if news.is_empty() {
            return None;
        }
        (self.told, self.told_at) = (Some((now, news.clone())), Some(now));
        Some(news)
    }

    /// What was told is kept. `minute` is the present one.
    pub(super) fn kept(&mut self, minute: u32) {
        for told in self.told.take().into_iter().flat_map(|(_, told)| told) {
            if let Some(sum) = self.sums.get_mut(&told.of) {
                sum.kept = sum.kept.max(told.uses);
            }
        }
        // A sum that were begun anew for the same minute would count for nothing beside the one that is kept.
        self.sums.retain(|of, sum| sum.uses > sum.kept || of.minute.saturating_add(OPEN_MINUTES) >= minute);
    }

    /// The connection is another one: nobody answers what was told on the last.
    pub(super) fn start_over(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refused;
    use wire::id::KeyDigest;
    use wire::key_use::Reason;

    fn of(minute: u32) -> UseOf {
        UseOf { minute, digest: KeyDigest([1; 32]), reason: Reason::Expired }
    }

    fn told(uses: Option<Vec<KeyUse>>) -> Vec<(u32, u64)> {
        uses.unwrap_or_default().iter().map(|one| (one.of.minute, one.uses)).collect()
    }

    #[test]
    fn sums_of_the_run_are_told_until_they_are_kept() {
        let (out, from_workers) = refused::channel();
        let mut uses = KeyUses::new(from_workers);
        let mut now = Instant::now();
        let count = |uses: &mut KeyUses, minute, count| {
            out.send(Uses::from([(of(minute), count)])).unwrap();
            uses.take_over();
        };
        assert!(uses.due(now).is_none(), "there is nothing");
        count(&mut uses, 9, 2);
        assert_eq!(told(uses.due(now)), [(9, 2)]);
        count(&mut uses, 9, 1);
        now += TELL_INTERVAL;
        assert!(uses.due(now).is_none(), "the last ones are not answered");
        now += UNANSWERED_MAX;
        assert_eq!(told(uses.due(now)), [(9, 3)], "told again, with what has come");
        count(&mut uses, 9, 1);
        uses.kept(9);
        assert!(uses.due(now).is_none(), "not that soon");
        now += TELL_INTERVAL;
        assert_eq!(told(uses.due(now)), [(9, 4)]);
        uses.start_over();
        now += TELL_INTERVAL;
        assert_eq!(told(uses.due(now)), [(9, 4)], "on another connection");
        uses.kept(9 + OPEN_MINUTES);
        count(&mut uses, 9, 1);
        now += TELL_INTERVAL;
        assert_eq!(told(uses.due(now)), [(9, 5)], "it was not begun anew");
        uses.kept(9 + OPEN_MINUTES + 1);
        assert!(uses.sums.is_empty());
    }

    #[test]
    fn while_nobody_takes_them_the_oldest_go_first() {
        let (out, from_workers) = refused::channel();
        let mut uses = KeyUses::new(from_workers);
        for minute in 0..u32::try_from(HELD_MAX).unwrap() + 10 {
            out.send(Uses::from([(of(minute), 1)])).unwrap();
            uses.take_over();
        }
        assert_eq!((uses.sums.len(), uses.sums.keys().next().unwrap().minute), (HELD_MAX, 10));
        assert_eq!(told(uses.due(Instant::now())).len(), KEY_USES_MAX);
    }
}
