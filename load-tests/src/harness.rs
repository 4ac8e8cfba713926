//! Starts the whole system the way a newcomer does, by `liutong quickstart`, and asks it questions.
//!
//! Everything that a test learns it learns from outside: over the data plane's address, the admin API,
//! ClickHouse, the command, the files. A system stops with the value that started it, or, where tests of a
//! file share one in a `OnceLock`, when the test program ends; when the test program is killed, it is stopped
//! by the kernel's notice.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

pub use process::{alive, descendants, signal};

/// Questions to a running system: HTTP, SQL, the command.
pub mod ask;
/// CPU and memory of processes.
pub mod consumption;
/// Signals, life and death of processes.
pub mod process;
/// A disk that is soon full.
pub mod small_disk;
/// What tests need of PyPI and npm.
mod install;
/// A real model server.
pub mod real;
/// The clients that people use.
pub mod sdk;

/// How long a first start may take: it fetches the ClickHouse engine.
const START_LIMIT: Duration = Duration::from_secs(600);
/// How long an orderly stop may take.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long anything that should happen "soon" may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// What quickstart serves.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Base URL, ending in `/v1`, model name, dialect; `None` for the built-in demo upstream.
    pub upstream: Option<(String, String, String)>,
    /// The model name that clients send.
    pub alias: String,
    /// Workers of the data plane.
    pub workers: usize,
    /// Variables added to quickstart's environment.
    pub environment: Vec<(String, String)>,
    /// The variable that has the upstream's credential.
    pub credential_env: Option<String>,
}

impl Setup {
    /// Two workers before an upstream that speaks like OpenAI, whose model `scripted` clients call `small`.
    pub fn for_upstream(base_url: &str) -> Self {
        let upstream = Some((base_url.to_owned(), "scripted".to_owned(), "openai".to_owned()));
        Self {
            upstream,
            alias: "small".to_owned(),
            workers: 2,
            environment: Vec::new(),
            credential_env: None,
        }
    }

    /// Two workers before the built-in demo upstream.
    pub fn demo() -> Self {
        Self {
            upstream: None,
            alias: "demo".to_owned(),
            workers: 2,
            environment: Vec::new(),
            credential_env: None,
        }
    }
}

/// The line that quickstart prints once all is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    /// What SDKs take as base URL; ends in `/v1`.
    pub base_url: String,
    /// The demo key; only on the first start of a data dir.
    pub api_key: Option<String>,
    /// Its id.
    pub key_id: String,
    /// The model name that clients send.
    pub alias: String,
    /// The admin API, without a path.
    pub admin_url: String,
    /// Its bearer.
    pub admin_key: String,
    /// ClickHouse over HTTP.
    pub clickhouse_url: String,
    /// Its user.
    pub clickhouse_user: String,
    /// And password.
    pub clickhouse_password: String,
    /// `/healthz`, `/readyz`, `/metrics` of the data plane.
    pub ops_url: String,
    /// Where all data is.
    pub data_dir: PathBuf,
    /// The processes at that moment.
    pub pids: Pids,
}

/// The processes that quickstart looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Pids {
    /// The data plane.
    pub dataplane: i32,
    /// The control plane.
    pub controlplane: i32,
    /// The embedded ClickHouse.
    pub clickhouse: i32,
}

impl Pids {
    /// All of them.
    pub fn all(&self) -> [i32; 3] {
        [self.dataplane, self.controlplane, self.clickhouse]
    }
}

/// A running system.
#[derive(Debug)]
pub struct System {
    child: Child,
    /// What it said when it was ready.
    pub ready: Ready,
    directory: PathBuf,
    owned: Option<TempDir>,
}

impl System {
    /// Starts a system on a data dir of its own.
    pub fn start(setup: &Setup) -> anyhow::Result<Self> {
        let owned = tempfile::Builder::new().prefix("liutong-test-").tempdir()?;
        let mut system = Self::start_in(setup, owned.path())?;
        system.owned = Some(owned);
        Ok(system)
    }

    /// Starts a system under a directory that outlives it: data in `data`, its output in `quickstart.log`.
    pub fn start_in(setup: &Setup, directory: &Path) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(directory.join("quickstart.log"))?;
        let mut command = Command::new(binary("liutong")?);
        command.arg("quickstart").arg("--data-dir").arg(directory.join("data"));
        for address in ["--http", "--ops", "--admin", "--clickhouse"] {
            command.args([address, "127.0.0.1:0"]);
        }
        if let Some((url, model, dialect)) = &setup.upstream {
            command.args(["--upstream", url, "--upstream-model", model, "--dialect", dialect]);
        }
        if let Some(name) = &setup.credential_env {
            command.args(["--credential-env", name]);
        }
        command.args(["--alias", &setup.alias, "--workers", &setup.workers.to_string(), "--output", "json"]);
        command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = process::spawn_watched(command, directory)?;
        let ready = match first_line(&mut child, START_LIMIT) {
            Ok(line) => serde_json::from_str(&line).with_context(|| format!("quickstart printed {line:?}")),
            Err(error) => Err(error),
        };
        match ready {
            Ok(ready) => Ok(Self { child, ready, directory: directory.to_owned(), owned: None }),
            Err(error) => {
                process::stop(&mut child, STOP_LIMIT);
                bail!("quickstart did not get ready: {error:#}\n{}", process::logs(directory));
            }
        }
    }

    /// The directory with data dir and log.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Quickstart's own process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// The processes as `pids.json` has them now.
    pub fn pids(&self) -> anyhow::Result<Pids> {
        let file = self.ready.data_dir.join("pids.json");
        let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The data plane's address.
    pub fn address(&self) -> SocketAddr {
        ask::address(&self.ready.base_url).expect("quickstart prints URLs with addresses")
    }

    /// The demo key.
    pub fn key(&self) -> &str {
        self.ready.api_key.as_deref().expect("the first start of a data dir prints its key")
    }

    /// Stops it in order, and tells whether it ended by itself, in time and with success.
    pub fn stop(&mut self) -> bool {
        process::stop(&mut self.child, STOP_LIMIT)
    }

    /// Kills quickstart alone, without warning.
    pub fn kill_supervisor(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Reads what quickstart and its children have logged.
    pub fn logs(&self) -> String {
        process::logs(&self.directory)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.stop();
        process::forget(self.pid());
        if std::env::var_os("LIUTONG_KEEP").is_some() {
            self.owned.take().map(TempDir::keep);
        }
    }
}

/// Finds a program of the workspace: in `LIUTONG_BIN_DIR`, or beside this one, or in the directory above
/// (where Cargo puts programs, one above its test executables).
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("LIUTONG_BIN_DIR") {
        return Ok(Path::new(&directory).join(name));
    }
    let here = std::env::current_exe()?;
    let found =
        here.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.exists());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --workspace` first, with the same profile")
    })
}

/// Writes a secret to a new file that only its owner can read: the planes refuse any other.
pub fn write_secret(file: &Path, secret: &str) {
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(file).expect("the file is new");
    file.write_all(secret.as_bytes()).expect("there is room");
}

/// Waits for a condition and returns what it found; panics, saying what it waited for, when time is up.
pub fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for the first line that a child prints; the rest is thrown away.
fn first_line(child: &mut Child, limit: Duration) -> anyhow::Result<String> {
    let stdout = child.stdout.take().context("stdout is piped")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        let read = stdout.read_line(&mut line).map(|_| line);
        let _ = sender.send(read);
        // Whatever else it prints must not block it.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    let line = receiver.recv_timeout(limit).context("nothing printed in time")??;
    ensure!(!line.trim().is_empty(), "it ended without printing anything");
    Ok(line)
}
