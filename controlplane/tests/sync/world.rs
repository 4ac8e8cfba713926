//! A control plane and data planes as processes, each data plane on a loopback address of its own: one on the
//! control plane's socket, others over TLS through a line that can be cut.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use load_tests::chaos::line::{LineProxy, Place};
use load_tests::harness::ask::http;
use load_tests::harness::{binary, wait_until};
use load_tests::upstream::{Options, Upstream};
use serde_json::{Value, json};

use super::seed;

const READY_MAX: Duration = Duration::from_secs(120);
/// Workers of each data plane.
pub(crate) const WORKERS: usize = 2;

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    fn start(program: &Path, config: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(config.with_extension("log"));
        let mut command = if program.ends_with("liutong-controlplane") {
            // As its unit of systemd does it; without the right to it, it runs as it may.
            let mut command = Command::new("nice");
            command.args(["-n", "-10"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.arg("--config").arg(config).arg("--stop-on-stdin-eof");
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(15) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A data plane.
pub(crate) struct DataPlane {
    pub(crate) process: Process,
    /// Where clients connect.
    pub(crate) http: SocketAddr,
    ops: SocketAddr,
}

impl DataPlane {
    /// What it says of itself; nothing while it starts.
    pub(crate) fn ops(&self, path: &str) -> Option<(u16, String)> {
        let answer = http("GET", &format!("http://{}{path}", self.ops), &[], b"").ok()?;
        Some((answer.status(), answer.text()))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ops("/readyz").is_some_and(|(status, _)| status == 200)
    }
}

pub(crate) struct World {
    control_plane: Option<Process>,
    pub(crate) local: Option<DataPlane>,
    pub(crate) remote: Option<DataPlane>,
    /// Between the remote data plane and the control plane.
    pub(crate) line: LineProxy,
    admin: SocketAddr,
    admin_key: String,
    tls: SocketAddr,
    _upstream: Upstream,
    dir: tempfile::TempDir,
}

/// Lets all else go first, from this thread on and those that it starts: what stands for another machine
/// would not take the processors of this one.
pub(crate) fn stand_elsewhere() {
    rustix::process::nice(10).unwrap();
}

fn free(address: &str) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

impl World {
    /// A control plane over a registry with so many keys, and no data plane yet.
    pub(crate) fn start(keys: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstream = std::thread::spawn(|| {
            stand_elsewhere();
            Upstream::start(Options::default()).unwrap()
        });
        let upstream = upstream.join().unwrap();
        std::fs::create_dir(dir.path().join("control")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(seed::registry(&dir.path().join("control/registry.db"), keys, &upstream.base_url()));
        let made = Command::new(env!("CARGO_BIN_EXE_liutong-controlplane")).arg("--new-admin-key").output();
        let admin_key = String::from_utf8(made.unwrap().stdout).unwrap().trim().to_owned();
        load_tests::harness::write_secret(&dir.path().join("admin-key"), &admin_key);
        let (admin, tls) = (free("127.0.0.1"), free("127.0.0.2"));
        let at = dir.path().display();
        let text = format!(
            "data_dir = '{at}/control'\n[admin]\nlisten = '{admin}'\nbootstrap_key_file = '{at}/admin-key'\n\
             [sync]\nsocket = '{at}/control.sock'\nlisten = '{tls}'\n[clickhouse]\nurl = 'http://127.0.0.1:9'\n"
        );
        std::fs::write(dir.path().join("control.toml"), text).unwrap();
        let line = LineProxy::tcp(tls).unwrap();
        let (control_plane, local, remote, _upstream) = (None, None, None, upstream);
        let mut world = Self { control_plane, local, remote, line, admin, admin_key, tls, _upstream, dir };
        world.start_control_plane();
        world
    }

    /// The registry's file.
    pub(crate) fn registry(&self) -> PathBuf {
        self.dir.path().join("control/registry.db")
    }

    pub(crate) fn start_control_plane(&mut self) {
        let config = self.dir.path().join("control.toml");
        self.control_plane =
            Some(Process::start(Path::new(env!("CARGO_BIN_EXE_liutong-controlplane")), &config));
        let url = format!("http://{}/readyz", self.admin);
        self.until("the control plane", || {
            http("GET", &url, &[], b"").is_ok_and(|answer| answer.status() == 200)
        });
    }

    /// The socket of the control plane, as a data plane's configuration names it.
    pub(crate) fn socket(&self) -> String {
        format!("socket = '{}/control.sock'", self.dir.path().display())
    }

    /// Where a data plane keeps its files.
    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn kill_control_plane(&mut self) {
        self.control_plane.take().unwrap().kill();
    }

    /// Starts the data plane on the control plane's socket; returns how long until it serves.
    pub(crate) fn start_local(&mut self) -> Duration {
        let (plane, took) = self.start_data_plane("local", "127.0.0.1", &self.socket());
        self.local = Some(plane);
        took
    }

    /// Starts the one on another address, over TLS; returns how long until it serves.
    pub(crate) fn start_remote(&mut self) -> Duration {
        let Place::Tcp(line) = self.line.place().clone() else { panic!("the line is TCP") };
        let control = format!("address = '{line}'");
        let config = self.write_config("remote", "127.0.0.3", &control).0;
        let enrolled = self.admin("POST", "/nodes/enroll", &json!({"name": "remote"}));
        let program = binary("liutong-dataplane").unwrap();
        let mut enrolling = Command::new(program);
        enrolling.arg("--config").arg(config).arg("--enroll").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut enrolling = enrolling.spawn().unwrap();
        let token = enrolled["token"].as_str().unwrap();
        enrolling.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
        assert!(enrolling.wait().unwrap().success(), "{}", self.logs());
        let (plane, took) = self.start_data_plane("remote", "127.0.0.3", &control);
        self.remote = Some(plane);
        took
    }

    fn write_config(&self, name: &str, address: &str, control: &str) -> (PathBuf, SocketAddr, SocketAddr) {
        let (http, ops, at) = (free(address), free(address), self.dir.path().display());
        let text = format!(
            "data_dir = '{at}/{name}'\nworkers = {WORKERS}\n[http]\nlisten = '{http}'\n[ops]\nlisten = '{ops}'\n\
             [control]\n{control}\n"
        );
        let file = self.dir.path().join(format!("{name}.toml"));
        std::fs::write(&file, text).unwrap();
        (file, http, ops)
    }

    fn start_data_plane(&self, name: &str, address: &str, control: &str) -> (DataPlane, Duration) {
        let begun = Instant::now();
        let plane = self.spawn_data_plane(name, address, control);
        self.until("the data plane", || plane.is_ready());
        (plane, begun.elapsed())
    }

    /// Starts a data plane that may not get ready.
    pub(crate) fn spawn_data_plane(&self, name: &str, address: &str, control: &str) -> DataPlane {
        let (config, http, ops) = self.write_config(name, address, control);
        let process = Process::start(&binary("liutong-dataplane").unwrap(), &config);
        DataPlane { process, http, ops }
    }

    /// Waits until both data planes are connected.
    pub(crate) fn wait_connected(&self) {
        self.until("both data planes", || {
            let nodes = self.admin("GET", "/nodes", &Value::Null);
            let connected = |node: &&Value| node["connected"] == true;
            nodes["data"].as_array().unwrap().iter().filter(connected).count() == 2
        });
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let begun = Instant::now();
        wait_until(what, READY_MAX, || {
            assert!(begun.elapsed() < READY_MAX - Duration::from_secs(5), "{what}:\n{}", self.logs());
            condition().then_some(())
        });
    }

    /// What the admin API answers; it must be a success.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_admin(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}\n{}", self.logs());
        answer
    }

    /// The same, where it may fail.
    pub(crate) fn try_admin(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        ask(self.admin, &self.admin_key, method, path, body)
    }

    /// How to ask without the world.
    pub(crate) fn asker(
        &self,
    ) -> impl Fn(&str, &str, &Value) -> anyhow::Result<(u16, Value)> + Send + 'static {
        let (admin, key) = (self.admin, self.admin_key.clone());
        move |method, path, body| ask(admin, &key, method, path, body)
    }

    pub(crate) fn planes(&self) -> [&DataPlane; 2] {
        [self.local.as_ref().unwrap(), self.remote.as_ref().unwrap()]
    }

    /// What the processes have said.
    pub(crate) fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = files.filter(|file| file.extension().is_some_and(|kind| kind == "log"));
        let last = |text: String| text.lines().rev().take(30).collect::<Vec<_>>().join("\n");
        let each = |log: PathBuf| {
            let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
            format!("{} (newest first):\n{}\n", log.display(), last(text))
        };
        format!("TLS on {}\n{}", self.tls, logs.map(each).collect::<String>())
    }
}

fn ask(admin: SocketAddr, key: &str, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = http(method, &format!("http://{admin}/admin/v1{path}"), &headers, text.as_bytes())?;
    Ok((answer.status(), serde_json::from_slice(answer.body()).unwrap_or_default()))
}
