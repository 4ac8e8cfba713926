//! The real processes with proxies on their lines and a small disk below the spool, and what is done to them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use wire::frame::Frame;
use wire::request_id::RequestIds;
use wire::table::Change;

use super::line::{LineProxy, Place};
use super::schedule::{Action, Condition, Line, Process};
use crate::clickhouse_faults::{FaultProxy, Rule};
use crate::harness::small_disk::SmallDisk;
use crate::harness::{Pids, SOON, Setup, System, alive, ask, signal};
use crate::upstream::{Options, Upstream};

/// The spool's disk, where one can be mounted.
const DISK_KIB: u64 = 64 * 1024;
const WORKERS: usize = 2;
/// How long a process that was killed may take to be there again, beside builds on the same machine.
const AGAIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Everything that takes part.
pub struct World {
    /// Liutong.
    pub system: System,
    /// The model server.
    pub upstream: Upstream,
    planes: LineProxy,
    clickhouse: LineProxy,
    faults: FaultProxy,
    disk: Option<SmallDisk>,
    filler: PathBuf,
    directory: TempDir,
}

impl World {
    /// Starts it; `with_disk` asks for a small disk, which it has only where this user may mount one.
    pub fn start(with_disk: bool) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("liutong-test-chaos-").tempdir()?;
        let spool = directory.path().join("data/dataplane/spool");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool)?;
        let disk = if with_disk { mount(&spool) } else { None };
        let upstream = Upstream::start(Options { keep_exchanges: true, record: 0, ..Options::default() })?;
        let setup = Setup { workers: WORKERS, ..Setup::for_upstream(&upstream.base_url()) };
        let system = System::start_in(&setup, directory.path())?;
        let faults = FaultProxy::start(ask::address(&system.ready.clickhouse_url)?)?;
        let clickhouse = LineProxy::tcp(ask::address(&faults.url())?)?;
        let run = system.ready.data_dir.join("run");
        let planes = LineProxy::unix(&run.join("line.sock"), &run.join("control.sock"))?;
        let filler = spool.join("filler");
        let world = Self { system, upstream, planes, clickhouse, faults, disk, filler, directory };
        world.put_proxies_in()?;
        Ok(world)
    }

    /// Whether the spool's disk can be filled.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// The planes read their configuration when they start, and quickstart writes it only when it starts
    /// itself.
    fn put_proxies_in(&self) -> anyhow::Result<()> {
        let Place::Tcp(address) = self.clickhouse.place() else { bail!("ClickHouse is on TCP") };
        let url = self.system.ready.clickhouse_url.trim_end_matches('/');
        let config = self.system.ready.data_dir.join("config");
        replace(&config.join("controlplane.toml"), url, &format!("http://{address}"))?;
        replace(&config.join("dataplane.toml"), "control.sock", "line.sock")?;
        self.kill(Process::ControlPlane)?;
        self.kill(Process::DataPlane)?;
        self.wait_well()
    }

    /// How request ids are read, from the data plane's own copy of the tables.
    pub fn request_ids(&self) -> anyhow::Result<RequestIds> {
        let file = self.system.ready.data_dir.join("dataplane/tables/snapshot");
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let mut rest = &bytes[..];
        while let Some((frame, used)) = Frame::decode(rest)? {
            rest = &rest[used..];
            let Frame::SnapshotPart(changes) = frame else { continue };
            let key = changes.iter().find_map(|change| match change {
                Change::Settings(settings) => Some(settings.request_id_key),
                _ => None,
            });
            if let Some(key) = key {
                return Ok(RequestIds::new(&key));
            }
        }
        bail!("{} has no settings", file.display())
    }

    /// Does one thing.
    pub fn act(&self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Kill(process) => self.kill(process).map(drop)?,
            Action::Stop(process) => self.signal(process, libc::SIGSTOP)?,
            Action::Continue(process) => self.signal(process, libc::SIGCONT)?,
            Action::FillDisk => fill(&self.filler)?,
            Action::FreeDisk => free(&self.filler)?,
            Action::Cut(line) => self.line(line).cut(),
            Action::Set(line, condition) => self.line(line).set(condition),
            Action::Fail(times, text, fault) => self.faults.add(Rule::next(times, text, fault)),
        }
        Ok(())
    }

    /// Ends whatever was begun, and waits until all processes are there and well.
    pub fn heal(&self) -> anyhow::Result<()> {
        self.faults.heal();
        free(&self.filler)?;
        for line in [Line::Planes, Line::ClickHouse] {
            self.line(line).set(Condition::Whole);
        }
        for process in Process::ALL {
            self.signal(process, libc::SIGCONT)?;
        }
        self.wait_well()
    }

    fn wait_well(&self) -> anyhow::Result<()> {
        let is_ready = |url: &str| ask::http("GET", url, &[], b"").is_ok_and(|answer| answer.status() == 200);
        let planes = [&self.system.ready.ops_url, &self.system.ready.admin_url];
        wait("all processes to be well", || {
            self.system.try_clickhouse("SELECT 1").ok()?;
            planes.iter().all(|url| is_ready(&format!("{url}/readyz"))).then_some(())
        })
    }

    fn line(&self, line: Line) -> &LineProxy {
        match line {
            Line::Planes => &self.planes,
            Line::ClickHouse => &self.clickhouse,
        }
    }

    /// The process that is there now; waits for one that is being started again.
    pub fn pid(&self, process: Process) -> anyhow::Result<i32> {
        wait(process.name(), || {
            let pid = of(&self.system.pids().ok()?, process);
            alive(pid).then_some(pid)
        })
    }

    fn signal(&self, process: Process, number: i32) -> anyhow::Result<()> {
        signal(self.pid(process)?, number);
        Ok(())
    }

    /// Kills the process, and waits until it is gone.
    fn kill(&self, process: Process) -> anyhow::Result<i32> {
        let pid = self.pid(process)?;
        signal(pid, libc::SIGKILL);
        wait("a killed process to be gone", || (!alive(pid)).then_some(()))?;
        Ok(pid)
    }

    /// Stops everything in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        ensure!(self.system.stop(), "it did not stop in order");
        Ok(())
    }

    /// Keeps the directory, for somebody to look at.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

fn of(pids: &Pids, process: Process) -> i32 {
    match process {
        Process::DataPlane => pids.dataplane,
        Process::ControlPlane => pids.controlplane,
        Process::ClickHouse => pids.clickhouse,
    }
}

fn mount(spool: &Path) -> Option<SmallDisk> {
    match SmallDisk::mount(spool, DISK_KIB) {
        Ok(disk) => Some(disk),
        Err(error) => {
            eprintln!("the spool's disk is not filled: that needs to mount a tmpfs, and {error}");
            None
        }
    }
}

fn replace(file: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    ensure!(text.contains(from), "{} does not name {from}", file.display());
    Ok(std::fs::write(file, text.replace(from, to))?)
}

/// Takes all room that there is.
fn fill(filler: &Path) -> anyhow::Result<()> {
    let mut file = File::options().create(true).append(true).open(filler)?;
    for piece in [64 * 1024, 4096] {
        while file.write(&vec![0; piece]).is_ok_and(|written| written > 0) {}
    }
    Ok(())
}

fn free(filler: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(filler) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Waits for a condition, for as long as a restart may take.
pub fn wait<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        ensure!(began.elapsed() < AGAIN.max(SOON), "waited {AGAIN:?} for {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
