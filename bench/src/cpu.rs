//! CPU time as the kernel accounts it: of processes, and of cores.
//!
//! A process's total is the sum of its threads' `schedstat`, in nanoseconds. How it divides into user and
//! system comes from `stat`, which counts ticks: right over seconds, wrong over milliseconds.

use std::fs;
use std::io;
use std::ops::{Add, Sub};

use crate::process::threads;

/// What a process used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CpuTime {
    /// Nanoseconds on a core.
    pub(crate) total_ns: u64,
    /// Ticks in user mode.
    user_ticks: u64,
    /// Ticks in the kernel.
    system_ticks: u64,
}

impl CpuTime {
    /// Reads what all these processes used.
    pub(crate) fn of(pids: &[i32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for &pid in pids {
            for tid in threads(pid)? {
                sum.total_ns += on_core_ns(pid, tid)?;
            }
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // Behind the program's name, which may hold anything; utime and stime are fields 14 and 15.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |field: usize| fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
            sum = sum + Self { total_ns: 0, user_ticks: ticks(11), system_ticks: ticks(12) };
        }
        Ok(sum)
    }

    /// The part of the total that was spent in user mode, from 0 to 1.
    pub(crate) fn user_share(&self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 { 0.0 } else { self.user_ticks as f64 / ticks as f64 }
    }
}

impl Add for CpuTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            total_ns: self.total_ns + other.total_ns,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
        }
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }
}

/// Nanoseconds that a thread was on a core.
pub(crate) fn on_core_ns(pid: i32, tid: i32) -> io::Result<u64> {
    // A thread that ended in between takes its time with it; the threads of a proxy don't.
    let Ok(schedstat) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")) else { return Ok(0) };
    Ok(schedstat.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// What a core did so far, in ticks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CoreTime {
    all: u64,
    idle: u64,
}

impl CoreTime {
    /// Reads what a core did.
    pub(crate) fn of(core: usize) -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let name = format!("cpu{core}");
        let line = stat.lines().find(|line| line.split_whitespace().next() == Some(name.as_str()));
        // user nice system idle iowait irq softirq steal; what follows is contained in user.
        let ticks: Vec<u64> = line
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|t| t.parse().ok())
            .collect();
        Ok(Self { all: ticks.iter().sum(), idle: ticks.iter().skip(3).take(2).sum() })
    }

    /// The part of the time since `before` that the core had nothing to do, from 0 to 1.
    pub(crate) fn idle_share_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 { 0.0 } else { self.idle.saturating_sub(before.idle) as f64 / all as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_process_that_did_it() {
        let own = [i32::try_from(std::process::id()).unwrap()];
        let before = CpuTime::of(&own).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 60 {
            std::hint::spin_loop();
        }
        let used = CpuTime::of(&own).unwrap() - before;
        assert!(used.total_ns > 1_000_000, "{used:?}");
    }

    #[test]
    fn the_share_of_user_mode_is_that_of_its_ticks() {
        let time = CpuTime { total_ns: 9, user_ticks: 1, system_ticks: 3 };
        assert!((time.user_share() - 0.25).abs() < 1e-9);
        assert!(CpuTime::default().user_share().abs() < 1e-9);
    }

    #[test]
    fn the_first_core_has_a_line() {
        assert!(CoreTime::of(0).unwrap().all > 0);
    }
}
