//! Processes that end without stopping, and disks that damage what they hold. A dropped pipeline writes
//! nothing more.

use super::*;

/// Never seals by itself.
fn unsealed(place: &Place, boot: u64) -> PipelineConfig {
    PipelineConfig { seal_interval: Duration::from_secs(3600), ..place.config(boot) }
}

/// A process with ten events that are written and in no batch, killed.
fn killed_with_ten_unsealed(place: &Place, boot: u64) -> Vec<(BootId, EventSeq)> {
    let (pipeline, mut pools) = start(unsealed(place, boot));
    let seqs = (0..10).map(|_| (BootId(boot), settle(&mut pools[0], NOON))).collect();
    until("written", || pipeline.figures().appended == 10);
    drop(pipeline);
    seqs
}

fn run_to_the_end(place: &Place, boot: u64) -> Figures {
    let (pipeline, _pools) = start(place.config(boot));
    let figures = pipeline.stop(soon());
    assert_eq!(figures.pending, 0);
    assert_balanced(&figures);
    figures
}

#[test]
fn a_seal_without_ack_is_sent_again_with_its_number_and_its_events() {
    let place = Place::new();
    let control = place.control(Script::Silence);
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 2, ..place.config(1) });
    let seqs: Vec<_> = (0..12).map(|_| (BootId(1), settle(&mut pools[0], NOON))).collect();
    until("sealed and sent", || pipeline.figures().sealed == 12 && control.received().len() == 4);
    drop(pipeline);
    let before = control.received();
    control.follow(Script::Store);
    let figures = run_to_the_end(&place, 2);
    let after = control.received().split_off(before.len());
    assert_eq!(after.len() as u64, figures.batches);
    assert!(
        after.iter().all(|b| b.resent && b.spool == BootId(1)),
        "a seal found at start may have been sent"
    );
    for (first, again) in before.iter().zip(&after) {
        assert_eq!((first.batch, &first.events), (again.batch, &again.events));
    }
    assert_eq!(control.stored_seqs(), seqs);
    assert_eq!((figures.found, figures.acked, figures.adopted), (12, 12, 0));
}

#[test]
fn what_is_acked_is_not_sent_again_by_the_next_process() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 1, ..place.config(1) });
    settle_many(&mut pools[0], 5);
    until("acked", || pipeline.figures().acked == 5);
    drop(pipeline);
    run_to_the_end(&place, 2);
    run_to_the_end(&place, 3);
    assert_eq!(control.received().len(), 5);
}

#[test]
fn the_unsealed_tail_of_a_killed_process_is_stored_once_under_the_new_spool() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let seqs = killed_with_ten_unsealed(&place, 1);
    let figures = run_to_the_end(&place, 2);
    assert_eq!((figures.adopted, figures.acked), (10, 10));
    assert_eq!(control.stored_seqs(), seqs);
    assert!(control.received().iter().all(|b| b.spool == BootId(2)));
    assert_eq!(run_to_the_end(&place, 3).adopted, 0);
    assert_eq!(control.stored_seqs(), seqs);
}

#[test]
fn slots_of_a_killed_process_are_adopted_once() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (pipeline, mut pools) = start(unsealed(&place, 1));
    let written = settle(&mut pools[0], NOON);
    until("written", || pipeline.figures().appended == 1);
    let open = pools[1].open(&UsageEvent { ts_ms: NOON, ..UsageEvent::default() }).unwrap();
    let cut = open.seq();
    std::mem::forget(open);
    drop(pipeline);
    // Nobody writes this one.
    let settled = settle(&mut pools[0], NOON);
    let figures = run_to_the_end(&place, 2);
    assert_eq!((figures.adopted, figures.acked), (3, 3));
    let mut expected = [written, settled, cut].map(|seq| (BootId(1), seq));
    expected.sort_unstable();
    assert_eq!(control.stored_seqs(), expected);
    let row = control.stored().into_iter().find(|e| e.seq == cut).unwrap();
    assert_eq!((row.status, row.usage_source), (499, UsageSource::None));
    assert!(!place.slots(1).exists());
    run_to_the_end(&place, 3);
    assert_eq!(control.stored_seqs(), expected);
}

#[test]
fn a_slot_whose_record_is_written_already_is_not_adopted() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (pipeline, mut pools) = start(unsealed(&place, 1));
    let seq = settle(&mut pools[0], NOON);
    until("written", || pipeline.figures().appended == 1);
    drop(pipeline);
    // As if killed between the record and the freeing of the slot: the state word is settled again. The first
    // slot of the first worker stands behind the header's page and the workers' page.
    let mut bytes = fs::read(place.slots(1)).unwrap();
    assert_eq!((bytes[8192], &bytes[8216..8224]), (0, &seq.0.to_le_bytes()[..]));
    bytes[8192] = 2;
    fs::write(place.slots(1), bytes).unwrap();
    let figures = run_to_the_end(&place, 2);
    assert_eq!((figures.adopted, control.stored_seqs()), (1, vec![(BootId(1), seq)]));
}

#[test]
fn a_crash_between_taking_over_and_the_mark_for_it_doubles_nothing() {
    for sealed in [false, true] {
        let place = Place::new();
        let seqs = killed_with_ten_unsealed(&place, 1);
        // What process 2 had done when it was killed: all events in its spool, no mark in spool 1, slots
        // still there.
        let dir = place.spool(2);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("lock"), b"").unwrap();
        let header = SegmentHeader { spool: BootId(2), node: NODE, first: Position(0), created_ms: 1 };
        let mut segment = Segment::create(&Os, &dir, &header, ANNEX_BYTES).unwrap();
        let mut bytes = Vec::new();
        for (position, record) in records(&place.spool(1)) {
            wire::record::append(&mut bytes, position, &record);
        }
        if sealed {
            let seal =
                Seal { batch: BatchSeq(1), first: Position(0), last: Position(9), day: 20_000, count: 10 };
            wire::record::append(&mut bytes, Position(10), &Record::Seal(seal));
        }
        segment.append(&bytes).unwrap();

        let control = place.control(Script::Store);
        let figures = run_to_the_end(&place, 3);
        assert_eq!(control.stored_seqs(), seqs, "sealed: {sealed}");
        assert_eq!((figures.adopted, figures.found), if sealed { (0, 10) } else { (10, 0) });
        run_to_the_end(&place, 4);
        assert_eq!(control.stored_seqs(), seqs);
    }
}

#[test]
fn a_taken_over_tail_survives_the_crash_of_who_took_it() {
    let place = Place::new();
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 10, ..unsealed(&place, 1) });
    let seqs: Vec<_> = (0..12).map(|_| (BootId(1), settle(&mut pools[0], NOON))).collect();
    until("written", || pipeline.figures().appended == 12 && pipeline.figures().sealed == 10);
    drop(pipeline);
    for boot in 2..5 {
        let (pipeline, _pools) = start(unsealed(&place, boot));
        let figures = pipeline.figures();
        assert_eq!((figures.adopted, figures.found), (2, 10));
        let mark = (Position(12), Record::Adopted { by: BootId(2) });
        assert_eq!(records(&place.spool(1)).last(), Some(&mark), "once");
    }
    let control = place.control(Script::Store);
    run_to_the_end(&place, 5);
    assert_eq!(control.stored_seqs(), seqs);
}

#[test]
fn a_living_process_is_left_alone() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let (one, mut pools) = start(unsealed(&place, 1));
    settle(&mut pools[0], NOON);
    until("written", || one.figures().appended == 1);
    let figures = run_to_the_end(&place, 2);
    assert_eq!((figures.adopted, figures.found, figures.acked), (0, 0, 0));
    assert!(control.stored().is_empty());
    assert_eq!(one.stop(soon()).acked, 1);
    assert_eq!(control.stored().len(), 1);
}

#[test]
fn two_processes_with_one_boot_id_are_refused() {
    let place = Place::new();
    let (_pipeline, _pools) = start(place.config(1));
    let error = Pipeline::start(place.config(1)).unwrap_err();
    assert!(error.to_string().contains("make"), "{error}");
}

#[test]
fn damage_in_the_middle_loses_only_what_it_hit_and_is_set_aside() {
    let place = Place::new();
    let (pipeline, mut pools) = start(PipelineConfig { seal_events: 10, ..unsealed(&place, 1) });
    let seqs: Vec<_> = (0..35).map(|_| (BootId(1), settle(&mut pools[0], NOON))).collect();
    until("written and sealed", || {
        let figures = pipeline.figures();
        (figures.appended, figures.sealed) == (35, 30)
    });
    drop(pipeline);
    let path = place.spool(1).join(list(&Os, &place.spool(1)).unwrap()[0].to_string());
    let mut bytes = fs::read(&path).unwrap();
    let spots: Vec<usize> = Scan::new(&bytes)
        .filter_map(|found| match found {
            Found::Record { at, record: Record::Event(_), position } if [12, 33].contains(&position.0) => {
                Some(at)
            }
            // The third batch's seal goes, too.
            Found::Record { at, record: Record::Seal(seal), .. } if seal.batch == BatchSeq(3) => Some(at),
            _ => None,
        })
        .collect();
    assert_eq!(spots.len(), 3);
    spots.iter().for_each(|at| bytes[at + 30] ^= 0xff);
    fs::write(&path, bytes).unwrap();

    let control = place.control(Script::Store);
    let figures = run_to_the_end(&place, 2);
    let stored = control.stored_seqs();
    let missing: Vec<usize> = (0..35).filter(|at| !stored.contains(&seqs[*at])).collect();
    assert_eq!(missing, [12, 33]);
    assert_eq!((stored.len(), figures.lost), (33, 2));
    assert!(figures.damaged_bytes > 0);
    let kept = fs::read_dir(place.dir.path().join("data/set_aside")).unwrap().count();
    assert_eq!(kept, 3);
}

#[test]
fn a_torn_tail_costs_nothing_that_was_whole() {
    let place = Place::new();
    let seqs = killed_with_ten_unsealed(&place, 1);
    let path = place.spool(1).join(list(&Os, &place.spool(1)).unwrap()[0].to_string());
    let mut bytes = fs::read(&path).unwrap();
    let end = SEGMENT_HEADER_BYTES + 10 * wire::record::EVENT_RECORD_BYTES;
    bytes[end..end + 77].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let control = place.control(Script::Store);
    let figures = run_to_the_end(&place, 2);
    assert_eq!((control.stored_seqs(), figures.lost, figures.damaged_bytes), (seqs, 0, 0));
}

#[test]
fn whatever_stands_in_the_directories_a_start_does_not_fail() {
    let place = Place::new();
    let seqs = killed_with_ten_unsealed(&place, 1);
    let spools = place.dir.path().join("data/spool");
    fs::create_dir(spools.join(BootId(7).to_string())).unwrap();
    fs::create_dir(spools.join("00000000000000ff.deleted")).unwrap();
    fs::write(spools.join("notes"), b"x").unwrap();
    fs::write(place.spool(1).join("00000000000000aa.seg"), b"LTSPOOL1").unwrap();
    fs::write(place.spool(1).join("00000000000000bb.seg"), vec![0x77; 9999]).unwrap();
    fs::create_dir(place.spool(1).join("00000000000000cc.seg")).unwrap();
    fs::write(place.slots(8), b"short").unwrap();
    let control = place.control(Script::Store);
    let (pipeline, _pools) = start(place.config(2));
    pipeline.stop(soon());
    assert_eq!(control.stored_seqs(), seqs);
}

#[test]
fn a_spool_of_the_past_is_deleted_once_all_of_it_is_acked_and_retention_is_over() {
    let place = Place::new();
    let control = place.control(Script::Silence);
    let (pipeline, mut pools) = start(place.config(1));
    settle(&mut pools[0], NOON);
    until("sent", || control.received().len() == 1);
    drop(pipeline);
    let (pipeline, _pools) = start(PipelineConfig { retention: Duration::ZERO, ..place.config(2) });
    until("sent again", || control.received().len() == 2);
    assert!(place.spool(1).exists());
    drop(pipeline);
    control.follow(Script::Store);
    let (pipeline, _pools) = start(place.config(3));
    until("acked", || pipeline.figures().acked == 1);
    drop(pipeline);
    assert!(matches!(records(&place.spool(1)).last(), Some((_, Record::AckedTo { batch: BatchSeq(1), .. }))));
    let (pipeline, _pools) = start(PipelineConfig { retention: Duration::ZERO, ..place.config(4) });
    until("deleted", || !place.spool(1).exists());
    drop(pipeline);
}

#[test]
fn a_row_of_killed_processes_loses_and_doubles_nothing() {
    let place = Place::new();
    let control = place.control(Script::Store);
    let mut expected = Vec::new();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    for boot in 1..15 {
        control.follow([Script::Store, Script::HangUp, Script::Silence][usize::try_from(random(3)).unwrap()]);
        let config = PipelineConfig { seal_events: 40, slots_per_worker: 512, ..place.config(boot) };
        let (pipeline, pools) = start(config);
        let (counts, kill_at) = ([random(400), random(400)], random(300));
        std_thread::scope(|scope| {
            let workers: Vec<_> = pools
                .into_iter()
                .zip(counts)
                .map(|(mut pool, count)| {
                    scope.spawn(move || {
                        // Some find no slot once nobody frees them; the rest stays in the slots.
                        let event = UsageEvent { ts_ms: NOON, status: 200, ..UsageEvent::default() };
                        let slots = (0..count).filter_map(|_| pool.open(&event));
                        slots.map(|slot| (slot.seq(), slot.settle(&event)).0).collect::<Vec<_>>()
                    })
                })
                .collect();
            until("some are written", || pipeline.figures().appended >= kill_at.min(counts[0]));
            drop(pipeline);
            for worker in workers {
                expected.extend(worker.join().unwrap().into_iter().map(|seq| (BootId(boot), seq)));
            }
        });
    }
    control.follow(Script::Store);
    run_to_the_end(&place, 99);
    expected.sort_unstable();
    assert_eq!(control.stored_seqs(), expected);
}

#[test]
fn a_start_that_failed_leaves_nothing_that_the_next_one_keeps() {
    let place = Place::new();
    let (pipeline, _pools) = start(place.config(1));
    drop(pipeline);
    assert!(place.spool(1).exists());
    run_to_the_end(&place, 2);
    assert!(!place.spool(1).exists());
}

#[test]
fn a_start_that_fails_leaves_no_slots() {
    let place = Place::new();
    // Slots of another process that can't be read.
    fs::create_dir_all(place.slots(8)).unwrap();
    for boot in 1..3 {
        Pipeline::start(place.config(boot)).unwrap_err();
    }
    let left: Vec<_> =
        fs::read_dir(place.dir.path().join("run")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [place.slots(8)]);
    // Nor where there is no room for them.
    let config = PipelineConfig { slots_per_worker: u32::MAX, ..place.config(3) };
    Pipeline::start(config).unwrap_err();
    assert_eq!(fs::read_dir(place.dir.path().join("run")).unwrap().count(), 1);
}
