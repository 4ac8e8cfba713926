//! The planes beside the data plane: held still while something is measured, and let go on in between.
//!
//! Two cores can't hold a saturated proxy, its load and a ClickHouse that stores a hundred thousand rows a
//! second. So everything of a whole system but its data plane stands still in a window (SIGSTOP), and takes
//! in what has piled up afterwards (SIGCONT). What shipping costs is a row of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use load_tests::harness::{System, descendants, signal};

/// How long a control plane may take to store what a window left behind.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// How often the data plane is asked.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Runs the processes given as arguments on, when its standard input ends. That is when the value is dropped,
/// and also when this process is killed, whose ends of pipes the kernel closes.
const WATCHER: &str = r#"trap "" INT TERM HUP; cat >/dev/null; kill -CONT "$@""#;

/// Processes that stand still until this value is dropped, or this process is gone.
pub(crate) struct Paused {
    pids: Vec<i32>,
    watcher: Child,
}

impl Paused {
    /// Stops everything of a system but its data plane.
    pub(crate) fn all_but_dataplane(system: &System) -> anyhow::Result<Self> {
        let mut pids = descendants(system.pid());
        pids.push(system.pid());
        pids.retain(|&pid| pid != system.ready.pids.dataplane);
        Self::these(pids)
    }

    fn these(pids: Vec<i32>) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHER, "sh"]).args(pids.iter().map(i32::to_string));
        let watcher = command.stdin(Stdio::piped()).spawn().context("sh can't be started")?;
        let paused = Self { pids, watcher };
        for &pid in &paused.pids {
            signal(pid, libc::SIGSTOP);
        }
        Ok(paused)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for &pid in &self.pids {
            signal(pid, libc::SIGCONT);
        }
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Waits until every usage event of a system is stored.
pub(crate) fn drain(system: &System) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let metrics = system.ops("/metrics")?.text();
        let waiting = waiting(&metrics).context("the data plane tells no usage figures")?;
        if waiting == 0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < DRAIN_LIMIT,
            "after {} s {waiting} usage events are still not stored\n{}",
            DRAIN_LIMIT.as_secs(),
            system.logs()
        );
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Usage events that are not stored yet, by the data plane's metrics.
fn waiting(metrics: &str) -> Option<u64> {
    let figure = |name: &str| -> Option<u64> {
        metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    };
    Some(figure("liutong_usage_in_flight")? + figure("liutong_usage_pending")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next().unwrap()
    }

    fn becomes(pid: u32, is_stopped: bool) -> bool {
        let begun = Instant::now();
        while (state(pid) == 'T') != is_stopped {
            if begun.elapsed() > Duration::from_secs(10) {
                return false;
            }
            sleep(Duration::from_millis(1));
        }
        true
    }

    fn sleeper() -> (Child, i32) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    #[test]
    fn what_is_paused_goes_on_when_the_value_is_dropped_also_by_a_panic() {
        let (mut child, pid) = sleeper();
        let paused = Paused::these(vec![pid]).unwrap();
        assert!(becomes(child.id(), true));
        let panicked = std::panic::catch_unwind(move || {
            let _paused = paused;
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert!(becomes(child.id(), false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_paused_goes_on_when_its_pauser_is_killed() {
        let (mut child, pid) = sleeper();
        let mut paused = Paused::these(vec![pid]).unwrap();
        assert!(becomes(child.id(), true));
        // As the kernel does it for a process that is gone: the pipe closes, and nothing else happens.
        drop(paused.watcher.stdin.take());
        assert!(becomes(child.id(), false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn events_wait_in_slots_and_in_batches() {
        let metrics = "# TYPE liutong_usage_pending gauge\nliutong_usage_pending 7\n\
                       liutong_usage_in_flight 3\nliutong_usage_in_flights 9\n";
        assert_eq!(waiting(metrics), Some(10));
        assert_eq!(waiting("liutong_usage_pending 7\n"), None);
    }
}
