//! The two directions of an HTTP/2 connection's socket: records that come are opened into the pipe, what is
//! in the pipe is sealed and sent. Both go on at once, which a `TlsStream` can't.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::Poll;

use monoio::io::AsyncWriteRentExt;
use monoio::net::tcp::{TcpOwnedReadHalf, TcpOwnedWriteHalf};

use crate::http2::pipe::Pipe;
use crate::http2::shared::Shared;
use crate::net::{BufferPool, read_plain};
use crate::tls::HELD_BYTES_MAX;
use crate::tls::session::Session;

/// How much a connection without streams reads at once: that is all it holds while it waits.
const IDLE_READ_BYTES: usize = 4096;

/// The connection's records: one session for both directions.
pub struct Records {
    session: Session,
    /// In the order in which it was sealed.
    sealed: Vec<u8>,
    finishing: Finishing,
    writes: u64,
    writing: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finishing {
    No,
    Asked,
    Said,
}

impl Records {
    /// For a connection whose handshake is over.
    pub fn new(session: Session) -> Self {
        Self { session, sealed: Vec::new(), finishing: Finishing::No, writes: 0, writing: false }
    }

    /// Which write is under way, if one is.
    pub fn write_under_way(&self) -> Option<u64> {
        self.writing.then_some(self.writes)
    }

    /// Once all is sent, the client is told that nothing follows.
    pub fn finish(&mut self) {
        self.finishing = Finishing::Asked;
    }

    /// Whether nothing waits to be sent.
    pub fn is_quiet(&self) -> bool {
        !self.writing && self.sealed.is_empty()
    }

    /// Opens what has come; false where all before it was not taken yet.
    fn open(&mut self, pipe: &mut Pipe) -> io::Result<bool> {
        let Some(inbound) = pipe.inbound() else { return Ok(false) };
        let opened = self.session.open(inbound, &mut self.sealed);
        let len = inbound.len();
        if len > 0 || !self.sealed.is_empty() {
            pipe.moved(len);
        }
        opened.map(|()| len == 0).map_err(io::Error::other)
    }

    /// Takes ciphertext in; the session keeps the buffer, or what it had before grows.
    fn take_in(&mut self, cipher: Vec<u8>, buffers: &BufferPool) -> io::Result<()> {
        let mut held = self.session.take_cipher();
        if held.is_empty() {
            buffers.give(held);
            self.session.put_cipher(cipher);
            return Ok(());
        }
        held.extend_from_slice(&cipher);
        buffers.give(cipher);
        let len = held.len();
        self.session.put_cipher(held);
        if len > HELD_BYTES_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// The next ciphertext to send, if there is any; `None` in it once nothing follows.
    fn next(&mut self, pipe: &mut Pipe, buffers: &BufferPool) -> Poll<io::Result<Option<Vec<u8>>>> {
        if self.sealed.capacity() == 0 {
            self.sealed = buffers.take();
        }
        let outbound = pipe.outbound();
        if !outbound.is_empty() {
            self.session.seal(outbound, &mut self.sealed).map_err(io::Error::other)?;
            outbound.clear();
            pipe.moved(0);
        } else if self.sealed.is_empty() && self.finishing == Finishing::Asked {
            self.session.close(&mut self.sealed).map_err(io::Error::other)?;
            self.finishing = Finishing::Said;
        }
        if !self.sealed.is_empty() {
            (self.writing, self.writes) = (true, self.writes + 1);
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.sealed))));
        }
        buffers.give(std::mem::take(&mut self.sealed));
        if self.finishing == Finishing::Said { Poll::Ready(Ok(None)) } else { Poll::Pending }
    }
}

/// Reads until nothing more can come.
pub async fn receive(
    mut tcp: TcpOwnedReadHalf,
    records: &RefCell<Records>,
    shared: &Shared,
    buffers: &BufferPool,
) {
    let pipe = &shared.pipe;
    loop {
        let opened = poll_fn(|_| {
            if pipe.borrow().is_waiting() {
                return Poll::Pending;
            }
            Poll::Ready(records.borrow_mut().open(&mut pipe.borrow_mut()))
        });
        match opened.await {
            Ok(true) if records.borrow().session.has_ended() => break,
            Ok(true) => {}
            Ok(false) => continue,
            Err(_) => break,
        }
        let idle = shared.streams() == 0;
        let cipher = if idle { Vec::with_capacity(IDLE_READ_BYTES) } else { buffers.take() };
        let (result, cipher) = read_plain(&mut tcp, cipher, 0).await;
        if !matches!(result, Ok(1..)) || records.borrow_mut().take_in(cipher, buffers).is_err() {
            break;
        }
    }
    pipe.borrow_mut().end();
}

/// Sends until the client was told that nothing follows, or can't be told anything.
pub async fn send(
    mut tcp: TcpOwnedWriteHalf,
    records: &RefCell<Records>,
    pipe: &RefCell<Pipe>,
    buffers: &BufferPool,
) -> io::Result<()> {
    loop {
        let next = poll_fn(|_| records.borrow_mut().next(&mut pipe.borrow_mut(), buffers));
        let Some(cipher) = next.await? else { return Ok(()) };
        let (result, cipher) = tcp.write_all(cipher).await;
        buffers.give(cipher);
        records.borrow_mut().writing = false;
        result?;
    }
}
