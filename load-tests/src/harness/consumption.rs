//! What a process consumes: CPU and memory, as the kernel counts them.

use std::time::Duration;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::System;

/// How often memory is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Ticks of a second in `/proc/PID/stat`: the same on every Linux that we run on.
const TICKS: u64 = 100;

/// CPU that a process has used, in user and kernel mode; `None` if it is gone.
pub fn cpu(pid: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// For how long this thread, and those of a process whose name begins so, were ready to run and no core was
/// free for them.
pub fn waited_for_cores(pid: i32, threads: &str) -> Duration {
    let waited = |stat: String| stat.split(' ').nth(1)?.parse::<u64>().ok();
    let own = std::fs::read_to_string("/proc/thread-self/schedstat").ok().and_then(waited).unwrap_or(0);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let named = tasks.map(|task| task.path()).filter(|task| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(threads))
    });
    let theirs: u64 =
        named.filter_map(|task| std::fs::read_to_string(task.join("schedstat")).ok().and_then(waited)).sum();
    Duration::from_nanos(own + theirs)
}

/// Memory that a process has in use, in MiB; `None` if it is gone.
pub fn resident_mib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? / 1024)
}

/// Looks at the memory of a system's processes until `stop` is raised; gives the most of each, in MiB.
pub fn most_resident(system: &System, stop: &AtomicBool) -> BTreeMap<&'static str, u64> {
    let mut most = BTreeMap::new();
    while !stop.load(Relaxed) {
        // While one is being started again the file names the one before.
        if let Ok(pids) = system.pids() {
            let named = ["dataplane", "controlplane", "clickhouse"].into_iter().zip(pids.all());
            for (name, pid) in named {
                let now = resident_mib(pid).unwrap_or(0);
                let before = most.entry(name).or_insert(0);
                *before = now.max(*before);
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    most
}
