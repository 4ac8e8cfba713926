//! One end of an HTTP/1.1 connection, as a client's or an upstream's.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// One end of a connection.
pub(crate) struct Peer<S = TcpStream> {
    /// The socket.
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its framing says.
    pub(crate) whole: bool,
}

impl Answer {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// `error.code`.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("null").to_owned()
    }
}

impl Peer {
    /// Takes a connected socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream)
    }
}

impl<S: Read + Write> Peer<S> {
    /// Speaks over `stream`.
    pub(crate) fn on(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes; that the other end may have closed is for the reading to find out.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads more; false at the end.
    pub(crate) fn more(&mut self) -> bool {
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(len @ 1..) => {
                self.read.extend_from_slice(&piece[..len]);
                true
            }
            _ => false,
        }
    }

    /// What has been read and not taken.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.read
    }

    /// Takes what has been read.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// Reads until the first event of a stream is there.
    pub(crate) fn first_event(&mut self) {
        while !self.read.windows(2).any(|end| end == b"\n\n") {
            assert!(self.more(), "the first event");
        }
    }

    fn head(&mut self) -> Option<String> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return None;
            }
        };
        Some(String::from_utf8_lossy(&self.read.drain(..end).collect::<Vec<_>>()).into_owned())
    }

    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.read.len() < len {
            if !self.more() {
                return None;
            }
        }
        Some(self.read.drain(..len).collect())
    }

    /// Reads a request with a length, head and body.
    pub(super) fn message(&mut self) -> Option<String> {
        let head = self.head()?;
        let len = head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
        let body = self.take(len.unwrap_or(0))?;
        Some(head + &String::from_utf8_lossy(&body))
    }

    /// Reads an answer.
    pub(crate) fn answer(&mut self) -> Answer {
        let head = self.head().expect("an answer's head").to_lowercase();
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new(), whole: true };
        if let Some(len) = answer.header("content-length") {
            let len = len.parse().unwrap();
            match self.take(len) {
                Some(body) => answer.body = body,
                None => (answer.body, answer.whole) = (std::mem::take(&mut self.read), false),
            }
        } else if answer.header("transfer-encoding") == Some("chunked") {
            answer.whole = self.chunks(&mut answer.body).is_some();
        } else if status >= 200 {
            while self.more() {}
            answer.body = std::mem::take(&mut self.read);
        }
        answer
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let size = loop {
                if let Some(at) = self.read.windows(2).position(|end| end == b"\r\n") {
                    let line: Vec<u8> = self.read.drain(..at + 2).collect();
                    break usize::from_str_radix(std::str::from_utf8(&line[..at]).unwrap(), 16).unwrap();
                }
                if !self.more() {
                    return None;
                }
            };
            let chunk = self.take(size + 2)?;
            assert_eq!(&chunk[size..], b"\r\n");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Some(());
            }
        }
    }
}
