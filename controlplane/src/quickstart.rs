//! `liutong quickstart`: ClickHouse, control plane and data plane on one machine, for a first try.
//!
//! Each is a child process with a configuration file of its own below the data directory, just as an
//! installation has them; nothing in the planes knows of quickstart. Without an upstream a small demo
//! upstream runs in this process.
//!
//! Invariants:
//!
//!   * a child's stdin is a pipe whose end closes with this process, however it ends: no child outlives it
//!   * a child that exits is started again on the same addresses, until quickstart is told to stop
//!   * children are started ClickHouse, control plane, data plane, and stopped the other way round
//!   * one quickstart to a data directory: its file `lock` is locked

mod address;
mod args;
mod config;
mod data_dir;
mod demo_upstream;
mod engine;
mod error;
mod orphans;
mod pids;
mod ready;
mod report;
mod setup;
mod signals;
mod state;
mod supervisor;

pub(crate) use args::QuickstartOptions;
pub(crate) use error::QuickstartError;

use std::path::PathBuf;
use std::time::Duration;

use self::address::Addresses;
use self::data_dir::DataDir;
use self::demo_upstream::DemoUpstream;
use self::pids::Pids;
use self::report::Report;
use self::signals::Signals;
use self::state::State;
use self::supervisor::{Child, Program};
use crate::cli::Format;

// Longer than either needs in earnest: at its end a child that hangs is killed.
const DATAPLANE_STOP_DEADLINE: Duration = Duration::from_secs(20);
const CONTROLPLANE_STOP_DEADLINE: Duration = Duration::from_secs(15);

/// Starts everything, says where it is, and keeps it running until a signal.
pub(crate) async fn run(options: QuickstartOptions, format: Format) -> Result<(), QuickstartError> {
    if format == Format::Csv {
        return Err(QuickstartError::Usage("quickstart prints text or json".to_owned()));
    }
    let mut signals = Signals::install()?;
    let data = DataDir::open(options.data_dir.clone())?;
    let state = State::load(&data)?;
    let mut quickstart = Quickstart::prepare(options, data, &state).await?;
    let started = tokio::select! {
        started = quickstart.start(state) => started,
        signal = signals.next() => Err(QuickstartError::Interrupted { signal }),
    };
    let result = match started.and_then(|report| report.print(format)) {
        Ok(()) => {
            let signal = signals.next().await;
            eprintln!("liutong: {signal}: stopping");
            Ok(())
        }
        Err(error) => Err(error),
    };
    quickstart.stop(&mut signals).await;
    result
}

/// What runs, in the order in which it was started.
struct Quickstart {
    options: QuickstartOptions,
    data: DataDir,
    addresses: Addresses,
    pids: Pids,
    demo: Option<DemoUpstream>,
    upstream: state::Upstream,
    children: Vec<Child>,
}

impl Quickstart {
    /// Everything that can be refused before something was started.
    async fn prepare(
        options: QuickstartOptions,
        data: DataDir,
        state: &State,
    ) -> Result<Self, QuickstartError> {
        let pids = Pids::new(data.file("pids.json"));
        orphans::wait(&data).await?;
        let mut upstream = state.upstream_for(&options)?;
        let addresses = Addresses::reserve(&options)?;
        let demo = match &mut upstream {
            state::Upstream::Demo { url } => {
                let demo = DemoUpstream::start(url.as_deref()).await?;
                *url = Some(demo.url());
                Some(demo)
            }
            state::Upstream::Url { .. } => None,
        };
        config::write(&data, &addresses, &upstream, options.workers)?;
        Ok(Self { options, data, addresses, pids, demo, upstream, children: Vec::new() })
    }

    async fn start(&mut self, state: State) -> Result<Report, QuickstartError> {
        let admin_key = self.data.admin_key()?;
        let (engine, clickhouse) = engine::program(&self.data, self.addresses.clickhouse.address()).await?;
        self.addresses.clickhouse.release();
        self.launch(engine, &format!("{}/ping", clickhouse.url)).await?;

        self.addresses.admin.release();
        let admin_url = format!("http://{}", self.addresses.admin.address());
        self.launch(self.controlplane()?, &format!("{admin_url}/readyz")).await?;
        let mut setup = setup::Setup::new(&admin_url, &admin_key, &self.data, state)?;
        setup.registry(&self.options, &self.upstream).await?;

        self.addresses.http.release();
        self.addresses.ops.release();
        let ops = self.addresses.ops.address();
        self.launch(self.dataplane()?, &format!("http://{ops}/readyz")).await?;
        let key = setup.key().await?;
        Ok(Report::new(self, key, admin_key, clickhouse))
    }

    /// Starts a program and waits until it answers 200 at `ready`.
    async fn launch(&mut self, program: Program, ready: &str) -> Result<(), QuickstartError> {
        let title = program.title;
        let child = Child::start(program, self.pids.clone())?;
        self.children.push(child);
        let child = self.children.last_mut().expect("it was pushed just now");
        let took = ready::wait(child, ready).await?;
        eprintln!("liutong: {title} is ready after {} ms", took.as_millis());
        Ok(())
    }

    fn controlplane(&self) -> Result<Program, QuickstartError> {
        Ok(Program {
            name: "controlplane",
            title: "the control plane",
            path: beside("liutong-controlplane")?,
            args: plane_args(&self.data, "controlplane"),
            env_remove: std::iter::once("LIUTONG_ADMIN_KEY".into()).chain(self.credential()).collect(),
            log: self.data.log("controlplane"),
            stop_deadline: CONTROLPLANE_STOP_DEADLINE,
        })
    }

    fn dataplane(&self) -> Result<Program, QuickstartError> {
        Ok(Program {
            name: "dataplane",
            title: "the data plane",
            path: beside("liutong-dataplane")?,
            args: plane_args(&self.data, "dataplane"),
            env_remove: vec!["LIUTONG_ADMIN_KEY".into()],
            log: self.data.log("dataplane"),
            stop_deadline: DATAPLANE_STOP_DEADLINE,
        })
    }

    /// The upstream's credential is for the data plane alone.
    fn credential(&self) -> Option<std::ffi::OsString> {
        self.upstream.credential_env().map(Into::into)
    }

    async fn stop(mut self, signals: &mut Signals) {
        while let Some(child) = self.children.pop() {
            let title = child.title();
            if let Err(message) = child.stop(signals).await {
                eprintln!("liutong: {title} {message}");
            }
        }
        if let Some(demo) = self.demo.take() {
            demo.stop();
        }
        self.pids.remove();
    }
}

fn plane_args(data: &DataDir, name: &str) -> Vec<std::ffi::OsString> {
    vec!["--config".into(), data.config(name).into(), "--stop-on-stdin-eof".into()]
}

/// The program that was installed beside this one.
fn beside(name: &str) -> Result<PathBuf, QuickstartError> {
    let own = std::env::current_exe().map_err(|source| QuickstartError::OwnPath { source })?;
    let path = own.with_file_name(name);
    if path.is_file() { Ok(path) } else { Err(QuickstartError::NoProgram { path }) }
}
