//! What a power cut takes under each sync policy, by the clock of the simulated disk: nothing that was
//! written, what is younger than the interval, or what is in no batch yet.
//!
//! Nothing else goes wrong here, so that what is missing is missing by the policy. That the policies differ
//! is shown, too: without that, a disk that loses nothing would pass.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;
use wire::id::{BootId, EventSeq};

use super::world::{ROUND, SYNC_INTERVAL, World};
use crate::spool::{Phase, SyncPolicy};

const SCHEDULES: u64 = 300;
const STEPS: u64 = 150;

type Ages = BTreeMap<(BootId, EventSeq), Duration>;

/// Serves for a while, cuts the power, and starts again. Gives what was written before the cut and is not
/// stored afterwards, with its age at the cut; and how many were written.
fn lost_by_a_cut(sync: SyncPolicy, seed: u64) -> (Ages, usize) {
    let run = TempDir::new().unwrap();
    let mut world = World::new(seed, run.path());
    world.keep_to(sync);
    for _ in 0..STEPS {
        match world.random.below(100) {
            0..40 => world.serve(),
            40..70 => world.round(Phase::Run),
            70..80 => world.ship(),
            _ => world.bustle(),
        }
    }
    world.round(Phase::Run);
    let ages: Ages = {
        let state = world.host.state();
        state.written.iter().map(|(key, at)| (*key, state.now.duration_since(*at))).collect()
    };
    // What has left the machine must not be forgotten by it, whatever the policy.
    let received = world.control.received.clone();
    world.cut_power();
    world.settle_up();
    let written = ages.len();
    let stored: Vec<_> = world.control.rows.iter().map(|(_, row)| (row.boot, row.seq)).collect();
    let kept = world.set_aside();
    let lost: Ages =
        ages.into_iter().filter(|(key, _)| !stored.contains(key) && !kept.contains(key)).collect();
    assert!(lost.keys().all(|key| !received.contains(key)), "seed {seed}: sent, and then lost: {lost:?}");
    (lost, written)
}

fn all(sync: SyncPolicy) -> (Vec<Duration>, usize) {
    let (mut lost, mut written) = (Vec::new(), 0);
    for seed in 0..SCHEDULES {
        let (lost_here, written_here) = lost_by_a_cut(sync, seed);
        lost.extend(lost_here.into_values());
        written += written_here;
    }
    (lost, written)
}

#[test]
fn always_loses_nothing_that_was_written() {
    let (lost, written) = all(SyncPolicy::Always);
    assert!(written > 1000, "{written} written");
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn interval_loses_at_most_what_is_younger_than_the_interval() {
    let (lost, _) = all(SyncPolicy::Interval);
    let oldest = lost.iter().max().copied().unwrap_or_default();
    assert!(oldest < SYNC_INTERVAL + ROUND, "{oldest:?} old");
    assert!(oldest > Duration::ZERO, "nothing was lost: that shows nothing");
}

#[test]
fn never_keeps_what_is_in_a_batch_and_loses_more_than_the_interval_does() {
    let (lost, written) = all(SyncPolicy::Never);
    // That nothing of a batch is lost is in `lost_by_a_cut` and in `World::check`.
    let older = lost.iter().filter(|age| **age > SYNC_INTERVAL + ROUND).count();
    assert!(older > 0 && lost.len() < written, "{older} of {} lost, {written} written", lost.len());
}
