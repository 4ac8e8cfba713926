//! Children of a quickstart that was killed: they are on their way out, and still hold addresses and locks.
//!
//! They see the end of their stdin and stop by themselves; this waits for it. A number in `pids.json` may
//! long belong to somebody else, so it counts only while that process names our data directory in its command
//! line. None is killed.

use std::time::{Duration, Instant};

use super::QuickstartError;
use super::data_dir::DataDir;
use super::pids::PidTable;

const DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);

/// Waits until no child of an earlier quickstart runs on this data directory.
pub(super) async fn wait(data: &DataDir) -> Result<(), QuickstartError> {
    let Ok(text) = std::fs::read(data.file("pids.json")) else { return Ok(()) };
    let table: PidTable = serde_json::from_slice(&text).unwrap_or_default();
    let pids: Vec<u32> =
        [table.dataplane, table.controlplane, table.clickhouse].into_iter().flatten().collect();
    let root = data.root().as_os_str().as_encoded_bytes();
    let begun = Instant::now();
    let mut told = false;
    loop {
        let alive: Vec<String> =
            pids.iter().filter(|p| is_ours(**p, root)).map(ToString::to_string).collect();
        if alive.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > DEADLINE {
            return Err(QuickstartError::Orphans { pids: alive.join(" ") });
        }
        if !told {
            eprintln!("liutong: waiting for processes of an earlier start to end: {}", alive.join(" "));
            told = true;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is_ours(pid: u32, root: &[u8]) -> bool {
    // Empty for a process that has ended and was not waited for.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !root.is_empty() && command.windows(root.len()).any(|part| part == root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_of_an_earlier_start_is_waited_for_and_a_stranger_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(Some(dir.path().join("data"))).unwrap();
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read line; :", "sh"])
            .arg(data.config("dataplane"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let table = PidTable {
            dataplane: Some(child.id()),
            controlplane: Some(std::process::id()),
            clickhouse: None,
        };
        std::fs::write(data.file("pids.json"), serde_json::to_vec(&table).unwrap()).unwrap();
        let (pid, root) = (child.id(), data.root().as_os_str().as_encoded_bytes().to_vec());
        while !is_ours(pid, &root) {
            // Between fork and exec the command line is still this test's.
            std::thread::yield_now();
        }
        assert!(tokio::time::timeout(Duration::from_millis(60), wait(&data)).await.is_err());
        drop(child.stdin.take());
        child.wait().unwrap();
        wait(&data).await.unwrap();
    }
}
