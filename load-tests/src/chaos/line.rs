//! A proxy that passes bytes and knows nothing of them, and that can break, hold and delay what passes.
//!
//! It stands between data plane and control plane (Unix sockets), and between control plane and ClickHouse
//! (TCP). A cut drops what was read and not passed on yet, so that a peer sees any part of a message.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::schedule::Condition;

/// How often a pump that waits looks at how the line is.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Shared {
    condition: Mutex<Condition>,
    /// How often everything was cut: a connection of an earlier count ends.
    cuts: AtomicU64,
    stopped: AtomicBool,
}

impl Shared {
    fn condition(&self) -> Condition {
        *self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub struct LineProxy {
    at: Place,
    shared: Arc<Shared>,
}

/// Where one listens, or is listened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Tcp(SocketAddr),
    /// A socket's path.
    Unix(PathBuf),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl LineProxy {
    /// A proxy on a free port of loopback.
    pub fn tcp(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = Place::Tcp(listener.local_addr()?);
        Ok(Self::start(Listener::Tcp(listener), at, Place::Tcp(target)))
    }

    /// A proxy on a socket of this path.
    pub fn unix(at: &Path, target: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(at)?;
        let at = Place::Unix(at.to_owned());
        Ok(Self::start(Listener::Unix(listener), at, Place::Unix(target.to_owned())))
    }

    fn start(listener: Listener, at: Place, target: Place) -> Self {
        let (condition, cuts) = (Mutex::new(Condition::Whole), AtomicU64::new(0));
        let shared = Arc::new(Shared { condition, cuts, stopped: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok(client) = listener.accept() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever is away closes at once, to whoever comes.
                if serving.condition() != Condition::Apart
                    && let Ok(server) = Stream::connect(&target)
                {
                    join(client, server, &serving);
                }
            }
        });
        Self { at, shared }
    }

    /// Where it listens.
    pub fn place(&self) -> &Place {
        &self.at
    }

    /// Changes how the line is.
    pub fn set(&self, condition: Condition) {
        *self.shared.condition.lock().unwrap_or_else(PoisonError::into_inner) = condition;
        if condition == Condition::Apart {
            self.cut();
        }
    }

    /// Breaks every connection.
    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for LineProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.cut();
        // It waits in accept.
        let _ = Stream::connect(&self.at);
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Stream {
    fn connect(to: &Place) -> io::Result<Self> {
        match to {
            Place::Tcp(address) => TcpStream::connect(address).map(Self::Tcp),
            Place::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    fn pair(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LOOK_AGAIN))?;
                stream.set_write_timeout(Some(LOOK_AGAIN))?;
                stream.try_clone().map(Self::Tcp)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(LOOK_AGAIN))?;
                stream.set_write_timeout(Some(LOOK_AGAIN))?;
                stream.try_clone().map(Self::Unix)
            }
        }
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(piece),
            Self::Unix(stream) => stream.read(piece),
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(piece),
            Self::Unix(stream) => stream.write(piece),
        }
    }

    fn shut_down(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}

fn join(client: Stream, server: Stream, shared: &Arc<Shared>) {
    let cuts = shared.cuts.load(Ordering::Relaxed);
    let (Ok(to_client), Ok(to_server)) = (client.pair(), server.pair()) else { return };
    for (from, to) in [(client, to_server), (server, to_client)] {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pump(from, to, &shared, cuts));
    }
}

fn pump(mut from: Stream, mut to: Stream, shared: &Shared, cuts: u64) {
    let mut buffer = vec![0; PIECE_BYTES];
    let is_cut = || shared.cuts.load(Ordering::Relaxed) != cuts;
    let whole = loop {
        if is_cut() {
            break false;
        }
        if shared.condition() == Condition::Silent {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break true,
            Ok(read) => read,
            Err(error) if is_again(&error) => continue,
            Err(_) => break false,
        };
        if let Condition::Slow(time) = shared.condition() {
            std::thread::sleep(time);
        }
        let mut passed = 0;
        while passed < read && !is_cut() {
            match to.write(&buffer[passed..read]) {
                Ok(written) => passed += written,
                Err(error) if is_again(&error) => {}
                Err(_) => break,
            }
        }
        if passed < read {
            break false;
        }
    };
    // An end in order is passed on as one; the other direction may go on.
    to.shut_down(if whole { Shutdown::Write } else { Shutdown::Both });
    if !whole {
        from.shut_down(Shutdown::Both);
    }
}

fn is_again(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn connect(proxy: &LineProxy) -> TcpStream {
        let Place::Tcp(address) = proxy.place() else { panic!("it is on TCP") };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        stream
    }

    fn says(mut stream: &TcpStream) -> io::Result<usize> {
        stream.write_all(b"word")?;
        stream.read(&mut [0; 4])
    }

    #[test]
    fn a_line_passes_is_silent_and_breaks_as_told() {
        let proxy = LineProxy::tcp(echo()).unwrap();
        let stream = connect(&proxy);
        assert_eq!(says(&stream).unwrap(), 4);
        proxy.set(Condition::Silent);
        // What a pump had begun to read still passes.
        let _ = says(&stream);
        assert!(says(&stream).is_err_and(|error| is_again(&error)));
        proxy.set(Condition::Whole);
        let mut held = [0; 4];
        (&stream).read_exact(&mut held).unwrap();
        assert_eq!(&held, b"word");
        proxy.set(Condition::Apart);
        let mut rest = Vec::new();
        let _ = (&stream).read_to_end(&mut rest);
        assert_eq!(says(&connect(&proxy)).unwrap_or(0), 0);
        proxy.set(Condition::Whole);
        assert_eq!(says(&connect(&proxy)).unwrap(), 4);
    }
}
