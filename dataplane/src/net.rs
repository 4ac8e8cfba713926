//! A connected socket, plain or TLS, and the buffers that reads fill and writes drain.
//!
//! monoio's operations own their buffer while the kernel has it. A `Vec<u8>` goes in and comes back, so one
//! buffer can make the whole trip: filled by the upstream's socket, looked at by the meter, drained by the
//! client's. A future that is dropped loses its buffer to the kernel; the connection is closed then, so
//! nobody misses it.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};

use crate::runtime::TcpStream;
use crate::sys;
use crate::tls::TlsStream;

/// A connected socket.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// Given away; whoever uses it all the same finds an end.
    Closed,
}

/// What an operation gives back: its result and its buffer.
pub type Done<T> = (io::Result<T>, Vec<u8>);

impl Stream {
    /// Reads at least one byte behind `buffer[..at]`, at most to its capacity; 0 is the peer's end. Whatever
    /// stood behind `at` is gone.
    pub async fn read(&mut self, buffer: Vec<u8>, at: usize) -> Done<usize> {
        match self {
            Self::Plain(tcp) => read_plain(tcp, buffer, at).await,
            Self::Tls(tls) => tls.read(buffer, at).await,
            Self::Closed => (Ok(0), buffer),
        }
    }

    /// Writes `buffer[range]` whole.
    pub async fn write_all(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
        match self {
            Self::Plain(tcp) => write_plain(tcp, buffer, range).await,
            Self::Tls(tls) => tls.write_all(buffer, range).await,
            Self::Closed => (Err(io::ErrorKind::NotConnected.into()), buffer),
        }
    }

    /// Whether nothing has come that was not read: no byte, no end, no error.
    pub fn is_quiet(&self) -> bool {
        let unread = matches!(self, Self::Tls(tls) if tls.has_unread());
        !unread && sys::quiet(self.fd()) == sys::Quiet::Yes
    }

    /// Tells the peer that what it got is whole, where the protocol has a way to: TLS has close_notify.
    pub async fn close(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(tls) => tls.close().await,
            Self::Plain(_) | Self::Closed => Ok(()),
        }
    }

    /// From here on `close` says nothing: what the peer got is not whole.
    pub fn cut(&mut self) {
        if let Self::Tls(tls) = self {
            tls.cut();
        }
    }

    /// The descriptor, to look at or to shut down; never to read or write.
    pub fn fd(&self) -> RawFd {
        match self {
            Self::Plain(tcp) => tcp.as_raw_fd(),
            Self::Tls(tls) => tls.fd(),
            Self::Closed => -1,
        }
    }
}

/// `Stream::read` for TCP.
pub async fn read_plain(tcp: &mut TcpStream, mut buffer: Vec<u8>, at: usize) -> Done<usize> {
    buffer.truncate(at);
    let end = buffer.capacity();
    let (result, slice) = tcp.read(buffer.slice_mut(at..end)).await;
    (result, slice.into_inner())
}

/// `Stream::write_all` for TCP.
pub async fn write_plain(tcp: &mut TcpStream, buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
    if range.is_empty() {
        return (Ok(()), buffer);
    }
    let len = range.len();
    // Nearly always the kernel takes it all at once.
    let (result, slice) = tcp.write(buffer.slice(range.clone())).await;
    let buffer = slice.into_inner();
    match result {
        Ok(written) if written == len => (Ok(()), buffer),
        Ok(0) => (Err(io::ErrorKind::WriteZero.into()), buffer),
        Ok(written) => {
            let (result, slice) = tcp.write_all(buffer.slice(range.start + written..range.end)).await;
            (result.map(drop), slice.into_inner())
        }
        Err(error) => (Err(error), buffer),
    }
}

/// Free buffers of one size, kept by a worker.
pub struct BufferPool {
    capacity: usize,
    keep: usize,
    free: RefCell<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// Keeps at most `keep` buffers of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize, keep: usize) -> Self {
        Self { capacity, keep, free: RefCell::default() }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.free.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    /// Gives a buffer back; one that has grown, or that is too many, is freed.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if buffer.capacity() == self.capacity && free.len() < self.keep {
            buffer.clear();
            free.push(buffer);
        }
    }
}
