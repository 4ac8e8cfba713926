//! One connection of the load: a request, and its whole response.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::phase::{Phase, Prepared};
use super::stamps::Stamps;
use super::transport::Transport;
use crate::message::{self, Framing, ResponseDecoder};

const READ_BYTES: usize = 16 * 1024;

/// A place for a connection, which comes and goes as the peer likes.
pub(super) struct Connection {
    /// Which one of the plan's.
    pub(super) number: usize,
    /// The last response.
    pub(super) decoder: ResponseDecoder,
    stream: Option<Transport>,
    buffer: Vec<u8>,
}

/// When parts of a response came.
pub(super) struct Seen {
    /// When the request was due; without a due time, when it was sent.
    pub(super) due: Instant,
    pub(super) first_byte: Instant,
    pub(super) last_byte: Instant,
}

impl Connection {
    pub(super) fn new(number: usize) -> Self {
        let buffer = Vec::with_capacity(READ_BYTES);
        Self { number, decoder: ResponseDecoder::default(), stream: None, buffer }
    }

    /// Sends a request and reads its response; connects first when it must. The connection stays open if the
    /// response lets it.
    pub(super) async fn exchange(
        &mut self,
        phase: &Phase,
        template: &Prepared,
        due: Option<Instant>,
    ) -> io::Result<Seen> {
        let mut stream = match self.stream.take() {
            Some(open) => open,
            None => Transport::connect(phase).await?,
        };
        let due = due.unwrap_or_else(Instant::now);
        stream.write_all(Rc::clone(&template.request)).await?;
        let (mut first_byte, mut closed) = (None, false);
        let mut stamps = Stamps::default();
        self.decoder.clear();
        while !self.decoder.is_done() {
            let (result, filled) = stream.read(std::mem::take(&mut self.buffer)).await;
            self.buffer = filled;
            if result? == 0 {
                closed = true;
                break;
            }
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let used = self.decoder.feed(&self.buffer).map_err(invalid)?;
            if used < self.buffer.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the response"));
            }
            if first_byte.is_none() && !self.decoder.body.is_empty() {
                first_byte = Some(Instant::now());
            }
            stamps.read(&self.decoder.body, |sent_ns| phase.event(sent_ns));
        }
        let last_byte = Instant::now();
        if closed && self.decoder.framing() != Some(Framing::Close) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let says_close = message::header(&self.decoder.head, "connection").is_some_and(|v| v == b"close");
        self.stream = (!closed && !says_close).then_some(stream);
        Ok(Seen { due, first_byte: first_byte.unwrap_or(last_byte), last_byte })
    }
}
