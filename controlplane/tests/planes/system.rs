//! Two control planes, two data planes, a PostgreSQL, a ClickHouse and an upstream.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use controlplane::clickhouse::engine::{EngineHandle, EngineOptions};
use load_tests::harness::{binary, write_secret};
use load_tests::postgres;
use load_tests::upstream::{Options, Upstream};
use serde_json::{Value, json};

pub(crate) const CONTROL_PLANES: usize = 2;
pub(crate) const DATA_PLANES: usize = 2;

const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_liutong-controlplane");
const READY_MAX: Duration = Duration::from_secs(120);

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    fn start(program: &Path, config: &Path) -> Self {
        let log = std::fs::File::create(config.with_extension("log")).unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(config).arg("--stop-on-stdin-eof");
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Kills it without warning.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct System {
    data_planes: Vec<(Process, String)>,
    control_planes: Vec<Option<Process>>,
    admin_urls: Vec<String>,
    admin_key: String,
    clickhouse: EngineHandle,
    http: reqwest::Client,
    _upstream: Upstream,
    dir: tempfile::TempDir,
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl System {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstream = Upstream::start(Options::default()).unwrap();
        let options = EngineOptions::new(env!("CARGO_BIN_EXE_liutong"), dir.path().join("clickhouse"));
        let clickhouse = EngineHandle::start(&EngineOptions { port: 0, ..options }).await.unwrap();
        let made = Command::new(CONTROL_PLANE).arg("--new-admin-key").output().unwrap();
        let admin_key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        for (name, secret) in [
            ("admin-key", admin_key.as_str()),
            ("clickhouse-password", &clickhouse.endpoint().password),
            ("registry-password", postgres::PASSWORD),
        ] {
            write_secret(&dir.path().join(name), secret);
        }
        let mut system = Self {
            data_planes: Vec::new(),
            control_planes: Vec::new(),
            admin_urls: Vec::new(),
            admin_key,
            clickhouse,
            http: reqwest::Client::new(),
            _upstream: upstream,
            dir,
        };
        system.start_control_planes().await;
        let base_url = system._upstream.base_url();
        system.set_up(&base_url).await;
        system.start_data_planes().await;
        system
    }

    async fn start_control_planes(&mut self) {
        let database = postgres::server().database().unwrap();
        let registry = postgres::server().over_tcp(&database);
        let endpoint = self.clickhouse.endpoint().clone();
        for at in 0..CONTROL_PLANES {
            let (dir, admin) = (self.dir.path().display(), free_address());
            let mut config = format!("data_dir = '{dir}/control-{at}'\n");
            write!(config, "[registry]\nurl = '{registry}'\npassword_file = '{dir}/registry-password'\n")
                .unwrap();
            write!(config, "[admin]\nlisten = '{admin}'\nbootstrap_key_file = '{dir}/admin-key'\n").unwrap();
            write!(config, "[sync]\nsocket = '{dir}/control-{at}.sock'\n").unwrap();
            write!(config, "[clickhouse]\nurl = '{}'\nuser = '{}'\n", endpoint.url, endpoint.user).unwrap();
            writeln!(config, "password_file = '{dir}/clickhouse-password'").unwrap();
            let file = self.dir.path().join(format!("control-{at}.toml"));
            std::fs::write(&file, config).unwrap();
            self.control_planes.push(Some(Process::start(Path::new(CONTROL_PLANE), &file)));
            self.admin_urls.push(format!("http://{admin}"));
        }
        for url in self.admin_urls.clone() {
            // "ready" once ClickHouse is reached, too.
            self.wait_for(&format!("{url}/readyz"), |answer| answer == "ready\n").await;
        }
    }

    async fn start_data_planes(&mut self) {
        let program = binary("liutong-dataplane").unwrap();
        for at in 0..DATA_PLANES {
            let (dir, http, ops) = (self.dir.path().display(), free_address(), free_address());
            let sockets: Vec<String> = (0..CONTROL_PLANES)
                .map(|step| format!("'{dir}/control-{}.sock'", (at + step) % CONTROL_PLANES))
                .collect();
            let config = format!(
                "data_dir = '{dir}/data-{at}'\nworkers = 1\n[http]\nlisten = '{http}'\n[ops]\nlisten = '{ops}'\n\
                 [control]\nsocket = [{}]\n",
                sockets.join(", ")
            );
            let file = self.dir.path().join(format!("data-{at}.toml"));
            std::fs::write(&file, config).unwrap();
            self.data_planes.push((Process::start(&program, &file), format!("http://{http}")));
            self.wait_for(&format!("http://{ops}/readyz"), |answer| answer.starts_with("ready")).await;
        }
        let connected = |nodes: &Value| {
            let nodes = nodes["data"].as_array().unwrap();
            nodes.len() == DATA_PLANES && nodes.iter().all(|node| node["connected"] == true)
        };
        // Each control plane knows of all of them.
        let begun = Instant::now();
        for at in 0..CONTROL_PLANES {
            while !connected(&self.admin(at, "GET", "/nodes", &Value::Null).await) {
                assert!(begun.elapsed() < READY_MAX);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn set_up(&self, upstream: &str) {
        for (path, body) in [
            ("/organizations", json!({"name": "demo"})),
            ("/teams", json!({"name": "demo", "organization": "demo"})),
            ("/applications", json!({"name": "demo", "team": "demo", "models": ["*"]})),
        ] {
            self.admin(0, "POST", path, &body).await;
        }
        let body = json!({"deployments": [{"upstream": upstream, "upstream_model": "scripted"}]});
        self.admin(1, "PUT", "/models/small", &body).await;
    }

    async fn wait_for(&self, url: &str, is_it: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            if let Ok(answer) = self.http.get(url).send().await
                && is_it(&answer.text().await.unwrap())
            {
                return;
            }
            assert!(begun.elapsed() < READY_MAX, "{url} is not ready:\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = files.filter(|file| file.extension().is_some_and(|kind| kind == "log"));
        logs.map(|log| format!("{}:\n{}", log.display(), std::fs::read_to_string(&log).unwrap())).collect()
    }

    pub(crate) async fn admin(&self, at: usize, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("{}/admin/v1{path}", self.admin_urls[at]);
        let mut request = self.http.request(method.parse().unwrap(), &url).bearer_auth(&self.admin_key);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{method} {path}: {status} {text}\n{}", self.logs());
        serde_json::from_str(&text).unwrap()
    }

    /// A new key: its id and its secret.
    pub(crate) async fn create_key(&self, at: usize) -> (String, String) {
        let made = self.admin(at, "POST", "/keys", &json!({"application": "demo"})).await;
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    /// Revokes a key, and returns the receipt.
    pub(crate) async fn revoke(&self, at: usize, key: &str) -> Value {
        self.admin(at, "POST", &format!("/keys/{key}/revoke"), &json!({})).await
    }

    /// What a data plane answers to a request.
    pub(crate) async fn chat(&self, plane: usize, key: &str) -> u16 {
        let url = format!("{}/v1/chat/completions", self.data_planes[plane].1);
        let body = json!({"model": "small", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]});
        let answer = self.http.post(url).bearer_auth(key).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        status
    }

    pub(crate) fn take_control_plane(&mut self, at: usize) -> Process {
        self.control_planes[at].take().unwrap()
    }

    /// Waits until a control plane tells so many uses of a revoked key, and no more.
    pub(crate) async fn wait_for_uses(&self, at: usize, key: &str, count: u64) {
        let begun = Instant::now();
        loop {
            let told = self.admin(at, "GET", &format!("/keys/{key}/uses"), &Value::Null).await;
            let uses = told["uses"].as_u64().unwrap();
            assert!(uses <= count, "{told}");
            if uses == count {
                return;
            }
            assert!(begun.elapsed() < READY_MAX, "{uses} of {count}:\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until as many answered requests are in ClickHouse, and no more.
    pub(crate) async fn wait_for_events(&self, count: u64) {
        let client = self.clickhouse.endpoint().client();
        let ask = async || {
            let sql = "SELECT count(), uniqExact(boot, seq) FROM liutong.usage_events WHERE status = 200";
            client.query(sql).fetch_one::<(u64, u64)>().await.unwrap()
        };
        let begun = Instant::now();
        loop {
            let (rows, events) = ask().await;
            assert!(rows == events && rows <= count, "{rows} rows of {events} events for {count} requests");
            if rows == count {
                return;
            }
            assert!(begun.elapsed() < READY_MAX, "{rows} of {count} are there:\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
