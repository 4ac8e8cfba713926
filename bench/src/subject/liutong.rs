//! Liutong: the whole system where it is built, else its data plane alone on a snapshot made here.
//!
//! Both check keys, rewrite the alias, swap the key, read the usage out of every answer and write every usage
//! event to the spool on disk. The whole system also ships them to a control plane that puts them into
//! ClickHouse.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use dataplane::tables::disk::TableStore;
use load_tests::harness::{System, binary, descendants};
use load_tests::tls::CertifiedFiles;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wire::frame::Frame;
use wire::id::{
    AliasId, ApplicationId, AttributionId, DeploymentId, Generation, KeyDigest, KeyId, RegistryId,
};
use wire::table::{Alias, Allow, Application, Change, Deployment, Dialect, Key, OnDisconnect, Settings};

use super::{Holds, Name, Setting, Subject, UPSTREAM_SECRET, directory, free_address, version};
use crate::process::{LOAD_CORE, PROXY_CORE, Running, pin_process};
use crate::work::ALIAS;

/// The name of the credential that stands for the upstream's secret.
const CREDENTIAL: &str = "bench";
/// The variable of the environment that holds it.
const SECRET_VARIABLE: &str = "LIUTONG_BENCH_UPSTREAM_SECRET";
/// The variable that tells a data plane built for it what to leave out.
const WITHOUT_VARIABLE: &str = "LIUTONG_WITHOUT";
/// Where files stay in memory.
const MEMORY: &str = "/dev/shm";
/// Changes in one frame of a snapshot.
const CHANGES_PER_FRAME: usize = 256;

/// Takes a system that quickstart started: the data plane has the proxy's core, all else the other one.
pub(super) fn whole(system: System) -> anyhow::Result<Subject> {
    let dataplane = system.ready.pids.dataplane;
    for pid in descendants(system.pid()).into_iter().chain([system.pid()]) {
        pin_process(pid, LOAD_CORE)?;
    }
    pin_process(dataplane, PROXY_CORE)?;
    let version = version(&binary("liutong-dataplane")?, "--version")?;
    let about =
        format!("{version}, everything on: key check, rewrite, metering, spool, control plane, ClickHouse");
    let address = system.address();
    let holds = Holds::System(Box::new(system));
    Ok(Subject { name: Name::Liutong, about, address, pids: vec![dataplane], tls: None, holds })
}

/// What differs from the data plane as it is shipped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Variant {
    /// Another program than `liutong-dataplane`.
    pub(crate) program: Option<&'static str>,
    /// Features that the program is told to leave out.
    pub(crate) without: &'static [&'static str],
    /// `usage.sync`, where it is not the default.
    pub(crate) sync: Option<&'static str>,
}

impl Variant {
    /// Whether it refuses unknown keys.
    pub(crate) fn checks_keys(&self) -> bool {
        !self.without.contains(&"key-check")
    }
}

/// Starts a data plane that no control plane ever talks to. `launcher` is what comes before its command line.
pub(super) fn on_snapshot(
    variant: &Variant,
    launcher: &[OsString],
    setting: &Setting<'_>,
) -> anyhow::Result<Subject> {
    let program = binary(variant.program.unwrap_or("liutong-dataplane"))?;
    let (dir, memory, address) = (directory()?, memory()?, free_address()?);
    write_snapshot(&dir.path().join("data/tables"), setting)
        .with_context(|| format!("snapshot in {}", dir.path().display()))?;
    let config = dir.path().join("dataplane.toml");
    let mut text = configuration(variant, dir.path(), memory.path(), address, setting);
    if let Some(certified) = setting.tls {
        let CertifiedFiles { certificate, key } = certified.write(dir.path())?;
        let (certificate, key) = (certificate.display(), key.display());
        text += &format!("[http.tls]\ncertificate_file = '{certificate}'\nkey_file = '{key}'\n");
    }
    std::fs::write(&config, text)?;
    let about = format!(
        "{}, key check ({} keys), rewrite, metering, spool; no control plane",
        version(&program, "--version")?,
        setting.keys.known.len()
    );
    let mut words = launcher.iter().cloned().chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).arg("--config").arg(&config).env(SECRET_VARIABLE, UPSTREAM_SECRET);
    if !variant.without.is_empty() {
        command.env(WITHOUT_VARIABLE, variant.without.join(","));
    }
    command.stderr(std::fs::File::create(dir.path().join("dataplane.log"))?);
    let running = Running::start_on(command, setting.cores())?;
    Ok(Subject::process(Name::Liutong, about, address, running, vec![dir, memory]))
}

/// The runtime directory is on tmpfs, as in an installation.
fn memory() -> anyhow::Result<TempDir> {
    if Path::new(MEMORY).is_dir() {
        return Ok(tempfile::Builder::new().prefix("liutong-bench-").tempdir_in(MEMORY)?);
    }
    directory()
}

fn configuration(
    variant: &Variant,
    dir: &Path,
    memory: &Path,
    address: SocketAddr,
    setting: &Setting<'_>,
) -> String {
    let Setting { upstream, workers, .. } = setting;
    let usage = variant.sync.map_or(String::new(), |sync| format!("[usage]\nsync = '{sync}'\n"));
    format!(
        "data_dir = '{}'\nruntime_dir = '{}'\nworkers = {workers}\n[http]\nlisten = '{address}'\n\
         [ops]\nlisten = '127.0.0.1:0'\n[control]\nsocket = '{}'\n\
         [credentials.{CREDENTIAL}]\nenv = '{SECRET_VARIABLE}'\nhosts = ['{upstream}']\n{usage}",
        dir.join("data").display(),
        memory.display(),
        dir.join("nobody.sock").display(),
    )
}

fn write_snapshot(dir: &Path, setting: &Setting<'_>) -> anyhow::Result<()> {
    let Setting { upstream, keys, .. } = setting;
    let deployment = Deployment {
        id: DeploymentId(1),
        name: "scripted".into(),
        base_url: format!("http://{upstream}/v1"),
        dialect: Dialect::Openai,
        upstream_model: "scripted".into(),
        credential: CREDENTIAL.into(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        connect_timeout_ms: 5_000,
        first_byte_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
    };
    let alias = Alias {
        id: AliasId(1),
        name: ALIAS.into(),
        created_s: 1_700_000_000,
        deployments: vec![deployment.id],
    };
    let mut changes = vec![
        Change::Settings(Settings { request_id_key: [7; 16] }),
        Change::Application(Application { id: ApplicationId(1), allow: Allow::All }),
        Change::Deployment(deployment),
        Change::Alias(alias),
    ];
    changes.extend((1_u64..).zip(&keys.known).map(|(number, key)| {
        Change::Key(Key {
            digest: KeyDigest(Sha256::digest(key).into()),
            id: KeyId(number),
            application: ApplicationId(1),
            attribution: AttributionId(number),
            not_after_ms: 0,
            allow: None,
        })
    }));
    let count = changes.len() as u64;
    let mut store = TableStore::open(dir)?;
    let mut file = store.begin()?;
    file.add(&Frame::SnapshotBegin { registry: RegistryId(1), generation: Generation(1) })?;
    for part in changes.chunks(CHANGES_PER_FRAME) {
        file.add(&Frame::SnapshotPart(part.to_vec()))?;
    }
    file.add(&Frame::SnapshotEnd { generation: Generation(1), changes: count })?;
    Ok(store.finish(file)?)
}
