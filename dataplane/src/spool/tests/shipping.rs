//! Without crashes: settled events are stored once and in order, whatever the control plane does.

use super::*;

#[test]
fn settled_events_are_stored_once_and_in_order() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (pipeline, mut pools) = start(place.config(1));
    let mut expected = Vec::new();
    for at in 0..1000 {
        expected.push(settle(&mut pools[at % 2], NOON + at as u64));
    }
    let figures = pipeline.stop(soon());
    for worker in 0..2 {
        let of = |seq: &EventSeq| seq.0 >> 48 == worker;
        let stored: Vec<_> = control.stored().iter().map(|e| e.seq).filter(of).collect();
        let expected: Vec<_> = expected.iter().copied().filter(of).collect();
        assert_eq!(stored, expected);
    }
    assert_eq!((figures.acked, figures.pending, figures.in_flight), (1000, 0, 0));
    assert_balanced(&figures);
    let received = control.received();
    assert!(received.iter().zip(1..).all(|(batch, number)| batch.batch.0 == number && !batch.resent));
    assert!(!place.slots(1).exists(), "nothing is left in slots");
}

#[test]
fn stop_ships_everything_that_was_settled() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let config = PipelineConfig { seal_interval: Duration::from_secs(3600), ..place.config(1) };
    let (pipeline, mut pools) = start(config);
    let seqs: Vec<_> = (0..50).map(|_| (BootId(1), settle(&mut pools[0], NOON))).collect();
    pipeline.stop(soon());
    assert_eq!(control.stored_seqs(), seqs);
}

#[test]
fn stop_without_a_control_plane_ends_at_its_deadline_and_loses_nothing() {
    let place = Place::new();
    let (pipeline, mut pools) = start(place.config(1));
    let seq = settle(&mut pools[0], NOON);
    until("sealed", || pipeline.figures().sealed == 1);
    let begun = Instant::now();
    let figures = pipeline.stop(Instant::now());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!((figures.pending, figures.connected), (1, false));

    let control = place.control(Script::Store);
    let (next, _pools) = start(place.config(2));
    next.stop(soon());
    assert_eq!(control.stored_seqs(), [(BootId(1), seq)]);
}

#[test]
fn two_days_are_two_batches() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let config = PipelineConfig { seal_interval: Duration::from_secs(3600), ..place.config(1) };
    let (pipeline, mut pools) = start(config);
    for day in [0, 1, 0, 1, 1] {
        settle(&mut pools[0], NOON + day * DAY_MS);
    }
    pipeline.stop(soon());
    let days: Vec<Vec<u32>> =
        control.received().iter().map(|b| b.events().iter().map(|e| e.day() - 20_000).collect()).collect();
    assert_eq!(days, [vec![0, 0], vec![1, 1, 1]]);
}

#[test]
fn a_batch_has_at_most_the_configured_number_of_events() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 7, ..place.config(1) });
    settle_many(&mut pools[0], 100);
    pipeline.stop(soon());
    let sizes: Vec<usize> = control.received().iter().map(|b| b.events().len()).collect();
    assert!(sizes.iter().all(|size| *size <= 7), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 100);
}

#[test]
fn after_a_lost_connection_the_same_bytes_are_sent_again_and_marked() {
    let place = Place::new();
    let control = place.control(Script::HangUp);
    let (pipeline, mut pools) = start(place.config(1));
    for day in [0, 1, 0, 1] {
        settle(&mut pools[0], NOON + day * DAY_MS);
    }
    until("sent twice", || control.received().len() >= 2);
    control.follow(Script::Store);
    settle_many(&mut pools[1], 10);
    let figures = pipeline.stop(soon());
    let received = control.received();
    let first: Vec<_> = received.iter().filter(|b| b.batch == BatchSeq(1)).collect();
    assert!(first.len() >= 2);
    assert!(!first[0].resent && first[1..].iter().all(|again| again.resent));
    for again in &received {
        let one = received.iter().find(|b| b.batch == again.batch).unwrap();
        assert_eq!(one.events, again.events);
    }
    assert_eq!(control.stored_seqs().len(), 14);
    assert!(figures.resent >= 1);
    assert_balanced(&figures);
}

#[test]
fn a_control_plane_that_says_nothing_is_left_and_tried_again() {
    let place = Place::new();
    let control = place.control(Script::Silence);
    let config = PipelineConfig { answer_timeout: Duration::from_millis(50), ..place.config(1) };
    let (pipeline, mut pools) = start(config);
    settle(&mut pools[0], NOON);
    until("sent again", || control.received().len() >= 2);
    control.follow(Script::Store);
    assert_eq!(pipeline.stop(soon()).acked, 1);
    assert_eq!(control.stored().len(), 1);
}

#[test]
fn at_most_four_batches_wait_for_an_answer() {
    let place = Place::new();
    let control = place.control(Script::Silence);
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 1, ..place.config(1) });
    settle_many(&mut pools[0], 20);
    until("all sealed and four sent", || pipeline.figures().sealed == 20 && control.received().len() == 4);
    let figures = pipeline.stop(Instant::now());
    assert_eq!((control.received().len(), figures.pending), (4, 20));
}

#[test]
fn refused_rows_are_set_aside_and_counted() {
    let place = Place::new();
    let _control = place.control(Script::RefuseFirst);
    let config = PipelineConfig { seal_interval: Duration::from_secs(3600), ..place.config(1) };
    let (pipeline, mut pools) = start(config);
    let refused = settle(&mut pools[0], NOON);
    settle_many(&mut pools[0], 4);
    let figures = pipeline.stop(soon());
    assert_eq!((figures.acked, figures.set_aside, figures.pending), (4, 1, 0));
    assert_balanced(&figures);
    let path = place.dir.path().join("data/set_aside").join(format!("{}.events", BootId(1)));
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    bytes.extend(fs::read(path).unwrap());
    let kept: Vec<_> = Scan::new(&bytes).collect();
    let [Found::Record { record: Record::Event(event), .. }] = kept[..] else { panic!("{kept:?}") };
    assert_eq!(event.seq, refused);
}

#[test]
fn every_sync_policy_stores_everything_and_syncs_before_it_sends() {
    for sync in [SyncPolicy::Always, SyncPolicy::Interval, SyncPolicy::Never] {
        let place = Place::new();
        let control = place.control(Script::Store);
        let (pipeline, mut pools) = start(PipelineConfig { sync, ..place.config(1) });
        settle_many(&mut pools[0], 200);
        pipeline.stop(soon());
        assert_eq!(control.stored().len(), 200, "{sync:?}");
    }
}

#[test]
fn acked_segments_stay_for_the_retention_and_go_after_it() {
    for (retention, stays) in [(Duration::ZERO, false), (Duration::from_secs(3600), true)] {
        let place = Place::new();
        let _control = place.control(Script::Store);
        let config = PipelineConfig {
            retention,
            slots_per_worker: 20_000,
            sync: SyncPolicy::Never,
            ..place.config(1)
        };
        let (pipeline, mut pools) = start(config);
        let first = list(&Os, &place.spool(1)).unwrap()[0];
        // More than a segment holds.
        settle_many(&mut pools[0], 170_000);
        until("all acked", || pipeline.figures().acked == 170_000);
        let path = place.spool(1).join(first.to_string());
        if stays {
            until("looked at", || pipeline.figures().segments == 2);
        }
        until("kept or deleted", || path.exists() == stays);
        pipeline.stop(soon());
    }
}

#[test]
fn while_the_disk_does_not_take_events_the_slots_keep_them_and_full_is_said() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let config = PipelineConfig { slots_per_worker: 20_000, seal_events: 50_000, ..place.config(1) };
    let (pipeline, mut pools) = start(config);
    // No further segment can be made; the present one is used up in time.
    let (dir, away) = (place.spool(1), place.dir.path().join("away"));
    fs::rename(&dir, &away).unwrap();
    let event = UsageEvent { ts_ms: NOON, ..UsageEvent::default() };
    let mut admitted = 0_u64;
    until("full, and no slot is free", || {
        while let Some(slot) = pools[0].open(&event) {
            slot.settle(&event);
            admitted += 1;
        }
        pipeline.is_full()
    });
    let figures = pipeline.figures();
    assert!(figures.in_flight > 0 && figures.disk_errors > 0, "{figures:?}");
    assert_eq!(figures.admitted, admitted);
    fs::rename(&away, &dir).unwrap();
    until("not full", || !pipeline.is_full());
    let figures = pipeline.stop(soon());
    assert_eq!((figures.acked, figures.in_flight), (admitted, 0));
    assert_eq!(control.stored().len() as u64, admitted);
    assert_balanced(&figures);
}
