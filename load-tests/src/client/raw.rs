//! One connection, driven by hand.
//!
//! Nothing is added to what is sent, and a response keeps its bytes and the moment at which each part of its
//! body came, so that a test can say "byte for byte" and "before". Every wait has a limit: a test that hangs
//! tells nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::message::{self, Framing, ResponseDecoder};
use crate::tls::SERVER_NAME;

/// How long a read may take before the test is told that nothing came.
pub const READ_LIMIT: Duration = Duration::from_secs(20);

/// A connection to the data plane, or to anything that speaks HTTP/1.1.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Read, but of the response after the present one.
    rest: Vec<u8>,
}

/// How a response came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// Its framing says that it is complete.
    Framed,
    /// The connection closed in order, which completes a body that is delimited so, and breaks any other.
    Closed,
    /// The connection was reset.
    Reset,
}

/// A response, as far as it has arrived.
#[derive(Debug)]
pub struct Response {
    decoder: ResponseDecoder,
    /// How it ended.
    pub end: End,
    /// For each read: when it came, and how long the body was then.
    pub reads: Vec<(Instant, usize)>,
    without_body: bool,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::on(TcpStream::connect_timeout(&address, READ_LIMIT)?)
    }

    /// Connects, and speaks TLS if it is told how; the handshake is done by the first send.
    pub fn open_with(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> io::Result<Self> {
        let mut connection = Self::open(address)?;
        if let Some(config) = tls {
            let name = SERVER_NAME.try_into().map_err(io::Error::other)?;
            let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
            connection.tls = Some(Box::new(tls));
        }
        Ok(connection)
    }

    /// Connects from an address of this machine; all of 127.0.0.0/8 is.
    pub fn open_from(local: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        socket.connect_timeout(&address.into(), READ_LIMIT)?;
        Self::on(socket.into())
    }

    fn on(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        stream.set_write_timeout(Some(READ_LIMIT))?;
        Ok(Self { stream, tls: None, rest: Vec::new() })
    }

    /// The socket, for shutdowns and options.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends these bytes and no others.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes),
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(buffer),
        }
    }

    /// Sends a request and reads its response to the end.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<Response> {
        self.send(request)?;
        let mut response = Response::of(request);
        self.read(&mut response, |_| false)?;
        Ok(response)
    }

    /// Reads one whole response.
    pub fn response(&mut self) -> io::Result<Response> {
        let mut response = Response::of(b"");
        self.read(&mut response, |_| false)?;
        Ok(response)
    }

    /// Reads on until the response has ended, or until it is `enough`.
    pub fn read(&mut self, response: &mut Response, enough: impl Fn(&Response) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while response.end == End::Open && !enough(response) {
            let read = if self.rest.is_empty() {
                match self.receive(&mut buffer) {
                    Ok(0) => {
                        response.end = End::Closed;
                        break;
                    }
                    Ok(count) => buffer[..count].to_vec(),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                        response.end = End::Reset;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            } else {
                std::mem::take(&mut self.rest)
            };
            let used = response.feed(&read)?;
            self.rest = read[used..].to_vec();
        }
        Ok(())
    }

    /// Waits for the connection to end without another byte; `false` if bytes came.
    pub fn ends(&mut self) -> io::Result<bool> {
        if !self.rest.is_empty() {
            return Ok(false);
        }
        match self.receive(&mut [0; 1]) {
            Ok(count) => Ok(count == 0),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Response {
    /// An empty response to this request.
    pub fn of(request: &[u8]) -> Self {
        let without_body = request.starts_with(b"HEAD ");
        Self { decoder: ResponseDecoder::default(), end: End::Open, reads: Vec::new(), without_body }
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let used = self.decoder.feed(bytes).map_err(invalid)?;
        if self.without_body {
            self.decoder.expect_no_body();
        }
        self.reads.push((Instant::now(), self.decoder.body.len()));
        if self.decoder.is_done() {
            self.end = End::Framed;
        }
        Ok(used)
    }

    /// The status; 0 while the head is not there.
    pub fn status(&self) -> u16 {
        if self.decoder.has_head() { self.decoder.status } else { 0 }
    }

    /// The head, exactly.
    pub fn head(&self) -> &[u8] {
        &self.decoder.head
    }

    /// Interim heads that came before it.
    pub fn interim(&self) -> &[Vec<u8>] {
        &self.decoder.interim
    }

    /// How the body is framed.
    pub fn framing(&self) -> Option<Framing> {
        self.decoder.framing()
    }

    /// Tells whether all of it has come.
    pub fn is_complete(&self) -> bool {
        self.end == End::Framed || (self.end == End::Closed && self.framing() == Some(Framing::Close))
    }

    /// The body so far, framing taken off.
    pub fn body(&self) -> &[u8] {
        &self.decoder.body
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }

    /// A header's value, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        message::header(self.head(), name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .unwrap_or_default()
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or_default()
    }

    /// The complete events of the body so far, without their `data: ` and empty line.
    pub fn events(&self) -> Vec<String> {
        let text = self.text();
        let complete = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let events = complete.split("\n\n").filter(|event| !event.is_empty());
        events.map(|event| event.trim_start_matches("data: ").to_owned()).collect()
    }
}
