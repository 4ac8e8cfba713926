//! One child process: started, started again whenever it exits, and stopped in an orderly way.
//!
//! Supervised by exit, not by health: whether a child is well is its own business and the operator's.
//!
//! The child's stdin is a pipe that carries nothing. Its end is the order to stop, given by dropping it, and
//! given by the kernel when this process dies in whatever way. Children have process groups of their own, so
//! that Ctrl-C reaches this process alone and the order of stopping is ours.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::QuickstartError;
use super::pids::Pids;
use super::signals::Signals;

// A child that dies younger than this is taken to die for the same reason again.
const QUICK_DEATH: Duration = Duration::from_secs(10);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(50);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);
// So many quick deaths in a row are met with the shortest delay: chance, or somebody who tries out restarts.
const PATIENCE: u32 = 3;
const LOG_BYTES_MAX: u64 = 32 * 1024 * 1024;
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 15;

/// What to run.
pub(super) struct Program {
    /// The name in `pids.json`.
    pub(super) name: &'static str,
    /// The name in messages.
    pub(super) title: &'static str,
    pub(super) path: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Variables that are for others.
    pub(super) env_remove: Vec<OsString>,
    /// Where its stdout and stderr go.
    pub(super) log: PathBuf,
    /// How long it may take to stop before it is killed.
    pub(super) stop_deadline: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Run,
    Stop,
    Kill,
}

/// A supervised child.
pub(super) struct Child {
    title: &'static str,
    log: PathBuf,
    log_start: u64,
    order: watch::Sender<Order>,
    exits: watch::Receiver<Option<String>>,
    task: JoinHandle<Result<(), String>>,
}

impl Child {
    /// Starts the program; from then on it is supervised.
    pub(super) fn start(program: Program, pids: Pids) -> Result<Self, QuickstartError> {
        rotate(&program.log);
        let log_start = program.log.metadata().map_or(0, |log| log.len());
        let (title, log) = (program.title, program.log.clone());
        let running = Running::spawn(&program, &pids).map_err(|source| QuickstartError::Spawn {
            title,
            path: program.path.clone(),
            source,
        })?;
        let (order, orders) = watch::channel(Order::Run);
        let (exited, exits) = watch::channel(None);
        let task = tokio::spawn(Supervisor { program, pids, orders, exited }.run(running));
        Ok(Self { title, log, log_start, order, exits, task })
    }

    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    /// Waits for its first exit, and says how it ended.
    pub(super) async fn exited(&mut self) -> String {
        match self.exits.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "its supervision ended".to_owned(),
        }
    }

    /// The last lines that it wrote to its log since it was first started, as the end of a message.
    pub(super) fn log_tail(&self) -> String {
        let lines = tail(&self.log, self.log_start).unwrap_or_default();
        if lines.is_empty() {
            return String::new();
        }
        format!("; the end of {}:\n{lines}", self.log.display())
    }

    /// Stops it, and kills it at its deadline or at another signal. Fails with what it did instead of ending
    /// well.
    pub(super) async fn stop(mut self, signals: &mut Signals) -> Result<(), String> {
        self.order.send_replace(Order::Stop);
        let ended = tokio::select! {
            ended = &mut self.task => ended,
            _ = signals.next() => {
                self.order.send_replace(Order::Kill);
                self.task.await
            }
        };
        ended.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Kills it.
    #[cfg(test)]
    pub(super) async fn kill(self) {
        self.order.send_replace(Order::Kill);
        let _ = self.task.await;
    }
}

/// A process, and the pipe that keeps it going.
struct Running {
    process: Process,
    stdin: Option<ChildStdin>,
    since: Instant,
}

impl Running {
    fn spawn(program: &Program, pids: &Pids) -> std::io::Result<Self> {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&program.log)?;
        let mut command = Command::new(&program.path);
        command.args(&program.args).process_group(0).stdin(Stdio::piped());
        // Its log is a file.
        command.env("NO_COLOR", "1");
        command.stdout(log.try_clone()?).stderr(log);
        for name in &program.env_remove {
            command.env_remove(name);
        }
        let mut process = command.spawn()?;
        // Taken out, or waiting for the process would close it.
        let stdin = process.stdin.take();
        if let Some(pid) = process.id() {
            pids.set(program.name, pid);
        }
        Ok(Self { process, stdin, since: Instant::now() })
    }

    async fn wait(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Closes its stdin and waits.
    async fn stop(mut self, deadline: Duration, orders: &mut watch::Receiver<Order>) -> Result<(), String> {
        drop(self.stdin.take());
        tokio::select! {
            status = self.process.wait() => {
                return match status {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(format!("stopped with {status}")),
                    Err(error) => Err(error.to_string()),
                };
            }
            () = tokio::time::sleep(deadline) => {}
            () = told(orders, Order::Kill) => {}
        }
        let killed = self.process.kill().await;
        killed.map_err(|error| format!("could not be killed: {error}"))?;
        Err("was killed".to_owned())
    }
}

struct Supervisor {
    program: Program,
    pids: Pids,
    orders: watch::Receiver<Order>,
    exited: watch::Sender<Option<String>>,
}

impl Supervisor {
    async fn run(mut self, mut running: Running) -> Result<(), String> {
        let mut quick_deaths = 0;
        loop {
            let status = tokio::select! {
                status = running.wait() => status,
                () = told(&mut self.orders, Order::Stop) => {
                    return running.stop(self.program.stop_deadline, &mut self.orders).await;
                }
            };
            quick_deaths = if running.since.elapsed() < QUICK_DEATH { quick_deaths + 1 } else { 0 };
            self.exited.send_replace(Some(status.clone()));
            match self.restart(&status, &mut quick_deaths).await {
                Some(again) => running = again,
                None => return Ok(()),
            }
        }
    }

    /// Starts the program again; `None` where the order to stop came first.
    async fn restart(&mut self, status: &str, quick_deaths: &mut u32) -> Option<Running> {
        let title = self.program.title;
        loop {
            let delay = restart_delay(*quick_deaths);
            eprintln!("liutong: {title} ended ({status}); starting it again in {} ms", delay.as_millis());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = told(&mut self.orders, Order::Stop) => return None,
            }
            match Running::spawn(&self.program, &self.pids) {
                Ok(running) => {
                    let pid = running.process.id().unwrap_or_default();
                    eprintln!("liutong: {title} is started again as process {pid}");
                    return Some(running);
                }
                Err(error) => {
                    eprintln!("liutong: starting {title} again: {error}");
                    *quick_deaths += 1;
                }
            }
        }
    }
}

/// Waits for the order, or a stronger one, or for nobody being left to give it.
async fn told(orders: &mut watch::Receiver<Order>, order: Order) {
    let _ = orders.wait_for(|given| *given >= order).await;
}

fn restart_delay(quick_deaths: u32) -> Duration {
    let doublings = quick_deaths.saturating_sub(PATIENCE).min(16);
    (RESTART_DELAY_MIN * 2_u32.pow(doublings)).min(RESTART_DELAY_MAX)
}

/// Keeps one earlier log beside a new one once it is long.
fn rotate(log: &Path) {
    if log.metadata().is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        let _ = std::fs::rename(log, log.with_extension("log.1"));
    }
}

fn tail(log: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let from = from.max(file.metadata()?.len().saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(last.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
pub(super) mod tests;
