//! Chaos: the real processes under load, while a seed decides when which of them is killed, stopped, cut off
//! or out of disk. Afterwards three ledgers are compared: what clients saw, what the upstream told, what
//! ClickHouse has.
//!
//! A seed gives the same schedule of faults and the same requests; what the machine makes of them differs.
//! `make chaos` runs it for long, the test `chaos` for some seconds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;

use crate::harness::consumption::most_resident;
use clients::Clients;
use ledgers::{Exchange, NAMED_MAX, Verdict};
use schedule::{Action, Amounts, Process, Step, schedule};
use world::World;

/// ClickHouse or the control plane away for long, under load.
pub mod away;
/// Clients that write down what they saw.
pub mod clients;
/// The comparison.
pub mod ledgers;
/// Proxies that pass bytes, or do not.
pub mod line;
/// What ClickHouse has.
mod rows;
/// What happens when.
pub mod schedule;
/// The processes, and what is done to them.
pub mod world;

/// After the last fault the clients go on for so long.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What decides.
    pub seed: u64,
    /// How much happens.
    pub amounts: Amounts,
    /// Exchanges a second.
    pub rate: f64,
    /// How many clients send them.
    pub clients: usize,
    /// Says what happens as it happens.
    pub is_loud: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Of the ledgers.
    pub verdict: Verdict,
    /// What `liutong usage verify` said.
    pub verified: Value,
    /// How long the clients sent.
    pub lasted: Duration,
    /// Processes that were killed.
    pub kills: BTreeMap<&'static str, u32>,
    /// The most memory that each process had, in MiB.
    pub memory_mib: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// Answers that clients received whole, a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is for reading")]
        let whole = self.verdict.whole as f64;
        whole / self.lasted.as_secs_f64()
    }
}

/// Carries it out. Fails where the processes do not come back; what the ledgers say is in the outcome.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let world = World::start(options.amounts.has_disk)?;
    let amounts = Amounts { has_disk: world.has_disk(), ..options.amounts };
    let steps = schedule(options.seed, &amounts);
    let outcome = disturb(&world, options, &steps);
    let is_sound = outcome.as_ref().is_ok_and(|outcome| outcome.verdict.faults.is_empty());
    if is_sound || std::env::var_os("LIUTONG_KEEP").is_none() {
        world.stop()?;
    } else {
        eprintln!("kept: {}", world.keep().display());
    }
    outcome
}

fn disturb(world: &World, options: &Options, steps: &[Step]) -> anyhow::Result<Outcome> {
    let clients = Clients {
        address: world.system.address(),
        key: world.system.key(),
        ids: world.request_ids()?,
        seed: options.seed,
        count: options.clients,
        rate: options.rate,
        numbers: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let watched = AtomicBool::new(false);
    let began = Instant::now();
    let (seen, memory_mib, kills, lasted) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| clients.run());
        let watching = scope.spawn(|| most_resident(&world.system, &watched));
        let kills = carry_out(world, steps, options.is_loud).and_then(|kills| {
            world.heal()?;
            Ok(kills)
        });
        std::thread::sleep(AFTERWARDS);
        clients.stop.store(true, Relaxed);
        let seen: Vec<Exchange> = sending.join().expect("no client panics");
        let lasted = began.elapsed();
        watched.store(true, Relaxed);
        let memory = watching.join().expect("looking at memory does not panic");
        anyhow::Ok((seen, memory, kills?, lasted))
    })?;
    let verified = rows::wait_complete(&world.system)?;
    let rows = rows::all(&world.system)?;
    let mut verdict = ledgers::compare(&seen, &world.upstream.exchanges(), &rows);
    if verified["admitted"].as_u64() != Some(verdict.rows) {
        verdict.faults.push(format!("{} rows, usage verify: {verified:#}", verdict.rows));
    }
    if let Some(difference) = rows::rollups_differ(&world.system)? {
        verdict.faults.push(difference);
    }
    Ok(Outcome { verdict, verified, lasted, kills, memory_mib })
}

/// Does each thing when it is due; gives how often which process was killed.
fn carry_out(world: &World, steps: &[Step], is_loud: bool) -> anyhow::Result<BTreeMap<&'static str, u32>> {
    let began = Instant::now();
    let mut kills = BTreeMap::new();
    for step in steps {
        std::thread::sleep(step.at.saturating_sub(began.elapsed()));
        if is_loud {
            eprintln!("{:8.3} s  {:?}", began.elapsed().as_secs_f64(), step.action);
        }
        world.act(step.action)?;
        if let Action::Kill(process) = step.action {
            *kills.entry(process.name()).or_default() += 1;
        }
    }
    Ok(kills)
}

/// Fails, naming the seed and what differs, where an outcome is not as it must be.
pub fn check(options: &Options, outcome: &Outcome) -> anyhow::Result<()> {
    let faults = &outcome.verdict.faults;
    let named = faults.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    ensure!(faults.is_empty(), "seed {}: {} faults:\n  {named}", options.seed, faults.len());
    for (process, asked) in Process::ALL.iter().zip(options.amounts.kills) {
        let kills = outcome.kills.get(process.name()).copied().unwrap_or(0);
        ensure!(kills == asked, "{kills} kills of {} instead of {asked}", process.name());
    }
    ensure!(outcome.verdict.whole > 0, "seed {}: no answer was whole", options.seed);
    Ok(())
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { sent, whole, cut, refused, left, reached, rows, flagged, tokens, faults } =
            &self.verdict;
        let kills: Vec<_> = self.kills.iter().map(|(name, kills)| format!("{kills} of {name}")).collect();
        let memory: Vec<_> = self.memory_mib.iter().map(|(name, mib)| format!("{name} {mib}")).collect();
        writeln!(f, "{:.0} s, kills: {}", self.lasted.as_secs_f64(), kills.join(", "))?;
        writeln!(
            f,
            "clients: {sent} sent, {whole} whole ({:.0}/s), {cut} cut, {refused} refused, {left} left",
            self.rate()
        )?;
        writeln!(f, "upstream: {reached} requests; ClickHouse: {rows} rows, {flagged} flagged")?;
        writeln!(f, "tokens of whole answers: {} by clients, {} by rows", tokens.0, tokens.1)?;
        writeln!(f, "most memory in MiB: {}", memory.join(", "))?;
        write!(f, "faults: {}", faults.len())
    }
}
