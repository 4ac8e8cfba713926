//! What lies between the socket of an HTTP/2 connection and the `h2` crate: plaintext, both ways.
//!
//! Both sides are polled by one task, one after the other, as long as either moves anything; so nobody is
//! woken here. Bounded by `INBOUND_BYTES` and `OUTBOUND_BYTES`: the socket is read again when `h2` has taken
//! what came, and `h2` goes on writing when the socket has taken what it wrote.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much of what came waits for `h2`: at most a record more than this.
pub const INBOUND_BYTES: usize = 16 * 1024;
/// How much of what `h2` wrote waits for the socket: what one record holds.
pub const OUTBOUND_BYTES: usize = 16 * 1024;

/// The bytes on their way.
#[derive(Default)]
pub struct Pipe {
    inbound: Vec<u8>,
    taken: usize,
    outbound: Vec<u8>,
    ended: bool,
    moves: u64,
    bytes: u64,
}

impl Pipe {
    /// Where what comes is to be appended, once all before it was taken.
    pub fn inbound(&mut self) -> Option<&mut Vec<u8>> {
        if self.taken < self.inbound.len() {
            return None;
        }
        self.inbound.clear();
        self.taken = 0;
        if self.inbound.capacity() == 0 {
            self.inbound.reserve_exact(INBOUND_BYTES);
        }
        Some(&mut self.inbound)
    }

    /// Whether something came that was not taken.
    pub fn is_waiting(&self) -> bool {
        self.taken < self.inbound.len()
    }

    /// Something moved, and so many bytes came or are to be sent: both sides are to be polled again.
    pub fn moved(&mut self, bytes: usize) {
        self.moves += 1;
        self.bytes += bytes as u64;
    }

    /// Nothing more will come.
    pub fn end(&mut self) {
        self.ended = true;
        self.moves += 1;
    }

    /// Gives the memory back: no stream is open, and nothing waits to be sent.
    pub fn rest(&mut self) {
        if !self.is_waiting() {
            (self.inbound, self.taken) = (Vec::new(), 0);
        }
        self.outbound = Vec::new();
    }

    /// Throws away what waits; how much it was.
    pub fn discard(&mut self) -> usize {
        let len = self.inbound.len() - self.taken;
        self.taken = self.inbound.len();
        len
    }

    /// What is to be sent.
    pub fn outbound(&mut self) -> &mut Vec<u8> {
        &mut self.outbound
    }

    /// Grows with every step of either side.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// How many bytes have passed, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The end that `h2` holds.
pub struct PipeEnd(pub Rc<RefCell<Pipe>>);

impl PipeEnd {
    fn write(&self, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.borrow_mut();
        let mut written = 0;
        for part in parts {
            let len = part.len().min(OUTBOUND_BYTES - pipe.outbound.len());
            pipe.outbound.extend_from_slice(&part[..len]);
            written += len;
        }
        if written == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Poll::Pending;
        }
        pipe.moved(written);
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for PipeEnd {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.borrow_mut();
        if !pipe.is_waiting() {
            return if pipe.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let len = into.remaining().min(pipe.inbound.len() - pipe.taken);
        into.put_slice(&pipe.inbound[pipe.taken..pipe.taken + len]);
        pipe.taken += len;
        pipe.moved(0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(&[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket takes what is here without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
