//! A connected socket, plain or TLS, and the buffers that reads fill and writes drain.
//!
//! monoio's operations own their buffer while the kernel has it. A `Vec<u8>` goes in and comes back, so one
//! buffer can make the whole trip: filled by the upstream's socket, looked at by the meter, drained by the
//! client's. A future that is dropped loses its buffer to the kernel; the connection is closed then, so
//! nobody misses it.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};

use crate::http2::stream::Http2Stream;
use crate::runtime::TcpStream;
use crate::sys;
use crate::tls::TlsStream;
use crate::watch::DEPARTURE_TOLD;

/// A connected socket.
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// A stream of a client's HTTP/2 connection.
    Http2(Box<Http2Stream>),
    /// Given away; whoever uses it all the same finds an end.
    Closed,
}

/// What an operation gives back: its result and its buffer.
pub type Done<T> = (io::Result<T>, Vec<u8>);

impl Stream {
    /// Reads at least one byte behind `buffer[..at]`, at most to its capacity; 0 is the peer's end. Whatever
    /// stood behind `at` is gone.
    pub fn read(&mut self, buffer: Vec<u8>, at: usize) -> impl Future<Output = Done<usize>> {
        self.read_at_most(buffer, at, usize::MAX)
    }

    /// The same, at most `bytes_max`, wherever a record or a frame is not the bound anyway.
    pub async fn read_at_most(&mut self, buffer: Vec<u8>, at: usize, bytes_max: usize) -> Done<usize> {
        match self {
            Self::Plain(tcp) => {
                let end = buffer.capacity().min(at.saturating_add(bytes_max));
                read_into(tcp, buffer, at..end).await
            }
            Self::Tls(tls) => tls.read(buffer, at).await,
            Self::Http2(stream) => stream.read(buffer, at).await,
            Self::Closed => (Ok(0), buffer),
        }
    }

    /// Writes `buffer[range]` whole.
    pub async fn write_all(&mut self, buffer: Vec<u8>, range: Range<usize>) -> Done<()> {
        match self {
            Self::Plain(tcp) => write_plain(tcp, buffer, range).await,
            Self::Tls(tls) => tls.write_all(buffer, range).await,
            Self::Http2(stream) => stream.write_all(buffer, range).await,
            Self::Closed => (Err(io::ErrorKind::NotConnected.into()), buffer),
        }
    }

    /// Whether requests may follow the first one: a stream of HTTP/2 has no other.
    pub fn carries_requests(&self) -> bool {
        !matches!(self, Self::Http2(_))
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
            Self::Http2(stream) => {
                stream.close().await;
                Ok(())
            }
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
            Self::Http2(_) => DEPARTURE_TOLD,
            Self::Closed => -1,
        }
    }
}

/// `Stream::read` for TCP.
pub fn read_plain(
    tcp: &mut impl AsyncReadRent,
    buffer: Vec<u8>,
    at: usize,
) -> impl Future<Output = Done<usize>> {
    let end = buffer.capacity();
    read_into(tcp, buffer, at..end)
}

async fn read_into(tcp: &mut impl AsyncReadRent, mut buffer: Vec<u8>, place: Range<usize>) -> Done<usize> {
    buffer.truncate(place.start);
    let (result, slice) = tcp.read(buffer.slice_mut(place)).await;
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

/// How often a pool looks for buffers that nobody needs.
const LOOK_INTERVAL_MS: u64 = 1000;
/// How many of them give their pages back at one look, so that it never holds up the worker.
const GIVEN_BACK_MAX: usize = 32;

/// Free buffers of one size, kept by a worker. The last used is taken first; those that a burst has left and
/// nobody has needed for a second keep their addresses, and the system gets their pages back.
pub struct BufferPool {
    capacity: usize,
    keep: usize,
    free: RefCell<Vec<Vec<u8>>>,
    /// How many of `free`, from its bottom, were not taken since the last look.
    unused: Cell<usize>,
    /// How many of these have no pages.
    bare: Cell<usize>,
    looked_ms: Cell<u64>,
}

impl BufferPool {
    /// Keeps at most `keep` buffers of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize, keep: usize) -> Self {
        let (free, unused, bare, looked_ms) = Default::default();
        Self { capacity, keep, free, unused, bare, looked_ms }
    }

    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        let mut free = self.free.borrow_mut();
        let taken = free.pop();
        self.unused.set(self.unused.get().min(free.len()));
        taken.unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    /// Gives a buffer back; one that has grown, or that is too many, is freed.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.free.borrow_mut();
        if buffer.capacity() == self.capacity && free.len() < self.keep {
            buffer.clear();
            free.push(buffer);
        }
    }

    /// Once a second, lets some buffers that nobody has needed for that long give their pages back; returns
    /// how many.
    pub fn sweep(&self, now_ms: u64) -> usize {
        if now_ms.saturating_sub(self.looked_ms.get()) < LOOK_INTERVAL_MS {
            return 0;
        }
        self.looked_ms.set(now_ms);
        let mut free = self.free.borrow_mut();
        let unused = self.unused.replace(free.len());
        let from = self.bare.get().min(unused);
        let to = unused.min(from + GIVEN_BACK_MAX);
        free[from..to].iter_mut().for_each(sys::give_pages_back);
        self.bare.set(to);
        to - from
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::runtime;

    #[test]
    fn a_read_takes_no_more_than_it_may_however_large_the_buffer_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tcp = listener.accept().unwrap().0;
        peer.write_all(&[7; 5000]).unwrap();
        drop(peer);
        let mut buffer = Vec::with_capacity(1 << 20);
        buffer.extend_from_slice(b"before, behind");
        let read = runtime::block_on(async {
            let mut stream = Stream::Plain(TcpStream::from_std(tcp).unwrap());
            let (first, buffer) = stream.read_at_most(buffer, 6, 1000).await;
            assert_eq!((first.unwrap(), buffer.len()), (1000, 1006));
            let (rest, buffer) = stream.read(buffer, 1006).await;
            assert_eq!(rest.unwrap(), 4000);
            buffer
        });
        let read = read.unwrap();
        assert!(read.starts_with(b"before") && read[6..] == [7; 5000]);
    }

    #[test]
    fn what_a_burst_has_left_gives_its_pages_back_and_what_is_used_keeps_them() {
        let pool = BufferPool::new(16 * 1024, 100);
        let burst: Vec<_> = (0..70).map(|_| pool.take()).collect();
        burst.into_iter().for_each(|buffer| pool.give(buffer));
        let at = |second: u64| pool.sweep(second * LOOK_INTERVAL_MS);
        assert_eq!(at(1), 0, "all were in use within the second");
        let use_two = || {
            let two = [pool.take(), pool.take()];
            two.into_iter().for_each(|buffer| pool.give(buffer));
        };
        use_two();
        assert_eq!([at(2), at(2), at(3)], [32, 0, 32]);
        use_two();
        assert_eq!([at(4), at(5), at(6)], [4, 2, 0], "68 were unused, then all");
        drop(pool.take());
        assert_eq!([at(7), at(8)], [0, 0], "one was freed, the others have none");
    }

    #[test]
    fn who_is_used_again_can_give_back_again() {
        let pool = BufferPool::new(16 * 1024, 100);
        pool.give(pool.take());
        let at = |second: u64| pool.sweep(second * LOOK_INTERVAL_MS);
        assert_eq!([at(1), at(2), at(3)], [0, 1, 0]);
        pool.give(pool.take());
        assert_eq!([at(4), at(5)], [0, 1]);
    }
}
