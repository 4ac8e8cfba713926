//! What carries the frames: a Unix socket on this host, TLS to another.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::SLICE;

/// How long one address of the control plane may take to be connected to.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A connected stream whose reads and writes block for a slice at most.
pub(super) enum Stream {
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(SLICE))?;
        socket.set_write_timeout(Some(SLICE))?;
        Ok(Self::Unix(socket))
    }

    /// Connects to `host:port`. The handshake goes on in the first reads and writes.
    pub(super) fn tls(address: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for resolved in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&resolved, CONNECT_MAX) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_read_timeout(Some(SLICE))?;
                    socket.set_write_timeout(Some(SLICE))?;
                    let name =
                        ServerName::try_from(wire::identity::CONTROL_NAME).map_err(io::Error::other)?;
                    let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
                    return Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            // One that is killed says no goodbye; frames have their lengths, nothing is cut off unnoticed.
            Self::Tls(stream) => match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
