//! What happens when: a seed decides it, and the same seed decides the same.
//!
//! Kills come in bursts of four: whoever looks after the processes starts one again at once so often, and
//! then takes its time. Between bursts a process lives long enough to count as well again.

use std::time::Duration;

use crate::clickhouse_faults::Fault;
use crate::random::Random;

/// How many kills one after the other are met with the shortest delay.
const BURST: u32 = 4;
/// From one burst to the next; a process counts as well after 10 s.
const REST_MS: (usize, usize) = (10_300, 12_500);
/// From kill to kill in a burst.
const GAP_MS: (usize, usize) = (300, 2500);
/// ClickHouse takes longer to come back.
const CLICKHOUSE_GAP_MS: (usize, usize) = (10_300, 13_500);
/// How long something lasts that ends by itself.
const LASTS_MS: (usize, usize) = (100, 2500);
/// Before the first kill, so that there is something to break.
const LEAD_MS: usize = 1000;
/// The shortest schedule of other faults, for each of them.
const OTHER_MS: usize = 700;
/// ClickHouse's codes for: too many parts, memory, disk, timeout, network, an insert of unknown outcome.
const CODES: [u32; 6] = [252, 241, 243, 159, 210, 319];

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// The data plane.
    DataPlane,
    /// The control plane.
    ControlPlane,
    /// ClickHouse.
    ClickHouse,
}

impl Process {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DataPlane, Self::ControlPlane, Self::ClickHouse];

    /// As `pids.json` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataPlane => "dataplane",
            Self::ControlPlane => "controlplane",
            Self::ClickHouse => "clickhouse",
        }
    }
}

/// A connection that can be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// From data plane to control plane.
    Planes,
    /// From control plane to ClickHouse.
    ClickHouse,
}

/// How a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Whole,
    /// No connection comes about, and those that were there are broken.
    Apart,
    /// Connections stay, and nothing passes.
    Silent,
    /// Everything passes so much later.
    Slow(Duration),
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(Process),
    /// SIGSTOP.
    Stop(Process),
    /// SIGCONT.
    Continue(Process),
    /// The spool's disk is full.
    FillDisk,
    /// There is room again.
    FreeDisk,
    /// All connections of a line break, at whatever byte they are.
    Cut(Line),
    /// A line changes.
    Set(Line, Condition),
    /// The next so many requests to ClickHouse with this text fail so.
    Fail(u64, &'static str, Fault),
}

/// An action, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// From the beginning of the load.
    pub at: Duration,
    /// What happens then.
    pub action: Action,
}

/// How much is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Amounts {
    /// Kills of the data plane, the control plane, ClickHouse.
    pub kills: [u32; 3],
    /// Other faults.
    pub others: u32,
    /// Whether the spool has a disk that can be filled.
    pub has_disk: bool,
}

/// What happens when, in order.
pub fn schedule(seed: u64, amounts: &Amounts) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    for (process, kills) in Process::ALL.into_iter().zip(amounts.kills) {
        kill_times(&mut random, process, kills, &mut steps);
    }
    let last_ms = steps.iter().map(|step| step.at.as_millis()).max().unwrap_or(0);
    let shortest_ms = LEAD_MS + OTHER_MS * amounts.others as usize;
    let all_ms = usize::try_from(last_ms).unwrap_or(0).max(shortest_ms);
    for _ in 0..amounts.others {
        let at_ms = LEAD_MS + random.below(all_ms - LEAD_MS);
        other(&mut random, amounts.has_disk, at_ms, &mut steps);
    }
    steps.sort_by_key(|step| step.at);
    steps
}

fn kill_times(random: &mut Random, process: Process, kills: u32, steps: &mut Vec<Step>) {
    let mut at_ms = LEAD_MS + random.below(GAP_MS.1);
    for kill in 0..kills {
        steps.push(step(at_ms, Action::Kill(process)));
        at_ms += match process {
            Process::ClickHouse => between(random, CLICKHOUSE_GAP_MS),
            _ if (kill + 1) % BURST == 0 => between(random, REST_MS),
            _ => between(random, GAP_MS),
        };
    }
}

/// Something else than a kill, and its end.
fn other(random: &mut Random, has_disk: bool, at_ms: usize, steps: &mut Vec<Step>) {
    let line = if random.once_in(2) { Line::Planes } else { Line::ClickHouse };
    let end_ms = at_ms + between(random, LASTS_MS);
    let mut lasts = |begin, end| steps.extend([step(at_ms, begin), step(end_ms, end)]);
    match random.below(if has_disk { 8 } else { 7 }) {
        0 => {
            let process = Process::ALL[random.below(3)];
            lasts(Action::Stop(process), Action::Continue(process));
        }
        1 => steps.push(step(at_ms, Action::Cut(line))),
        2 => lasts(Action::Set(line, Condition::Apart), Action::Set(line, Condition::Whole)),
        3 => lasts(Action::Set(line, Condition::Silent), Action::Set(line, Condition::Whole)),
        4 => {
            let slow = Condition::Slow(Duration::from_millis(between(random, (1, 200)) as u64));
            lasts(Action::Set(line, slow), Action::Set(line, Condition::Whole));
        }
        5 | 6 => {
            let text = ["INSERT", "INSERT", "SELECT", "ALTER"][random.below(4)];
            let fault = clickhouse_fault(random);
            steps.push(step(at_ms, Action::Fail(1 + random.below(4) as u64, text, fault)));
        }
        _ => lasts(Action::FillDisk, Action::FreeDisk),
    }
}

fn clickhouse_fault(random: &mut Random) -> Fault {
    let code = CODES[random.below(CODES.len())];
    let late = Duration::from_millis(between(random, (100, 2000)) as u64);
    match random.below(6) {
        0 => Fault::CutBefore,
        1 => Fault::CutAfter,
        2 => Fault::Refuse(code),
        3 => Fault::RefuseAfter(code),
        4 => Fault::Late(late),
        _ => Fault::LateAnswer(late),
    }
}

fn between(random: &mut Random, (from, to): (usize, usize)) -> usize {
    from + random.below(to - from)
}

fn step(at_ms: usize, action: Action) -> Step {
    Step { at: Duration::from_millis(at_ms as u64), action }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts { kills: [50, 50, 20], others: 200, has_disk: true };

    #[test]
    fn a_seed_decides_all_of_it() {
        assert_eq!(schedule(7, &AMOUNTS), schedule(7, &AMOUNTS));
        assert_ne!(schedule(7, &AMOUNTS), schedule(8, &AMOUNTS));
    }

    #[test]
    fn each_process_is_killed_as_often_as_was_asked_and_what_begins_ends() {
        let steps = schedule(3, &AMOUNTS);
        let count = |is: &dyn Fn(&Action) -> bool| steps.iter().filter(|step| is(&step.action)).count();
        for (process, kills) in Process::ALL.into_iter().zip(AMOUNTS.kills) {
            assert_eq!(count(&|action| *action == Action::Kill(process)), kills as usize);
            let stops = count(&|action| *action == Action::Stop(process));
            assert_eq!(stops, count(&|action| *action == Action::Continue(process)));
            assert!(stops > 0, "{process:?} is never stopped");
        }
        let full = count(&|action| *action == Action::FillDisk);
        assert!(full > 0 && full == count(&|action| *action == Action::FreeDisk));
        assert!(steps.is_sorted_by_key(|step| step.at));
    }

    #[test]
    fn without_a_disk_none_is_filled() {
        let steps = schedule(3, &Amounts { has_disk: false, ..AMOUNTS });
        assert!(!steps.iter().any(|step| step.action == Action::FillDisk));
    }
}
