//! A PostgreSQL of Debian's for tests, one for each test program, and databases in it.
//!
//! It refuses to run as root, so it runs as nobody where the tests are root's. Its directory is temporary;
//! a shell waits beside it for the end of this program, however it ends, and then stops it by its process
//! id and removes the directory. Nothing is synced to the disk: no test cuts its power.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};

use crate::harness::{SOON, wait_until};

/// Where it says on which database the registry's tests are to run: `sqlite`, as without it, or `postgres`.
pub const CHOICE: &str = "LIUTONG_TEST_REGISTRY";
/// The password of its user `liutong` over TCP; its socket asks for none.
pub const PASSWORD: &str = "only for tests";

const NOBODY: u32 = 65_534;
const RUN: &str = r#"
"$0/postgres" -D "$1/data" -k "$1" -p "$2" -c listen_addresses=127.0.0.1 -c max_connections=400 \
    -c fsync=off -c shared_buffers=64MB -c max_wal_size=256MB >"$1/postgres.log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT $server
wait $server
rm -rf "$1"
"#;

/// A server.
#[derive(Debug)]
pub struct Server {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
    databases: AtomicU32,
    /// Its stdin is what the shell waits on.
    _shell: Child,
}

/// The server of this test program, started on first use.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start().expect("PostgreSQL starts"))
}

/// The URL of a new database, where the registry's tests are to run on PostgreSQL.
pub fn database_if_chosen() -> Option<String> {
    match std::env::var(CHOICE).as_deref() {
        Ok("postgres") => Some(server().database().expect("a database can be made")),
        Ok("sqlite") | Err(_) => None,
        Ok(other) => panic!("{CHOICE} is sqlite or postgres, not {other:?}"),
    }
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let directory = tempfile::Builder::new().prefix("liutong-postgres-").tempdir()?.keep();
        if is_root(&directory)? {
            std::os::unix::fs::chown(&directory, Some(NOBODY), Some(NOBODY))?;
        }
        let mut initdb = unprivileged(&programs.join("initdb"), &directory)?;
        std::fs::write(directory.join("password"), PASSWORD)?;
        initdb.arg("-D").arg(directory.join("data")).arg("--pwfile").arg(directory.join("password"));
        initdb.args(["-U", "liutong", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        succeeded(&initdb.args(["-E", "UTF8", "--locale=C"]).output().context("initdb")?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut shell = unprivileged(Path::new("/bin/sh"), &directory)?;
        shell.args(["-c", RUN]).arg(&programs).arg(&directory).arg(port.to_string());
        let shell = shell.stdin(Stdio::piped()).spawn()?;
        let server = Self { directory, programs, port, databases: AtomicU32::new(0), _shell: shell };
        wait_until("PostgreSQL", SOON, || {
            // The last line of what it says of itself.
            let state = std::fs::read_to_string(server.directory.join("data/postmaster.pid")).ok()?;
            state.lines().last().is_some_and(|line| line.trim() == "ready").then_some(())
        });
        Ok(server)
    }

    /// Makes an empty database, and returns its URL by way of the socket.
    pub fn database(&self) -> anyhow::Result<String> {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut createdb = Command::new(self.programs.join("createdb"));
        createdb.arg("-h").arg(&self.directory).args(["-p", &self.port.to_string(), "-U", "liutong"]);
        succeeded(&createdb.args(["-T", "template0", &name]).output().context("createdb")?)?;
        let host = self.directory.display().to_string().replace('/', "%2F");
        Ok(format!("postgres://liutong@{host}:{}/{name}", self.port))
    }

    /// The URL of one of its databases over TCP, which asks for `PASSWORD`.
    pub fn over_tcp(&self, database: &str) -> String {
        let name = database.rsplit('/').next().unwrap_or_default();
        format!("postgres://liutong@127.0.0.1:{}/{name}", self.port)
    }

    /// Runs SQL on one of its databases and returns the values, a line for each row.
    pub fn ask(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let name = database.rsplit('/').next().unwrap_or_default();
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-h").arg(&self.directory).args(["-p", &self.port.to_string(), "-U", "liutong"]);
        let output = psql.args(["-d", name, "-X", "-q", "-A", "-t", "-c", sql]).output().context("psql")?;
        succeeded(&output)?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Where Debian keeps them, the newest version first, or where the path leads.
fn programs() -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    found.sort();
    found.reverse();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let whole = found.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists());
    whole.context("PostgreSQL is missing: apt-get install postgresql")
}

fn is_root(directory: &Path) -> anyhow::Result<bool> {
    Ok(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory)?) == 0)
}

/// A command that does not run as root, in a directory that it may enter.
fn unprivileged(program: &Path, directory: &Path) -> anyhow::Result<Command> {
    ensure!(program.exists(), "{} is missing", program.display());
    let mut command = Command::new(program);
    command.current_dir(directory);
    if is_root(Path::new("/proc/self"))? {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}

fn succeeded(output: &Output) -> anyhow::Result<()> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
