//! Batches that are being stored, for whoever must not act in the middle of one.
//!
//! A batch is named first and stored then, which takes as long as ClickHouse is away. What is erased in
//! between would come in under its old ids; so an erasure waits for the batches that began before it, and not
//! for those that begin meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;

#[derive(Default)]
struct Begun {
    next: u64,
    numbers: BTreeSet<u64>,
}

/// The batches that are under way, numbered as they began.
#[derive(Default)]
pub(super) struct UnderWay(watch::Sender<Begun>);

/// A batch, until it is dropped.
pub(super) struct Ticket<'u> {
    under_way: &'u UnderWay,
    number: u64,
}

impl UnderWay {
    pub(super) fn begin(&self) -> Ticket<'_> {
        let mut number = 0;
        self.0.send_modify(|begun| {
            number = begun.next;
            begun.next += 1;
            begun.numbers.insert(number);
        });
        Ticket { under_way: self, number }
    }

    /// Waits for the batches that have begun; false where one of them takes longer.
    pub(super) async fn end(&self, at_most: Duration) -> bool {
        let mut begun = self.0.subscribe();
        let next = begun.borrow().next;
        let ended = begun.wait_for(|begun| begun.numbers.first().is_none_or(|first| *first >= next));
        tokio::time::timeout(at_most, ended).await.is_ok()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.under_way.0.send_modify(|begun| {
            begun.numbers.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_has_begun_is_waited_for_each_time_and_what_begins_later_is_not() {
        let under_way = UnderWay::default();
        assert!(under_way.end(SOON).await);
        let (first, second) = (under_way.begin(), under_way.begin());
        for _ in 0..2 {
            assert!(!under_way.end(Duration::ZERO).await);
        }
        drop(second);
        let end = async { (under_way.end(SOON).await, under_way.0.borrow().numbers.len()) };
        let meanwhile = async {
            let later = under_way.begin();
            drop(first);
            later
        };
        // In this order: it is waited for before the later one begins.
        let (ended, _later) = tokio::join!(biased; end, meanwhile);
        assert_eq!(ended, (true, 1));
    }
}
