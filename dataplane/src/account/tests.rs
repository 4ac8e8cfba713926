//! Accounting beside a real pipeline, towards a control plane that is a Unix listener of the test's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;
use wire::event::UsageEvent;
use wire::id::Position;
use wire::record::{self, Record, Seal, SegmentHeader};
use wire::report::{Ended, Numbers};
use wire::segment_scan::SegmentName;

use super::*;
use crate::refused;
use crate::slots::pool::SlotPool;
use crate::spool::{Pipeline, PipelineConfig};

const NODE: NodeId = NodeId(7);
const BOOT: BootId = BootId(9);
const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    dir: TempDir,
    pipeline: Pipeline,
    pools: Vec<SlotPool>,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let control = Address::Unix(dir.path().join("pipeline.sock"));
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        let config = PipelineConfig::new(data, run, control, NODE, BOOT);
        let (pipeline, pools) = Pipeline::start(config).unwrap();
        Self { dir, pipeline, pools }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn files(&self) -> NumberFiles {
        NumberFiles::open(&self.data(), &self.dir.path().join("run"), NODE, BOOT).unwrap()
    }

    fn account(&self, files: NumberFiles) -> Account {
        let control = Address::Unix(self.dir.path().join("account.sock"));
        let (_, refused) = refused::channel();
        Account::start((control, NODE, BOOT), &self.data(), (self.pipeline.watch(), refused), files).unwrap()
    }

    /// What the file of this process says.
    fn numbers(&self) -> Option<Numbers> {
        numbers::read(&self.data().join("numbers").join(BOOT.to_string()), BOOT)
    }

    fn admit(&mut self, exchanges: usize) {
        (0..exchanges).for_each(|_| drop(self.pools[0].open(&UsageEvent::default()).unwrap()));
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn on_a_full_disk_accounting_starts_and_reserves_once_there_is_room() {
    let place = Place::new();
    let files = place.files();
    let new = place.data().join("numbers").join(BOOT.to_string()).with_extension("new");
    symlink("/dev/full", &new).unwrap();
    let account = place.account(files);
    assert_eq!(place.numbers(), None);
    fs::remove_file(&new).unwrap();
    until("reserved", || place.numbers().is_some_and(|numbers| numbers.ended == Ended::Runs));
    account.stop();
    assert_eq!(place.numbers().unwrap().ended, Ended::Clean);
}

#[test]
fn numbers_stay_ahead_while_the_control_plane_says_nothing() {
    let mut place = Place::new();
    let control = UnixListener::bind(place.dir.path().join("account.sock")).unwrap();
    let account = place.account(place.files());
    // It waits for the answer to its greeting.
    let (mut peer, _) = control.accept().unwrap();
    place.admit(1000);
    until("reserved", || place.numbers().unwrap().workers[0].1 > 1000);
    peer.set_nonblocking(true).unwrap();
    let mut hello = [0; 1000];
    let said = std::iter::from_fn(|| Some(peer.read(&mut hello))).find(|read| !matches!(read, Ok(1..)));
    let is_waiting = said.unwrap().unwrap_err().kind() == io::ErrorKind::WouldBlock;
    assert!(is_waiting, "it still waits");
    account.stop();
}

#[test]
fn the_last_numbers_are_written_while_the_slots_are_there() {
    let mut place = Place::new();
    let mut account = place.account(place.files());
    place.admit(3);
    account.end_numbers();
    let expected = Numbers { boot: BOOT, ended: Ended::Clean, workers: vec![(3, 3)] };
    assert_eq!(place.numbers(), Some(expected.clone()));
    account.stop();
    assert_eq!(place.numbers(), Some(expected));
}

#[test]
fn whatever_is_admitted_meanwhile_a_report_holds_us_to_nothing_that_is_not_under_way_in_it() {
    let mut place = Place::new();
    let mut worker = Worker {
        hello: Hello {
            role: Role::Account,
            node: NODE,
            boot: BOOT,
            registry: RegistryId(0),
            generation: Generation(0),
        },
        control: Address::Unix(PathBuf::new()),
        kept: Kept::default(),
        wanted: VecDeque::new(),
        is_owed: false,
        watch: place.pipeline.watch(),
        numbers: reserve::Shared::new(place.files()),
        key_uses: KeyUses::new(refused::channel().1),
        stop: Arc::default(),
        looked_at: None,
        reported: None,
    };
    let (pool, over) = (&mut place.pools[0], &AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                drop(pool.open(&UsageEvent::default()));
            }
        });
        let mut admitted = 0;
        while admitted < 100_000 {
            (worker.looked_at, worker.reported) = (None, None);
            let Report { totals, boots, .. } = worker.due_report().unwrap();
            let held_to = boots[0].workers[0].0;
            admitted = totals.in_flight + totals.appended;
            if held_to > admitted {
                over.store(true, Ordering::Relaxed);
                panic!("held to {held_to}, {totals:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// The control plane's end of an account connection.
struct Control {
    peer: UnixStream,
    bytes: Vec<u8>,
}

impl Control {
    fn accept(listener: &UnixListener) -> Self {
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut this = Self { peer, bytes: Vec::new() };
        assert!(matches!(this.next(), Frame::Hello(hello) if hello.role == Role::Account));
        let (registry, generation) = (RegistryId(1), Generation(1));
        this.say(&Frame::Welcome { registry, generation, takes_key_uses: false });
        this
    }

    fn say(&mut self, frame: &Frame) {
        self.peer.write_all(&frame.to_bytes()).unwrap();
    }

    fn next(&mut self) -> Frame {
        loop {
            if let Some((frame, used)) = Frame::decode(&self.bytes).unwrap() {
                self.bytes.drain(..used);
                return frame;
            }
            let mut piece = [0; 65536];
            let read = self.peer.read(&mut piece).unwrap();
            assert!(read > 0, "it left");
            self.bytes.extend(&piece[..read]);
        }
    }

    /// The next frame that is no report.
    fn next_but_reports(&mut self) -> Frame {
        loop {
            match self.next() {
                Frame::Report(_) => {}
                frame => return frame,
            }
        }
    }
}

/// Writes the spool of an earlier process: so many batches of an event each, all of them acknowledged.
fn acknowledged(place: &Place, spool: BootId, batches: u64) {
    let dir = place.data().join("spool").join(spool.to_string());
    fs::create_dir_all(&dir).unwrap();
    let header = SegmentHeader { spool, node: NODE, first: Position(0), created_ms: 0 };
    let mut bytes = header.encode().to_vec();
    for position in 0..batches {
        let (at, batch) = (Position(position), BatchSeq(position + 1));
        record::append(&mut bytes, at, &Record::Event(UsageEvent::default()));
        let seal = Seal { batch, first: at, last: at, day: 0, count: 1 };
        record::append(&mut bytes, Position(position + 1), &Record::Seal(seal));
    }
    let acked = Record::AckedTo { batch: BatchSeq(batches), acked_ms: 0 };
    record::append(&mut bytes, Position(batches), &acked);
    fs::write(dir.join(SegmentName { first: Position(0), copy: 0 }.to_string()), bytes).unwrap();
}

#[test]
fn what_is_kept_is_named_in_parts_and_what_is_wanted_of_it_comes_one_after_the_other() {
    let place = Place::new();
    let (spool, count) = (BootId(5), KEPT_BATCHES_MAX as u64 + 3);
    acknowledged(&place, spool, count);
    let listener = UnixListener::bind(place.dir.path().join("account.sock")).unwrap();
    let account = place.account(place.files());
    let mut control = Control::accept(&listener);
    control.say(&Frame::Recall);
    let mut named = Vec::new();
    for part in [KEPT_BATCHES_MAX, 3] {
        let Frame::Kept { spool: of, batches } = control.next_but_reports() else { panic!("{part}") };
        assert_eq!((of, batches.len()), (spool, part));
        named.extend(batches);
    }
    assert!(named.iter().map(|batch| batch.0).eq(1..=count));

    control.say(&Frame::Resend { spool, batches: named[..3].to_vec() });
    for wanted in &named[..3] {
        let Frame::Batch { batch, resent: true, .. } = control.next_but_reports() else { panic!("a batch") };
        assert_eq!(batch, *wanted);
        control.say(&Frame::Ping);
        assert_eq!(control.next_but_reports(), Frame::Pong, "not the next one before this one is stored");
        control.say(&Frame::Stored { spool, batch, refused: Vec::new() });
    }
    account.stop();
}
