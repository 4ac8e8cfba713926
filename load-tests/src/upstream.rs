//! An OpenAI-shaped upstream whose every answer, pause and fault a test can script.
//!
//! It answers chat and text completions, embeddings and the list of models as a model server would, with
//! token counts that follow from the request (see `request`), unless a `Script` says otherwise. It keeps what
//! it received and counts the tokens that it told, so that a test can compare three ledgers: the clients',
//! the upstream's, ours.
//!
//! It writes its own bytes instead of using monoio-http: most faults are things an encoder exists to prevent.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use monoio::net::{ListenerOpts, TcpListener};

pub use answer::STAMP_DIGITS;
pub use script::{After, Answer, Blob, Cut, Delimiter, Script};
use state::Shared;
pub use state::{Received, Told, Totals};

mod answer;
mod control;
mod plan;
mod request;
mod script;
mod serve;
mod socket;
mod state;

/// How an upstream is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 for any.
    pub listen: SocketAddr,
    /// Threads, each with a ring and a listener of its own.
    pub threads: usize,
    /// What comes before `/chat/completions`.
    pub prefix: String,
    /// What `/models` lists. Requests may name any model.
    pub models: Vec<String>,
    /// The pause between the events of a stream; zero for none.
    pub event_interval: Duration,
    /// How many of the last requests are kept.
    pub record: usize,
    /// Whether each exchange has an entry of its own, by its prompt tokens.
    pub keep_exchanges: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            threads: 1,
            prefix: "/v1".to_owned(),
            models: vec!["scripted".to_owned()],
            event_interval: Duration::ZERO,
            record: 1024,
            keep_exchanges: false,
        }
    }
}

/// A running upstream; dropping it stops it.
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// Starts an upstream and returns once it accepts connections.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut address = options.listen;
        let shared = Arc::new(Shared::new(options));
        let mut threads = Vec::new();
        for index in 0..shared.options.threads.max(1) {
            let (ready, bound) = std::sync::mpsc::channel();
            let for_thread = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("upstream-{index}"));
            threads.push(thread.spawn(move || run(address, for_thread, &ready))?);
            address = bound.recv().map_err(io::Error::other)??;
        }
        Ok(Self { shared, address, threads })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL to give to a gateway or SDK, prefix included.
    pub fn base_url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.options.prefix)
    }

    /// Adds a script after those that are there.
    pub fn script(&self, script: Script) {
        self.shared.add_script(script);
    }

    /// Removes all scripts.
    pub fn clear_scripts(&self) {
        self.shared.clear_scripts();
    }

    /// Opens a gate: answers that wait there go on, later ones pass.
    pub fn open_gate(&self, name: &str) {
        self.shared.open_gate(name);
    }

    /// Waits until so many answers have come to a gate; `false` when time is up first.
    pub fn wait_for_gate(&self, name: &str, times: u64, limit: Duration) -> bool {
        self.shared.wait_for_gate(name, times, limit)
    }

    /// The last requests, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received()
    }

    /// How many requests it has received, not counting its control API.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many connections are open now.
    pub fn connections_open(&self) -> usize {
        self.shared.live_count()
    }

    /// What it counted, for each model.
    pub fn ledger(&self) -> BTreeMap<String, Totals> {
        self.shared.ledger()
    }

    /// What it told of each exchange, by the prompt tokens that were asked for (`seed`).
    pub fn exchanges(&self) -> HashMap<u64, Told> {
        self.shared.exchanges()
    }

    /// Closes the connections that wait for a request, and returns how many.
    pub fn close_idle(&self) -> usize {
        self.shared.shut_down(true)
    }

    /// Forgets scripts, gates, received requests and counts.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Waits for as long as it runs.
    pub fn join(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // Which of the listeners a connection wakes is the kernel's choice.
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            let _ = TcpStream::connect(self.address);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

type Ready = std::sync::mpsc::Sender<io::Result<SocketAddr>>;

fn run(address: SocketAddr, shared: Arc<Shared>, ready: &Ready) {
    let mut runtime = match crate::ring::build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let options = ListenerOpts::new().reuse_port(true).backlog(4096);
        let listener = TcpListener::bind_with_config(address, &options);
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        match bound {
            Ok((address, listener)) => {
                let _ = ready.send(Ok(address));
                if let Err(error) = serve::listen(listener, shared).await {
                    eprintln!("upstream: listener {address}: {error}");
                }
            }
            Err(error) => drop(ready.send(Err(error))),
        }
    });
}
