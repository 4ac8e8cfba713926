//! Ingest: a backlog of full batches through a real control plane into the embedded ClickHouse.
//!
//! The bench is the data plane: it speaks to the control plane's socket and keeps as many batches on their
//! way as a data plane does, so what it sees is how fast a backlog drains. CPU is that of the control plane
//! and of the whole engine, merges and fsync included, up to the last acknowledgement. Both share the
//! machine's two cores. The rows are of ten thousand keys, each as likely as the other, which is the most
//! that rows on disk can differ; bytes of a row are those of all columns, indexes and projections.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use load_tests::harness::{Setup, System};
use wire::event::{BATCH_EVENTS_MAX, DAY_MS, Endpoint, Tokens, UsageEvent, UsageSource};
use wire::frame::{Frame, Hello, Role};
use wire::id::{BatchSeq, BootId, EventSeq, Generation, NodeId, RegistryId};

use crate::cpu::CpuTime;
use crate::machine::Machine;
use crate::stats::Estimate;
use population::Population;

/// Keys, and whose they are.
mod population;

/// As many as a data plane has on their way.
const IN_FLIGHT: usize = 4;
const BATCHES: u64 = 20;
const BATCHES_QUICK: u64 = 4;
const KEYS: usize = 10_000;
const KEYS_QUICK: usize = 500;
const PATIENCE: Duration = Duration::from_secs(120);

struct Round {
    rows_s: f64,
    rows_per_core_s: f64,
    own_us: f64,
    engine_us: f64,
}

/// Measures and prints.
pub(crate) fn run(rounds: u16, quick: bool) -> anyhow::Result<()> {
    let system = System::start(&Setup::demo())?;
    let keys = if quick { KEYS_QUICK } else { KEYS };
    let mut sender = Sender::connect(&system, Population::make(&system, keys)?)?;
    let batches = if quick { BATCHES_QUICK } else { BATCHES };
    // Schema and names are looked up with the first batch.
    sender.send_all(1, BATCH_EVENTS_MAX)?;
    println!("{}\n\nRows of {keys} keys.\n", Machine::this());
    println!(
        "| batches of | rows/s | rows/s per core of the control plane | CPU µs a row: ours | ClickHouse |"
    );
    println!("|---|---|---|---|---|");
    for size in [BATCH_EVENTS_MAX, BATCH_EVENTS_MAX / 10, BATCH_EVENTS_MAX / 100] {
        let all = (0..rounds)
            .map(|_| measure(&system, &mut sender, batches, size))
            .collect::<anyhow::Result<Vec<Round>>>()?;
        let of = |field: fn(&Round) -> f64| Estimate::of(all.iter().map(field).collect()).median;
        println!(
            "| {size} | {:.0} | {:.0} | {:.2} | {:.2} |",
            of(|round| round.rows_s),
            of(|round| round.rows_per_core_s),
            of(|round| round.own_us),
            of(|round| round.engine_us)
        );
    }
    println!();
    sizes(&system);
    Ok(())
}

/// Bytes of a row, in parts as inserts and merges have left them.
fn sizes(system: &System) {
    let rows = system.count("SELECT count() FROM usage_events");
    for table in ["usage_events", "batches"] {
        let of = |what: &str| {
            let sql = format!(
                "SELECT {what} FROM system.parts WHERE active AND database = 'liutong' AND table = '{table}'"
            );
            system.count(&sql)
        };
        let bytes = of("sum(bytes_on_disk)") as f64 / rows as f64;
        println!("{table}: {bytes:.1} bytes a row on disk ({rows} rows, {} parts)", of("count()"));
    }
    let columns = "SELECT concat(column, ' ', toString(round(sum(column_bytes_on_disk) / sum(rows), 2)))
        FROM system.parts_columns WHERE active AND database = 'liutong' AND table = 'usage_events'
        GROUP BY column HAVING sum(column_bytes_on_disk) / sum(rows) >= 0.3
        ORDER BY sum(column_bytes_on_disk) DESC";
    println!("of usage_events: {}", system.clickhouse(columns).replace('\n', ", "));
}

fn measure(system: &System, sender: &mut Sender, batches: u64, size: usize) -> anyhow::Result<Round> {
    let pids = system.pids()?;
    let (own, engine) = (CpuTime::of(&[pids.controlplane])?, CpuTime::of(&[pids.clickhouse])?);
    let begun = Instant::now();
    sender.send_all(batches, size)?;
    let seconds = begun.elapsed().as_secs_f64();
    let rows = (batches * size as u64) as f64;
    let own_ns = (CpuTime::of(&[pids.controlplane])? - own).total_ns as f64;
    let engine_ns = (CpuTime::of(&[pids.clickhouse])? - engine).total_ns as f64;
    Ok(Round {
        rows_s: rows / seconds,
        rows_per_core_s: rows / (own_ns / 1e9),
        own_us: own_ns / 1e3 / rows,
        engine_us: engine_ns / 1e3 / rows,
    })
}

/// A data plane with a backlog.
struct Sender {
    stream: UnixStream,
    received: Vec<u8>,
    batch: u64,
    numbers: u64,
    random: u64,
    population: Population,
}

impl Sender {
    fn connect(system: &System, population: Population) -> anyhow::Result<Self> {
        let socket = system.ready.data_dir.join("run/control.sock");
        let stream = UnixStream::connect(&socket).with_context(|| socket.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self {
            stream,
            received: Vec::new(),
            batch: 0,
            numbers: 0,
            random: 88_172_645_463_325_252,
            population,
        };
        let hello = Hello {
            role: Role::Ship,
            node: NodeId(0xbe),
            boot: BootId(0xbe),
            registry: RegistryId(0),
            generation: Generation(0),
        };
        this.stream.write_all(&Frame::Hello(hello).to_bytes())?;
        ensure!(matches!(this.receive()?, Frame::Welcome { .. }), "the control plane does not welcome us");
        Ok(this)
    }

    fn send_all(&mut self, batches: u64, size: usize) -> anyhow::Result<()> {
        let mut under_way = 0;
        for _ in 0..batches {
            if under_way == IN_FLIGHT {
                self.stored()?;
                under_way -= 1;
            }
            let events = self.events(size);
            self.batch += 1;
            let frame =
                Frame::Batch { spool: BootId(0xbe), batch: BatchSeq(self.batch), resent: false, events };
            self.stream.write_all(&frame.to_bytes())?;
            under_way += 1;
        }
        (0..under_way).try_for_each(|_| self.stored())
    }

    fn stored(&mut self) -> anyhow::Result<()> {
        match self.receive()? {
            Frame::Stored { refused, .. } => {
                ensure!(refused.is_empty(), "{} events were refused", refused.len());
                Ok(())
            }
            other => bail!("{other:?} instead of an acknowledgement"),
        }
    }

    fn receive(&mut self) -> anyhow::Result<Frame> {
        let mut piece = [0; 4096];
        loop {
            if let Some((frame, used)) = Frame::decode(&self.received)? {
                self.received.drain(..used);
                return Ok(frame);
            }
            let read = self.stream.read(&mut piece)?;
            ensure!(read > 0, "the control plane closed the connection");
            self.received.extend_from_slice(&piece[..read]);
        }
    }

    /// Events as they come: a hundred thousand in ten seconds, of two workers and all keys, with tokens and
    /// durations that are spread as in practice: most are small, some are long.
    fn events(&mut self, count: usize) -> Vec<u8> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(0);
        // Of one day, also around midnight.
        let day = now_ms / DAY_MS * DAY_MS;
        (0..count as u64)
            .flat_map(|index| {
                self.numbers += 1;
                let latency_ms = self.spread(200, 8);
                let (prompt, completion) = (self.spread(60, 8), self.spread(15, 6));
                let (n, choice) = (self.next(), self.next());
                let (attribution, alias, deployment) = self.population.who(n, choice);
                UsageEvent {
                    ts_ms: (now_ms - count as u64 / 10 + index / 10).max(day),
                    boot: BootId(0xbe),
                    seq: EventSeq::admitted((self.numbers % 2) as u16, self.numbers / 2 + 1),
                    attribution,
                    alias,
                    deployment,
                    status: 200,
                    endpoint: Endpoint::ChatCompletions,
                    stream: self.below(2) == 0,
                    usage_source: UsageSource::Final,
                    attempts: 1,
                    tokens: Tokens { prompt, completion, total: prompt + completion, ..Tokens::default() },
                    latency_ms,
                    ttft_ms: latency_ms / 4,
                }
                .encode()
            })
            .collect()
    }

    /// xorshift64: the same in each run.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap_or(0)
    }

    /// Up to `least`, doubled up to `doublings` times, fewer being as likely as more.
    fn spread(&mut self, least: u32, doublings: u32) -> u32 {
        let scale = least << self.below(doublings);
        scale / 2 + self.below(scale)
    }
}
