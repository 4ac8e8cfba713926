//! Connecting to an upstream, with the limits of its deployment.

use std::io;
use std::time::Duration;

use crate::net::Stream;
use crate::runtime::{self, TcpStream};
use crate::tls::TlsStream;
use crate::upstream::target::Upstream;
use crate::upstream::tls::Connector;

/// Why there is no connection. Nothing of the request was sent, so another deployment may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host's name has never been resolved.
    #[error("its host name can't be resolved")]
    NoAddress,
    /// It took too long.
    #[error("connecting took longer than its limit")]
    Timeout,
    /// The system's error.
    #[error("connecting failed: {0}")]
    Io(#[from] io::Error),
}

/// Connects to `upstream`: to each of its addresses in turn, within one limit for all.
pub async fn connect(upstream: &Upstream, tls: &Connector) -> Result<Stream, ConnectError> {
    let limit = Duration::from_millis(upstream.spec.connect_timeout_ms.max(1).into());
    runtime::timeout(limit, connect_any(upstream, tls)).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn connect_any(upstream: &Upstream, tls: &Connector) -> Result<Stream, ConnectError> {
    let mut failed = ConnectError::NoAddress;
    let addresses = upstream.target.addresses.load_full();
    for address in addresses.iter() {
        match TcpStream::connect_addr(*address).await {
            Ok(tcp) => {
                // Without it the kernel holds back what follows a small write (Nagle), 40 ms at a time.
                tcp.set_nodelay(true)?;
                if !upstream.target.tls {
                    return Ok(Stream::Plain(tcp));
                }
                let (config, buffers) = (tls.config.clone(), tls.buffers.clone());
                let stream = TlsStream::connect(tcp, config, &upstream.target.host, buffers).await?;
                return Ok(Stream::Tls(Box::new(stream)));
            }
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}
