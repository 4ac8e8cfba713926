//! The whole pipeline in temporary directories, against a control plane that is a thread with a real Unix
//! listener.
#![allow(clippy::disallowed_types, reason = "no worker runs here")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::thread as std_thread;

use tempfile::TempDir;
use wire::event::{DAY_MS, EVENT_BYTES, UsageEvent, UsageSource};
use wire::frame::{Frame, Role};
use wire::id::{EventSeq, Generation, RegistryId};
use wire::record::{Record, SEGMENT_HEADER_BYTES, Seal, SegmentHeader};
use wire::segment_scan::{Found, Scan};

use super::segment::{ANNEX_BYTES, Segment, list};
use super::*;

mod crashes;
mod shipping;

const PATIENCE: Duration = Duration::from_secs(30);
const NODE: NodeId = NodeId(0xabc);
const NOON: u64 = 20_000 * DAY_MS + DAY_MS / 2;

/// Waits for a condition.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(1));
    }
}

/// What the control plane does with each batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Stores it.
    Store,
    /// Takes it and closes the connection without an answer.
    HangUp,
    /// Takes it and says nothing.
    Silence,
    /// Says that its first event can never be stored.
    RefuseFirst,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    spool: BootId,
    batch: BatchSeq,
    resent: bool,
    events: Vec<u8>,
}

impl Received {
    fn events(&self) -> Vec<UsageEvent> {
        self.events.as_chunks::<EVENT_BYTES>().0.iter().map(|e| UsageEvent::decode(e).unwrap()).collect()
    }
}

/// A control plane: every batch it got, and the rows that it stored, by token.
struct ControlPlane {
    script: Arc<Mutex<Script>>,
    received: Arc<Mutex<Vec<Received>>>,
    stored: Arc<Mutex<Table>>,
}

type Table = BTreeMap<(BootId, BatchSeq), Vec<UsageEvent>>;

impl ControlPlane {
    fn start(dir: &Path, script: Script) -> Self {
        let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
        let this =
            Self { script: Arc::new(Mutex::new(script)), received: Arc::default(), stored: Arc::default() };
        let (script, received, stored) =
            (Arc::clone(&this.script), Arc::clone(&this.received), Arc::clone(&this.stored));
        std_thread::spawn(move || {
            for peer in listener.incoming() {
                // One that hangs up in the middle is the data plane being stopped.
                let _ = serve(peer.unwrap(), &script, &received, &stored);
            }
        });
        this
    }

    fn follow(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Stored events in the order of their batches.
    fn stored(&self) -> Vec<UsageEvent> {
        self.stored.lock().unwrap().values().flatten().copied().collect()
    }

    fn stored_seqs(&self) -> Vec<(BootId, EventSeq)> {
        let mut seqs: Vec<_> = self.stored().iter().map(|e| (e.boot, e.seq)).collect();
        seqs.sort_unstable();
        seqs
    }
}

fn serve(
    mut peer: UnixStream,
    script: &Mutex<Script>,
    received: &Mutex<Vec<Received>>,
    stored: &Mutex<Table>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some((frame, used)) = Frame::decode(&bytes).unwrap() {
            bytes.drain(..used);
            let Frame::Batch { spool, batch, resent, events } = frame else {
                let Frame::Hello(hello) = frame else { panic!("{frame:?}") };
                assert_eq!((hello.role, hello.node), (Role::Ship, NODE));
                let welcome = Frame::Welcome {
                    registry: RegistryId(1),
                    generation: Generation(1),
                    takes_key_uses: false,
                };
                peer.write_all(&welcome.to_bytes())?;
                continue;
            };
            let batch = Received { spool, batch, resent, events };
            received.lock().unwrap().push(batch.clone());
            let script = *script.lock().unwrap();
            let refused = match script {
                Script::HangUp => return Ok(()),
                Script::Silence => continue,
                Script::Store => vec![],
                Script::RefuseFirst => vec![0],
            };
            let rows = batch.events().split_off(refused.len());
            let token = (batch.spool, batch.batch);
            let first = stored.lock().unwrap().entry(token).or_insert_with(|| rows.clone()).clone();
            assert_eq!(first, rows, "a batch is the same each time");
            peer.write_all(&Frame::Stored { spool, batch: batch.batch, refused }.to_bytes())?;
        }
        let mut chunk = [0; 65536];
        match peer.read(&mut chunk)? {
            0 => return Ok(()),
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    fn control(&self, script: Script) -> ControlPlane {
        ControlPlane::start(self.dir.path(), script)
    }

    fn config(&self, boot: u64) -> PipelineConfig {
        let dir = self.dir.path();
        let control = Address::Unix(dir.join("control.sock"));
        let (data, run) = (dir.join("data"), dir.join("run"));
        PipelineConfig {
            workers: 2,
            slots_per_worker: 64,
            seal_interval: Duration::from_millis(20),
            ..PipelineConfig::new(data, run, control, NODE, BootId(boot))
        }
    }

    fn spool(&self, boot: u64) -> PathBuf {
        self.dir.path().join("data/spool").join(BootId(boot).to_string())
    }

    fn slots(&self, boot: u64) -> PathBuf {
        self.dir.path().join("run").join(format!("{}.slots", BootId(boot)))
    }
}

fn start(config: PipelineConfig) -> (Pipeline, Vec<SlotPool>) {
    Pipeline::start(config).unwrap()
}

/// Admits and settles an exchange that ends at `ts_ms`, waiting for a free slot.
fn settle(pool: &mut SlotPool, ts_ms: u64) -> EventSeq {
    let event = UsageEvent { ts_ms, status: 200, usage_source: UsageSource::Final, ..UsageEvent::default() };
    let mut slot = None;
    until("a free slot", || {
        slot = pool.open(&event);
        slot.is_some()
    });
    let slot = slot.unwrap();
    let seq = slot.seq();
    slot.settle(&event);
    seq
}

fn settle_many(pool: &mut SlotPool, count: usize) {
    for _ in 0..count {
        settle(pool, NOON);
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// All records of a spool, in the order of writing.
fn records(dir: &Path) -> Vec<(Position, Record)> {
    let read = |name: wire::segment_scan::SegmentName| fs::read(dir.join(name.to_string())).unwrap();
    let segments: Vec<Vec<u8>> = list(&Os, dir).unwrap().into_iter().map(read).collect();
    let found = segments.iter().flat_map(|bytes| Scan::new(bytes));
    found
        .filter_map(|found| match found {
            Found::Record { position, record, .. } => Some((position, record)),
            _ => None,
        })
        .collect()
}

/// Whether the figures of a pipeline in which nothing is left to do add up.
fn assert_balanced(figures: &Figures) {
    assert_eq!(figures.admitted, figures.in_flight + figures.appended, "{figures:?}");
    let before = figures.appended + figures.adopted + figures.found;
    let after = figures.acked + figures.pending + figures.set_aside + figures.lost;
    assert_eq!(before, after, "{figures:?}");
}
