//! The embedded ClickHouse: a child process that serves it on loopback, for one-machine installs and for
//! tests.
//!
//! The child is one of our own executables, run with the hidden subcommand `clickhouse-engine`; it loads
//! ClickHouse from a library that npm delivers. Its life is its stdin: the parent holds the other end of the
//! pipe, so that the engine stops in order when the parent closes it, and also when the parent is killed.
//!
//! The data, configuration and passwords are in one directory:
//!
//!   `config.xml`, `users.xml` (written at each start), `passwords.json` (kept), `data/`, `lock`,
//!   `engine.log`
//!
//! Invariants:
//!
//!   * one engine per directory; a start waits for the one before it to finish
//!   * what the parent sees ready is its own child: the child holds the lock before the parent asks

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::client::Client;

/// Configuration files and passwords.
pub mod config;
/// Where the library comes from.
pub mod fetch;
/// The engine's own process.
pub mod process;

pub use self::config::Endpoint;
pub use self::process::{EngineArgs, serve};

/// The hidden subcommand that an executable must have to be an engine's.
pub const SUBCOMMAND: &str = "clickhouse-engine";

/// The port that the engine serves on unless told otherwise.
pub const PORT_DEFAULT: u16 = 18123;

/// The environment variables that it gets of ours. HOME and XDG_CACHE_HOME say where the library is.
const INHERITED: [&str; 9] =
    ["PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];
const PING_INTERVAL: Duration = Duration::from_millis(20);
const FREE_PORT_ATTEMPTS: u32 = 3;
const LOG_TAIL_BYTES: usize = 400;

/// Why the engine did not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The library could not be had.
    #[error(transparent)]
    Fetch(#[from] fetch::FetchError),
    /// A file of the directory could not be written or read.
    #[error("clickhouse engine in {}: {source}", dir.display())]
    Directory {
        /// The engine's directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The child process could not be started.
    #[error("clickhouse engine: cannot run {}: {source}", executable.display())]
    Spawn {
        /// The program that was to be the engine.
        executable: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The child ended before it was ready.
    #[error("clickhouse engine ended with {status} before it was ready: {log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The child did not become ready in time, and was killed.
    #[error("clickhouse engine was not ready after {} s", after.as_secs())]
    NotReady {
        /// How long it had.
        after: Duration,
    },
}

/// What the parent decides about an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// A program whose `clickhouse-engine` subcommand is [`serve`].
    pub executable: PathBuf,
    /// The engine's directory; made if it is missing.
    pub dir: PathBuf,
    /// The port on 127.0.0.1; 0 for any that is free.
    pub port: u16,
    /// ClickHouse's own cap on its memory.
    pub memory_bytes_max: u64,
    /// How long it may take until it answers, the end of a predecessor included.
    pub start_timeout: Duration,
}

impl EngineOptions {
    /// An engine in `dir`, run by `executable`, with the defaults for the rest.
    #[must_use]
    pub fn new(executable: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            executable: executable.into(),
            dir: dir.into(),
            port: PORT_DEFAULT,
            memory_bytes_max: config::MEMORY_BYTES_MAX_DEFAULT,
            start_timeout: Duration::from_mins(1),
        }
    }
}

/// A running engine. Dropping it closes its stdin, which stops it in order, unobserved.
#[derive(Debug)]
pub struct EngineHandle {
    child: Child,
    stdin: Option<ChildStdin>,
    pid: u32,
    endpoint: Endpoint,
}

impl EngineHandle {
    /// Fetches the library if it is not there, writes the configuration, starts the child and waits until it
    /// answers.
    ///
    /// # Errors
    /// When any of these fails; no process is left behind.
    pub async fn start(options: &EngineOptions) -> Result<Self, EngineError> {
        let library = match fetch::cached()? {
            Some(library) => library,
            None => tokio::task::spawn_blocking(fetch::fetch).await.map_err(|error| {
                EngineError::Directory { dir: options.dir.clone(), source: std::io::Error::other(error) }
            })??,
        };
        let deadline = Instant::now() + options.start_timeout;
        let mut attempts = if options.port == 0 { FREE_PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match Self::start_once(options, &library, deadline).await {
                // Between our look and its listening another process can have taken the port.
                Err(EngineError::Ended { .. }) if attempts > 0 => {}
                result => return result,
            }
        }
    }

    async fn start_once(
        options: &EngineOptions,
        library: &Path,
        deadline: Instant,
    ) -> Result<Self, EngineError> {
        let in_dir = |source| EngineError::Directory { dir: options.dir.clone(), source };
        let port = if options.port == 0 { free_port().map_err(in_dir)? } else { options.port };
        let endpoint = config::write(&options.dir, port, options.memory_bytes_max).map_err(in_dir)?;
        let log = config::open_log(&options.dir).map_err(in_dir)?;
        let mut child = Command::new(&options.executable)
            .arg(SUBCOMMAND)
            .arg("--dir")
            .arg(&options.dir)
            .arg("--http-port")
            .arg(port.to_string())
            .arg("--library")
            .arg(library)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| inherits(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|source| EngineError::Spawn { executable: options.executable.clone(), source })?;
        let (stdin, stdout, pid) = (child.stdin.take(), child.stdout.take(), child.id().unwrap_or_default());
        let mut engine = Self { child, stdin, pid, endpoint };
        match tokio::time::timeout_at(deadline.into(), engine.ready(stdout)).await {
            Ok(true) => Ok(engine),
            Ok(false) => {
                let status = engine.wait().await.map_err(in_dir)?;
                Err(EngineError::Ended { status, log: config::log_tail(&options.dir, LOG_TAIL_BYTES) })
            }
            Err(_) => {
                engine.child.kill().await.map_err(in_dir)?;
                Err(EngineError::NotReady { after: options.start_timeout })
            }
        }
    }

    /// Waits until the child holds the directory's lock and answers; false when it has ended instead.
    async fn ready(&mut self, stdout: Option<ChildStdout>) -> bool {
        let Some(stdout) = stdout else { return false };
        let mut line = String::new();
        match BufReader::new(stdout).read_line(&mut line).await {
            Ok(read) if read > 0 => {}
            _ => return false,
        }
        let client = self.endpoint.client();
        loop {
            if let Ok(Some(_)) = self.child.try_wait() {
                return false;
            }
            if client.ping(Duration::from_secs(2)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(PING_INTERVAL).await;
        }
    }

    /// Where it serves, and as whom.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the child has ended by itself; safe to cancel.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        // Tokio's own `wait` would close a stdin that is still in the child; ours was taken out of it.
        self.child.wait().await
    }

    /// Stops the engine in order, and kills it at the deadline. What was acknowledged is safe either way.
    ///
    /// # Errors
    /// When the system cannot tell how it ended.
    pub async fn stop(mut self, deadline: Duration) -> std::io::Result<ExitStatus> {
        drop(self.stdin.take());
        if let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await {
            return status;
        }
        tracing::warn!(pid = self.pid, "clickhouse engine did not stop in time and is killed");
        self.child.start_kill()?;
        self.child.wait().await
    }
}

impl Endpoint {
    /// A client of the engine that may write.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.url, &self.user, &self.password)
    }

    /// A client of the engine as `analyst`, who may only read Liutong's tables.
    #[must_use]
    pub fn analyst(&self) -> Client {
        Client::new(&self.url, config::ANALYST, &self.analyst_password)
    }
}

/// Whether the engine gets this variable of our environment: what a program needs to run, and nothing that
/// may be a secret.
pub(crate) fn inherits(name: &OsStr) -> bool {
    INHERITED.iter().any(|one| name == *one)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
