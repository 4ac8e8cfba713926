//! A panic in one exchange costs that exchange alone: its client is told, or its answer broken off, its usage
//! event is settled and written like any other, and the worker goes on.
//!
//! Workers run in this process. What panics is their TLS towards the upstream, when it has opened a record
//! with `TRAP` in it; so the upstream says at which point of an exchange.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::config::Config;
use dataplane::link::Address;
use dataplane::metrics::Counters;
use dataplane::refused;
use dataplane::spool::{Pipeline, PipelineConfig};
use dataplane::tables::disk::TableStore;
use dataplane::tables::{TableWriter, Tables};
use dataplane::tls::certificate::CertificateFiles;
use dataplane::tls::clients::{ClientTls, TlsFiles};
use dataplane::worker::{self, BodyBudget, Shared, Worker};
use tempfile::TempDir;
use wire::event::{UsageEvent, UsageSource};
use wire::id::{BootId, NodeId};

use crate::http2_peer::{ask, begin, connect_to, read, read_body, runtime};
use crate::plane::{PATIENCE, Peer, deployment, post};
use crate::tls_peer::Certified;
use crate::trap::TRAP;

#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/http2_peer.rs"]
mod http2_peer;
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/plane.rs"]
mod plane;
#[allow(dead_code, reason = "the tests of the process use the rest")]
#[path = "serve/tls_peer.rs"]
mod tls_peer;
#[path = "panic/trap.rs"]
mod trap;

const CHAT: &str = "/v1/chat/completions";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n";
const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT: &str = "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// A request whose body says where the panic is to be.
fn asking(place: &str) -> String {
    let stream =
        if place == "stream" { r#""stream":true,"stream_options":{"include_usage":true},"# } else { "" };
    format!(r#"{{{stream}"model":"fast","place":"{place}"}}"#)
}

/// A worker, and an upstream whose answers make it panic.
struct Running {
    http: SocketAddr,
    worker: JoinHandle<()>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    pipeline: Pipeline,
    dir: TempDir,
    certified: Certified,
}

impl Running {
    fn start(client_tls: bool) -> Self {
        let (dir, certified) = (tempfile::tempdir().unwrap(), Certified::of(&["localhost"]));
        let upstream = upstream(&certified);
        let base_url = format!("https://localhost:{}/v1", upstream.port());
        plane::write_snapshot(
            dir.path(),
            vec![wire::table::Deployment { base_url, ..deployment(3, upstream) }],
        );
        let (data, boot) = (dir.path().join("data"), BootId(7));
        let control = Address::Unix(dir.path().join("nobody.sock"));
        let config = PipelineConfig::new(data.clone(), dir.path().join("run"), control, NodeId(1), boot);
        let (pipeline, mut pools) = Pipeline::start(config).unwrap();
        let tables = Arc::new(Tables::new());
        let mut writer = TableWriter::new(tables.clone(), Default::default());
        TableStore::open(&data.join("tables")).unwrap().load(&mut writer).unwrap();
        let file = dir.path().join("dataplane.toml");
        let text = format!("data_dir = '{}'\n[control]\nsocket = 'x'\n", data.display());
        std::fs::write(&file, text).unwrap();
        certified.write(dir.path(), "server");
        let [certificate, key] = ["server.pem", "server.key"].map(|name| dir.path().join(name));
        let files = TlsFiles { certificates: vec![CertificateFiles { certificate, key }], client_ca: None };
        let shared = Arc::new(Shared {
            upstream_tls: trap::client_config(&certified),
            client_tls: client_tls.then(|| Arc::new(ClientTls::load(files).unwrap())),
            bodies: BodyBudget::new(1 << 20),
            limits: Config::load(&file).unwrap().limits,
            usage: pipeline.watch(),
            refused_uses: refused::channel().0,
            draining: AtomicBool::new(false),
            tables,
            boot,
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, counters, pool) =
            (listener.local_addr().unwrap(), Arc::<Counters>::default(), pools.pop().unwrap());
        let worker = {
            let (shared, counters) = (shared.clone(), counters.clone());
            std::thread::spawn(move || {
                worker::run(Worker::new(shared, 0, pool, counters), listener).unwrap();
            })
        };
        Self { http, worker, shared, counters, pipeline, dir, certified }
    }

    fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.http).unwrap())
    }

    fn panics(&self) -> u64 {
        self.counters.panics.load(Ordering::Relaxed)
    }

    /// Ends the worker, and reads what was recorded, in the order of the exchanges.
    fn end(self) -> Vec<UsageEvent> {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.worker.join().unwrap();
        self.pipeline.stop(Instant::now());
        let mut events = plane::spooled(&self.dir.path().join("data"));
        events.sort_by_key(|event| event.seq);
        events
    }
}

/// How much of a connection on this machine, from a port to a port, waits to be sent or acknowledged, and how
/// much to be read, in hexadecimal digits; `None` of one that is gone.
fn queues(from: u16, to: u16) -> Option<(String, String)> {
    let ends = format!(" 0100007F:{from:04X} 0100007F:{to:04X} ");
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queues =
        text.lines().find_map(|line| line.split_once(&ends)?.1.split(' ').nth(1))?.split_once(':')?;
    Some((queues.0.to_owned(), queues.1.to_owned()))
}

/// Waits until the other end, on this machine, has read what `stream` sent: so each part is read by itself.
fn wait_until_read(stream: &TcpStream) {
    let [own, other] = [stream.local_addr(), stream.peer_addr()].map(|address| address.unwrap().port());
    let end = Instant::now() + PATIENCE;
    let wait_while = |waits: &dyn Fn() -> bool| {
        while waits() {
            assert!(Instant::now() < end, "nobody reads what was sent");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_while(&|| queues(own, other).is_some_and(|(unsent, _)| unsent != "00000000"));
    wait_while(&|| queues(other, own).is_some_and(|(_, unread)| unread != "00000000"));
}

/// An upstream that answers as the request's body says, each part in a record of its own.
fn upstream(certified: &Certified) -> SocketAddr {
    let config = trap::server_config(certified);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, tcp);
            std::thread::spawn(move || {
                let (mut read, mut piece) = (String::new(), [0; 4096]);
                while let Ok(len @ 1..) = stream.read(&mut piece) {
                    read.push_str(&String::from_utf8_lossy(&piece[..len]));
                    let Some(body) = read.split_once("\r\n\r\n").map(|(_, body)| body) else { continue };
                    let event = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
                    let parts = match body.rsplit_once("\"place\":") {
                        Some((_, "\"before\"}")) => vec![TRAP],
                        Some((_, "\"head\"}")) => vec![HEAD, TRAP],
                        Some((_, "\"body\"}")) => vec![HEAD, "{", TRAP],
                        Some((_, "\"stream\"}")) => vec![STREAM, &event, TRAP],
                        Some((_, "\"none\"}")) => vec![WHOLE],
                        _ => continue,
                    };
                    for part in parts {
                        stream.write_all(part.as_bytes()).unwrap();
                        stream.flush().unwrap();
                        wait_until_read(&stream.sock);
                    }
                    read.clear();
                }
            });
        }
    });
    address
}

#[test]
fn before_a_byte_of_the_answer_the_client_is_told_and_after_it_the_answer_is_cut() {
    let running = Running::start(false);
    // On the same worker, before, between and after those that panic.
    let mut beside = running.connect();
    let served = |beside: &mut Peer| {
        beside.send(&post(CHAT, &asking("none")));
        assert_eq!(beside.answer().status, 200);
    };
    served(&mut beside);
    for place in ["before", "head"] {
        let mut peer = running.connect();
        peer.send(&post(CHAT, &asking(place)));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.code().as_str()), (500, "internal_error"), "{place}");
        assert_eq!(answer.json()["error"].as_object().unwrap().len(), 4);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.header("x-request-id").is_some() && answer.whole && !peer.more(), "{place}");
        served(&mut beside);
    }
    for place in ["body", "stream"] {
        let mut peer = running.connect();
        peer.send(&post(CHAT, &asking(place)));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.whole), (200, false), "{place}");
        served(&mut beside);
    }
    assert_eq!(running.panics(), 4);
    let (connects, events) = (running.counters.upstream_connects.load(Ordering::Relaxed), running.end());
    assert_eq!(connects, 5, "none of those that panicked is used again");
    let found: Vec<_> = events.iter().map(|event| (event.status, event.usage_source)).collect();
    let (none, ok) = (UsageSource::None, (200, UsageSource::None));
    let partial = UsageSource::Partial;
    assert_eq!(found, [ok, (500, none), ok, (500, none), ok, (500, none), ok, (500, partial), ok]);
    assert!(events.iter().all(|event| event.attempts == 1 && event.deployment.0 == 3));
}

#[test]
fn an_old_client_cannot_take_what_was_cut_for_whole() {
    let running = Running::start(false);
    let mut peer = running.connect();
    let ask = String::from_utf8(post(CHAT, &asking("stream"))).unwrap();
    peer.send(ask.replace("HTTP/1.1", "HTTP/1.0").as_bytes());
    peer.first_event();
    let end = std::iter::repeat_with(|| peer.stream.read(&mut [0; 64])).find(|read| !matches!(read, Ok(1..)));
    assert_eq!(end.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(running.end()[0].status, 500);
}

#[test]
fn a_stream_of_http_2_that_panics_is_500_or_reset_and_its_connection_goes_on() {
    let running = Running::start(true);
    runtime().block_on(async {
        let mut client = connect_to(running.http, &running.certified, |builder| builder).await;
        for place in ["before", "head"] {
            let answer = ask(&mut client, http2_peer::post(CHAT), &asking(place)).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!((answer.status, answer.end.is_ok()), (500, true), "{place}");
            assert!(text.contains("\"code\":\"internal_error\""), "{text}");
            assert_eq!(ask(&mut client, http2_peer::post(CHAT), &asking("none")).await.status, 200);
        }
        for place in ["body", "stream"] {
            let (answer, mut sending) = begin(&mut client, http2_peer::post(CHAT), false).await;
            // Another stream of the connection, open meanwhile.
            let (other, mut other_sending) = begin(&mut client, http2_peer::post(CHAT), false).await;
            sending.send_data(asking(place).into(), true).unwrap();
            let (parts, body) = answer.await.unwrap().into_parts();
            let answer = read_body(parts.status.as_u16(), parts.headers, body).await;
            assert_eq!((answer.status, answer.reset()), (200, Some(h2::Reason::INTERNAL_ERROR)), "{place}");
            other_sending.send_data(asking("none").into(), true).unwrap();
            assert_eq!(read(other).await.status, 200);
        }
    });
    assert_eq!(running.panics(), 4);
    let mut statuses: Vec<u16> = running.end().iter().map(|event| event.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 500, 500, 500, 500]);
}
