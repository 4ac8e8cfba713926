//! What a connection of the load sends and reads over: TCP, or TLS over TCP, which is the data plane's.

use std::io;
use std::rc::Rc;

use dataplane::tls::TlsStream;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use super::phase::Phase;
use crate::tls::SERVER_NAME;

/// An open connection.
pub(super) enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Connects as the plan says, and shakes hands if it says so.
    pub(super) async fn connect(phase: &Phase) -> io::Result<Self> {
        let tcp = TcpStream::connect(phase.plan.address).await?;
        tcp.set_nodelay(true)?;
        let Some(config) = &phase.plan.tls else {
            phase.connected(false);
            return Ok(Self::Plain(tcp));
        };
        let tls = TlsStream::connect(tcp, config.clone(), SERVER_NAME, Rc::clone(&phase.ciphertext)).await?;
        phase.connected(tls.was_resumed());
        Ok(Self::Tls(Box::new(tls)))
    }

    /// Writes the whole request.
    pub(super) async fn write_all(&mut self, request: Rc<Vec<u8>>) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(request).await.0.map(drop),
            Self::Tls(tls) => {
                let len = request.len();
                tls.write_all(request.to_vec(), 0..len).await.0
            }
        }
    }

    /// Reads into `buffer` in place of what was there; 0 is the peer's end.
    pub(super) async fn read(&mut self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Plain(tcp) => tcp.read(buffer).await,
            Self::Tls(tls) => tls.read(buffer, 0).await,
        }
    }
}
