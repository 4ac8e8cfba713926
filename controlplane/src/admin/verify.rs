//! Whether every usage event is accounted for: what the data planes gave out, held against what ClickHouse
//! has.
//!
//! A data plane's report comes first, ClickHouse is asked afterwards, and numbers given out later than the
//! report do not count. So, where nothing is lost, what ClickHouse lacks is at most what the report says is
//! on its way; more than that is lost. (What is stored in between makes the difference smaller: while traffic
//! flows a loss may show only once it has settled.) What a verdict is as of is `reported_at`, and what came
//! later and is there already is counted as `newer`.
//!
//! Where several control planes share a registry each hears the reports of the data planes that it serves,
//! and judges those; of others it says `elsewhere`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wire::id::{BootId, NodeId};
use wire::report::Ended;

use super::input::Nothing;
use super::route::{Answer, Call};
use crate::accounts::Said;
use crate::clickhouse::verify::{Boot, Limit, Numbers, Spool};
use crate::ingest::store::Evidence;

/// What is known of one data plane, in exchanges.
#[derive(Debug, Default)]
struct Account {
    said: Option<Said>,
    /// Another control plane serves it, and hears its reports.
    is_elsewhere: bool,
    admitted: u64,
    stored: u64,
    set_aside: u64,
    doubled: u64,
    maybe_more: u64,
    newer: u64,
    killed: u64,
    power_cuts: u64,
    batches: u64,
    batches_missing: u64,
    gaps: Vec<String>,
    doubles: Vec<String>,
}

pub(super) async fn verify(call: Call, _: Nothing) -> Answer<Value> {
    let said: BTreeMap<NodeId, Said> = call.api.accounts.all().into_iter().collect();
    let limits = limits(&said);
    let evidence = call.api.store.evidence(&limits, first_day(call.api.privacy.retention().raw_days)).await?;
    let elsewhere = call.api.registry.served_elsewhere().await?;
    let elsewhere: Vec<NodeId> = elsewhere.into_iter().map(|one| one.node).collect();
    Ok(judge((said, &elsewhere), &limits, &evidence).into())
}

/// The oldest day whose single events are there for certain, in days since 1970.
fn first_day(raw_days: u32) -> u16 {
    let today = jiff::Timestamp::now().as_second() / (24 * 60 * 60);
    u16::try_from(today + 1 - i64::from(raw_days)).unwrap_or(0)
}

/// The numbers that the data planes had given out when they reported.
fn limits(said: &BTreeMap<NodeId, Said>) -> Vec<Limit> {
    let running = said.values().filter(|said| said.is_connected).flat_map(|said| &said.report.boots);
    let of = |boot: BootId, workers: &[(u64, u64)]| -> Vec<Limit> {
        let limit = |(worker, (last, _)): (usize, &(u64, u64))| Limit { boot, worker, last: *last };
        workers.iter().enumerate().map(limit).collect()
    };
    running.filter(|one| one.ended == Ended::Runs).flat_map(|one| of(one.boot, &one.workers)).collect()
}

fn judge(
    (said, elsewhere): (BTreeMap<NodeId, Said>, &[NodeId]),
    limits: &[Limit],
    evidence: &Evidence,
) -> Value {
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    // The whole is no newer than the oldest of its parts.
    let connected = said.values().filter(|said| said.is_connected);
    let as_of = connected.min_by_key(|said| said.report.at_ms).and_then(reported_at);
    for (node, said) in said {
        accounts.entry(node.to_string()).or_default().said = Some(said);
    }
    for node in elsewhere {
        accounts.entry(node.to_string()).or_default().is_elsewhere = true;
    }
    let boots = all_boots(&accounts, &evidence.boots);
    for boot in boots.values() {
        accounts.entry(boot.node.clone()).or_default().add_boot(boot, &evidence.numbers, limits);
    }
    // Of processes that were never heard of, as of before the ledger had numbers: what is there counts.
    for numbers in evidence.numbers.iter().filter(|numbers| !boots.contains_key(&numbers.boot)) {
        accounts.entry(numbers.node.clone()).or_default().add_numbers(numbers, numbers.last);
    }
    for spool in &evidence.spools {
        accounts.entry(spool.node.clone()).or_default().add_spool(spool);
    }
    let nodes: Vec<Value> = accounts.iter().map(|(node, account)| account.show(node)).collect();
    let count = |field: &str| nodes.iter().filter_map(|node| node[field].as_u64()).sum::<u64>();
    let verdicts: Vec<&str> = nodes.iter().filter_map(|node| node["verdict"].as_str()).collect();
    let (surplus, unsummed) = (evidence.held.surplus, evidence.unsummed);
    let order = ["lost", "doubled", "unheard", "elsewhere", "under_way"];
    let is_so = |one: &&str| match *one {
        "lost" if unsummed > 0 => true,
        "doubled" if surplus > 0 => true,
        one => verdicts.contains(&one),
    };
    let worst = order.into_iter().find(is_so);
    json!({
        "object": "usage_verification",
        "verdict": worst.unwrap_or("complete"), "as_of": as_of, "newer": count("newer"),
        "admitted": count("admitted"), "stored": count("stored"), "in_flight": count("in_flight"),
        "pending": count("pending"), "set_aside": count("set_aside"), "lost": count("lost") + unsummed,
        "maybe_lost": count("maybe_lost"), "doubled": count("doubled") + surplus,
        "rows_held": evidence.held.rows, "rows_gone": evidence.held.gone, "rows_lost": unsummed,
        "batches_with_surplus_rows": evidence.held.surplus_batches,
        "nodes": nodes,
    })
}

/// Each process once: as its data plane says now, else as it was written down.
fn all_boots(accounts: &BTreeMap<String, Account>, written: &[Boot]) -> BTreeMap<String, Boot> {
    let mut boots: BTreeMap<String, Boot> =
        written.iter().map(|one| (one.boot.clone(), one.clone())).collect();
    for (node, account) in accounts {
        for one in account.said.iter().flat_map(|said| &said.report.boots) {
            let (admitted, reserved) = one.workers.iter().copied().unzip();
            let boot = one.boot.to_string();
            let known_ended = boots.get(&boot).is_some_and(|known| known.ended != Ended::Runs as u8);
            if !known_ended {
                let ended = one.ended as u8;
                boots.insert(boot.clone(), Boot { node: node.clone(), boot, ended, admitted, reserved });
            }
        }
    }
    boots
}

impl Account {
    fn add_boot(&mut self, boot: &Boot, all: &[Numbers], limits: &[Limit]) {
        self.killed += u64::from(boot.ended == Ended::Killed as u8);
        self.power_cuts += u64::from(boot.ended == Ended::PowerCut as u8);
        for (worker, (admitted, reserved)) in boot.admitted.iter().zip(&boot.reserved).enumerate() {
            let is_worker = |one: &&Numbers| one.boot == boot.boot && one.worker == worker as u64;
            let numbers = all.iter().find(is_worker);
            let is_limited =
                limits.iter().any(|limit| limit.boot.to_string() == boot.boot && limit.worker == worker);
            // What was stored was given out, whoever died before saying so.
            let last = numbers.map_or(0, |one| one.last);
            let last = if is_limited { *admitted } else { last.max(*admitted) };
            if boot.ended == Ended::PowerCut as u8 {
                self.maybe_more += reserved.saturating_sub(last);
            }
            match numbers {
                Some(numbers) => self.add_numbers(numbers, last),
                None => {
                    self.admitted += last;
                    self.gaps.extend((last > 0).then(|| gap(&boot.boot, worker as u64, (1, last))));
                }
            }
        }
    }

    fn add_numbers(&mut self, numbers: &Numbers, last: u64) {
        self.admitted += last;
        self.stored += numbers.stored;
        self.set_aside += numbers.refused;
        self.doubled += numbers.doubled;
        self.newer += numbers.newer;
        let (boot, worker) = (&numbers.boot, numbers.worker);
        let tail = (last > numbers.last).then_some((numbers.last + 1, last));
        self.gaps.extend(numbers.gaps.iter().copied().chain(tail).map(|run| gap(boot, worker, run)));
        self.doubles.extend(numbers.doubles.iter().map(|run| gap(boot, worker, *run)));
    }

    fn add_spool(&mut self, spool: &Spool) {
        self.batches += spool.batches;
        self.batches_missing += spool.last.saturating_sub(spool.batches);
        self.set_aside += spool.unnumbered;
        self.gaps.extend(spool.missing.iter().map(|batch| format!("batch {}:{batch}", spool.spool)));
    }

    fn show(&self, node: &str) -> Value {
        let totals = self.said.as_ref().map(|said| said.report.totals).unwrap_or_default();
        let is_heard = self.said.as_ref().is_some_and(|said| said.is_connected);
        let missing = self.admitted.saturating_sub(self.stored + self.set_aside);
        let way = totals.in_flight + totals.pending;
        let lost = if is_heard { missing.saturating_sub(way) } else { 0 };
        // What it knows itself to be unreadable is lost, whatever else is on its way.
        let lost = lost.max((totals.lost + totals.lost_slots).min(missing));
        let unheard = if is_heard { 0 } else { missing - lost };
        let verdict = match () {
            () if lost > 0 => "lost",
            () if self.doubled > 0 => "doubled",
            () if unheard > 0 && self.is_elsewhere => "elsewhere",
            () if unheard > 0 => "unheard",
            () if missing > 0 => "under_way",
            () => "complete",
        };
        let in_flight = if is_heard { totals.in_flight.min(missing - lost) } else { 0 };
        json!({
            "object": "node_usage", "node": node, "verdict": verdict,
            "connected": is_heard || self.is_elsewhere, "elsewhere": self.is_elsewhere && !is_heard,
            "reported_at": self.said.as_ref().and_then(reported_at), "newer": self.newer,
            "admitted": self.admitted, "in_flight": in_flight,
            "appended": self.admitted - in_flight,
            "stored": self.stored,
            "pending": if is_heard { missing - lost - in_flight } else { 0 },
            "unheard": unheard,
            "set_aside": self.set_aside, "lost": lost, "maybe_lost": self.maybe_more,
            "doubled": self.doubled,
            "batches": self.batches, "batches_missing": self.batches_missing,
            "processes_killed": self.killed, "power_cuts": self.power_cuts,
            "gaps": self.gaps, "doubles": self.doubles,
        })
    }
}

/// When a data plane said what it is held to.
fn reported_at(said: &Said) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(said.report.at_ms).ok()?).ok()?;
    Some(format!("{at:.3}"))
}

fn gap(boot: &str, worker: u64, (first, last): (u64, u64)) -> String {
    format!("numbers {first} to {last} of worker {worker} of process {boot}")
}

#[cfg(test)]
mod tests;
