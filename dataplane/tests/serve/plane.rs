//! A data plane process on a snapshot made by hand, and an upstream that a test scripts. No control plane
//! runs.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dataplane::tables::disk::TableStore;
use sha2::{Digest, Sha256};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use wire::event::UsageEvent;
use wire::frame::Frame;
use wire::id::{
    AliasId, ApplicationId, AttributionId, DeploymentId, Generation, KeyDigest, KeyId, RegistryId,
};
use wire::table::{Alias, Allow, Application, Change, Deployment, Dialect, Key, OnDisconnect, Settings};

#[path = "peer.rs"]
mod peer;
#[path = "spooled.rs"]
mod spooled;

pub(crate) use peer::{Answer, Peer};
pub(crate) use spooled::{files_below, spooled};

/// How long a test waits for anything, on a machine that may have much else to do. Less than the limits of a
/// body, of a client that does not read, and of an idle connection have by default: what these do is not what
/// is meant.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// A well-formed key; `number` tells it from others.
pub(crate) fn key(number: u8) -> String {
    let text = format!("sk-lt-Test000{}-{}", number, "k".repeat(43));
    let check = wire::key_format::check_digits(text.as_bytes());
    text + std::str::from_utf8(&check).unwrap()
}

/// A key whose application may use everything.
pub(crate) const GOOD: u8 = 1;
/// A key that expired long ago.
pub(crate) const EXPIRED: u8 = 2;
/// A key that may use nothing.
pub(crate) const BARRED: u8 = 3;
/// A key that the snapshot does not have.
pub(crate) const UNKNOWN: u8 = 4;

/// Another one whose application may use everything.
pub(crate) const OTHER: u8 = 5;

/// A running data plane.
pub(crate) struct Plane {
    process: Child,
    /// Where clients connect.
    pub(crate) http: SocketAddr,
    /// Where health and metrics are.
    pub(crate) ops: SocketAddr,
    dir: TempDir,
}

/// What an alias's deployment looks like, apart from where it is.
pub(crate) fn deployment(id: u32, upstream: SocketAddr) -> Deployment {
    Deployment {
        id: DeploymentId(id),
        name: format!("deployment-{id}"),
        base_url: format!("http://{upstream}/v1"),
        dialect: Dialect::Openai,
        upstream_model: "upstream-model".into(),
        credential: String::new(),
        api_version: String::new(),
        weight: 1,
        on_disconnect: OnDisconnect::Cancel,
        replay_safe: false,
        // Longer than any test waits, so that these are not what ends an exchange unless a test sets them.
        connect_timeout_ms: 30_000,
        first_byte_timeout_ms: 60_000,
        idle_timeout_ms: 60_000,
    }
}

impl Plane {
    /// Starts with alias `fast` on `deployments`.
    pub(crate) fn start(deployments: Vec<Deployment>) -> Self {
        Self::start_with(deployments, "")
    }

    /// The same, with lines of its own at the head of the configuration.
    pub(crate) fn start_with(deployments: Vec<Deployment>, settings: &str) -> Self {
        Self::start_edited(deployments, |text| settings.to_owned() + &text)
    }

    /// The same, with a configuration that is edited before it is used.
    pub(crate) fn start_edited(deployments: Vec<Deployment>, edit: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_snapshot(dir.path(), deployments);
        let config = dir.path().join("dataplane.toml");
        let data = dir.path().join("data");
        let text = format!(
            "data_dir = '{}'\nruntime_dir = '{}'\nworkers = 2\n[http]\nlisten = '127.0.0.1:0'\n\
             [ops]\nlisten = '127.0.0.1:0'\n[control]\nsocket = '{}'\n\
             [limits]\nexchanges = 1024\nbody_mib = 1\n[usage]\nsync = 'always'\n",
            data.display(),
            dir.path().join("run").display(),
            dir.path().join("nobody.sock").display(),
        );
        std::fs::write(&config, edit(text)).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_liutong-dataplane"))
            .args(["--config".as_ref(), config.as_os_str()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("listening on")).unwrap();
        // Whoever writes to stderr must find it read.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        let addresses: Vec<SocketAddr> =
            line.split([' ', ';']).filter_map(|word| word.parse().ok()).collect();
        Self { process, http: addresses[0], ops: addresses[1], dir }
    }

    /// Connects as a client.
    pub(crate) fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.http).unwrap())
    }

    /// Sends one request on a connection of its own, and reads the answer.
    pub(crate) fn ask(&self, request: &[u8]) -> Answer {
        let mut peer = self.connect();
        peer.send(request);
        peer.answer()
    }

    /// Waits until `count` usage events are in the spool, and gives them in the order of their numbers.
    pub(crate) fn usage(&self, count: usize) -> Vec<UsageEvent> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut events = self.spooled();
            if events.len() >= count || Instant::now() > end {
                assert_eq!(events.len(), count, "{events:?}");
                events.sort_by_key(|event| (event.ts_ms, event.seq));
                return events;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn spooled(&self) -> Vec<UsageEvent> {
        spooled(&self.dir.path().join("data"))
    }

    /// Every file that the data plane has written.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        files_below(&self.dir.path().join("data"))
    }

    /// What the ops listener says at `path`.
    pub(crate) fn ops(&self, path: &str) -> Answer {
        let mut peer = Peer::new(TcpStream::connect(self.ops).unwrap());
        peer.send(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        peer.answer()
    }

    /// A number that the ops listener tells.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.ops("/metrics").body).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its memory, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    }

    /// Ticks of CPU time that it has used, a hundred to a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Connects as a client, if it still listens.
    pub(crate) fn try_connect(&self) -> Option<Peer> {
        TcpStream::connect(self.http).ok().map(Peer::new)
    }

    /// Where it looks for a control plane.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.dir.path().join("nobody.sock")
    }

    /// Ends it in order, and tells how it ended.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.wait()
    }

    /// Waits for its end, and tells how it ended.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.process.wait().unwrap()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: &str) {
        Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn write_snapshot(dir: &Path, deployments: Vec<Deployment>) {
    let entry = |number: u8, not_after_ms, allow| {
        Change::Key(Key {
            digest: KeyDigest(Sha256::digest(key(number)).into()),
            id: KeyId(number.into()),
            application: ApplicationId(1),
            attribution: AttributionId(number.into()),
            not_after_ms,
            allow,
        })
    };
    let mut changes = vec![
        Change::Settings(Settings { request_id_key: [7; 16] }),
        Change::Application(Application { id: ApplicationId(1), allow: Allow::All }),
        entry(GOOD, 0, None),
        entry(OTHER, 0, None),
        entry(EXPIRED, 1_000, None),
        entry(BARRED, 0, Some(Allow::Nothing)),
        Change::Alias(Alias {
            id: AliasId(9),
            name: "fast".into(),
            created_s: 1_700_000_000,
            deployments: deployments.iter().map(|deployment| deployment.id).collect(),
        }),
    ];
    changes.extend(deployments.into_iter().map(Change::Deployment));
    let mut store = TableStore::open(&dir.join("data/tables")).unwrap();
    let mut file = store.begin().unwrap();
    let count = changes.len() as u64;
    for frame in [
        Frame::SnapshotBegin { registry: RegistryId(1), generation: Generation(1) },
        Frame::SnapshotPart(changes),
        Frame::SnapshotEnd { generation: Generation(1), changes: count },
    ] {
        file.add(&frame).unwrap();
    }
    store.finish(file).unwrap();
}

/// An upstream: for each request that arrives (head and body, as text) `script` writes to its connection;
/// false closes it.
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How many requests it got.
    pub(crate) requests: Arc<AtomicUsize>,
}

impl Upstream {
    /// Starts one on a thread for each connection.
    pub(crate) fn start(script: impl Fn(&str, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        // With room for a crowd that connects at once: std lets 128 wait, the rest try again seconds later.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(4096).unwrap();
        let listener = TcpListener::from(socket);
        let (address, requests) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (script, counted) = (Arc::new(script), requests.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, counted) = (script.clone(), counted.clone());
                std::thread::spawn(move || {
                    let mut peer = Peer::new(stream);
                    while let Some(request) = peer.message() {
                        counted.fetch_add(1, Ordering::SeqCst);
                        if !script(&request, &mut peer.stream) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// One that gives every request the same bytes.
    pub(crate) fn fixed(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_, stream| stream.write_all(&bytes).is_ok())
    }
}

/// A POST of JSON with the good key.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    post_as(&key(GOOD), path, body)
}

/// A POST of JSON with any key.
pub(crate) fn post_as(key: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
