//! What is measured: proxies that all stand before the same upstream and know the same keys.
//!
//! `direct` is no proxy: it shows what the load generator and the upstream can do. `forwarder` only copies
//! bytes: it is the floor for a proxy on our runtime.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use load_tests::client::{Connection, Response};
use load_tests::harness::System;
use load_tests::tls::Certified;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::keys::{Keys, UNKNOWN_KEY};
use crate::process::{LOAD_CORE, PROXY_CORE, Running};
use crate::tls::Tls;
use crate::work;

mod forwarder;
mod haproxy;
mod liutong;
mod nginx;

pub(crate) use forwarder::serve as forward;
pub(crate) use liutong::Variant;

/// How long a subject may take until it answers: with a million keys it reads for a while.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How many of the keys that are sent are tried; what is measured tries all of them.
const CHECKED_KEYS: usize = 100;
/// The secret that the upstream would ask for: every proxy puts it in the place of the client's key.
const UPSTREAM_SECRET: &str = "upstream-secret-0123456789abcdef";

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// No proxy.
    Direct,
    /// Accept, connect, copy.
    Forwarder,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Liutong's data plane.
    Liutong,
    /// The same data plane, while the control plane stores what it ships.
    #[value(skip)]
    Shipping,
}

impl Name {
    /// Those that can be started, in the order in which they are measured and shown.
    pub(crate) const ALL: [Self; 5] =
        [Self::Direct, Self::Forwarder, Self::Nginx, Self::Haproxy, Self::Liutong];

    /// As the tables and the JSON have it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forwarder => "forwarder",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Liutong => "liutong",
            Self::Shipping => "liutong, shipping meanwhile",
        }
    }

    /// Whether it can serve https; the others would pass TLS on, or have none.
    pub(crate) fn speaks_tls(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Liutong)
    }

    fn checks_keys(self) -> bool {
        !matches!(self, Self::Direct | Self::Forwarder)
    }
}

/// Before what a proxy stands, and what it is to expect.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// The upstream.
    pub(crate) upstream: SocketAddr,
    /// The keys it knows.
    pub(crate) keys: &'a Keys,
    /// How many clients may connect.
    pub(crate) connections: usize,
    /// Workers: threads or processes that serve.
    pub(crate) workers: usize,
    /// Whether bodies may be larger than a proxy buffers in memory: who can, passes them on as they come.
    pub(crate) large_bodies: bool,
    /// What it shows to clients that speak TLS; without it they speak plain HTTP.
    pub(crate) tls: Option<&'a Arc<Certified>>,
}

impl<'a> Setting<'a> {
    /// One worker, and four thousand clients.
    pub(crate) fn new(upstream: SocketAddr, keys: &'a Keys) -> Self {
        Self { upstream, keys, connections: 4096, workers: 1, large_bodies: false, tls: None }
    }

    /// Where the proxy runs: a single worker never leaves the proxy's core.
    fn cores(&self) -> &'static [usize] {
        if self.workers == 1 { &[PROXY_CORE] } else { &[PROXY_CORE, LOAD_CORE] }
    }
}

/// A running subject.
pub(crate) struct Subject {
    /// Which one.
    pub(crate) name: Name,
    /// Its version, and what is switched on.
    pub(crate) about: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The processes whose CPU time is its own.
    pub(crate) pids: Vec<i32>,
    /// What it shows to clients, if they speak TLS to it.
    tls: Option<Arc<Certified>>,
    holds: Holds,
}

/// What ends with a subject; processes before the directories that they use.
enum Holds {
    Nothing,
    Process(Running, #[expect(dead_code, reason = "held for its drop")] Vec<TempDir>),
    System(Box<System>),
}

impl Subject {
    /// Starts `name`, and sees that it lets known keys pass and no others.
    pub(crate) fn start(name: Name, setting: &Setting<'_>) -> anyhow::Result<Self> {
        let mut subject = match name {
            Name::Direct => Self::direct(setting.upstream),
            Name::Forwarder => forwarder::start(setting)?,
            Name::Nginx => nginx::start(setting)?,
            Name::Haproxy => haproxy::start(setting)?,
            Name::Liutong => liutong::on_snapshot(&Variant::default(), &[], setting)?,
            Name::Shipping => bail!("{} needs a whole system", name.text()),
        };
        if let Some(certified) = setting.tls {
            ensure!(name.speaks_tls(), "{} has no TLS", name.text());
            subject.about.push_str(", TLS towards clients");
            subject.tls = Some(Arc::clone(certified));
        }
        subject.ready(setting.keys, name.checks_keys()).with_context(|| name.text())
    }

    /// Starts a variant of Liutong's data plane on a snapshot.
    pub(crate) fn variant(variant: &Variant, setting: &Setting<'_>) -> anyhow::Result<Self> {
        liutong::on_snapshot(variant, &[], setting)?.ready(setting.keys, variant.checks_keys())
    }

    /// Starts Liutong's data plane on a snapshot, with `launcher` before its command line.
    pub(crate) fn dataplane_under(
        variant: &Variant,
        launcher: &[OsString],
        setting: &Setting<'_>,
    ) -> anyhow::Result<Self> {
        liutong::on_snapshot(variant, launcher, setting)?.ready(setting.keys, variant.checks_keys())
    }

    /// Takes a whole system that runs before `upstream` for the subject `liutong`.
    pub(crate) fn whole_system(system: System, keys: &Keys) -> anyhow::Result<Self> {
        liutong::whole(system)?.ready(keys, true)
    }

    /// Whether clients speak TLS to it.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How clients of a work speak TLS to it, with no session yet.
    pub(crate) fn client(&self, tls: Tls) -> anyhow::Result<Option<Arc<ClientConfig>>> {
        ensure!(tls.is_on() == self.has_tls(), "{} is set up for other clients", self.name.text());
        Ok(self.tls.as_ref().map(|certified| certified.client(tls == Tls::Resumed)).transpose()?)
    }

    fn ask(&self, key: &str) -> anyhow::Result<Response> {
        let client = self.tls.as_ref().map(|certified| certified.client(false)).transpose()?;
        Ok(Connection::open_with(self.address, client)?.exchange(&work::probe(key))?)
    }

    /// The whole system that it is the data plane of, if it is.
    pub(crate) fn system(&self) -> Option<&System> {
        match &self.holds {
            Holds::System(system) => Some(system),
            _ => None,
        }
    }

    fn direct(upstream: SocketAddr) -> Self {
        let about = "no proxy".to_owned();
        let (pids, holds) = (Vec::new(), Holds::Nothing);
        Self { name: Name::Direct, about, address: upstream, pids, tls: None, holds }
    }

    fn process(name: Name, about: String, address: SocketAddr, running: Running, dirs: Vec<TempDir>) -> Self {
        let pids = vec![running.pid()];
        Self { name, about, address, pids, tls: None, holds: Holds::Process(running, dirs) }
    }

    fn ready(mut self, keys: &Keys, checks_keys: bool) -> anyhow::Result<Self> {
        self.wait_for_answer(&keys.sent[0])?;
        self.check(keys, checks_keys)?;
        if let Holds::Process(running, _) = &self.holds {
            self.pids = load_tests::harness::descendants(running.pid());
            self.pids.push(running.pid());
        }
        Ok(self)
    }

    fn wait_for_answer(&mut self, key: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let problem = match self.ask(key) {
                Ok(answer) if answer.status() == 200 => return Ok(()),
                Ok(answer) => format!("status {}: {}", answer.status(), answer.text()),
                Err(error) => error.to_string(),
            };
            if let Holds::Process(running, _) = &mut self.holds
                && let Some(status) = running.ended()
            {
                bail!("ended at once: {status}");
            }
            ensure!(begun.elapsed() < START_LIMIT, "does not answer: {problem}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A subject that does not do the work must not be measured.
    fn check(&self, keys: &Keys, checks_keys: bool) -> anyhow::Result<()> {
        for key in keys.sent.iter().take(CHECKED_KEYS) {
            let answer = self.ask(key)?;
            ensure!(answer.status() == 200, "answers {} to a known key", answer.status());
        }
        let refused = self.ask(UNKNOWN_KEY)?.status() == 401;
        ensure!(refused == checks_keys, "an unknown key is {}refused", if refused { "" } else { "not " });
        Ok(())
    }
}

/// An address of this machine that nobody listens on.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A directory for a subject's files.
fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("liutong-bench-").tempdir()?)
}

/// Finds a program, also where only root looks by default.
pub(crate) fn installed(program: &str, package: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    dirs.into_iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed: apt-get install {package}"))
}

/// The first version number that a program tells of itself.
pub(crate) fn version(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let word = text.split([' ', '/', '\n']).find(is_version);
    Ok(word.with_context(|| format!("{} tells no version", program.display()))?.to_owned())
}
