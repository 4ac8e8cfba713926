//! Upstreams behind TLS: the same bytes, a kept connection, and no answer from a server that can't show who
//! it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::CertifiedKey;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wire::table::Deployment;

use crate::plane::{Plane, deployment, post};

/// A server for `localhost` with a certificate of its own; answers every request on a connection with
/// `answer`.
struct TlsUpstream {
    address: SocketAddr,
    certificate: String,
    connections: Arc<AtomicUsize>,
}

impl TlsUpstream {
    fn start(answer: impl Into<Vec<u8>>) -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let (config, answer) = (Arc::new(config), Arc::new(answer.into()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let this = Self {
            address: listener.local_addr().unwrap(),
            certificate: cert.pem(),
            connections: connections.clone(),
        };
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (config, answer, connections) = (config.clone(), answer.clone(), connections.clone());
                std::thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    serve(StreamOwned::new(tls, tcp), &answer);
                });
            }
        });
        this
    }

    fn deployment(&self) -> Deployment {
        let base_url = format!("https://localhost:{}/v1", self.address.port());
        Deployment { base_url, ..deployment(1, self.address) }
    }

    fn trusted_in(&self, dir: &Path) -> String {
        let file = dir.join("ca.pem");
        std::fs::write(&file, &self.certificate).unwrap();
        format!("upstream_ca_file = '{}'\n", file.display())
    }
}

fn serve(mut stream: StreamOwned<ServerConnection, std::net::TcpStream>, answer: &[u8]) {
    let (mut read, mut piece) = (Vec::new(), [0; 65536]);
    while let Ok(len @ 1..) = stream.read(&mut piece) {
        read.extend_from_slice(&piece[..len]);
        // Every body here ends so.
        if read.ends_with(b"\"upstream-model\"}") || read.ends_with(b"true}}") {
            read.clear();
            // In several records.
            for piece in answer.chunks(100) {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
        }
    }
}

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"model":"fast"}"#;

#[test]
fn an_answer_over_tls_is_the_same_and_its_connection_is_kept() {
    let body =
        format!(r#"{{"text":"{}","usage":{{"prompt_tokens":3,"completion_tokens":4}}}}"#, "x".repeat(70_000));
    let upstream = TlsUpstream::start(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start_with(vec![upstream.deployment()], &upstream.trusted_in(dir.path()));
    // On one connection, so that one worker serves them all.
    let mut peer = plane.connect();
    for _ in 0..3 {
        peer.send(&post(CHAT, ASK));
        let answer = peer.answer();
        assert_eq!((answer.status, answer.body.len()), (200, body.len()));
        assert!(answer.body == body.as_bytes());
    }
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1);
    assert!(plane.usage(3).iter().all(|event| event.tokens.total == 7));
}

#[test]
fn a_stream_over_tls_is_metered() {
    let events = "data: {\"choices\":[{}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let upstream = TlsUpstream::start(format!("{head}{:x}\r\n{events}\r\n0\r\n\r\n", events.len()));
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start_with(vec![upstream.deployment()], &upstream.trusted_in(dir.path()));
    let answer = plane.ask(&post(CHAT, r#"{"stream":true,"model":"fast"}"#));
    assert_eq!(String::from_utf8_lossy(&answer.body), "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n");
    assert_eq!(plane.usage(1)[0].tokens.total, 3);
}

#[test]
fn a_server_that_cannot_show_who_it_is_gets_nothing() {
    let upstream = TlsUpstream::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let other = TlsUpstream::start("");
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start_with(vec![upstream.deployment()], &other.trusted_in(dir.path()));
    let answer = plane.ask(&post(CHAT, ASK));
    assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_unavailable"));
}
