//! TLS on a socket: rustls's connection of either side over monoio's.
//!
//! Why rustls's unbuffered API: for a request of 1,300 bytes and an answer of 800 it costs the same as the
//! buffered one (10,900 and 11,300 instructions, 1.0 µs both), but keeps no buffers of its own, 4 KiB at
//! least for each connection. A record layer of our own over the same cipher, without rustls's allocation and
//! copy for each record, was 0.3 µs faster: too little for owning one. Why not monoio-rustls: after a
//! dropped read its next use panics, and it keeps 32 KiB for each connection.
//!
//! Ciphertext is read into the reader's own buffer and moved to one of the worker's only when it has come, so
//! a connection that waits holds no buffer of its own, unless a record is torn.
//!
//! What a dropped operation leaves can't be used again, and isn't: a connection whose read was dropped is
//! *deaf* (what comes is thrown away unread), one whose write was dropped is *mute*, so that a stream that
//! was cut never ends with close_notify. A peer's close_notify without the end of its socket shows in reads
//! only; the sweep (`watch`) sees the socket's end.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};

use crate::net::{BufferPool, Done, read_plain, write_plain};
use crate::runtime::TcpStream;
use crate::tls::session::{RECORD_BYTES_MAX, Session};

/// How clients are served: certificates from files, looked at again while the process runs.
pub mod clients;

/// A certificate, its key, and the names that it is for.
pub mod certificate;

/// A connection as bytes.
pub mod session;

/// HTTP/2's name (RFC 9113 §3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// HTTP/1.1's name.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// What a buffer for ciphertext holds: the longest record, or what `SEAL_BYTES` are sealed into.
pub const CIPHER_BYTES: usize = 20 * 1024;
/// How much is sealed into one write: a relayed read of 16 KiB with its framing.
const SEAL_BYTES: usize = 18 * 1024;
/// What is read at once during a handshake.
const HANDSHAKE_READ_BYTES: usize = 4096;
/// How much ciphertext of one message may wait for its rest; rustls refuses handshake messages over 64 KiB.
pub const HELD_BYTES_MAX: usize = 128 * 1024;

const _: () = assert!(RECORD_BYTES_MAX < CIPHER_BYTES && SEAL_BYTES + 64 < CIPHER_BYTES);

/// What someone gets who speaks HTTP without TLS.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\
    content-length: 153\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"This port speaks TLS. Use a base URL that begins with https://.\",\
    \"type\":\"invalid_request_error\",\"param\":null,\"code\":\"tls_required\"}}";

/// A TLS connection.
pub struct TlsStream {
    tcp: TcpStream,
    session: Session,
    buffers: Rc<BufferPool>,
    deaf: bool,
    mute: bool,
}

impl TlsStream {
    /// Shakes hands as a client of `host`.
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        host: &str,
        buffers: Rc<BufferPool>,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::shake(tcp, connection.into(), buffers, b"").await
    }

    /// Shakes hands as the server.
    pub async fn accept(
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        buffers: Rc<BufferPool>,
    ) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Self::shake(tcp, connection.into(), buffers, PLAIN_HTTP_ANSWER).await
    }

    /// Shakes hands; a peer who speaks HTTP instead gets `plain_answer`.
    async fn shake(
        tcp: TcpStream,
        session: Session,
        buffers: Rc<BufferPool>,
        plain_answer: &[u8],
    ) -> io::Result<Self> {
        let mut stream = Self { tcp, session, buffers, deaf: false, mute: false };
        let mut buffer = Vec::with_capacity(HANDSHAKE_READ_BYTES);
        loop {
            let mut out = stream.buffers.take();
            let shaken = stream.session.shake(&mut out);
            stream.give_drained();
            let sent = stream.send(out).await;
            if shaken.map_err(io::Error::other)? {
                return sent.map(|()| stream);
            }
            sent?;
            if stream.session.has_ended() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (received, back) = stream.receive(buffer).await;
            if received? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = back;
            // No record begins so, but HTTP does.
            if stream.session.unseen().first().is_some_and(u8::is_ascii_uppercase) {
                stream.send(plain_answer.to_vec()).await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }

    /// Whether HTTP/2 was agreed on (RFC 7301).
    pub fn speaks_http2(&self) -> bool {
        self.session.common().alpn_protocol() == Some(ALPN_HTTP2)
    }

    /// The socket and what was agreed on, for reading and writing at the same time.
    pub fn into_parts(self) -> (TcpStream, Session) {
        (self.tcp, self.session)
    }

    /// Whether the peer showed what an earlier handshake had agreed on.
    pub fn was_resumed(&self) -> bool {
        self.session.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether something has come that was not read.
    pub fn has_unread(&self) -> bool {
        !self.session.is_drained()
    }

    /// `Stream::read`. An end without close_notify is an error: the peer may have been cut off.
    pub async fn read(&mut self, mut buffer: Vec<u8>, at: usize) -> Done<usize> {
        buffer.truncate(at);
        loop {
            if self.deaf {
                return self.discard(buffer).await;
            }
            if let Err(error) = self.open(&mut buffer).await {
                return (Err(error), buffer);
            }
            if buffer.len() > at {
                return (Ok(buffer.len() - at), buffer);
            }
            if self.session.has_ended() {
                return (Ok(0), buffer);
            }
            match self.receive(buffer).await {
                (Ok(0), buffer) => return (Err(io::ErrorKind::UnexpectedEof.into()), buffer),
                (Ok(_), back) => buffer = back,
                failed @ (Err(_), _) => return failed,
            }
        }
    }

    /// Opens what has come, and sends what rustls has to say to it.
    async fn open(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let mut out = Vec::new();
        let opened = self.session.open(buffer, &mut out);
        self.give_drained();
        let sent = self.send(out).await;
        if let Err(error) = opened {
            (self.deaf, self.mute) = (true, true);
            return Err(io::Error::other(error));
        }
        sent
    }

    /// Reads ciphertext once; 0 is the socket's end.
    async fn receive(&mut self, mut buffer: Vec<u8>) -> Done<usize> {
        let at = buffer.len();
        self.deaf = true;
        let result = if self.session.is_drained() && buffer.capacity() - at <= CIPHER_BYTES {
            let (result, filled) = read_plain(&mut self.tcp, buffer, at).await;
            buffer = filled;
            if buffer.len() > at {
                let mut cipher = self.buffers.take();
                cipher.extend_from_slice(&buffer[at..]);
                self.session.put_cipher(cipher);
                buffer.truncate(at);
            }
            result
        } else {
            let result = self.receive_more().await;
            self.give_drained();
            result
        };
        self.deaf = false;
        (result, buffer)
    }

    /// The same, behind a torn record, or where the reader has so much room that more is likely to come than
    /// is worth moving.
    async fn receive_more(&mut self) -> io::Result<usize> {
        let mut cipher = match self.session.take_cipher() {
            none if none.is_empty() => self.buffers.take(),
            torn => torn,
        };
        if cipher.len() > HELD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if cipher.len() == cipher.capacity() {
            cipher.reserve(CIPHER_BYTES);
        }
        let at = cipher.len();
        let (result, cipher) = read_plain(&mut self.tcp, cipher, at).await;
        self.session.put_cipher(cipher);
        result
    }

    fn give_drained(&mut self) {
        if self.session.is_drained() {
            self.buffers.give(self.session.take_cipher());
        }
    }

    /// Reads up to the socket's end and throws it away.
    async fn discard(&mut self, mut buffer: Vec<u8>) -> Done<usize> {
        let at = buffer.len();
        loop {
            let (result, back) = read_plain(&mut self.tcp, buffer, at).await;
            buffer = back;
            buffer.truncate(at);
            if !matches!(result, Ok(1..)) {
                return (result, buffer);
            }
        }
    }

    /// `Stream::write_all`: what fits leaves in one write, and, up to 16 KiB, in one record.
    pub async fn write_all(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
        let mut at = range.start;
        while at < range.end {
            let piece = at..range.end.min(at + SEAL_BYTES);
            at = piece.end;
            let mut out = self.buffers.take();
            let sent = match self.session.seal(&buffer[piece], &mut out) {
                Ok(()) => self.send(out).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = sent {
                return (Err(error), buffer);
            }
        }
        (Ok(()), buffer)
    }

    /// Tells the peer that nothing follows and nothing was cut off; once, and not where that is not so.
    pub async fn close(&mut self) -> io::Result<()> {
        if self.mute {
            return Ok(());
        }
        let mut out = Vec::new();
        self.session.close(&mut out).map_err(io::Error::other)?;
        let sent = self.send(out).await;
        self.mute = true;
        sent
    }

    /// Leaves it at what was said: `close` then says nothing.
    pub fn cut(&mut self) {
        self.mute = true;
    }

    /// Writes ciphertext whole, and gives its buffer to the pool.
    async fn send(&mut self, out: Vec<u8>) -> io::Result<()> {
        if out.is_empty() {
            self.buffers.give(out);
            return Ok(());
        }
        if self.mute {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.mute = true;
        let len = out.len();
        let (result, out) = write_plain(&mut self.tcp, out, 0..len).await;
        self.buffers.give(out);
        self.mute = result.is_err();
        result
    }
}
