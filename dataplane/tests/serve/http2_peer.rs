//! Clients that speak HTTP/2: a real one, and one that writes frames by hand.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::plane::{GOOD, PATIENCE, Plane, key};
use crate::tls_peer::{Certified, TlsPeer, connect_over};

/// What drives clients; the test's own thread may block.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// What a client that also speaks HTTP/2 is set to.
pub(crate) fn config(certified: &Certified) -> Arc<rustls::ClientConfig> {
    let mut config = certified.trusting();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Connects.
pub(crate) async fn connect(plane: &Plane, certified: &Certified) -> SendRequest<Bytes> {
    connect_with(plane, certified, |builder| builder).await
}

/// The same, with settings.
pub(crate) async fn connect_with(
    plane: &Plane,
    certified: &Certified,
    set: impl FnOnce(&mut Builder) -> &mut Builder,
) -> SendRequest<Bytes> {
    connect_to(plane.http, certified, set).await
}

/// The same, wherever it listens.
pub(crate) async fn connect_to(
    http: SocketAddr,
    certified: &Certified,
    set: impl FnOnce(&mut Builder) -> &mut Builder,
) -> SendRequest<Bytes> {
    let tcp = tokio::net::TcpStream::connect(http).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = "localhost".try_into().unwrap();
    let tls = TlsConnector::from(config(certified)).connect(name, tcp).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut builder = Builder::new();
    let (client, connection) = set(&mut builder).handshake(tls).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// A POST of JSON.
pub(crate) fn post(path: &str) -> http::request::Builder {
    post_as(&key(GOOD), path)
}

/// A POST of JSON with any key.
pub(crate) fn post_as(key: &str, path: &str) -> http::request::Builder {
    Request::post(format!("https://localhost{path}"))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Http2Answer {
    /// The status.
    pub(crate) status: u16,
    /// The fields.
    pub(crate) head: HeaderMap,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// How it ended: with END_STREAM, or not.
    pub(crate) end: Result<(), h2::Error>,
}

impl Http2Answer {
    /// The value of a field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)?.to_str().ok()
    }

    /// The reason of the reset that it ended with.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        self.end.as_ref().err()?.reason()
    }
}

/// Sends a request's head.
pub(crate) async fn begin(
    client: &mut SendRequest<Bytes>,
    request: http::request::Builder,
    ended: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    poll_fn(|context| client.poll_ready(context)).await.unwrap();
    client.send_request(request.body(()).unwrap(), ended).unwrap()
}

/// Sends a request with a length, and reads the answer.
pub(crate) async fn ask(
    client: &mut SendRequest<Bytes>,
    request: http::request::Builder,
    body: &str,
) -> Http2Answer {
    let request = request.header("content-length", body.len());
    let (answer, mut sending) = begin(client, request, false).await;
    sending.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
    read(answer).await
}

/// Reads an answer to its end.
pub(crate) async fn read(answer: ResponseFuture) -> Http2Answer {
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("a head in time").unwrap();
    let (parts, body) = answer.into_parts();
    read_body(parts.status.as_u16(), parts.headers, body).await
}

/// Reads the rest of an answer.
pub(crate) async fn read_body(status: u16, head: HeaderMap, mut body: RecvStream) -> Http2Answer {
    let mut answer = Http2Answer { status, head, body: Vec::new(), end: Ok(()) };
    loop {
        match tokio::time::timeout(PATIENCE, body.data()).await.expect("a body in time") {
            Some(Ok(piece)) => {
                answer.body.extend_from_slice(&piece);
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            Some(Err(error)) => {
                answer.end = Err(error);
                return answer;
            }
            None => return answer,
        }
    }
}

/// A frame by hand.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A field that is in no table, by hand (RFC 7541 §6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        let len = u8::try_from(text.len()).unwrap();
        assert!(len < 127, "longer needs more bytes");
        out.push(len);
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// HEADERS of a chat request; a body follows, or, where it is not `whole`, more of the head.
pub(crate) fn head_frame(stream: u32, whole: bool) -> Vec<u8> {
    let mut block = Vec::new();
    let authorization = format!("Bearer {}", key(GOOD));
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/v1/chat/completions"),
        (":authority", "localhost"),
        ("authorization", &authorization),
    ] {
        block.extend(field(name, value));
    }
    frame(1, if whole { 4 } else { 0 }, stream, &block)
}

/// A frame that came: type, flags, stream, payload.
pub(crate) type Frame = (u8, u8, u32, Vec<u8>);

/// A client that writes frames by hand.
pub(crate) struct FramePeer {
    tls: TlsPeer,
}

impl FramePeer {
    /// Connects, and says that it speaks HTTP/2.
    pub(crate) fn connect(plane: &Plane, certified: &Certified) -> Self {
        Self::over(TcpStream::connect(plane.http).unwrap(), certified)
    }

    /// The same over a socket of the caller's.
    pub(crate) fn over(tcp: TcpStream, certified: &Certified) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Self { tls: connect_over(tcp, &config(certified), "localhost") };
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        peer.send(&frame(4, 0, 0, &[]));
        peer
    }

    /// Sends bytes; false where the other end takes none.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.tls.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.tls.stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.tls.stream.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap()), payload))
    }

    /// The code of the GOAWAY that ends the connection, if it is one; its end must come.
    pub(crate) fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == 7 {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}
