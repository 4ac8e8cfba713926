//! What is measured: proxies that all stand before the same upstream and know the same keys.
//!
//! `direct` is no proxy: it shows what the load generator and the upstream can do. `forwarder` only copies
//! bytes: it is the floor for a proxy on our runtime.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use load_tests::client::Connection;
use load_tests::harness::System;
use tempfile::TempDir;

use crate::keys::{Keys, UNKNOWN_KEY};
use crate::process::Running;
use crate::work;

mod forwarder;
mod haproxy;
mod liutong;
mod nginx;

pub(crate) use forwarder::serve as forward;

/// How long a subject may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
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
}

impl Name {
    /// In the order in which they are measured and shown.
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
        }
    }

    fn checks_keys(self) -> bool {
        !matches!(self, Self::Direct | Self::Forwarder)
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
    holds: Holds,
}

/// What ends with a subject; processes before the directories that they use.
enum Holds {
    Nothing,
    Process(Running, #[expect(dead_code, reason = "held for its drop")] Vec<TempDir>),
    System(#[expect(dead_code, reason = "held for its drop")] Box<System>),
}

impl Subject {
    /// Starts `name` before `upstream`, and sees that it lets known keys pass and no others.
    pub(crate) fn start(name: Name, upstream: SocketAddr, keys: &Keys) -> anyhow::Result<Self> {
        let mut subject = match name {
            Name::Direct => Self::direct(upstream),
            Name::Forwarder => forwarder::start(upstream)?,
            Name::Nginx => nginx::start(upstream, keys)?,
            Name::Haproxy => haproxy::start(upstream, keys)?,
            Name::Liutong => liutong::on_snapshot(&[], upstream, keys)?,
        };
        subject.wait_for_answer(&keys.sent[0]).with_context(|| name.text())?;
        subject.check(keys).with_context(|| name.text())?;
        Ok(subject)
    }

    /// Starts the data plane on a snapshot, with `launcher` before its command line.
    pub(crate) fn dataplane_under(
        launcher: &[OsString],
        upstream: SocketAddr,
        keys: &Keys,
    ) -> anyhow::Result<Self> {
        let mut subject = liutong::on_snapshot(launcher, upstream, keys)?;
        subject.wait_for_answer(&keys.sent[0])?;
        subject.check(keys)?;
        Ok(subject)
    }

    /// Takes a whole system that runs before `upstream` for the subject `liutong`.
    pub(crate) fn whole_system(system: System, keys: &Keys) -> anyhow::Result<Self> {
        let mut subject = liutong::whole(system)?;
        subject.wait_for_answer(&keys.sent[0])?;
        subject.check(keys)?;
        Ok(subject)
    }

    fn direct(upstream: SocketAddr) -> Self {
        let about = "no proxy".to_owned();
        Self { name: Name::Direct, about, address: upstream, pids: Vec::new(), holds: Holds::Nothing }
    }

    fn process(name: Name, about: String, address: SocketAddr, running: Running, dirs: Vec<TempDir>) -> Self {
        let pids = vec![running.pid()];
        Self { name, about, address, pids, holds: Holds::Process(running, dirs) }
    }

    fn wait_for_answer(&mut self, key: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let answer = Connection::open(self.address).and_then(|mut c| c.exchange(&work::probe(key)));
            let problem = match answer {
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
    fn check(&mut self, keys: &Keys) -> anyhow::Result<()> {
        for key in &keys.sent {
            let answer = Connection::open(self.address)?.exchange(&work::probe(key))?;
            ensure!(answer.status() == 200, "answers {} to a known key", answer.status());
        }
        let refused = Connection::open(self.address)?.exchange(&work::probe(UNKNOWN_KEY))?.status() == 401;
        ensure!(
            refused == self.name.checks_keys(),
            "an unknown key is {}refused",
            if refused { "" } else { "not " }
        );
        if let Holds::Process(running, _) = &self.holds {
            self.pids = load_tests::harness::descendants(running.pid());
            self.pids.push(running.pid());
        }
        Ok(())
    }
}

/// An address of this machine that nobody listens on.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A directory for a subject's files.
fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("liutong-bench-").tempdir()?)
}

/// Finds a program, also where only root looks by default.
fn installed(program: &str, package: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    dirs.into_iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("{program} is not installed: apt-get install {package}"))
}

/// The first version number that a program tells of itself.
fn version(program: &Path, argument: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(argument).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let word = text.split([' ', '/', '\n']).find(is_version);
    Ok(word.with_context(|| format!("{} tells no version", program.display()))?.to_owned())
}
